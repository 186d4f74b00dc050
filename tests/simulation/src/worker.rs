//! A worker's machine: its agent around the real core, its state directory, its processes, and its connection.

mod link;
mod processes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::Rng as _;
use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, IncarnationId, Revision, TaskId};
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::AttemptReport;
use scitq_shared::settings::OnDrainTimeout;
use scitq_shared::worker::DesiredState;
use scitq_worker::agent::core::{
    AttemptEnd, ChannelNumber, ConsumerNumber, Core, DeliveryNumber, Effect, Found, Identity,
    Input, Now, PublicationNumber, Recovered, Rules,
};

use crate::broker::{ConnectionId, Request};
use crate::database::{BEGINNING, wall};
use crate::mutant::Mutant;
use crate::world::{Event, World};

/// Bytes that every process prints.
const OUTPUT: u64 = 10;

/// What is kept of an attempt on disk.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    report: AttemptReport,
    definition: TaskDefinition,
    started: bool,
    end: Option<AttemptEnd>,
    /// It is to be killed as soon as it has started.
    kill: Option<Outcome>,
}

/// What survives the agent.
#[derive(Debug)]
pub(crate) struct Disk {
    incarnation: IncarnationId,
    boots: u32,
    desired: Option<DesiredState>,
    pub(crate) attempts: BTreeMap<AttemptId, Journal>,
}

/// A running process.
#[derive(Clone, Copy, Debug)]
struct Process {
    task: TaskId,
    code: i32,
}

/// An agent that lives.
struct Agent {
    core: Core,
    born: Duration,
    connection: Option<ConnectionId>,
    deliveries: Option<ChannelNumber>,
    /// The consumer that is asked for and not answered yet.
    opening: Option<ConsumerNumber>,
    tags: BTreeMap<DeliveryNumber, u64>,
    numbers: u64,
    outstanding: BTreeMap<PublicationNumber, Option<ChannelNumber>>,
    outputs: BTreeSet<AttemptId>,
    wakes_at: Option<Duration>,
}

/// A worker.
pub(crate) struct Worker {
    pub(crate) name: WorkerName,
    initial: DesiredState,
    pub(crate) disk: Disk,
    agent: Option<Agent>,
    /// Counts agents; what is for an earlier one is void.
    boot: u64,
    stopped_until: Duration,
    /// Until when its disk is full: nothing can be started.
    full_until: Duration,
    clock_offset: Duration,
    processes: BTreeMap<AttemptId, Process>,
    first_seen: BTreeMap<TaskId, Revision>,
}

impl Worker {
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.agent.as_ref()?.connection
    }

    pub(crate) fn is_stopped(&self, now: Duration) -> Option<Duration> {
        Some(self.stopped_until).filter(|until| now < *until)
    }

    /// What its clock shows.
    pub(crate) fn clock(&self, now: Duration) -> Duration {
        now + self.clock_offset
    }

    /// Attempts that its agent holds.
    pub(crate) fn held(&self) -> usize {
        self.agent.as_ref().map_or(0, |agent| agent.core.held())
    }
}

impl World {
    pub(crate) fn new_worker(&mut self, index: usize) -> Worker {
        let initial = DesiredState {
            version: 0,
            batch: self.any_batch(),
            concurrency: self.random.random_range(1..=3),
            prefetch: self.random.random_range(0..=2),
            paused: false,
        };
        Worker {
            #[expect(clippy::unwrap_used, reason = "w0 is a name")]
            name: WorkerName::new(format!("w{index}")).unwrap(),
            initial,
            disk: self.new_disk(),
            agent: None,
            boot: 0,
            stopped_until: Duration::ZERO,
            full_until: Duration::ZERO,
            clock_offset: BEGINNING,
            processes: BTreeMap::new(),
            first_seen: BTreeMap::new(),
        }
    }

    fn new_disk(&mut self) -> Disk {
        Disk {
            incarnation: IncarnationId(self.uuid()),
            boots: 0,
            desired: None,
            attempts: BTreeMap::new(),
        }
    }

