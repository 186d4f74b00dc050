//! A server that does what the protocol asks of one, and lets tests look at everything it heard.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scitq_broker::topology::{
    self, CONTROL_EXCHANGE, HEARTBEAT_QUEUE, OUTPUT_QUEUE, STATE_QUEUE, TASKS_EXCHANGE,
};
use scitq_broker::{Broker, Channel, Connection, Message, QueueType};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::{Chunk, Stream, StreamEnd};
use scitq_shared::protocol::{
    AttemptReport, ControlCommand, ControlMessage, Heartbeat, OutputMessage, TaskMessage,
    WorkerEvent, WorkerMessage, decode, encode,
};
use scitq_shared::worker::DesiredState;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest wait for anything; generous, the machine may be busy.
const DEADLINE: Duration = Duration::from_mins(1);

/// What was heard, and how to answer.
#[derive(Debug, Default)]
pub struct Heard {
    pub events: Vec<WorkerMessage>,
    pub heartbeats: Vec<Heartbeat>,
    /// By attempt and stream: pieces by offset.
    pub output: BTreeMap<(AttemptId, Stream), BTreeMap<u64, Vec<u8>>>,
    pub applied: BTreeSet<AttemptId>,
    /// Whether complete attempts are confirmed as applied.
    pub apply: bool,
    /// Whether state events are acknowledged; without it nothing in-process is ever confirmed.
    pub acknowledge: bool,
    /// Whether output is read off its queue; looked at when listening begins.
    pub read_output: bool,
}

impl Heard {
    pub fn reports(&self, kind: &str) -> Vec<AttemptReport> {
        let of_kind = self
            .events
            .iter()
            .filter(|message| message.event.kind() == kind);
        of_kind
            .filter_map(|message| report(&message.event).cloned())
            .collect()
    }

    pub fn count(&self, kind: &str) -> usize {
        self.events
            .iter()
            .filter(|message| message.event.kind() == kind)
            .count()
    }

    pub fn ended(&self, task: TaskId) -> Option<AttemptReport> {
        self.reports("ended")
            .into_iter()
            .find(|report| report.task == task)
    }

    /// Bytes that were received of a stream, contiguous from the beginning.
    pub fn text(&self, attempt: AttemptId, stream: Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, piece) in self.output.get(&(attempt, stream)).into_iter().flatten() {
            if *offset == bytes.len() as u64 {
                bytes.extend_from_slice(piece);
            }
        }
        bytes
    }

    pub fn received(&self, attempt: AttemptId, stream: Stream) -> u64 {
        self.output
            .get(&(attempt, stream))
            .into_iter()
            .flatten()
            .map(|(_, piece)| piece.len() as u64)
            .sum()
    }

    fn is_complete(&self, report: &AttemptReport) -> bool {
        let complete = |stream, end: Option<StreamEnd>| {
            end.is_some_and(|end| self.received(report.attempt, stream) == end.kept())
        };
        complete(Stream::Stdout, report.stdout) && complete(Stream::Stderr, report.stderr)
    }
}

pub fn report(event: &WorkerEvent) -> Option<&AttemptReport> {
    match event {
        WorkerEvent::Accepted(report)
        | WorkerEvent::Started(report)
        | WorkerEvent::Exited(report)
        | WorkerEvent::Ended(report)
        | WorkerEvent::Released { report, .. } => Some(report),
        _ => None,
    }
}

