//! Everything of one schedule: the parts, what is on its way between them, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use scitq_server::dispatch::core::RecallNumber;
use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::names::BatchName;

use crate::broker::{Broker, Client, ConnectionId, Reply, Request};
use crate::database::Database;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::mutant::Mutant;
use crate::server::Server;
use crate::steering::Change;
use crate::worker::Worker;

/// What happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    ToBroker(ConnectionId, Request),
    ToClient(ConnectionId, Reply),
    BrokerNotices(ConnectionId),
    ClientNotices(Client, ConnectionId),
    BrokerStarts,
    BrokerWrites,
    DatabaseReturns,
    WorkerStarts(usize),
    WorkerConnects(usize, u64),
    WorkerWakes(usize, u64),
    Launch(usize, u64, AttemptId),
    ProcessEnds(usize, AttemptId),
    ServerStarts(usize),
    ServerTries(usize, u64),
    ServerSteps(usize, u64),
    ServerReads(usize, u64),
    ServerApplies(usize, u64),
    ServerAcks(usize, u64),
    ServerWakes(usize, u64),
    ServerChecksSilence(usize, u64),
    ServerChecksLeases(usize, u64),
    Submit,
    Steer,
    Strike(Fault),
    Settle,
}

/// How a schedule went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The faults that really struck, by kind.
    pub faults: BTreeMap<Fault, u32>,
    /// Tasks.
    pub tasks: usize,
    /// Processes started.
    pub starts: u32,
    /// Attempts declared lost.
    pub lost: usize,
    /// What the schedule was like, as a number: the same seed gives the same.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// Changes of tasks that were answered.
    pub changed: u32,
    /// Those of them whose earlier dispatch was named as still out.
    pub unconfirmed: u32,
    /// Workers and batches that were paused for failures that were not the tasks' own (D13).
    pub paused: (u32, u32),
    /// What must not have happened.
    pub violation: Option<String>,
}

/// One schedule.
pub(crate) struct World {
    pub(crate) random: SmallRng,
    pub(crate) now: Duration,
    agenda: BTreeMap<(Duration, u64), Event>,
    next: u64,
    pub(crate) broker: Broker,
    pub(crate) database: Database,
    pub(crate) servers: Vec<Server>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) batches: Vec<BatchName>,
    pub(crate) ledger: Ledger,
    pub(crate) faults: BTreeMap<Fault, u32>,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) uuids: u128,
    pub(crate) next_term: u64,
    pub(crate) violation: Option<String>,
    pub(crate) tracing: bool,
    /// Changes that stand in the database and are not made yet.
    pub(crate) changes: BTreeMap<RecallNumber, Change>,
    pub(crate) last_change: u64,
    /// The lease of workers.
    pub(crate) lost_after: Duration,
    /// Workers and batches that were paused for failures that were not the tasks' own.
    pub(crate) paused_for_faults: (u32, u32),
    /// True while the broker is about to write to its disk.
    broker_writes: bool,
    hasher: DefaultHasher,
    events: u64,
}

/// Takes text in without keeping it.
struct HashText<'a>(&'a mut DefaultHasher);

impl std::fmt::Write for HashText<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// When a schedule must have come to rest after the last fault.
const PATIENCE: Duration = Duration::from_hours(1);
/// Faults and steering happen in this time.
const TROUBLE: Duration = Duration::from_secs(90);