    pub(crate) fn worker_starts(&mut self, index: usize) {
        if self.workers[index].agent.is_some() {
            return;
        }
        let recovered = self.recover(index);
        let worker = &mut self.workers[index];
        worker.boot += 1;
        worker.disk.boots += 1;
        let identity = Identity {
            worker: worker.name.clone(),
            incarnation: worker.disk.incarnation,
            boots: worker.disk.boots,
            hostname: "host".to_owned(),
            program_version: "0".to_owned(),
            cores: 4,
            memory_bytes: 1,
        };
        let rules = Rules {
            initial: worker.initial.clone(),
            stream_cap_bytes: 1000,
            heartbeat_every: Duration::from_secs(5),
            ack_after: Duration::from_secs(20),
            accept_after: Duration::from_secs(1),
            queue_retry: (Duration::from_secs(1), Duration::from_secs(30)),
            farewell: Duration::from_secs(8),
            drain_timeout: None,
            on_drain_timeout: OnDrainTimeout::Leave,
            stop_grace: Duration::from_secs(10),
            can_restart: true,
        };
        let core = Core::new(identity, rules, worker.disk.desired.clone(), recovered);
        worker.agent = Some(Agent {
            core,
            born: self.now,
            connection: None,
            deliveries: None,
            opening: None,
            tags: BTreeMap::new(),
            numbers: 0,
            outstanding: BTreeMap::new(),
            outputs: BTreeSet::new(),
            wakes_at: None,
        });
        let boot = worker.boot;
        self.tell(index, Input::Tick);
        let delay = self.milliseconds(1..100);
        self.at(delay, Event::WorkerConnects(index, boot));
    }

    /// What an agent makes of what it finds: it adopts what runs, unless the keeper of the processes is gone, too.
    fn recover(&mut self, index: usize) -> Vec<Recovered> {
        let now = self.workers[index].clock(self.now);
        let keeper_gone = self.random.random_ratio(1, 8);
        let worker = &mut self.workers[index];
        if keeper_gone {
            for (attempt, process) in std::mem::take(&mut worker.processes) {
                self.ledger.gone(process.task, attempt);
            }
        }
        let mut recovered = Vec::new();
        for (attempt, journal) in &mut worker.disk.attempts {
            let found = if let Some(end) = &journal.end {
                Found::Ended(end.clone())
            } else if !journal.started {
                Found::Unstarted
            } else if worker.processes.contains_key(attempt) {
                Found::Running {
                    ran_for: std::time::Duration::ZERO,
                }
            } else {
                let outcome = Outcome::Failed {
                    reason: FailureReason::AgentRestarted,
                    detail: "restarted".to_owned(),
                };
                let end = end(now, None, outcome);
                journal.end = Some(end.clone());
                Found::Ended(end)
            };
            recovered.push(Recovered {
                report: journal.report.clone(),
                definition: journal.definition.clone(),
                found,
            });
        }
        recovered
    }

    /// The agent is gone at once; its processes go on.
    pub(crate) fn agent_dies(&mut self, index: usize) -> bool {
        let Some(agent) = self.workers[index].agent.take() else {
            return false;
        };
        if let Some(id) = agent.connection {
            let notices = self.milliseconds(0..200);
            self.at(notices, Event::BrokerNotices(id));
        }
        true
    }

    /// The machine is gone with everything on it, and another one takes its name.
    pub(crate) fn machine_dies(&mut self, index: usize) -> bool {
        let died = self.agent_dies(index);
        let disk = self.new_disk();
        let worker = &mut self.workers[index];
        for (attempt, process) in std::mem::take(&mut worker.processes) {
            self.ledger.gone(process.task, attempt);
        }
        let old = std::mem::replace(&mut worker.disk, disk);
        for (attempt, journal) in &old.attempts {
            self.ledger.forgotten(journal.report.task, *attempt);
        }
        died
    }

    pub(crate) fn stop_worker(&mut self, index: usize, until: Duration) {
        self.workers[index].stopped_until = until;
    }

    pub(crate) fn fill_disk(&mut self, index: usize, until: Duration) {
        self.workers[index].full_until = until;
    }

    pub(crate) fn move_clock(&mut self, index: usize, by: Duration) {
        self.workers[index].clock_offset += by;
    }

    pub(crate) fn drain_worker(&mut self, index: usize) -> bool {
        let lives = self.workers[index].agent.is_some();
        self.tell(index, Input::Drain);
        lives
    }

    pub(crate) fn worker_wakes(&mut self, index: usize, boot: u64) {
        if let Some(until) = self.workers[index].is_stopped(self.now) {
            return self.schedule(until, Event::WorkerWakes(index, boot));
        }
        let now = self.now;
        let worker = &mut self.workers[index];
        if worker.boot != boot {
            return;
        }
        if let Some(agent) = &mut worker.agent
            && agent.wakes_at.take_if(|at| *at <= now).is_some()
        {
            self.tell(index, Input::Tick);
        }
    }