pub struct Server {
    broker: Broker,
    pub worker: WorkerName,
    pub batch: BatchName,
    pub heard: Arc<Mutex<Heard>>,
    changed: watch::Sender<u64>,
    desired: Arc<Mutex<DesiredState>>,
    publishing: tokio::sync::Mutex<Option<(Connection, Channel)>>,
    tasks: AtomicI64,
    running: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Server {
    /// A server with the batch's queue, ready for a worker of that name.
    pub async fn start(broker: &Broker, worker: &str, concurrency: u16, prefetch: u16) -> Self {
        let heard = Arc::new(Mutex::new(Heard {
            apply: true,
            acknowledge: true,
            read_output: true,
            ..Heard::default()
        }));
        let changed = watch::Sender::new(0);
        let batch = BatchName::default();
        let desired = DesiredState {
            version: 1,
            batch: batch.clone(),
            concurrency,
            prefetch,
            paused: false,
        };
        let desired = Arc::new(Mutex::new(desired));
        let worker = WorkerName::new(worker).unwrap();
        let running = listen(broker, &worker, &heard, &changed, &desired);
        let server = Self {
            broker: broker.clone(),
            worker,
            batch,
            heard,
            changed,
            desired,
            publishing: tokio::sync::Mutex::default(),
            tasks: AtomicI64::new(0),
            running,
        };
        server.create_queue(&server.batch).await;
        server
    }

    /// Begins to listen anew.
    pub fn listen(&mut self) {
        self.running.abort();
        self.running = listen(
            &self.broker,
            &self.worker,
            &self.heard,
            &self.changed,
            &self.desired,
        );
    }

    pub async fn create_queue(&self, batch: &BatchName) {
        let channel = self.channel().await;
        channel.declare(&topology::base_topology()).await.unwrap();
        channel
            .declare_queue(&topology::batch_queue(batch.as_str(), QueueType::Classic))
            .await
            .unwrap();
    }

    pub async fn channel(&self) -> Channel {
        let mut publishing = self.publishing.lock().await;
        if let Some((connection, channel)) = &*publishing
            && connection.is_open()
            && channel.is_open()
        {
            return channel.clone();
        }
        let connection = self
            .broker
            .connect_until_ready("test server publishes", |_, _| {})
            .await;
        let channel = connection.channel().await.unwrap();
        *publishing = Some((connection, channel.clone()));
        channel
    }

    pub async fn dispatch(&self, definition: TaskDefinition) -> TaskId {
        let task = TaskId(self.tasks.fetch_add(1, Ordering::SeqCst) + 1);
        let message = self.message(task, definition);
        self.publish(&message).await;
        task
    }

    pub fn message(&self, task: TaskId, definition: TaskDefinition) -> TaskMessage {
        let now = scitq_shared::now();
        TaskMessage::new(
            Epoch(1),
            DispatchId::generate(),
            task,
            self.batch.clone(),
            now,
            definition,
        )
    }

    pub async fn publish(&self, message: &TaskMessage) {
        self.publish_bytes(message.batch.as_str(), encode(message))
            .await;
    }

    pub async fn publish_bytes(&self, batch: &str, body: Vec<u8>) {
        let queue = topology::batch_queue_name(batch);
        let message = Message::new(TASKS_EXCHANGE, queue, body);
        self.channel()
            .await
            .publish(message)
            .await
            .unwrap()
            .await
            .unwrap();
    }

    pub async fn tell(&self, command: ControlCommand) {
        tell(&self.channel().await, &self.worker, command).await;
    }

    /// Tells the worker another desired state.
    pub async fn want(&self, change: impl FnOnce(&mut DesiredState)) {
        let desired = {
            let mut desired = self.desired.lock().unwrap();
            change(&mut desired);
            desired.version += 1;
            desired.clone()
        };
        self.tell(ControlCommand::Desired { desired }).await;
    }

    /// Waits until something was heard; fails with all that was heard otherwise.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&Heard) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        let search = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = found(&self.heard.lock().unwrap()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        if let Ok(found) = tokio::time::timeout(DEADLINE, search).await {
            return found;
        }

        let heard = self.heard.lock().unwrap();
        let events: Vec<String> = heard
            .events
            .iter()
            .map(|message| format!("{} {:?}", message.event.kind(), message.event))
            .collect();
        panic!("never heard: {what}\n{}", events.join("\n"));
    }

    pub async fn until_ended(&self, task: TaskId) -> AttemptReport {
        self.until("the end of a task", |heard| heard.ended(task))
            .await
    }

    pub async fn until_applied(&self, task: TaskId) -> AttemptReport {
        let applied = |heard: &Heard| {
            heard
                .ended(task)
                .filter(|report| heard.applied.contains(&report.attempt))
        };
        self.until("all of a task", applied).await
    }

    /// Waits until a task that begins by writing something is really executed: announced is not executed yet.
    pub async fn until_begun(&self, task: TaskId) -> AttemptReport {
        self.until("the first output of a task", |heard| {
            let started = heard
                .reports("started")
                .into_iter()
                .find(|report| report.task == task)?;
            (heard.received(started.attempt, Stream::Stdout) > 0).then_some(started)
        })
        .await
    }

    pub async fn until_hello(&self, count: usize) {
        self.until("hello", |heard| {
            (heard.count("hello") >= count).then_some(())
        })
        .await;
    }

    /// Runs a task to its end and answers its output.
    pub async fn run(&self, definition: TaskDefinition) -> (AttemptReport, Vec<u8>, Vec<u8>) {
        let task = self.dispatch(definition).await;
        let report = self.until_applied(task).await;
        let heard = self.heard.lock().unwrap();
        let (stdout, stderr) = (
            heard.text(report.attempt, Stream::Stdout),
            heard.text(report.attempt, Stream::Stderr),
        );
        (report, stdout, stderr)
    }
}

async fn tell(channel: &Channel, worker: &WorkerName, command: ControlCommand) {
    let message = ControlMessage::new(Epoch(1), command);
    let key = topology::worker_routing_key(worker.as_str());
    let mut message = Message::new(CONTROL_EXCHANGE, key, encode(&message));
    // A worker that is gone does not need it.
    message.mandatory = false;
    message.persistent = false;
    drop(channel.publish(message).await);
}

