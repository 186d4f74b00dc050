//! The separate pair: parts of it go away and come back.

use scitq_e2e::{Pair, Separate, Setup, System, WORKER, eventually};
use scitq_testkit::{LocalTcpProxy, Postgres, RabbitMq};
use serde_json::json;

async fn separate(setup: Setup) -> Separate {
    Separate::start(setup).await
}

#[tokio::test]
async fn workers_go_on_while_the_server_is_away() {
    let mut system = separate(Setup::default()).await;
    let gate = system.gate("server away");
    let file = system.directory().join("ran");
    let script = format!(
        "{}; echo $SCITQ_TASK_ID >> {}; echo out",
        gate.before("true"),
        file.display()
    );
    let series = vec![json!({"command": script, "shell": "sh"}); 40];
    let tasks = system.submit(&json!(series)).await;
    eventually("all tasks are in the queue", || async {
        let body = json!({"task_ids": tasks});
        let progress = system
            .rest
            .post("/api/v1/progress", &body)
            .await
            .expect(200);
        progress["tasks"]["pending"].is_null().then_some(())
    })
    .await;
    system.running(&tasks, 2).await;
    system.stop_server().await;
    gate.open();
    let ran = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the worker runs all tasks without the server", || async {
        (ran().lines().count() == tasks.len()).then_some(())
    })
    .await;
    assert!(system.rest.try_get("/health/live").await.is_none());

    system.start_server();
    system.ready().await;
    system.succeeded(&tasks).await;
    for task in &tasks {
        let execution = system.execution(*task).await;
        assert!(
            execution["started_at"].is_string() && execution["ended_at"].is_string(),
            "{execution}"
        );
        assert_eq!(system.output(*task, "stdout").await, b"out\n");
    }
    assert_eq!(ran().lines().count(), tasks.len(), "nothing ran twice");
    let more = system.launch(["true"]).await;
    system.succeeded(&[more]).await;
    system.counters_agree().await;
}

#[tokio::test]
async fn a_broker_that_lost_everything_loses_no_task() {
    let rabbit = RabbitMq::start().await;
    let database_url = Postgres::shared().await.database().await;
    let setup = Setup::concurrency(2);
    let mut system = Separate::at(rabbit.url(), database_url, setup.clone());
    system.start_server();
    system.ready().await;
    system.start_worker(WORKER, &setup);
    system.worker(WORKER, "running").await;
    let gate = system.gate("broker wiped");
    let file = system.directory().join("ran");
    let script = format!(
        "{}; echo $SCITQ_TASK_ID >> {}; echo out",
        gate.before("true"),
        file.display()
    );
    let series = vec![json!({"command": script, "shell": "sh"}); 300];
    let tasks = system.submit(&json!(series)).await;
    system.running(&tasks, 2).await;
    // The window is in the broker, and some tasks wait outside.
    eventually("a window with tasks beyond it", || async {
        let batch = system.rest.get("/api/v1/batches/Default").await;
        let counts = batch.expect(200)["tasks"].clone();
        (counts["assigned"].as_u64() > Some(200) && counts["pending"].is_u64()).then_some(())
    })
    .await;
    rabbit.wipe().await;
    rabbit.restart().await;
    gate.open();
    system.succeeded(&tasks).await;
    for task in &tasks {
        assert_eq!(system.output(*task, "stdout").await, b"out\n");
    }
    let mut ran: Vec<i64> = std::fs::read_to_string(&file)
        .expect("the file")
        .lines()
        .map(|line| line.parse().expect("an id"))
        .collect();
    ran.sort_unstable();
    assert_eq!(ran, tasks, "each ran, and ran once");
    system.counters_agree().await;
}

#[tokio::test]
async fn a_killed_server_comes_back() {
    let setup = Setup {
        concurrency: 4,
        prefetch: 8,
        ..Setup::default()
    };
    let mut system = separate(setup).await;
    let series = vec![json!({"command": "echo $SCITQ_TASK_ID; sleep 0.01", "shell": "sh"}); 120];
    let tasks = system.submit(&json!(series)).await;
    for part in 1..=2 {
        system.progress(&tasks, 30 * part).await;
        system.kill_server().await;
        system.start_server();
        system.ready().await;
    }
    system.succeeded(&tasks).await;
    for task in &tasks {
        let execution = system.execution(*task).await;
        assert_eq!(execution["status"], "succeeded", "{execution}");
        assert_eq!(
            system.output(*task, "stdout").await,
            format!("{task}\n").as_bytes()
        );
    }
    system.counters_agree().await;
}

