//! What becomes of work when connections break, and of names that are taken.

use std::time::Duration;

use scitq_shared::execution::Outcome;
use scitq_worker::{Worker, WorkerError};

use super::server::{GATE, definition, script};
use super::site::Site;

#[tokio::test]
async fn running_tasks_go_on_through_a_cut_and_are_reported() {
    let site = Site::start(1, 0).await;
    let task = site
        .server
        .dispatch(script(
            "echo before; while ! test -e ../go; do sleep 0.05; done; echo after",
        ))
        .await;
    site.server.until_begun(task).await;
    site.local.cut_connections();
    site.server.until_hello(2).await;
    std::fs::write(site.work().join("go"), "").unwrap();
    let report = site.server.until_applied(task).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    // Its delivery came back to the queue, was delivered again and returned: never run twice.
    site.server
        .until("the return", |heard| {
            (heard.count("returned") == 1).then_some(())
        })
        .await;
    let heard = site.server.heard.lock().unwrap();
    assert_eq!((heard.count("started"), heard.count("released")), (1, 0));
    assert_eq!(
        heard.text(report.attempt, scitq_shared::output::Stream::Stdout),
        b"before\nafter\n"
    );
}

#[tokio::test]
async fn an_end_that_the_broker_never_confirmed_is_reported_again() {
    let site = Site::start(1, 0).await;
    let task = site.server.dispatch(script(GATE)).await;
    site.server.until_begun(task).await;
    site.server.heard.lock().unwrap().acknowledge = false;
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server
        .until("its end", |heard| heard.ended(task))
        .await;
    site.server.heard.lock().unwrap().acknowledge = true;
    site.local.cut_connections();
    site.server
        .until("its end again", |heard| {
            (heard.count("ended") >= 2).then_some(())
        })
        .await;
    site.until_kept(0).await;
}

#[tokio::test]
async fn a_start_that_is_not_confirmed_is_not_executed() {
    let site = Site::start(1, 0).await;
    site.server.until_hello(1).await;
    site.server.heard.lock().unwrap().acknowledge = false;
    let task = site.server.dispatch(script("echo must not run")).await;
    let started = site
        .server
        .until("its announcement", |heard| {
            heard
                .reports("started")
                .into_iter()
                .find(|it| it.task == task)
        })
        .await;
    site.local.cut_connections();
    site.server.heard.lock().unwrap().acknowledge = true;
    let released = site
        .server
        .until("its release", |heard| {
            heard.reports("released").into_iter().next()
        })
        .await;
    assert_eq!(
        (released.attempt, released.started_at),
        (started.attempt, None)
    );
    site.server
        .until("the return", |heard| {
            (heard.count("returned") >= 1).then_some(())
        })
        .await;
    let heard = site.server.heard.lock().unwrap();
    assert!(heard.ended(task).is_none() && heard.output.is_empty());
}

#[tokio::test]
async fn a_worker_waits_for_its_broker_and_for_its_queue() {
    let mut site = Site::without_worker(1, 0).await;
    let channel = site.server.channel().await;
    channel
        .delete_queue(&scitq_broker::topology::batch_queue_name("Default"))
        .await
        .unwrap();
    site.local.refuse_connections(true);
    site.start_worker(|_| {}).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.local.refuse_connections(false);
    site.server.until_hello(1).await;
    site.server.create_queue(&site.server.batch).await;
    let task = site.server.dispatch(definition("true")).await;
    let batch = site.server.batch.clone();
    site.server
        .tell(scitq_shared::protocol::ControlCommand::QueueReady { batch })
        .await;
    site.server.until_applied(task).await;
}

#[tokio::test]
async fn a_second_worker_of_the_same_name_is_refused() {
    let site = Site::start(1, 0).await;
    site.server.until_hello(1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let options = site.options(|options| {
        options.state_directory = elsewhere.path().join("state");
        options.double_after = Duration::from_millis(400);
    });
    let mut second = Worker::start(options).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_mins(1), second.finished())
        .await
        .unwrap();
    let error = ended.unwrap_err();
    assert!(matches!(error, WorkerError::NameInUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains("worker one") && text.contains("in-process") && text.contains("another name"),
        "{text}"
    );
    // On the same directory it does not even start.
    let error = Worker::start(site.options(|_| {})).await.unwrap_err();
    assert!(
        matches!(error, WorkerError::StateDirectoryInUse { .. }),
        "{error}"
    );
    // The first one is not disturbed.
    let task = site.server.dispatch(definition("true")).await;
    site.server.until_applied(task).await;
}

#[tokio::test]
async fn a_name_that_a_broken_connection_holds_is_waited_for() {
    let mut site = Site::without_worker(1, 0).await;
    let connection = site.broker.connect("half open").await.unwrap();
    let holder = connection.channel().await.unwrap();
    holder
        .declare(&scitq_broker::topology::base_topology())
        .await
        .unwrap();
    holder
        .declare_queue(&scitq_broker::topology::worker_control_queue(
            super::site::NAME,
        ))
        .await
        .unwrap();
    site.start_worker(|_| {}).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.server.heard.lock().unwrap().count("hello"), 0);
    connection.close().await;
    site.server.until_hello(1).await;
}

#[tokio::test]
async fn a_deleted_queue_voids_what_has_not_started_and_is_consumed_again_when_it_is_back() {
    let site = Site::start(1, 1).await;
    let running = site.server.dispatch(script(GATE)).await;
    let waiting = site.server.dispatch(definition("true")).await;
    site.server
        .until("one waits", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == waiting)
        })
        .await;
    let queue = scitq_broker::topology::batch_queue_name("Default");
    site.server
        .channel()
        .await
        .delete_queue(&queue)
        .await
        .unwrap();
    let released = site
        .server
        .until("its release", |heard| {
            heard.reports("released").into_iter().next()
        })
        .await;
    assert_eq!(released.task, waiting);
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server.until_applied(running).await;
    site.server.create_queue(&site.server.batch).await;
    let task = site.server.dispatch(definition("true")).await;
    site.server.until_applied(task).await;
}
