//! The worker as a process of its own, on RabbitMQ: what a test needs to kill it, start it again and look for what is
//! left of it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scitq_broker::Broker;
use scitq_shared::ids::AttemptId;
use scitq_testkit::RabbitMq;

use super::server::Server;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// A server on a virtual host of its own, and the directories of a worker.
pub struct Yard {
    pub server: Server,
    pub directory: tempfile::TempDir,
    pub url: String,
}

impl Yard {
    pub async fn new(concurrency: u16, prefetch: u16) -> Self {
        Self::below(&std::env::temp_dir(), concurrency, prefetch).await
    }

    /// With its directories below this one.
    pub async fn below(parent: &Path, concurrency: u16, prefetch: u16) -> Self {
        let url = RabbitMq::shared().await.vhost().await;
        let broker = Broker::amqp(&url).unwrap();
        let prefix = format!("scitq-test-{}-", std::process::id());
        let mut builder = tempfile::Builder::new();
        // Tasks may run as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        Self {
            server: Server::start(&broker, "program", concurrency, prefetch).await,
            directory: builder
                .prefix(&prefix)
                .permissions(open)
                .tempdir_in(parent)
                .unwrap(),
            url,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The worker's command, to be changed.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SCITQ_BROKER_URL", &self.url)
            .env("SCITQ_WORKER_STATE_DIRECTORY", self.path("state"))
            .env("SCITQ_WORKER_HEARTBEAT_SECONDS", "1")
            .args(["--name", "program", "--log-level", "warn"])
            .arg("--work-directory")
            .arg(self.path("work"));
        command
    }

    /// The worker, with these further settings.
    pub fn start(&self, settings: &[(&str, &str)]) -> Program {
        let mut command = self.command(own_program());
        command.envs(settings.iter().copied());
        Program::start(command)
    }

    /// Opens the gate of tasks that begin with it.
    pub fn open_gate(&self) {
        std::fs::write(self.path("work/go"), "").unwrap();
    }

    /// Processes that keep tasks of this worker.
    pub fn keepers(&self) -> Vec<i32> {
        let place = self.path("state/keepers");
        let place = place.canonicalize().unwrap_or(place);
        let entry = [b"SCITQ_KEEPER=", place.as_os_str().as_encoded_bytes()].concat();
        processes_with(&entry)
    }

    /// Waits until nothing is left of tasks: neither directories nor processes but so many keepers.
    pub async fn until_tidy(&self, keepers: usize) {
        let entries = |path: PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names
                .filter(|name| !name.starts_with('.') && name != "go")
                .collect::<Vec<_>>()
        };
        let left = || {
            let mut left = entries(self.path("state/attempts"));
            left.extend(entries(self.path("work")));
            let sockets = entries(self.path("state/keepers"));
            let sockets = sockets.into_iter().filter(|name| name != "log").count();
            let found = (left, sockets, self.keepers().len());
            (found != (Vec::new(), keepers, keepers)).then_some(found)
        };
        until(|| left().is_none())
            .await
            .unwrap_or_else(|| panic!("left over: {:?}", left()));
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        // Whatever a failed test leaves: keepers know their place, tasks their directories.
        let place = self
            .directory
            .path()
            .as_os_str()
            .as_encoded_bytes()
            .to_vec();
        for pid in all_processes() {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.windows(place.len()).any(|part| part == place) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

/// The worker's program, killed when the test ends.
pub struct Program(Child);

impl Program {
    pub fn start(mut command: Command) -> Self {
        // As from a terminal of its own, so that signals to its group reach nobody else.
        command.process_group(0);
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        Pid::from_child(&self.0).as_raw_nonzero().get()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub async fn kill(self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    pub async fn ended(mut self) -> ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || self.0.wait().unwrap());
        tokio::time::timeout(DEADLINE, waiting)
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

pub fn own_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_scitq-worker"))
}

/// Looks again and again, for what nobody announces; none when it does not come.
pub async fn until(found: impl Fn() -> bool) -> Option<()> {
    let looking = async {
        while !found() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.ok()
}

pub fn signal(pid: i32, signal: Signal) {
    // It may have ended.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// True while there is such a process that has not ended.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// Ids of processes whose environment names an attempt.
pub fn processes_of(attempt: AttemptId) -> Vec<i32> {
    processes_with(format!("SCITQ_EXECUTION_ID={attempt}").as_bytes())
}

fn processes_with(entry: &[u8]) -> Vec<i32> {
    let mut marked: Vec<i32> = all_processes()
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|it| it == entry)
        })
        .collect();
    marked.sort_unstable();
    marked
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
