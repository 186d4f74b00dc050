//! How many tasks a second a worker runs by itself: `cargo run --release -p scitq-worker --example throughput`.
//!
//! The worker is real, the broker is the one inside the process, and this program plays the server, which applies
//! everything at once. Arguments: the command (default `true`), how many tasks (default 5000), slots (default 8), and
//! how often (default 3).

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use scitq_broker::topology::{
    self, CONTROL_EXCHANGE, HEARTBEAT_QUEUE, OUTPUT_QUEUE, STATE_QUEUE, TASKS_EXCHANGE,
};
use scitq_broker::{Broker, Channel, LocalBroker, Message, QueueType};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{
    ControlCommand, ControlMessage, TaskMessage, WorkerEvent, WorkerMessage, decode, encode,
};
use scitq_shared::worker::DesiredState;
use scitq_worker::{Worker, WorkerOptions};

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    if let Some(code) = scitq_worker::keeper::run_if_asked() {
        return code;
    }
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(measure()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "true".to_owned());
    let mut number = |default: i64| {
        let given = arguments.next();
        given.map_or(Ok(default), |text| text.parse::<i64>())
    };
    let (tasks, slots, rounds) = (number(5000)?, number(8)?, number(3)?);
    let directory = tempfile::tempdir()?;
    let broker = Broker::local(LocalBroker::default());
    let connection = broker.connect_until_ready("throughput", |_, _| {}).await;
    let channel = connection.channel().await?;
    channel.declare(&topology::base_topology()).await?;
    let batch = BatchName::default();
    channel
        .declare_queue(&topology::batch_queue(batch.as_str(), QueueType::Classic))
        .await?;
    let name = WorkerName::new("throughput")?;
    let desired = DesiredState {
        version: 1,
        batch: batch.clone(),
        concurrency: u16::try_from(slots)?,
        prefetch: 32,
        paused: false,
    };
    let (state, work) = (
        directory.path().join("state"),
        directory.path().join("work"),
    );
    let options = WorkerOptions::new(broker.clone(), name.clone(), state, work);
    let mut worker = Worker::start(options).await?;
    let mut server = Server {
        channel: connection.channel().await?,
        name,
        desired,
    };
    for round in 0..rounds {
        let ids = round * tasks + 1..=(round + 1) * tasks;
        for id in ids.clone() {
            dispatch(&channel, TaskId(id), &batch, &command).await?;
        }
        let (from, cpu) = (Instant::now(), processor_seconds());
        server.see_through(ids.map(TaskId).collect()).await?;
        let seconds = from.elapsed().as_secs_f64();
        let rate = f64::from(i32::try_from(tasks)?) / seconds;
        let used = processor_seconds() - cpu;
        println!(
            "{rate:.0} tasks/s ({seconds:.2} s; {used:.2} s of this process's processor time)"
        );
    }
    worker.drain();
    // Whatever is left to be said is said to nobody.
    let _ = tokio::time::timeout(Duration::from_secs(20), worker.finished()).await;
    Ok(())
}

async fn dispatch(
    channel: &Channel,
    task: TaskId,
    batch: &BatchName,
    command: &str,
) -> Result<(), Error> {
    let definition: TaskDefinition = serde_json::from_value(serde_json::json!({
        "revision": 1, "command": command, "weight": 1
    }))?;
    let now = scitq_shared::now();
    let message = TaskMessage::new(
        Epoch(1),
        DispatchId::generate(),
        task,
        batch.clone(),
        now,
        definition,
    );
    let queue = topology::batch_queue_name(batch.as_str());
    let message = Message::new(TASKS_EXCHANGE, queue, encode(&message));
    channel.publish(message).await?.await?;
    Ok(())
}

/// What the worker needs of a server.
struct Server {
    channel: Channel,
    name: WorkerName,
    desired: DesiredState,
}

impl Server {
    /// Applies everything until all these tasks have ended.
    async fn see_through(&mut self, mut open: BTreeSet<TaskId>) -> Result<(), Error> {
        let prefetch = NonZeroU16::MAX;
        let mut state = self.channel.consume(STATE_QUEUE, prefetch).await?;
        let mut output = self.channel.consume(OUTPUT_QUEUE, prefetch).await?;
        let mut heartbeats = self.channel.consume(HEARTBEAT_QUEUE, prefetch).await?;
        while !open.is_empty() {
            tokio::select! {
                delivery = state.next() => {
                    let delivery = delivery?;
                    let message: WorkerMessage = decode(&delivery.body)?;
                    self.channel.ack(delivery.tag).await?;
                    match message.event {
                        WorkerEvent::Hello(_) => {
                            let (desired, program_version) = (self.desired.clone(), String::new());
                            self.tell(ControlCommand::Welcome { desired, program_version }).await?;
                        }
                        WorkerEvent::Ended(report) => {
                            open.remove(&report.task);
                            self.tell(ControlCommand::Applied { attempts: vec![report.attempt] }).await?;
                        }
                        _ => {}
                    }
                }
                delivery = output.next() => self.channel.ack(delivery?.tag).await?,
                delivery = heartbeats.next() => self.channel.ack(delivery?.tag).await?,
            }
        }
        for consumer in [state, output, heartbeats] {
            consumer.cancel().await?;
        }
        Ok(())
    }

    async fn tell(&self, command: ControlCommand) -> Result<(), Error> {
        let key = topology::worker_routing_key(self.name.as_str());
        let message = ControlMessage::new(Epoch(1), command);
        let mut message = Message::new(CONTROL_EXCHANGE, key, encode(&message));
        message.mandatory = false;
        message.persistent = false;
        drop(self.channel.publish(message).await?);
        Ok(())
    }
}

/// User and system time of this process, without its children.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