fn listen(
    broker: &Broker,
    worker: &WorkerName,
    heard: &Arc<Mutex<Heard>>,
    changed: &watch::Sender<u64>,
    desired: &Arc<Mutex<DesiredState>>,
) -> JoinHandle<()> {
    let (broker, worker, changed) = (broker.clone(), worker.clone(), changed.clone());
    let (heard, desired) = (Arc::clone(heard), Arc::clone(desired));
    tokio::spawn(async move {
        loop {
            serve(&broker, &worker, &heard, &changed, &desired).await;
        }
    })
}

async fn serve(
    broker: &Broker,
    worker: &WorkerName,
    heard: &Mutex<Heard>,
    changed: &watch::Sender<u64>,
    desired: &Mutex<DesiredState>,
) {
    let connection = broker
        .connect_until_ready("test server listens", |_, _| {})
        .await;
    let Ok(channel) = connection.channel().await else {
        return;
    };
    if channel.declare(&topology::base_topology()).await.is_err() {
        return;
    }
    let prefetch = NonZeroU16::new(1000).unwrap();
    let Ok(mut state) = channel.consume(STATE_QUEUE, prefetch).await else {
        return;
    };
    let read_output = heard.lock().unwrap().read_output;
    let mut output = if read_output {
        channel.consume(OUTPUT_QUEUE, prefetch).await.ok()
    } else {
        None
    };
    let Ok(mut heartbeat) = channel.consume(HEARTBEAT_QUEUE, prefetch).await else {
        return;
    };
    loop {
        let mut answers = Vec::new();
        let tag = tokio::select! {
            delivery = state.next() => {
                let Ok(delivery) = delivery else { return };
                let message: WorkerMessage = decode(&delivery.body).unwrap();
                let mut heard = heard.lock().unwrap();
                if matches!(message.event, WorkerEvent::Hello(_)) {
                    let desired = desired.lock().unwrap().clone();
                    answers.push(ControlCommand::Welcome { desired, program_version: "test".to_owned() });
                }
                // A worker that says it again has not heard the answer.
                if let WorkerEvent::Ended(report) = &message.event
                    && heard.applied.contains(&report.attempt)
                {
                    let attempts = vec![report.attempt];
                    answers.push(ControlCommand::Applied { attempts });
                }
                heard.events.push(message);
                heard.acknowledge.then_some(delivery.tag)
            }
            delivery = async { output.as_mut().unwrap().next().await }, if output.is_some() => {
                let Ok(delivery) = delivery else { return };
                let message: OutputMessage = decode(&delivery.body).unwrap();
                let chunk = Chunk { length: message.length, encoding: message.encoding, data: message.data };
                let bytes = chunk.unpack().unwrap();
                let mut heard = heard.lock().unwrap();
                let pieces = heard.output.entry((message.attempt, message.stream)).or_default();
                // Sent again with other boundaries: only what goes beyond is new.
                let known = pieces.range(..=message.offset).next_back().map_or(0, |(at, piece)| at + piece.len() as u64);
                let skip = usize::try_from(known.saturating_sub(message.offset)).unwrap();
                if skip < bytes.len() {
                    pieces.insert(message.offset + skip as u64, bytes[skip..].to_vec());
                }
                Some(delivery.tag)
            }
            delivery = heartbeat.next() => {
                let Ok(delivery) = delivery else { return };
                heard.lock().unwrap().heartbeats.push(decode(&delivery.body).unwrap());
                Some(delivery.tag)
            }
        };
        {
            let mut heard = heard.lock().unwrap();
            let complete: Vec<AttemptId> = heard
                .reports("ended")
                .iter()
                .filter(|report| {
                    heard.apply
                        && !heard.applied.contains(&report.attempt)
                        && heard.is_complete(report)
                })
                .map(|report| report.attempt)
                .collect();
            if !complete.is_empty() {
                heard.applied.extend(&complete);
                answers.push(ControlCommand::Applied { attempts: complete });
            }
        }
        if let Some(tag) = tag
            && channel.ack(tag).await.is_err()
        {
            return;
        }
        for answer in answers {
            tell(&channel, worker, answer).await;
        }
        changed.send_modify(|count| *count += 1);
    }
}

pub fn definition(command: &str) -> TaskDefinition {
    TaskDefinition::bare(command)
}

/// A script that says that it has begun and then waits for the file `go` in the work directory.
pub const GATE: &str = "echo begun; while ! test -e ../go; do sleep 0.05; done; ";

pub fn script(text: &str) -> TaskDefinition {
    TaskDefinition {
        shell: Some("sh".to_owned()),
        ..definition(text)
    }
}
