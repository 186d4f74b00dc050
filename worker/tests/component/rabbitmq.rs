//! The same worker on RabbitMQ.

use scitq_broker::Broker;
use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::names::WorkerName;
use scitq_shared::output::Stream;
use scitq_testkit::RabbitMq;
use scitq_worker::{Worker, WorkerOptions};

use super::server::{GATE, Heard, Server, definition, script};

#[tokio::test]
async fn tasks_run_through_rabbitmq_and_through_its_restart() {
    let rabbitmq = RabbitMq::start().await;
    let broker = Broker::amqp(&rabbitmq.url()).unwrap();
    let server = Server::start(&broker, "on rabbit", 2, 2).await;
    let directory = tempfile::tempdir().unwrap();
    let (state, work) = (
        directory.path().join("state"),
        directory.path().join("work"),
    );
    let mut options = WorkerOptions::new(
        broker,
        WorkerName::new("on rabbit").unwrap(),
        state,
        work.clone(),
    );
    options.keeper_program = env!("CARGO_BIN_EXE_scitq-worker").into();
    let mut worker = Worker::start(options).await.unwrap();

    let mut tasks = Vec::new();
    for number in 0..100 {
        tasks.push(server.dispatch(definition(&format!("echo {number}"))).await);
    }
    for task in tasks {
        server.until_applied(task).await;
    }
    {
        let heard = server.heard.lock().unwrap();
        assert_eq!(
            (
                heard.count("started"),
                heard.count("returned"),
                heard.count("ended")
            ),
            (100, 0, 100)
        );
    }

    let task = server
        .dispatch(script(
            "echo before; while ! test -e ../go; do sleep 0.05; done; echo after",
        ))
        .await;
    server.until_begun(task).await;
    rabbitmq.kill().await;
    std::fs::write(work.join("go"), "").unwrap();
    rabbitmq.restart().await;
    let report = server.until_applied(task).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    assert_eq!(
        server
            .heard
            .lock()
            .unwrap()
            .text(report.attempt, Stream::Stdout),
        b"before\nafter\n"
    );

    worker.drain();
    tokio::time::timeout(std::time::Duration::from_mins(1), worker.finished())
        .await
        .expect("it ends")
        .unwrap();
}

/// The worker's program, killed when the test ends.
struct Program(std::process::Child);

impl Program {
    fn start(broker: &str, directory: &std::path::Path) -> Self {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scitq-worker"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("SCITQ_BROKER_URL", broker)
            .env("SCITQ_WORKER_STATE_DIRECTORY", directory.join("state"));
        command
            .args([
                "--name",
                "program",
                "--log-level",
                "warn",
                "--work-directory",
            ])
            .arg(directory.join("work"));
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    async fn ended(mut self) -> std::process::ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || self.0.wait().unwrap());
        tokio::time::timeout(std::time::Duration::from_mins(1), waiting)
            .await
            .expect("it ends")
            .unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_program_survives_kills_and_ends_by_signals() {
    let rabbitmq = RabbitMq::shared().await;
    let url = rabbitmq.vhost().await;
    let broker = Broker::amqp(&url).unwrap();
    let server = Server::start(&broker, "program", 2, 0).await;
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(&url, directory.path());
    let done = server.dispatch(definition("echo done")).await;
    server.until_applied(done).await;

    // Killed while a task runs: the task is killed by the next agent, and reported with what it wrote.
    let task = server
        .dispatch(script("echo begun; sleep 1000 & sleep 1000"))
        .await;
    let begun = |heard: &Heard| {
        let started = heard
            .reports("started")
            .into_iter()
            .find(|report| report.task == task)?;
        (heard.text(started.attempt, Stream::Stdout) == b"begun\n").then_some(started.attempt)
    };
    let attempt = server.until("its output", begun).await;
    let before = processes_of(&attempt.to_string());
    assert_eq!(before.len(), 3, "a shell and two sleeps");
    program.signal(rustix::process::Signal::KILL);
    program.ended().await;
    assert_eq!(
        processes_of(&attempt.to_string()),
        before,
        "a dying agent does not touch tasks"
    );
    let program = Program::start(&url, directory.path());
    let report = server.until_applied(task).await;
    assert_eq!(report.attempt, attempt);
    assert!(
        matches!(&report.outcome, Some(Outcome::Failed { reason, .. }) if *reason == FailureReason::AgentRestarted),
        "{report:?}"
    );
    assert!(processes_of(&attempt.to_string()).is_empty());

    // The first signal lets the task end, and the program ends after it.
    let task = server.dispatch(script(GATE)).await;
    server.until_begun(task).await;
    program.signal(rustix::process::Signal::TERM);
    std::fs::write(directory.path().join("work/go"), "").unwrap();
    assert!(program.ended().await.success());
    assert_eq!(
        server.until_applied(task).await.outcome,
        Some(Outcome::Succeeded)
    );

    // The second one does not wait.
    let program = Program::start(&url, directory.path());
    let task = server.dispatch(script("echo begun; sleep 1000")).await;
    let attempt = server.until_begun(task).await.attempt;
    program.signal(rustix::process::Signal::INT);
    program.signal(rustix::process::Signal::TERM);
    assert!(program.ended().await.success());
    server.until_ended(task).await;
    assert!(processes_of(&attempt.to_string()).is_empty());
}

/// Ids of processes whose environment names an attempt.
fn processes_of(attempt: &str) -> Vec<u32> {
    let mark = format!("SCITQ_EXECUTION_ID={attempt}");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut marked: Vec<u32> = pids
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        })
        .collect();
    marked.sort_unstable();
    marked
}
