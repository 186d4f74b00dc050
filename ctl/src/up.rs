//! `up`: server and worker in one process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// Arguments of `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Address and port of the REST interface [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Where tasks, their output and the worker's state are kept
    #[arg(long, value_name = "DIRECTORY", default_value = "data")]
    pub data_dir: PathBuf,
    /// How many tasks run at once [default: the number of cores]
    #[arg(long, value_name = "SLOTS")]
    pub concurrency: Option<u16>,
    /// Read settings from this file instead of those in /etc/scitq
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs server and worker until it is told to end.
#[expect(
    clippy::unused_async,
    reason = "the signature that the all-in-one program has"
)]
pub async fn run(_arguments: UpArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no server in it: start scitq-server and scitq-worker instead")
}
