//! The connection of an agent: made, used, lost.

use scitq_shared::ids::AttemptId;
use scitq_worker::agent::core::{ChannelNumber, DeliveryNumber, Input, Place, PublicationNumber};

use crate::broker::{Body, Client, ConnectionId, Reply, Request};
use crate::world::{Event, World};

impl World {
    pub(crate) fn worker_connects(&mut self, index: usize, boot: u64) {
        if let Some(until) = self.workers[index].is_stopped(self.now) {
            return self.schedule(until, Event::WorkerConnects(index, boot));
        }
        let worker = &self.workers[index];
        let waits = worker
            .agent
            .as_ref()
            .is_some_and(|agent| agent.connection.is_none());
        if worker.boot != boot || !waits {
            return;
        }
        let name = worker.name.clone();
        let connection = self.broker.connect(Client::Worker(index), self.now);
        let connection = connection.filter(|id| {
            let owns = self.broker.own_control_queue(*id, &name);
            if !owns {
                self.broker.disconnect(*id);
            }
            owns
        });
        if connection.is_none() {
            let delay = self.milliseconds(200..2000);
            return self.at(delay, Event::WorkerConnects(index, boot));
        }
        let outputs = match &mut self.workers[index].agent {
            Some(agent) => {
                agent.connection = connection;
                agent.outputs.clone()
            }
            None => return,
        };
        self.tell(index, Input::LinkUp);
        for attempt in outputs {
            self.worker_sends(index, Request::Output(attempt));
        }
    }

    pub(crate) fn worker_notices(&mut self, index: usize, id: ConnectionId) {
        if self.workers[index].connection() == Some(id) {
            self.drop_link(index);
        }
    }

    pub(super) fn drop_link(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let boot = worker.boot;
        let Some(agent) = &mut worker.agent else {
            return;
        };
        if let Some(id) = agent.connection.take() {
            let notices = self.milliseconds(0..100);
            self.at(notices, Event::BrokerNotices(id));
        }
        if let Some(agent) = &mut self.workers[index].agent {
            agent.deliveries = None;
            agent.opening = None;
            agent.tags.clear();
            agent.outstanding.clear();
        }
        self.tell(index, Input::LinkDown);
        let delay = self.milliseconds(100..1000);
        self.at(delay, Event::WorkerConnects(index, boot));
    }

    pub(super) fn worker_sends(&mut self, index: usize, request: Request) {
        if let Some(id) = self.workers[index].connection() {
            self.send(id, request);
        }
    }

    pub(crate) fn worker_hears(&mut self, index: usize, reply: Reply) {
        let Some(agent) = &mut self.workers[index].agent else {
            return;
        };
        match reply {
            Reply::Confirmed(publication) => {
                if agent.outstanding.remove(&publication).is_some() {
                    let stored = true;
                    self.tell(
                        index,
                        Input::Confirmed {
                            publication,
                            stored,
                        },
                    );
                }
            }
            Reply::OutputConfirmed(attempt) => {
                if agent.outputs.remove(&attempt) {
                    self.tell(index, Input::OutputSent { attempt });
                }
            }
            Reply::Control(message) => self.tell(index, Input::Control(*message)),
            Reply::ConsumeOk { channel, consumer } => {
                if agent.deliveries == Some(channel) {
                    agent.opening = None;
                    self.tell(index, Input::Consuming { consumer, channel });
                }
            }
            Reply::ConsumeFailed { channel, consumer } => {
                if agent.deliveries == Some(channel) {
                    agent.opening = Some(consumer);
                    self.channel_gone(index, channel);
                }
            }
            Reply::CancelOk(consumer) => self.tell(index, Input::Cancelled { consumer }),
            Reply::ConsumerEnded { channel, consumer } => {
                if agent.deliveries == Some(channel) {
                    self.tell(index, Input::ConsumerEnded { consumer });
                }
            }
            Reply::ChannelClosed(channel) => {
                if agent.deliveries == Some(channel) {
                    self.channel_gone(index, channel);
                }
            }
            Reply::Delivery {
                channel,
                consumer,
                tag,
                message,
            } => {
                let Body::Task(task) = message.body else {
                    return;
                };
                if agent.deliveries != Some(channel) {
                    return;
                }
                agent.numbers += 1;
                let delivery = DeliveryNumber(agent.numbers);
                agent.tags.insert(delivery, tag);
                let attempt = AttemptId(self.uuid());
                let place = Place {
                    channel,
                    consumer,
                    delivery,
                };
                let redelivered = message.redelivered;
                self.tell(
                    index,
                    Input::Delivered {
                        place,
                        redelivered,
                        content: Ok(task),
                        attempt,
                    },
                );
            }
            Reply::TaskAnswered { .. }
            | Reply::MarkerConfirmed
            | Reply::Got(_)
            | Reply::Declared(_)
            | Reply::Deleted => {}
        }
    }

    pub(super) fn channel_gone(&mut self, index: usize, channel: ChannelNumber) {
        let Some(agent) = &mut self.workers[index].agent else {
            return;
        };
        agent.deliveries = None;
        agent.tags.clear();
        let outstanding: Vec<PublicationNumber> = agent
            .outstanding
            .extract_if(.., |_, on| *on == Some(channel))
            .map(|(publication, _)| publication)
            .collect();
        let opening = agent.opening.take();
        self.tell(index, Input::ChannelClosed { channel });
        // Whoever waits for a consumer on it hears that it fails.
        if let Some(consumer) = opening {
            self.tell(index, Input::ConsumeFailed { consumer });
        }
        for publication in outstanding {
            let stored = false;
            self.tell(
                index,
                Input::Confirmed {
                    publication,
                    stored,
                },
            );
        }
    }

    pub(super) fn settle_delivery(&mut self, index: usize, place: Place, reject: bool) {
        let Some(agent) = &mut self.workers[index].agent else {
            return;
        };
        if agent.deliveries != Some(place.channel) {
            return;
        }
        if let Some(tag) = agent.tags.remove(&place.delivery) {
            let channel = place.channel;
            self.worker_sends(
                index,
                Request::Ack {
                    channel,
                    tag,
                    reject,
                },
            );
        }
    }
}
