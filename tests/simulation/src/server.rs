//! A server: the real dispatcher, projection and inventories, with the shell around them as short as it can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use scitq_server::dispatch::core::{Core, Effect, Input, MarkerNumber, Question};
use scitq_server::events::{Answer, Happening, compare};
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{
    ControlCommand, ControlMessage, Heartbeat, InventoryItem, Marker, PROTOCOL_VERSION,
    ReturnedDispatch, TaskMessage, WorkerEvent, WorkerMessage,
};
use scitq_shared::worker::DesiredState;
use uuid::Uuid;

use crate::broker::{Body, Client, ConnectionId, Message, QueueName, Reply, Request};
use crate::database::{Projected, Refused};
use crate::mutant::Mutant;
use crate::world::{Event, World};

const OFFLINE_AFTER: Duration = Duration::from_secs(15);
const LOST_AFTER: Duration = Duration::from_secs(180);
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
    Settle {
        batch: BatchName,
        tags: Vec<u64>,
        dispatches: usize,
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
    reading_now: bool,
    taken: Option<Taken>,
    acks: Vec<u64>,
    withdrawn: usize,
    markers: BTreeMap<Uuid, MarkerNumber>,
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

    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.term.as_ref().map(|term| term.commanding)
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
        self.database.forgive_silence(self.now);
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
            reading_now: false,
            taken: None,
            acks: Vec::new(),
            withdrawn: 0,
            markers: BTreeMap::new(),
            ended_since: BTreeMap::new(),
            wakes_at: None,
        });
        self.keep_stepping(index);
        self.at(OFFLINE_AFTER, Event::ServerChecksSilence(index, number));
        true
    }

    /// Something was committed by a request: the leader is told.
    pub(crate) fn nudge(&mut self, batches: BTreeSet<BatchName>) {
        for index in 0..self.servers.len() {
            self.dispatcher_hears(
                index,
                Input::Pending {
                    batches: batches.clone(),
                },
            );
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

    fn dispatcher_hears(&mut self, index: usize, input: Input) {
        if let Some(term) = &mut self.servers[index].term {
            term.inputs.push_back(input);
            self.keep_stepping(index);
        }
    }

    fn keep_stepping(&mut self, index: usize) {
        let delay = self.milliseconds(0..4);
        if let Some(term) = &mut self.servers[index].term
            && !term.stepping
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
            _ => return,
        };
        self.dispatcher_hears(index, input);
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

    /// The dispatcher does one thing.
    pub(crate) fn server_steps(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerSteps(index, number));
        }
        let now = self.now;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        term.stepping = false;
        if term.steps.is_empty()
            && let Some(input) = term.inputs.pop_front()
        {
            let effects = term.core.handle(now - term.began, input);
            term.steps.extend(effects.into_iter().map(Step::Effect));
        }
        if let Some(step) = term.steps.pop_front() {
            if !self.database.up {
                // It waits for the database.
                if let Some(term) = self.servers[index].term(number) {
                    term.steps.push_front(step);
                    term.stepping = true;
                    self.at(
                        Duration::from_millis(500),
                        Event::ServerSteps(index, number),
                    );
                }
                return;
            }
            if self.step(index, step).is_err() {
                return self.end_term(index);
            }
        }
        self.keep_stepping(index);
        self.set_server_alarm(index);
    }

    fn set_server_alarm(&mut self, index: usize) {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return;
        };
        let Some(deadline) = term.core.next_deadline(now - term.began) else {
            return;
        };
        let at = (term.began + deadline).max(now) + Duration::from_millis(1);
        if term.wakes_at.is_none_or(|set| at < set) {
            term.wakes_at = Some(at);
            let number = term.number;
            self.schedule(at, Event::ServerWakes(index, number));
        }
    }

    fn step(&mut self, index: usize, step: Step) -> Done {
        let now = self.now;
        let mutant = self.mutant;
        let Some(term) = &mut self.servers[index].term else {
            return Err(Over);
        };
        let (epoch, commanding) = (term.epoch, term.commanding);
        // What waits for the broker's answer fails with the connection; what is only sent does not notice.
        let connected = self.broker.has(commanding);
        if self.tracing {
            println!("           server {index}: {step:?}");
        }
        let needs_broker = || if connected { Ok(()) } else { Err(Over) };
        match step {
            Step::Effect(Effect::LoadWorkers) => {
                let capacities = self.database.capacity();
                term.inputs.push_front(Input::Workers { capacities });
            }
            Step::Effect(Effect::Declare { batch }) => {
                needs_broker()?;
                self.broker.declare(&batch);
            }
            Step::Effect(Effect::DeleteQueue { batch }) => {
                needs_broker()?;
                self.broker.delete_idle(&batch);
            }
            Step::Effect(Effect::Welcome { worker, desired }) => {
                self.welcome(index, &worker, desired);
            }
            Step::Effect(Effect::Claim { batch, window }) => {
                let uuids = &mut self.uuids;
                let fresh = || {
                    *uuids += 1;
                    DispatchId(Uuid::from_u128(*uuids))
                };
                let mut undone = None;
                if mutant == Some(Mutant::PublishesBeforeCommit) {
                    undone = Some(self.database.tasks.clone());
                }
                let claim = self.database.claim(epoch, &batch, window, now, fresh);
                let claim = claim.map_err(|_| Over)?;
                if let Some(before) = undone {
                    // Published first; the commit may never come, if the server dies in between.
                    for task in &claim.tasks {
                        let task = std::sync::Arc::new(task.clone());
                        self.send(commanding, Request::Task(task));
                    }
                    if !claim.tasks.is_empty() && rand::Rng::random_ratio(&mut self.random, 1, 4) {
                        self.database.tasks = before;
                        return Err(Over);
                    }
                    if let Some(term) = &mut self.servers[index].term {
                        term.inputs.push_front(Input::Claimed {
                            batch,
                            dispatches: claim.tasks.len(),
                            assigned: claim.assigned,
                            pending_left: claim.pending_left,
                        });
                    }
                    return Ok(());
                }
                term.steps.push_front(Step::Publish {
                    batch,
                    tasks: claim.tasks,
                    assigned: claim.assigned,
                    pending_left: claim.pending_left,
                });
            }
            Step::Publish {
                batch,
                tasks,
                assigned,
                pending_left,
            } => {
                let dispatches = tasks.len();
                term.inputs.push_front(Input::Claimed {
                    batch,
                    dispatches,
                    assigned,
                    pending_left,
                });
                for task in tasks {
                    self.send(commanding, Request::Task(std::sync::Arc::new(task)));
                }
            }
            Step::Effect(Effect::Compare { batch }) => {
                let overtaken = self.database.is_overtaken(&batch);
                term.inputs.push_front(Input::Compared { batch, overtaken });
            }
            Step::Effect(Effect::Withdraw { batch }) => {
                needs_broker()?;
                let queue = QueueName::Batch(batch.clone());
                let taken = self.broker.take(commanding, &queue, 8);
                let (mut fresh, mut redelivered) = (Vec::new(), Vec::new());
                for (_, message) in &taken {
                    let Body::Task(task) = &message.body else {
                        continue;
                    };
                    let (dispatch, task) = (task.dispatch, task.task);
                    if message.redelivered && mutant != Some(Mutant::BypassesStateQueue) {
                        redelivered.push(ReturnedDispatch { dispatch, task });
                    } else {
                        fresh.push(Happening::Returned { dispatch, task });
                    }
                }
                self.database
                    .project(epoch, &fresh, &[])
                    .map_err(|_| Over)?;
                if !redelivered.is_empty() {
                    let message = Marker {
                        version: PROTOCOL_VERSION,
                        epoch,
                        marker: self.uuid(),
                        returned: redelivered,
                    };
                    self.broker.handle(commanding, Request::Marker(message));
                }
                let Some(term) = &mut self.servers[index].term else {
                    return Err(Over);
                };
                if taken.is_empty() {
                    let dispatches = std::mem::take(&mut term.withdrawn);
                    term.inputs
                        .push_front(Input::Withdrawn { batch, dispatches });
                } else {
                    let tags = taken.iter().map(|(tag, _)| *tag).collect();
                    let dispatches = fresh.len();
                    term.steps.push_front(Step::Settle {
                        batch,
                        tags,
                        dispatches,
                    });
                }
            }
            Step::Settle {
                batch,
                tags,
                dispatches,
            } => {
                needs_broker()?;
                self.broker.settle(commanding, &tags);
                term.withdrawn += dispatches;
                term.steps
                    .push_front(Step::Effect(Effect::Withdraw { batch }));
            }
            Step::Effect(Effect::Count { batch, age }) => {
                needs_broker()?;
                let depth = self.broker.depth(&QueueName::Batch(batch.clone()));
                let mut surplus = self.database.dispatches_beyond(&batch, age, depth, now);
                if mutant == Some(Mutant::CallsNoRoll) {
                    surplus.clear();
                }
                term.inputs.push_front(Input::Counted { batch, surplus });
            }
            Step::Effect(Effect::List { batch, question }) => {
                let among = match &question {
                    Question::All => None,
                    Question::Suspects(some) | Question::Asked(some) => Some(&some[..]),
                };
                let (unstarted, workers) = self.database.unaccepted(&batch, among);
                term.inputs.push_front(Input::Listed {
                    batch,
                    question,
                    unstarted,
                    workers,
                });
            }
            Step::Effect(Effect::Revoke { worker, dispatches }) => {
                if mutant == Some(Mutant::BelievesInAbsence) {
                    term.inputs.push_back(Input::Absent { worker, dispatches });
                    return Ok(());
                }
                self.control(index, &worker, ControlCommand::Revoke { dispatches });
            }
            Step::Effect(Effect::Marker { marker }) => {
                let id = Uuid::from_u64_pair(epoch.0.unsigned_abs(), marker.0);
                term.markers.insert(id, marker);
                let message = Marker {
                    version: PROTOCOL_VERSION,
                    epoch,
                    marker: id,
                    returned: Vec::new(),
                };
                self.send(commanding, Request::Marker(message));
            }
            Step::Effect(Effect::Return { batch, dispatches }) => {
                let count = dispatches.len();
                let returned: Vec<Happening> = dispatches
                    .into_iter()
                    .map(
                        |(task, dispatch): (TaskId, DispatchId)| Happening::Returned {
                            dispatch,
                            task,
                        },
                    )
                    .collect();
                self.database
                    .project(epoch, &returned, &[])
                    .map_err(|_| Over)?;
                if let Some(term) = &mut self.servers[index].term {
                    term.inputs.push_front(Input::Returned {
                        batch,
                        dispatches: count,
                    });
                }
            }
        }
        Ok(())
    }

    fn welcome(&mut self, index: usize, worker: &WorkerName, desired: DesiredState) {
        let program_version = "0".to_owned();
        let command = ControlCommand::Welcome {
            desired,
            program_version,
        };
        self.control(index, worker, command);
    }

    fn control(&mut self, index: usize, worker: &WorkerName, command: ControlCommand) {
        let Some(term) = &self.servers[index].term else {
            return;
        };
        let message = Box::new(ControlMessage::new(term.epoch, command));
        let (id, worker) = (term.commanding, worker.clone());
        self.send(id, Request::Control { worker, message });
    }

    /// Starts readers for whom there is something to read.
    pub(crate) fn wake_readers(&mut self) {
        let waiting = [QueueName::State, QueueName::Output, QueueName::Heartbeat]
            .iter()
            .any(|queue| self.broker.depth(queue) > 0);
        if !waiting {
            return;
        }
        for index in 0..self.servers.len() {
            let Some(term) = &mut self.servers[index].term else {
                continue;
            };
            if !term.reading_now && self.broker.has(term.reading) {
                term.reading_now = true;
                let number = term.number;
                let delay = self.milliseconds(0..10);
                self.at(delay, Event::ServerReads(index, number));
            }
        }
    }

    pub(crate) fn server_reads(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerReads(index, number));
        }
        let acks_first = self.mutant == Some(Mutant::AcksBeforeCommit);
        let up = self.database.up;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        if !up {
            return self.at(
                Duration::from_millis(500),
                Event::ServerReads(index, number),
            );
        }
        let id = term.reading;
        let mut taken = Taken::default();
        for (queue, most) in [
            (QueueName::Output, 8),
            (QueueName::State, 16),
            (QueueName::Heartbeat, 16),
        ] {
            for (tag, message) in self.broker.take(id, &queue, most) {
                taken.tags.push(tag);
                match queue {
                    QueueName::Output => taken.outputs.push(message),
                    QueueName::State => taken.states.push(message),
                    _ => taken.beats.push(message),
                }
            }
        }
        if acks_first {
            self.broker.settle(id, &taken.tags);
        }
        if let Some(term) = self.servers[index].term(number) {
            term.taken = Some(taken);
        }
        let delay = if acks_first {
            self.milliseconds(0..500)
        } else {
            Duration::ZERO
        };
        self.at(delay, Event::ServerApplies(index, number));
    }

    pub(crate) fn server_applies(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerApplies(index, number));
        }
        if !self.database.up {
            let delay = Duration::from_millis(500);
            return self.at(delay, Event::ServerApplies(index, number));
        }
        let Some(taken) = self.servers[index]
            .term(number)
            .and_then(|term| term.taken.take())
        else {
            return;
        };
        let tags = taken.tags.clone();
        if self.apply(index, taken).is_err() {
            return self.end_term(index);
        }
        if let Some(term) = self.servers[index].term(number) {
            term.acks = tags;
        }
        let delay = self.milliseconds(0..20);
        self.at(delay, Event::ServerAcks(index, number));
    }

    pub(crate) fn server_acks(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerAcks(index, number));
        }
        if let Some(term) = self.servers[index].term(number) {
            term.reading_now = false;
            let (id, tags) = (term.reading, std::mem::take(&mut term.acks));
            self.broker.settle(id, &tags);
        }
    }

    fn apply(&mut self, index: usize, taken: Taken) -> Done {
        let outputs: Vec<AttemptId> = taken
            .outputs
            .iter()
            .filter_map(|message| match &message.body {
                Body::Output(attempt) => Some(*attempt),
                _ => None,
            })
            .collect();
        self.store(index, &[], &outputs)?;
        let mut happenings = Vec::new();
        let epoch = self.servers[index].term.as_ref().map(|term| term.epoch);
        for message in taken.states {
            let said = match &message.body {
                Body::State(message) => message.epoch,
                Body::Marker(marker) => marker.epoch,
                _ => continue,
            };
            if Some(said) > epoch {
                return Err(Over);
            }
            match message.body {
                Body::State(message) => match Happening::of(&message) {
                    Ok(Some(happening)) => {
                        self.break_returns(&happening);
                        happenings.push(happening);
                    }
                    Ok(None) => {
                        self.store(index, &std::mem::take(&mut happenings), &[])?;
                        self.about_worker(index, &message)?;
                    }
                    Err(why) => self.violated(format!("a message contradicts itself: {why}")),
                },
                Body::Marker(marker) => {
                    happenings.extend(marker.returned.iter().map(|it| Happening::Returned {
                        dispatch: it.dispatch,
                        task: it.task,
                    }));
                    self.store(index, &std::mem::take(&mut happenings), &[])?;
                    let read = self.servers[index]
                        .term
                        .as_mut()
                        .and_then(|term| term.markers.remove(&marker.marker));
                    if let Some(marker) = read {
                        self.dispatcher_hears(index, Input::MarkerRead { marker });
                    }
                }
                _ => {}
            }
        }
        self.store(index, &happenings, &[])?;
        for message in taken.beats {
            if let Body::Beat(heartbeat) = message.body {
                self.heartbeat(index, &heartbeat)?;
            }
        }
        Ok(())
    }

    /// The mutant that dispatches anew whatever comes back.
    fn break_returns(&mut self, happening: &Happening) {
        if self.mutant == Some(Mutant::TrustsReturns)
            && let Happening::Returned { task, .. } = happening
            && let Some(task) = self.database.tasks.get_mut(task)
            && !task.state.status().is_final()
        {
            task.state = scitq_shared::transition::TaskState::Pending;
            let batch = task.batch.clone();
            self.nudge([batch].into());
        }
    }

    fn store(&mut self, index: usize, happenings: &[Happening], outputs: &[AttemptId]) -> Done {
        if happenings.is_empty() && outputs.is_empty() {
            return Ok(());
        }
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let projected = self.database.project(term.epoch, happenings, outputs);
        let projected = projected.map_err(|_: Refused| Over)?;
        self.follow_up(index, projected);
        Ok(())
    }

    fn follow_up(&mut self, index: usize, projected: Projected) {
        let effects = projected.effects;
        if let Some(refused) = effects.refused.first() {
            self.violated(format!("an event is refused: {refused}"));
        }
        if !effects.room.is_empty() {
            let room = effects.room;
            self.dispatcher_hears(index, Input::Room { room });
        }
        if !projected.pending.is_empty() {
            let batches = projected.pending;
            self.dispatcher_hears(index, Input::Pending { batches });
        }
        for (worker, attempt) in effects.stop {
            let attempts = vec![attempt];
            self.control(index, &worker, ControlCommand::Stop { attempts });
        }
        for (worker, attempt) in projected.complete {
            self.applied(index, &worker, attempt);
        }
    }

    fn applied(&mut self, index: usize, worker: &WorkerName, attempt: AttemptId) {
        let attempts = vec![attempt];
        self.control(index, worker, ControlCommand::Applied { attempts });
    }

    fn about_worker(&mut self, index: usize, message: &WorkerMessage) -> Done {
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let epoch = term.epoch;
        let (name, incarnation) = (&message.worker, message.incarnation);
        match &message.event {
            WorkerEvent::Hello(hello) => {
                let desired =
                    self.database
                        .greet(epoch, name, incarnation, &hello.initial, self.now);
                let desired = desired.map_err(|_| Over)?;
                for answer in self.answers(message, &hello.inventory) {
                    match answer {
                        Answer::Applied(attempt) => self.applied(index, name, attempt),
                        Answer::Lost { .. } => self.lose(index, &answer)?,
                        Answer::Stop(_) | Answer::Resend { .. } => {}
                    }
                }
                let worker = name.clone();
                self.dispatcher_hears(index, Input::Greeted { worker, desired });
            }
            WorkerEvent::Goodbye { kept, .. } => {
                let gone = self.database.farewell(epoch, name, incarnation, *kept == 0);
                gone.map_err(|_| Over)?;
                self.dispatcher_hears(index, Input::WorkersChanged);
            }
            WorkerEvent::Absent { dispatches } => {
                let (worker, dispatches) = (name.clone(), dispatches.clone());
                self.dispatcher_hears(index, Input::Absent { worker, dispatches });
            }
            _ => {}
        }
        Ok(())
    }

    fn answers(&self, message: &WorkerMessage, inventory: &[InventoryItem]) -> Vec<Answer> {
        self.compared(
            &message.worker,
            message.incarnation,
            inventory,
            message.sequence,
        )
    }

    fn compared(
        &self,
        worker: &WorkerName,
        incarnation: scitq_shared::ids::IncarnationId,
        inventory: &[InventoryItem],
        sequence: u64,
    ) -> Vec<Answer> {
        let ids: Vec<AttemptId> = inventory.iter().map(|item| item.attempt).collect();
        let held = self.database.held(worker, incarnation, &ids);
        let sequence = if self.mutant == Some(Mutant::OverratesInventories) {
            u64::MAX
        } else {
            sequence
        };
        let mut answers = compare(&held, inventory, sequence);
        if self.mutant == Some(Mutant::ForgetsOutput) {
            for answer in &mut answers {
                if let Answer::Resend {
                    attempt,
                    end: false,
                    ..
                } = answer
                {
                    *answer = Answer::Applied(*attempt);
                }
            }
        }
        answers
    }

    fn lose(&mut self, index: usize, answer: &Answer) -> Done {
        let Answer::Lost {
            attempt,
            dispatch,
            task,
        } = answer
        else {
            return Ok(());
        };
        let lost = Happening::Lost {
            attempt: *attempt,
            dispatch: *dispatch,
            task: *task,
            detail: "unknown to its worker".to_owned(),
        };
        self.store(index, &[lost], &[])
    }

    fn heartbeat(&mut self, index: usize, heartbeat: &Heartbeat) -> Done {
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let (name, incarnation) = (&heartbeat.worker, heartbeat.incarnation);
        let came = self
            .database
            .heard(term.epoch, name, incarnation, self.now)
            .map_err(|_| Over)?;
        if came {
            self.dispatcher_hears(index, Input::WorkersChanged);
        }
        for answer in self.compared(name, incarnation, &heartbeat.inventory, heartbeat.sequence) {
            match answer {
                Answer::Lost { .. } => self.lose(index, &answer)?,
                Answer::Applied(attempt) => self.applied(index, name, attempt),
                Answer::Stop(attempt) => {
                    let attempts = vec![attempt];
                    self.control(index, name, ControlCommand::Stop { attempts });
                }
                Answer::Resend {
                    attempt,
                    end,
                    stdout_from,
                    stderr_from,
                } => {
                    if self.waited_enough(index, attempt) {
                        let command = ControlCommand::Resend {
                            attempt,
                            end,
                            stdout_from,
                            stderr_from,
                        };
                        self.control(index, name, command);
                    }
                }
            }
        }
        let wanted = self.database.workers.get(name).map(|it| it.desired.clone());
        if let Some(desired) = wanted.filter(|it| it.version > heartbeat.desired_version) {
            let worker = name.clone();
            self.dispatcher_hears(index, Input::Greeted { worker, desired });
        }
        Ok(())
    }

    fn waited_enough(&mut self, index: usize, attempt: AttemptId) -> bool {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return false;
        };
        let since = term.ended_since.entry(attempt).or_insert(now);
        let enough = *since + ASK_AFTER <= now;
        if enough {
            *since = now;
        }
        enough
    }

    pub(crate) fn server_checks_silence(&mut self, index: usize, number: u64) {
        let again = Event::ServerChecksSilence(index, number);
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            // What came meanwhile is heard first.
            return self.schedule(until + OFFLINE_AFTER, again);
        }
        let now = self.now;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        let epoch = term.epoch;
        if !self.database.up {
            return self.at(OFFLINE_AFTER, again);
        }
        let offline = self.database.set_offline(epoch, OFFLINE_AFTER, now);
        let lost = self.database.expired(epoch, LOST_AFTER, now);
        let (Ok(offline), Ok(lost)) = (offline, lost) else {
            return self.end_term(index);
        };
        if offline {
            self.dispatcher_hears(index, Input::WorkersChanged);
        }
        if self.store(index, &lost, &[]).is_err() {
            return self.end_term(index);
        }
        self.at(OFFLINE_AFTER / 4, again);
    }
}