    /// Tells the core something, does what it answers, and so on until it has nothing more to say.
    fn tell(&mut self, index: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now;
            let worker = &mut self.workers[index];
            let Some(agent) = &mut worker.agent else {
                return;
            };
            let moment = Now {
                elapsed: now.saturating_sub(agent.born),
                wall: wall(now + worker.clock_offset),
            };
            for effect in agent.core.handle(moment, input) {
                self.perform(index, effect, &mut inputs);
            }
        }
        self.set_alarm(index);
    }

    fn set_alarm(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let boot = worker.boot;
        let Some(agent) = &mut worker.agent else {
            return;
        };
        let Some(deadline) = agent.core.next_deadline() else {
            return;
        };
        // The real clock is never exactly on time either.
        let at = (agent.born + deadline).max(self.now) + Duration::from_millis(1);
        if agent.wakes_at.is_none_or(|set| at < set) {
            agent.wakes_at = Some(at);
            self.schedule(at, Event::WorkerWakes(index, boot));
        }
    }

    fn perform(&mut self, index: usize, effect: Effect, inputs: &mut VecDeque<Input>) {
        let Some(agent) = &mut self.workers[index].agent else {
            return;
        };
        match effect {
            Effect::Publish {
                publication,
                on,
                message,
            } => {
                if on.is_some() && agent.deliveries != on {
                    inputs.push_back(Input::Confirmed {
                        publication,
                        stored: false,
                    });
                    return;
                }
                if self.mutant == Some(Mutant::StartsUnconfirmed)
                    && message.event.kind() == "started"
                {
                    inputs.push_back(Input::Confirmed {
                        publication,
                        stored: true,
                    });
                } else {
                    agent.outstanding.insert(publication, on);
                }
                let request = Request::State {
                    publication,
                    on,
                    message,
                };
                self.worker_sends(index, request);
            }
            Effect::Beat(heartbeat) => self.worker_sends(index, Request::Beat(heartbeat)),
            Effect::Ack(place) => self.settle_delivery(index, place, false),
            Effect::Reject(place) => self.settle_delivery(index, place, true),
            Effect::Consume {
                consumer,
                batch,
                qos,
            } => {
                let channel = *agent.deliveries.get_or_insert_with(|| {
                    agent.numbers += 1;
                    ChannelNumber(agent.numbers)
                });
                agent.opening = Some(consumer);
                let request = Request::Consume {
                    channel,
                    consumer,
                    batch,
                    qos: qos.get(),
                };
                self.worker_sends(index, request);
            }
            Effect::CancelConsumer { consumer } => {
                if let Some(channel) = agent.deliveries {
                    self.worker_sends(index, Request::Cancel { channel, consumer });
                }
            }
            Effect::CloseChannel { channel } => {
                if agent.deliveries == Some(channel) {
                    self.worker_sends(index, Request::Close { channel });
                    self.channel_gone(index, channel);
                }
            }
            Effect::Reconnect { .. } => self.drop_link(index),
            Effect::Execute(execution) => self.execute(index, *execution),
            // Its end is told when it comes.
            Effect::Adopt { .. } => {}
            Effect::Terminate { attempt, outcome } | Effect::Kill { attempt, outcome } => {
                self.kill(index, attempt, outcome);
            }
            Effect::Restart => {
                if self.random.random_ratio(1, 8) {
                    return inputs.push_back(Input::RestartFailed);
                }
                self.agent_dies(index);
                let delay = self.milliseconds(10..500);
                self.at(delay, Event::WorkerStarts(index));
            }
            Effect::SendOutput(output) => {
                agent.outputs.insert(output.attempt);
                self.worker_sends(index, Request::Output(output.attempt));
            }
            Effect::Discard { attempt } => {
                agent.outputs.remove(&attempt);
                if self.mutant != Some(Mutant::KeepsDirectories) {
                    self.workers[index].disk.attempts.remove(&attempt);
                }
            }
            Effect::Persist(desired) => self.workers[index].disk.desired = Some(desired),
            Effect::Forget => self.workers[index].disk.desired = None,
            Effect::End => {
                self.agent_dies(index);
                let delay = self.milliseconds(500..20_000);
                self.at(delay, Event::WorkerStarts(index));
            }
        }
    }
}

fn end(now: Duration, exit: Option<Exit>, outcome: Outcome) -> AttemptEnd {
    AttemptEnd {
        ended_at: wall(now),
        exit,
        outcome,
        usage: None,
        stdout_bytes: OUTPUT,
        stderr_bytes: 0,
    }
}
