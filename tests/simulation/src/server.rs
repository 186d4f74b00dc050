//! A server: the real dispatcher, projection and inventories, with the shell around them as short as it can be.

mod events;
mod leases;
mod steps;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use scitq_server::dispatch::core::{Core, Effect, Input, MarkerNumber};
use scitq_shared::ids::{AttemptId, Epoch};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::TaskMessage;
use uuid::Uuid;

use self::leases::Listening;
use crate::broker::{Client, ConnectionId, Message, Reply};
use crate::world::{Event, World};

const OFFLINE_AFTER: Duration = Duration::from_secs(15);
/// See the real heartbeat consumer.
const ASK_AFTER: Duration = Duration::from_secs(15);

/// What the dispatcher's shell has to do next.
#[derive(Debug)]
enum Step {
    Effect(Effect),
    Publish {
        batch: BatchName,
        tasks: Vec<TaskMessage>,
        assigned: usize,
        pending_left: bool,
    },
    TakeBack {
        batch: BatchName,
        taken: Vec<(u64, Message)>,
    },
    Settle {
        batch: BatchName,
        tags: Vec<u64>,
        dispatches: usize,
    },
    Counted {
        batch: BatchName,
        age: Duration,
        depth: usize,
    },
}

/// What the dispatcher's shell waits for: it does nothing else meanwhile.
#[derive(Debug)]
enum Awaited {
    Declared,
    Deleted,
    Got {
        batch: BatchName,
    },
    Confirm {
        batch: BatchName,
        tags: Vec<u64>,
        dispatches: usize,
    },
    Depth {
        batch: BatchName,
        age: Duration,
    },
}

/// A term of leadership.
#[derive(Debug)]
struct Term {
    number: u64,
    epoch: Epoch,
    commanding: ConnectionId,
    reading: ConnectionId,
    core: Core,
    began: Duration,
    inputs: VecDeque<Input>,
    steps: VecDeque<Step>,
    stepping: bool,
    awaited: Option<Awaited>,
    reading_now: bool,
    taken: Option<Taken>,
    acks: Vec<u64>,
    withdrawn: usize,
    markers: BTreeMap<Uuid, MarkerNumber>,
    listening: Listening,
    ended_since: BTreeMap<AttemptId, Duration>,
    wakes_at: Option<Duration>,
}

/// What was read from the queues.
#[derive(Debug, Default)]
struct Taken {
    outputs: Vec<Message>,
    states: Vec<Message>,
    beats: Vec<Message>,
    tags: Vec<u64>,
}

/// A server.
#[derive(Debug, Default)]
pub(crate) struct Server {
    up: bool,
    life: u64,
    term: Option<Term>,
    stopped_until: Duration,
}

impl Server {
    pub(crate) fn is_stopped(&self, now: Duration) -> Option<Duration> {
        Some(self.stopped_until).filter(|until| now < *until)
    }

    pub(crate) fn commands_by(&self, id: ConnectionId) -> bool {
        self.term.as_ref().is_some_and(|term| term.commanding == id)
    }

    /// Batches that its dispatcher bars.
    pub(crate) fn barred(&self, now: Duration) -> Vec<BatchName> {
        let term = self.term.iter();
        term.flat_map(|term| term.core.barred(now.saturating_sub(term.began)))
            .collect()
    }

    /// The connections of its term: the one it commands by, the one it reads by.
    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        let term = self.term.iter();
        term.flat_map(|term| [term.commanding, term.reading])
            .collect()
    }

    fn term(&mut self, number: u64) -> Option<&mut Term> {
        self.term.as_mut().filter(|term| term.number == number)
    }
}

/// The term is over.
struct Over;

type Done = Result<(), Over>;

impl World {
    pub(crate) fn server_starts(&mut self, index: usize) {
        let server = &mut self.servers[index];
        if server.up {
            return;
        }
        server.up = true;
        server.life += 1;
        let life = server.life;
        self.at(Duration::from_millis(1), Event::ServerTries(index, life));
    }

    pub(crate) fn server_dies(&mut self, index: usize, half_open: u64) -> bool {
        let server = &mut self.servers[index];
        if !std::mem::replace(&mut server.up, false) {
            return false;
        }
        server.life += 1;
        if let Some(term) = server.term.take() {
            for id in [term.commanding, term.reading] {
                let notices = self.milliseconds(0..half_open);
                self.at(notices, Event::BrokerNotices(id));
            }
        }
        true
    }

    pub(crate) fn stop_server(&mut self, index: usize, until: Duration) {
        self.servers[index].stopped_until = until;
    }

    pub(crate) fn server_notices(&mut self, index: usize, id: ConnectionId) {
        let server = &self.servers[index];
        if server
            .term
            .as_ref()
            .is_some_and(|term| term.commanding == id || term.reading == id)
        {
            self.end_term(index);
        }
    }

    fn end_term(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let life = server.life;
        if let Some(term) = server.term.take() {
            for id in [term.commanding, term.reading] {
                self.at(Duration::from_millis(1), Event::BrokerNotices(id));
            }
        }
        let delay = self.milliseconds(100..5000);
        self.at(delay, Event::ServerTries(index, life));
    }