#[tokio::test]
async fn a_killed_worker_comes_back() {
    let setup = Setup {
        concurrency: 4,
        prefetch: 8,
        ..Setup::default()
    };
    let mut system = separate(setup.clone()).await;
    let task = json!({"command": "echo $SCITQ_TASK_ID; sleep 0.01", "shell": "sh"});
    let tasks = system.submit(&json!(vec![task; 120])).await;
    for part in 1..=2 {
        system.progress(&tasks, 30 * part).await;
        system.kill_worker(WORKER).await;
        system.start_worker(WORKER, &setup);
    }
    system.succeeded(&tasks).await;
    for task in &tasks {
        assert_eq!(
            system.output(*task, "stdout").await,
            format!("{task}\n").as_bytes()
        );
    }
    system.counters_agree().await;
}

#[tokio::test]
async fn commands_ride_out_a_short_outage() {
    let mut system = separate(Setup::default()).await;
    let gate = system.gate("outage");
    let script = format!("echo begin; {}; echo end", gate.before("true"));
    let task = system.launch(["--shell", &script]).await;
    let id = task.to_string();
    let mut following = system
        .ctl(["task", "output", &id, "--stdout", "--follow"])
        .follow();
    following.expect(b"begin\n").await;
    let waiting = tokio::spawn(system.ctl(["task", "wait", &id]).run());
    system.stop_server().await;
    // Handed in while there is no server.
    let launching = tokio::spawn(system.ctl(["-o", "json", "launch", "echo", "late"]).run());
    gate.open();
    system.start_server();
    following.expect(b"end\n").await;
    assert_eq!(following.end().await, Some(0));
    let waited = waiting.await.expect("a command").code(0);
    assert!(waited.text().contains("succeeded"), "{}", waited.text());
    let launched = launching.await.expect("a command").code(0);
    let late = launched.json()[0]["task_id"].as_i64().expect("a task id");
    system.succeeded(&[late]).await;
}

#[tokio::test]
async fn an_answer_that_a_stopping_server_breaks_off_is_no_whole_one() {
    let mut system = separate(Setup::default()).await;
    let gate = system.gate("running");
    let script = format!("echo begin; {}; echo end", gate.before("true"));
    let task = system.launch(["--shell", &script]).await;
    let path = format!("/api/v1/tasks/{task}/output/stdout?follow=true");
    let mut answer = system.rest.open(&path).await;
    let piece = answer.chunk().await.expect("a piece");
    assert_eq!(piece.as_deref(), Some(&b"begin\n"[..]));
    // For a task that has not begun there is no answer at all.
    let waiting = system.launch(["--batch", "nobody", "true"]).await;
    let path = format!("/api/v1/tasks/{waiting}/output/stdout?follow=true");
    let rest = system.rest.clone();
    let refused = tokio::spawn(async move { rest.try_get(&path).await });
    system.stop_server().await;
    assert!(answer.chunk().await.is_err(), "broken off");
    if let Some(refused) = refused.await.expect("an answer or none") {
        refused.problem(503);
    }
    gate.open();
    system.start_server();
    system.ready().await;
    system.succeeded(&[task]).await;
    assert_eq!(system.output(task, "stdout").await, b"begin\nend\n");
}

#[tokio::test]
async fn a_server_says_what_it_misses() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost().await;
    broker
        .evaluate(
            "ok = rabbit_auth_backend_internal:add_user(<<\"outage\">>, <<\"broker-s3cret\">>, <<\"testkit\">>), \
             [ok = rabbit_auth_backend_internal:set_permissions(<<\"outage\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, \
             <<\"testkit\">>) || V <- rabbit_vhost:list_names()], ok.",
        )
        .await;
    let broker_line = LocalTcpProxy::start(broker.address()).await;
    let broker_url = broker_line
        .url(&vhost)
        .replace("guest:guest@", "outage:broker-s3cret@");
    let database_url = Postgres::shared().await.database().await;
    let port = database_url
        .split(':')
        .next_back()
        .and_then(|rest| rest.split('/').next()?.parse().ok());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port.expect("a port")));
    let database_line = LocalTcpProxy::start(address).await;
    let database_url = database_line
        .url(&database_url)
        .replace("scitq@", "scitq:database-s3cret@");
    broker_line.cut().await;
    database_line.cut().await;

    let mut system = Separate::at(broker_url, database_url, Setup::default());
    system.start_server();
    system.start_worker(WORKER, &Setup::default());
    system.server().line("listening").await;
    let detail = missing(&system, &["database", &database_line.address().to_string()]).await;
    assert!(!detail.contains("s3cret"), "{detail}");
    assert_eq!(system.rest.get("/health/live").await.status, 200);
    let problem = system
        .rest
        .post("/api/v1/tasks", &json!({"command": "true"}))
        .await
        .problem(503);
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|text| text.contains("database")),
        "{problem}"
    );

    database_line.heal().await;
    let detail = missing(&system, &["broker", &broker_line.address().to_string()]).await;
    assert!(
        !detail.contains("database") && !detail.contains("s3cret"),
        "{detail}"
    );
    // Without the broker tasks are taken and kept.
    let task = system.launch(["true"]).await;
    broker_line.heal().await;
    system.ready().await;
    system.succeeded(&[task]).await;

    for log in [system.server().log(), system.worker_process(WORKER).log()] {
        assert!(!log.contains("s3cret"), "{log}");
        assert!(
            log.contains(&broker_line.address().to_string()),
            "the address that was tried: {log}"
        );
    }
    let problem = {
        database_line.cut().await;
        system.rest.get("/health/ready").await.problem(503)
    };
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|text| text.contains("database")),
        "{problem}"
    );
    database_line.heal().await;
    system.ready().await;
}

