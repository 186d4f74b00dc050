//! The embedded pair: `scitq-ctl up` is killed in the middle of a series and started again.

use std::process::Command;
use std::time::Duration;

use chrono::Utc;
use scitq_testkit::free_port;

use super::struck_since;
use crate::acceptance::{accept_tasks, no_directories, no_processes};
use crate::api::Api;
use crate::dice::Dice;
use crate::journal::Journal;
use crate::judge::Rules;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::program::{self, Program};
use crate::schedule::durations;
use crate::series::Series;
use crate::task::Effect;

const MOST_TASKS: usize = 200;

pub(crate) async fn run(place: &Place, options: &Options, seed: u64) -> anyhow::Result<Outcome> {
    let port = free_port();
    let api = Api::new(&[port])?;
    let journal = Journal::new(&place.log("up"))?;
    let mut up = start(place, port, &journal)?;
    api.ready(0).await?;
    let series = Series::new(&api, place, Effect::First, 0);
    let mut dice = Dice::of(seed, "embedded-kill");
    let number = options.tasks().min(MOST_TASKS);
    let tasks = series
        .submit("embedded", &durations(number, &mut dice))
        .await?;
    let times = options.times();
    let mut strikes = Vec::new();
    for time in 0..times {
        let (low, high) = (number * time / times + 1, number * (time + 1) / times);
        let started = dice.between(low as u64, (low.midpoint(high)) as u64);
        series.ledger.wait_for(usize::try_from(started)?).await?;
        tokio::time::sleep(Duration::from_millis(dice.between(0, 300))).await;
        let began_at = Utc::now();
        up.kill()?;
        up = start(place, port, &journal)?;
        strikes.push(struck_since("embedded-kill", "scitq-ctl up", began_at));
    }
    let accepted = accept_tasks(&api, &series, &tasks, Rules::ONCE).await?;
    let mut outcome = Outcome {
        tasks: tasks.len(),
        ..Outcome::default()
    };
    outcome.struck(strikes, &accepted);
    outcome.judged(accepted.verdict);
    if outcome.findings.is_empty() {
        up.stop().await?;
        no_directories(&place.path("data/worker"), &place.path("data/work"))?;
        no_processes(place.root()).await?;
    }
    Ok(outcome)
}

fn start(place: &Place, port: u16, journal: &Journal) -> anyhow::Result<Program> {
    let mut command = Command::new(program::path("scitq-ctl")?);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", place.root())
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "1")
        .current_dir(place.root())
        .args(["up", "--concurrency", "4"])
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(place.path("data"))
        .arg("--config")
        .arg(place.path("scitq.toml"))
        .env("SCITQ_LOG_LEVEL", "info")
        .env("SCITQ_WORKER_NAME", "w1")
        .env("SCITQ_WORKER_HEARTBEAT_SECONDS", "1")
        .env("SCITQ_WORKER_ACK_AFTER_SECONDS", "1");
    Program::start("scitq-ctl up", command, journal)
}