impl World {
    /// The schedule of a seed.
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, tracing: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let names = ["a", "b"];
        let batches = names[..random.random_range(1..=2)]
            .iter()
            .filter_map(|name| BatchName::new(*name).ok())
            .collect();
        let mut world = Self {
            random,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            next: 0,
            broker: Broker::new(),
            database: Database::new(),
            servers: Vec::new(),
            workers: Vec::new(),
            batches,
            ledger: Ledger::default(),
            faults: BTreeMap::new(),
            mutant,
            uuids: 0,
            next_term: 0,
            violation: None,
            tracing,
            changes: BTreeMap::new(),
            last_change: 0,
            lost_after: Duration::from_mins(3),
            paused_for_faults: (0, 0),
            broker_writes: false,
            hasher: DefaultHasher::new(),
            events: 0,
        };
        world.database.mutant = mutant;
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        // In some schedules a lease is shorter than what a worker may be stopped for.
        if self.random.random_ratio(1, 3) {
            self.lost_after = Duration::from_secs(self.random.random_range(16..40));
        }
        let (servers, workers) = (
            self.random.random_range(1..=2),
            self.random.random_range(1..=3),
        );
        for index in 0..servers {
            self.servers.push(Server::default());
            let delay = self.milliseconds(0..500);
            self.at(delay, Event::ServerStarts(index));
        }
        for index in 0..workers {
            let worker = self.new_worker(index);
            self.workers.push(worker);
            let delay = self.milliseconds(0..3000);
            self.at(delay, Event::WorkerStarts(index));
        }
        for _ in 0..self.random.random_range(1..=5) {
            let delay = self.milliseconds(0..60_000);
            self.at(delay, Event::Submit);
        }
        for _ in 0..self.random.random_range(0..=10) {
            let delay = self.milliseconds(0..80_000);
            self.at(delay, Event::Steer);
        }
        for _ in 0..self.random.random_range(1..=14) {
            let delay = self.milliseconds(0..85_000);
            let fault = self.random_fault();
            self.at(delay, Event::Strike(fault));
        }
        self.at(TROUBLE, Event::Settle);
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(((at, number), event)) = self.agenda.pop_first() {
            self.now = at;
            self.events += 1;
            (at, number).hash(&mut self.hasher);
            // Everything that an event carries, without making text of it first.
            let _ = write!(HashText(&mut self.hasher), "{event:?}");
            if self.tracing {
                println!("{:>10.3} {event:?}", at.as_secs_f64());
            }
            self.handle(event);
            self.broker_will_write();
            self.carry_replies();
            self.wake_readers();
            if self.violation.is_some() {
                break;
            }
            if self.now > TROUBLE && self.events.is_multiple_of(16) && self.is_at_rest() {
                break;
            }
            if self.now > TROUBLE + PATIENCE {
                break;
            }
        }
        if self.violation.is_none() {
            self.violation = self.check_the_end();
        }
        let lost = self.database.attempts.values().filter(|it| it.was_lost);
        Outcome {
            lost: lost.count(),
            changed: self.ledger.changed.0,
            unconfirmed: self.ledger.changed.1,
            paused: self.paused_for_faults,
            faults: self.faults,
            tasks: self.database.tasks.len(),
            starts: self.ledger.all_starts(),
            trace: self.hasher.finish(),
            events: self.events,
            lasted: self.now,
            violation: self.violation,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToBroker(id, request) => self.arrives_at_broker(id, request),
            Event::ToClient(id, reply) => self.arrives_at_client(id, reply),
            Event::BrokerNotices(id) => self.broker.disconnect(id),
            Event::ClientNotices(client, id) => match client {
                Client::Worker(index) => {
                    if let Some(until) = self.workers[index].is_stopped(self.now) {
                        self.schedule(until, Event::ClientNotices(client, id));
                    } else {
                        self.worker_notices(index, id);
                    }
                }
                Client::Server(index) => {
                    if let Some(until) = self.servers[index].is_stopped(self.now) {
                        self.schedule(until, Event::ClientNotices(client, id));
                    } else {
                        self.server_notices(index, id);
                    }
                }
            },
            Event::BrokerStarts => self.broker.up = true,
            Event::BrokerWrites => {
                self.broker_writes = false;
                self.broker.write();
            }
            Event::DatabaseReturns => self.database.up = true,
            Event::WorkerStarts(index) => self.worker_starts(index),
            Event::WorkerConnects(index, boot) => self.worker_connects(index, boot),
            Event::WorkerWakes(index, boot) => self.worker_wakes(index, boot),
            Event::Launch(index, boot, attempt) => self.launch(index, boot, attempt),
            Event::ProcessEnds(index, attempt) => self.process_ends(index, attempt),
            Event::ServerStarts(index) => self.server_starts(index),
            Event::ServerTries(index, life) => self.server_tries(index, life),
            Event::ServerSteps(index, term) => self.server_steps(index, term),
            Event::ServerReads(index, term) => self.server_reads(index, term),
            Event::ServerApplies(index, term) => self.server_applies(index, term),
            Event::ServerAcks(index, term) => self.server_acks(index, term),
            Event::ServerWakes(index, term) => self.server_wakes(index, term),
            Event::ServerChecksSilence(index, term) => self.server_checks_silence(index, term),
            Event::ServerChecksLeases(index, term) => self.server_checks_leases(index, term),
            Event::Submit => self.submit(),
            Event::Steer => self.steer(),
            Event::Strike(fault) => self.strike(fault),
            Event::Settle => self.settle(),
        }
    }

    /// The broker writes to its disk soon, or now and then not so soon.
    fn broker_will_write(&mut self) {
        if self.broker_writes || !self.broker.has_unwritten() {
            return;
        }
        self.broker_writes = true;
        let longest = if self.random.random_ratio(1, 20) {
            500
        } else {
            8
        };
        let delay = self.milliseconds(0..longest);
        self.at(delay, Event::BrokerWrites);
    }

    fn submit(&mut self) {
        let batch = self.any_batch();
        let tasks = self.random.random_range(1..=12);
        for _ in 0..tasks {
            let (priority, retries) = (
                self.random.random_range(0..3),
                self.random.random_range(0..3),
            );
            self.database.submit(&batch, priority, retries);
        }
        self.nudge(&batch);
    }

    /// An operation of the connection's client goes to the broker.
    pub(crate) fn send(&mut self, id: ConnectionId, request: Request) {
        let latency = self.latency();
        let Some(connection) = self.broker.connections.get_mut(&id) else {
            return;
        };
        connection.last_in = connection.last_in.max(self.now + latency);
        let at = connection.last_in;
        self.schedule(at, Event::ToBroker(id, request));
    }

    fn arrives_at_broker(&mut self, id: ConnectionId, request: Request) {
        let Some(connection) = self.broker.connections.get(&id) else {
            return;
        };
        if connection.deaf_from.is_none_or(|from| self.now < from) {
            self.broker.handle(id, request);
        }
    }

    fn carry_replies(&mut self) {
        for (id, mut reply) in std::mem::take(&mut self.broker.replies) {
            if self.mutant == Some(Mutant::ForgetsRedelivery)
                && let Reply::Delivery { message, .. } = &mut reply
            {
                message.redelivered = false;
            }
            let latency = self.latency();
            if let Some(connection) = self.broker.connections.get_mut(&id) {
                connection.last_out = connection.last_out.max(self.now + latency);
                if connection.mute_from.is_none_or(|from| self.now < from) {
                    let at = connection.last_out;
                    self.schedule(at, Event::ToClient(id, reply));
                }
            }
        }
    }

    fn arrives_at_client(&mut self, id: ConnectionId, reply: Reply) {
        for index in 0..self.workers.len() {
            if self.workers[index].connection() == Some(id) {
                if let Some(until) = self.workers[index].is_stopped(self.now) {
                    self.schedule(until, Event::ToClient(id, reply));
                } else {
                    self.worker_hears(index, reply);
                }
                return;
            }
        }
        for index in 0..self.servers.len() {
            if self.servers[index].commands_by(id) {
                if let Some(until) = self.servers[index].is_stopped(self.now) {
                    self.schedule(until, Event::ToClient(id, reply));
                } else {
                    self.server_hears(index, reply);
                }
                return;
            }
        }
    }

    /// A connection breaks: each end notices in its own time, and what is on its way is lost from some moment on.
    pub(crate) fn cut(&mut self, client: Client, id: ConnectionId, longest: u64) {
        let (deaf, mute) = (self.latency(), self.latency());
        let Some(connection) = self.broker.connections.get_mut(&id) else {
            return;
        };
        connection.deaf_from = Some(self.now + deaf);
        connection.mute_from = Some(self.now + mute);
        let (broker, own) = (self.milliseconds(0..longest), self.milliseconds(0..longest));
        self.at(broker.max(deaf), Event::BrokerNotices(id));
        self.at(own, Event::ClientNotices(client, id));
    }

    pub(crate) fn schedule(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.agenda.insert((at.max(self.now), self.next), event);
    }

    pub(crate) fn at(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now + delay, event);
    }

    pub(crate) fn latency(&mut self) -> Duration {
        // Mostly quick, now and then slow.
        let most = if self.random.random_ratio(1, 20) {
            2_000_000
        } else {
            5_000
        };
        Duration::from_micros(self.random.random_range(50..most))
    }

    pub(crate) fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    pub(crate) fn any_batch(&mut self) -> BatchName {
        let index = self.random.random_range(0..self.batches.len());
        self.batches[index].clone()
    }

    pub(crate) fn uuid(&mut self) -> uuid::Uuid {
        self.uuids += 1;
        uuid::Uuid::from_u128(self.uuids)
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn is_unfinished(&self, id: TaskId) -> bool {
        self.database
            .tasks
            .get(&id)
            .is_some_and(|task| !task.state.status().is_final())
    }

    pub(crate) fn unfinished_batches(&self) -> BTreeSet<BatchName> {
        let tasks = self.database.tasks.iter();
        tasks
            .filter(|(id, _)| self.is_unfinished(**id))
            .map(|(_, task)| task.batch.clone())
            .collect()
    }
}
