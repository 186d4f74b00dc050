#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what fails is shown"
)]

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use scitq_broker::{
    Broker, Channel, Connection, Consumer, Delivery, LocalBroker, Message, Properties, topology,
};
use scitq_server::{ServerHandle, ServerOptions};
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::{Chunk, Encoding, Stream, StreamEnd};
use scitq_shared::protocol::{
    AttemptPhase, AttemptReport, ControlCommand, ControlMessage, Heartbeat, Hello, InventoryItem,
    OutputMessage, PROTOCOL_VERSION, TaskMessage, WorkerEvent, WorkerMessage, decode, encode,
    sequence,
};
use scitq_shared::secret::SecretUrl;
use scitq_shared::settings::Settings;
use scitq_shared::worker::DesiredState;
use serde_json::Value;

/// How long anything may take that must happen.
const EVENTUALLY: Duration = Duration::from_mins(1);

async fn eventually<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(EVENTUALLY, work)
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// A server on an in-process broker and a SQLite database of its own.
pub struct Fixture {
    broker: Broker,
    server: ServerHandle,
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings than the defaults.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::begin(change, false).await
    }

    /// On a database that was restored from a backup: from an empty one.
    pub async fn start_restored(change: impl FnOnce(&mut Settings)) -> Self {
        Self::begin(change, true).await
    }

    async fn begin(change: impl FnOnce(&mut Settings), restored: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        change(&mut settings);
        settings.server.listen = "127.0.0.1:0".parse().unwrap();
        settings.database.url = SecretUrl::new(format!(
            "sqlite:{}",
            directory.path().join("scitq.db").display()
        ));
        let broker = Broker::local(LocalBroker::default());
        let server = scitq_server::start(ServerOptions {
            settings,
            broker: broker.clone(),
            restored,
        })
        .await
        .unwrap();
        eventually("the server", server.readiness().ready()).await;
        Self {
            broker,
            server,
            http: reqwest::Client::new(),
            _directory: directory,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    async fn answer(request: reqwest::RequestBuilder) -> Value {
        let response = eventually("an answer", request.send()).await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        Self::answer(self.http.get(self.url(path))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        Self::answer(self.http.post(self.url(path)).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        Self::answer(self.http.delete(self.url(path))).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Value {
        Self::answer(self.http.patch(self.url(path)).json(body)).await
    }

    /// The problem that a request is answered with.
    pub async fn refusal(&self, path: &str, body: &Value) -> Value {
        Self::problem(self.http.post(self.url(path)).json(body)).await
    }

    /// The problem that a change is answered with.
    pub async fn refused_patch(&self, path: &str, body: &Value) -> Value {
        Self::problem(self.http.patch(self.url(path)).json(body)).await
    }

    async fn problem(request: reqwest::RequestBuilder) -> Value {
        let response = eventually("an answer", request.send()).await.unwrap();
        assert!(response.status().is_client_error(), "{response:?}");
        response.json().await.unwrap()
    }

    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let request = self.http.get(self.url(path)).send();
        let response = eventually("an answer", request)
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        eventually("the body", response.bytes())
            .await
            .unwrap()
            .to_vec()
    }

    /// Waits until a task has a status.
    pub async fn until_task(&self, id: u64, status: &str) {
        self.until(&format!("/api/v1/tasks/{id}"), |task| {
            task["status"] == status
        })
        .await;
    }

    /// Waits until something is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                let found = self.get(path).await;
                if wanted(&found) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        eventually(&format!("{path} to be as wanted"), reached).await
    }

    pub async fn stop(mut self) {
        self.server.stop();
        eventually("the server's end", self.server.finished())
            .await
            .unwrap();
    }
}

fn inventory(held: &[(&AttemptReport, AttemptPhase)]) -> Vec<InventoryItem> {
    let item = |(report, phase): &(&AttemptReport, AttemptPhase)| InventoryItem {
        attempt: report.attempt,
        task: report.task,
        phase: *phase,
    };
    held.iter().map(item).collect()
}

/// A worker as a test plays it.
pub struct PlayedWorker {
    name: WorkerName,
    incarnation: IncarnationId,
    boots: u32,
    counter: u64,
    epoch: Epoch,
    /// What its next hello says.
    pub can_restart: bool,
    pub desired: DesiredState,
    channel: Channel,
    control: Consumer,
    tasks: Option<Consumer>,
    // Kept open as long as the worker lives.
    connection: Connection,
}

impl PlayedWorker {
    /// Says hello and waits for the answer.
    pub async fn hello(fixture: &Fixture, name: &str, concurrency: u16) -> Self {
        let connection = fixture.broker.connect("played worker").await.unwrap();
        let channel = connection.channel().await.unwrap();
        channel.declare(&topology::base_topology()).await.unwrap();
        let queue = topology::worker_control_queue(name);
        let declared = async {
            while channel.declare_queue(&queue).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        eventually("the worker's name", declared).await;
        let control = channel.consume(&queue.name, NonZeroU16::MAX).await.unwrap();
        let name = WorkerName::new(name).unwrap();
        let initial = DesiredState {
            version: 0,
            batch: BatchName::default(),
            concurrency,
            prefetch: 0,
            paused: false,
        };
        let incarnation = IncarnationId::generate();
        let (boots, counter, epoch, desired) = (1, 0, Epoch(0), initial);
        let mut worker = Self {
            name,
            incarnation,
            boots,
            counter,
            epoch,
            can_restart: true,
            desired,
            channel,
            control,
            tasks: None,
            connection,
        };
        worker.say_hello(1, &[]).await;
        // A server whose database was restored may ask for a recount before, and asks again.
        worker.desired = worker
            .told(|command| match command {
                ControlCommand::Welcome { desired, .. } => Some(desired.clone()),
                _ => None,
            })
            .await;
        worker
    }

    /// Says hello, as the agent does when it was started so many times on its directory.
    pub async fn say_hello(&mut self, boots: u32, held: &[(&AttemptReport, AttemptPhase)]) {
        self.introduce(boots, held, None).await;
    }

    /// Says hello at the end of a recount.
    pub async fn say_recounted(&mut self, held: &[(&AttemptReport, AttemptPhase)]) {
        self.introduce(1, held, Some(self.epoch)).await;
    }

    async fn introduce(
        &mut self,
        boots: u32,
        held: &[(&AttemptReport, AttemptPhase)],
        recounted: Option<Epoch>,
    ) {
        if boots > self.boots {
            (self.boots, self.counter) = (boots, 0);
        }
        let hello = Hello {
            boots,
            can_restart: self.can_restart,
            hostname: "host".into(),
            program_version: "0".into(),
            cores: 2,
            memory_bytes: 1,
            initial: self.desired.clone(),
            desired_version: self.desired.version,
            batch: Some(self.desired.batch.clone()),
            recounted,
            inventory: inventory(held),
        };
        self.say(WorkerEvent::Hello(hello)).await;
    }

    /// The next thing that the leader says for which `wanted` has an answer.
    pub async fn told<T>(&mut self, wanted: impl Fn(&ControlCommand) -> Option<T>) -> T {
        loop {
            if let Some(told) = wanted(&self.control().await) {
                return told;
            }
        }
    }

    fn sequence(&self) -> u64 {
        sequence(self.boots, self.counter)
    }

    /// Takes no more deliveries.
    pub async fn stop_consuming(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            tasks.cancel().await.unwrap();
        }
    }

    /// Publishes a state event and waits for its confirm: the server has committed it then.
    pub async fn say(&mut self, event: WorkerEvent) {
        self.counter += 1;
        let message = WorkerMessage::new(
            self.name.clone(),
            self.incarnation,
            self.epoch,
            self.sequence(),
            event,
        );
        let key = format!("state.{}", message.event.kind());
        self.publish_raw(&key, encode(&message)).await;
    }

    pub async fn publish_raw(&self, key: &str, body: Vec<u8>) {
        let message = Message {
            exchange: topology::EVENTS_EXCHANGE.to_owned(),
            routing_key: key.to_owned(),
            body: Bytes::from(body),
            mandatory: true,
            persistent: true,
            properties: Properties::default(),
        };
        let confirmation = self.channel.publish(message).await.unwrap();
        eventually("a confirm", confirmation).await.unwrap();
    }

    /// The next thing that the leader says.
    pub async fn control(&mut self) -> ControlCommand {
        let delivery = eventually("a control message", self.control.next())
            .await
            .unwrap();
        self.channel.ack(delivery.tag).await.unwrap();
        let message: ControlMessage = decode(&delivery.body).unwrap();
        self.epoch = self.epoch.max(message.epoch);
        message.command
    }

    /// The attempts that the server has wholly applied.
    pub async fn applied(&mut self) -> Vec<AttemptId> {
        loop {
            if let ControlCommand::Applied { attempts } = self.control().await {
                return attempts;
            }
        }
    }

    async fn consume(&mut self) {
        if self.tasks.is_none() {
            let queue = topology::batch_queue_name(self.desired.batch.as_str());
            let prefetch = NonZeroU16::new(self.desired.concurrency).unwrap();
            self.tasks = Some(self.channel.consume(&queue, prefetch).await.unwrap());
        }
    }

    /// The same; meanwhile it gives signs of life, and recounts what it holds whenever it is asked to.
    pub async fn delivery_recounting(
        &mut self,
        held: &[(&AttemptReport, AttemptPhase)],
    ) -> (TaskMessage, Delivery) {
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        loop {
            self.consume().await;
            let tasks = self.tasks.as_mut().unwrap();
            let told = tokio::select! {
                delivery = eventually("a task", tasks.next()) => {
                    let delivery = delivery.unwrap();
                    return (decode(&delivery.body).unwrap(), delivery);
                }
                told = self.control.next() => Some(told.unwrap()),
                _ = beats.tick() => None,
            };
            let Some(told) = told else {
                self.heartbeat(held).await;
                continue;
            };
            self.channel.ack(told.tag).await.unwrap();
            let message: ControlMessage = decode(&told.body).unwrap();
            if matches!(message.command, ControlCommand::Recount) {
                self.say_recounted(held).await;
            }
        }
    }

    /// The next task of the worker's batch.
    pub async fn delivery(&mut self) -> (TaskMessage, Delivery) {
        self.consume().await;
        let delivery = eventually("a task", self.tasks.as_mut().unwrap().next())
            .await
            .unwrap();
        assert!(!delivery.redelivered);
        (decode(&delivery.body).unwrap(), delivery)
    }

    pub async fn ack(&self, delivery: &Delivery) {
        self.channel.ack(delivery.tag).await.unwrap();
    }

    /// A new attempt of a dispatch.
    pub fn accept(task: &TaskMessage) -> AttemptReport {
        AttemptReport {
            attempt: AttemptId::generate(),
            dispatch: task.dispatch,
            dispatch_epoch: task.epoch,
            task: task.task,
            batch: task.batch.clone(),
            revision: task.definition.revision,
            queued_at: task.queued_at,
            accepted_at: scitq_shared::now(),
            started_at: None,
            ended_at: None,
            exit: None,
            outcome: None,
            usage: None,
            stdout: None,
            stderr: None,
        }
    }

    pub async fn started(&mut self, report: &AttemptReport) {
        let report = AttemptReport {
            started_at: Some(scitq_shared::now()),
            ..report.clone()
        };
        self.say(WorkerEvent::Started(report)).await;
    }

    pub async fn ended(&mut self, report: &AttemptReport, exit: Exit, stdout: u64, stderr: u64) {
        let now = scitq_shared::now();
        let report = AttemptReport {
            started_at: Some(now),
            ended_at: Some(now),
            exit: Some(exit),
            outcome: Some(Outcome::of_exit(exit)),
            stdout: Some(StreamEnd {
                length: stdout,
                cut: None,
            }),
            stderr: Some(StreamEnd {
                length: stderr,
                cut: None,
            }),
            ..report.clone()
        };
        self.say(WorkerEvent::Ended(report)).await;
    }

    /// Says that an attempt could not be run, or was not run to its end.
    pub async fn failed(&mut self, report: &AttemptReport, reason: FailureReason, detail: &str) {
        let report = AttemptReport {
            ended_at: Some(scitq_shared::now()),
            outcome: Some(Outcome::Failed {
                reason,
                detail: detail.to_owned(),
            }),
            stdout: Some(StreamEnd::default()),
            stderr: Some(StreamEnd::default()),
            ..report.clone()
        };
        self.say(WorkerEvent::Ended(report)).await;
    }

    async fn chunk(&self, report: &AttemptReport, stream: Stream, offset: u64, chunk: Chunk) {
        let message = OutputMessage {
            version: PROTOCOL_VERSION,
            worker: self.name.clone(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            attempt: report.attempt,
            task: report.task,
            stream,
            offset,
            length: chunk.length,
            encoding: chunk.encoding,
            data: chunk.data,
        };
        self.publish_raw(&format!("output.{stream}"), encode(&message))
            .await;
    }

    pub async fn output(&self, report: &AttemptReport, stream: Stream, offset: u64, bytes: &[u8]) {
        self.chunk(report, stream, offset, Chunk::pack(bytes).unwrap())
            .await;
    }

    /// A chunk whose packed bytes are not what they are said to be.
    pub async fn damaged_output(&self, report: &AttemptReport) {
        let chunk = Chunk {
            length: 100,
            encoding: Encoding::Zstd,
            data: b"no zstd frame".to_vec(),
        };
        self.chunk(report, Stream::Stdout, 0, chunk).await;
    }

    pub async fn heartbeat(&self, held: &[(&AttemptReport, AttemptPhase)]) {
        let heartbeat = Heartbeat {
            version: PROTOCOL_VERSION,
            worker: self.name.clone(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            sequence: self.sequence(),
            sent_at: scitq_shared::now(),
            desired_version: self.desired.version,
            inventory: inventory(held),
        };
        self.publish_raw("heartbeat.w", encode(&heartbeat)).await;
    }

    /// The reasons of so many messages that were set aside.
    pub async fn rejected(&self, count: usize) -> Vec<String> {
        let mut consumer = self
            .channel
            .consume(topology::REJECTED_QUEUE, NonZeroU16::MAX)
            .await
            .unwrap();
        let mut reasons = Vec::new();
        let mut bodies = BTreeSet::new();
        while reasons.len() < count {
            let delivery = eventually("a rejected message", consumer.next())
                .await
                .unwrap();
            assert!(bodies.insert(delivery.body.clone()), "set aside twice");
            reasons.push(delivery.properties.headers["scitq-reason"].clone());
            self.channel.ack(delivery.tag).await.unwrap();
        }
        consumer.cancel().await.unwrap();
        reasons
    }

    /// Fails unless a queue of this name can be consumed.
    pub async fn has_queue(&self, queue: &str) {
        let channel = self.connection.channel().await.unwrap();
        let consumer = channel.consume(queue, NonZeroU16::MIN).await.unwrap();
        consumer.cancel().await.unwrap();
    }
}