/// Waits until readiness is refused with these words; returns the text.
async fn missing(system: &Separate, words: &[&str]) -> String {
    eventually(&format!("not ready because of {words:?}"), || async {
        let answer = system.rest.get("/health/ready").await;
        let detail = answer.problem(503)["detail"]
            .as_str()
            .expect("a text")
            .to_owned();
        words
            .iter()
            .all(|word| detail.contains(word))
            .then_some(detail)
    })
    .await
}

#[tokio::test]
async fn a_worker_whose_connection_is_cut_loses_nothing() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost().await;
    let line = LocalTcpProxy::start(broker.address()).await;
    let database_url = Postgres::shared().await.database().await;
    let setup = Setup {
        concurrency: 4,
        prefetch: 8,
        ..Setup::default()
    };
    let setup = setup.with("SCITQ_BROKER_URL", line.url(&vhost));
    let mut system = Separate::at(vhost, database_url, Setup::default());
    system.start_server();
    system.ready().await;
    system.start_worker(WORKER, &setup);
    system.worker(WORKER, "running").await;
    let file = system.directory().join("ran");
    let script = format!(
        "echo $SCITQ_TASK_ID | tee -a {}; sleep 0.01",
        file.display()
    );
    let tasks = vec![json!({"command": script, "shell": "sh"}); 150];
    let tasks = system.submit(&json!(tasks)).await;
    for part in 1..=3 {
        system.progress(&tasks, 30 * part).await;
        line.cut().await;
        line.heal().await;
    }
    system.succeeded(&tasks).await;
    for task in &tasks {
        let expected = format!("{task}\n");
        assert_eq!(system.output(*task, "stdout").await, expected.as_bytes());
    }
    // What the worker held unstarted was given back and dispatched anew: nothing ran twice.
    let ran = std::fs::read_to_string(&file).expect("a file");
    let mut ran: Vec<i64> = ran
        .lines()
        .map(|line| line.parse().expect("an id"))
        .collect();
    ran.sort_unstable();
    assert_eq!(ran, tasks);
    system.counters_agree().await;
}

#[tokio::test]
async fn two_workers_share_a_series() {
    let System::Separate(mut system) = Pair::Separate.start_with(Setup::concurrency(1)).await
    else {
        unreachable!("the separate pair was started")
    };
    system.start_worker("w2", &Setup::concurrency(1));
    system.worker("w2", "running").await;
    let gate = system.gate("both");
    let tasks = system
        .submit(&json!(vec![json!({"command": gate.before("true")}); 6]))
        .await;
    system.running(&tasks, 2).await;
    let mut workers = Vec::new();
    for task in &tasks {
        workers.extend(
            system
                .executions(*task)
                .await
                .into_iter()
                .map(|e| e["worker"].clone()),
        );
    }
    workers.sort_by_key(ToString::to_string);
    assert_eq!(workers, [json!(WORKER), json!("w2")]);
    gate.open();
    system.succeeded(&tasks).await;
    // One that is stopped says so at once, and its tasks go to the other.
    system.stop_worker(WORKER).await;
    system.worker(WORKER, "offline").await;
    let more = system
        .submit(&json!(vec![json!({"command": "true"}); 4]))
        .await;
    system.succeeded(&more).await;
    assert_eq!(system.execution(more[0]).await["worker"], "w2");
    let batch = system.rest.get("/api/v1/batches/Default").await.expect(200);
    assert_eq!(batch["workers"], 1, "{batch}");
}