    pub(crate) fn server_tries(&mut self, index: usize, life: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerTries(index, life));
        }
        let server = &self.servers[index];
        if !server.up || server.life != life || server.term.is_some() {
            return;
        }
        if !self.take_the_lead(index) {
            self.at(Duration::from_secs(2), Event::ServerTries(index, life));
        }
    }

    fn take_the_lead(&mut self, index: usize) -> bool {
        let client = Client::Server(index);
        let Some(commanding) = self.broker.connect(client, self.now) else {
            return false;
        };
        let epoch = if self.broker.own_leader_queue(commanding) {
            self.database.lead().ok()
        } else {
            None
        };
        let Some(epoch) = epoch else {
            self.broker.disconnect(commanding);
            return false;
        };
        let Some(reading) = self.broker.connect(client, self.now) else {
            return false;
        };
        self.next_term += 1;
        let number = self.next_term;
        let loads = self.database.dispatchable();
        self.servers[index].term = Some(Term {
            number,
            epoch,
            commanding,
            reading,
            core: Core::default(),
            began: self.now,
            inputs: VecDeque::from([Input::Loaded { loads }]),
            steps: VecDeque::new(),
            stepping: false,
            awaited: None,
            reading_now: false,
            taken: None,
            acks: Vec::new(),
            withdrawn: 0,
            markers: BTreeMap::new(),
            listening: Listening::default(),
            ended_since: BTreeMap::new(),
            wakes_at: None,
        });
        // What is to be changed stands in the database until it is.
        for change in self.changes.values() {
            let input = change.input();
            if let Some(term) = &mut self.servers[index].term {
                term.inputs.push_back(input);
            }
        }
        self.keep_stepping(index);
        self.listen(index);
        self.at(OFFLINE_AFTER, Event::ServerChecksSilence(index, number));
        true
    }

    /// Something was committed by a request: the leader is told.
    pub(crate) fn nudge(&mut self, batch: &BatchName) {
        for index in 0..self.servers.len() {
            let batches = [batch.clone()].into();
            self.dispatcher_hears(index, Input::Pending { batches });
        }
    }

    /// What is wanted of a worker has changed: the leader is told.
    pub(crate) fn nudge_worker(&mut self, worker: &WorkerName) {
        let Some(desired) = self
            .database
            .workers
            .get(worker)
            .map(|worker| worker.desired.clone())
        else {
            return;
        };
        for index in 0..self.servers.len() {
            let (worker, desired) = (worker.clone(), desired.clone());
            self.dispatcher_hears(index, Input::Greeted { worker, desired });
        }
    }

    pub(crate) fn dispatcher_hears(&mut self, index: usize, input: Input) {
        if let Some(term) = &mut self.servers[index].term {
            term.inputs.push_back(input);
            self.keep_stepping(index);
        }
    }

    fn keep_stepping(&mut self, index: usize) {
        let delay = self.milliseconds(0..4);
        if let Some(term) = &mut self.servers[index].term
            && !term.stepping
            && term.awaited.is_none()
            && !(term.inputs.is_empty() && term.steps.is_empty())
        {
            term.stepping = true;
            let number = term.number;
            self.at(delay, Event::ServerSteps(index, number));
        }
    }

    pub(crate) fn server_hears(&mut self, index: usize, reply: Reply) {
        let input = match reply {
            Reply::TaskAnswered { task, stored: true } => Input::Confirmed {
                batch: task.batch.clone(),
            },
            Reply::TaskAnswered {
                task,
                stored: false,
            } => Input::Refused {
                batch: task.batch.clone(),
                task: task.task,
                dispatch: task.dispatch,
            },
            Reply::Declared(depth) => {
                return self.answered(index, |awaited| match awaited {
                    Awaited::Depth { batch, age } => Some(Step::Counted { batch, age, depth }),
                    _ => None,
                });
            }
            Reply::Got(taken) => {
                return self.answered(index, |awaited| match awaited {
                    Awaited::Got { batch } => Some(Step::TakeBack { batch, taken }),
                    _ => None,
                });
            }
            Reply::MarkerConfirmed => {
                return self.answered(index, |awaited| match awaited {
                    Awaited::Confirm {
                        batch,
                        tags,
                        dispatches,
                    } => Some(Step::Settle {
                        batch,
                        tags,
                        dispatches,
                    }),
                    _ => None,
                });
            }
            Reply::Deleted => return self.answered(index, |_| None),
            _ => return,
        };
        self.dispatcher_hears(index, input);
    }

    /// What the dispatcher waited for has come.
    fn answered(&mut self, index: usize, next: impl FnOnce(Awaited) -> Option<Step>) {
        if let Some(term) = &mut self.servers[index].term
            && let Some(awaited) = term.awaited.take()
        {
            if let Some(step) = next(awaited) {
                term.steps.push_front(step);
            }
            self.keep_stepping(index);
        }
    }

    pub(crate) fn server_wakes(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerWakes(index, number));
        }
        let now = self.now;
        if let Some(term) = self.servers[index].term(number)
            && term.wakes_at.take_if(|at| *at <= now).is_some()
        {
            self.dispatcher_hears(index, Input::Tick);
        }
    }
}
