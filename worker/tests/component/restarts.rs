//! Ends and restarts of the agent.

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::output::Stream;

use super::server::{GATE, definition, script};
use super::site::Site;

#[tokio::test]
async fn draining_finishes_what_runs_gives_back_what_waits_and_leaves_nothing() {
    let mut site = Site::start(1, 1).await;
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
    site.handle().drain();
    let released = site
        .server
        .until("its release", |heard| {
            heard.reports("released").into_iter().next()
        })
        .await;
    assert_eq!(released.task, waiting);
    std::fs::write(site.work().join("go"), "").unwrap();
    site.finished().await.unwrap();
    let report = site.server.until_applied(running).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.server.heard.lock().unwrap().count("goodbye"), 1);
    site.until_kept(0).await;
    let left: Vec<_> = std::fs::read_dir(site.work())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["go"]);
    // Asked again, it has ended.
    site.handle().drain();
    site.finished().await.unwrap();
}

#[tokio::test]
async fn stopping_kills_and_reports_what_runs() {
    let mut site = Site::start(1, 0).await;
    let task = site
        .server
        .dispatch(script("echo begun; sleep 1000 & sleep 1000"))
        .await;
    site.server.until_begun(task).await;
    site.handle().stop_now();
    site.finished().await.unwrap();
    let report = site.server.until_applied(task).await;
    assert!(
        matches!(&report.outcome, Some(Outcome::Failed { reason: FailureReason::AgentRestarted, detail }) if detail.contains("stopped")),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_the_server_has_not_applied_is_reported_by_the_next_agent() {
    let mut site = Site::start(1, 0).await;
    site.server.heard.lock().unwrap().apply = false;
    let task = site.server.dispatch(definition("echo hello")).await;
    let first = site.server.until_ended(task).await;
    site.handle().stop_now();
    site.finished().await.unwrap();
    site.until_kept(1).await;
    {
        let mut heard = site.server.heard.lock().unwrap();
        heard.apply = true;
        heard.events.clear();
        heard.output.clear();
    }
    site.start_worker(|_| {}).await;
    let again = site.server.until_applied(task).await;
    assert_eq!(
        (again.attempt, again.outcome, again.stdout),
        (first.attempt, first.outcome, first.stdout)
    );
    site.until_kept(0).await;
    let heard = site.server.heard.lock().unwrap();
    assert_eq!(heard.text(again.attempt, Stream::Stdout), b"hello\n");
    assert_eq!(heard.count("started"), 0, "it does not run again");
}
