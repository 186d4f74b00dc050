//! The same worker on RabbitMQ.

use scitq_broker::Broker;
use scitq_shared::execution::Outcome;
use scitq_shared::names::WorkerName;
use scitq_shared::output::Stream;
use scitq_testkit::RabbitMq;
use scitq_worker::{Worker, WorkerOptions};

use super::server::{Server, definition, script};

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
