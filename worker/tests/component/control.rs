//! What the server orders.

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::names::BatchName;
use scitq_shared::protocol::ControlCommand;

use super::server::{GATE, definition, script};
use super::site::Site;

#[tokio::test]
async fn concurrency_batch_and_pause_change_at_once() {
    let mut site = Site::start(1, 1).await;
    let first = site.server.dispatch(script(GATE)).await;
    let second = site.server.dispatch(script(GATE)).await;
    site.server
        .until("one waits", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == second)
        })
        .await;
    // One more slot: the waiting one starts.
    site.server.want(|desired| desired.concurrency = 2).await;
    site.server
        .until("both run", |heard| {
            (heard.count("started") == 2).then_some(())
        })
        .await;
    let third = site.server.dispatch(definition("true")).await;
    site.server
        .until("the third waits", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == third)
        })
        .await;
    // Paused: what waits goes back, what runs goes on.
    site.server.want(|desired| desired.paused = true).await;
    let released = site
        .server
        .until("a release", |heard| {
            heard.reports("released").into_iter().next()
        })
        .await;
    assert_eq!(released.task, third);
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server.until_applied(first).await;
    site.server.until_applied(second).await;
    // Another batch, and work again; it is kept over a restart.
    let other = BatchName::new("étude nº 2").unwrap();
    site.server.create_queue(&other).await;
    site.server
        .want(|desired| {
            desired.paused = false;
            desired.batch = other.clone();
        })
        .await;
    site.server.batch = other;
    let task = site.server.dispatch(definition("true")).await;
    site.server.until_applied(task).await;
    let kept = std::fs::read_to_string(site.state().join("desired.json")).unwrap();
    assert!(kept.contains("étude nº 2"), "{kept}");
}

#[tokio::test]
async fn revoked_and_stopped_work() {
    let site = Site::start(1, 1).await;
    let running = site
        .server
        .dispatch(script(&format!("sleep 1000 & {GATE}")))
        .await;
    let waiting = site.server.dispatch(definition("true")).await;
    let held = site
        .server
        .until("one waits", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == waiting)
        })
        .await;
    let started = site.server.until_begun(running).await;
    let dispatches = vec![held.dispatch, started.dispatch];
    site.server
        .tell(ControlCommand::Revoke { dispatches })
        .await;
    let answers = |heard: &super::server::Heard| {
        (heard.count("released") == 1 && heard.count("started") == 2)
            .then(|| heard.reports("released"))
    };
    let released = site.server.until("both answers", answers).await;
    assert_eq!(released[0].task, waiting);
    site.server
        .tell(ControlCommand::Stop {
            attempts: vec![started.attempt],
        })
        .await;
    let report = site.server.until_applied(running).await;
    assert!(
        matches!(&report.outcome, Some(Outcome::Failed { reason: FailureReason::Cancelled, detail }) if detail.contains("stopped")),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_the_server_lacks_is_sent_again() {
    let site = Site::start(1, 0).await;
    site.server.heard.lock().unwrap().apply = false;
    let task = site.server.dispatch(definition("echo hello")).await;
    let report = site.server.until_ended(task).await;
    let sent = |heard: &super::server::Heard| {
        (heard.received(report.attempt, scitq_shared::output::Stream::Stdout) == 6).then_some(())
    };
    site.server.until("its output", sent).await;
    // As if the server had lost all of it.
    {
        let mut heard = site.server.heard.lock().unwrap();
        heard.output.clear();
        heard
            .events
            .retain(|message| message.event.kind() != "ended");
    }
    let again = || ControlCommand::Resend {
        attempt: report.attempt,
        end: true,
        stdout_from: Some(0),
        stderr_from: None,
    };
    // What is on its way is not sent again, and when it has arrived is the worker's to know: asked until it comes.
    let asked = async {
        loop {
            site.server.tell(again()).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let heard = site.server.heard.lock().unwrap();
            if heard.ended(task).is_some() && sent(&heard).is_some() {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), asked)
        .await
        .expect("it is sent again");
    site.server.heard.lock().unwrap().apply = true;
    site.server
        .tell(ControlCommand::Applied {
            attempts: vec![report.attempt],
        })
        .await;
    site.until_kept(0).await;
}
