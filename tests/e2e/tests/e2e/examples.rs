//! What stands under examples/ works as it says.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use scitq_e2e::{Pair, Program, programs};
use scitq_testkit::{Postgres, RabbitMq};

on_both_pairs!(the_series_over_debian_files_is_right);

/// Three tasks a file: the fewest that the example takes for a series.
const FILES: &str = "167";

async fn the_series_over_debian_files_is_right(pair: Pair) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let script = root
        .expect("the root of the workspace")
        .join("examples/doc-series");
    let mut command = Command::new(script);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--files", FILES, "--within", "120", "--programs"])
        .arg(programs());
    match pair {
        Pair::Embedded => {
            command.args(["--pair", "embedded"]);
        }
        Pair::Separate => {
            command.args(["--pair", "rabbitmq"]);
            command.env("AMQP_URL", RabbitMq::shared().await.vhost().await);
            command.env("DATABASE_URL", Postgres::shared().await.database().await);
        }
    }
    // It ends the programs that it has started when it is told to end.
    let mut series = Program::start_ended_by(Signal::TERM, "doc-series", command);
    series.line("every one of 501 results is right").await;
    assert!(series.ended().await.success());
}
