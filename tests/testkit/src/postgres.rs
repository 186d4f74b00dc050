//! A private PostgreSQL server.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Signal, getuid};
use tokio::sync::OnceCell;

use crate::scratch::Scratch;
use crate::service::Service;
use crate::{blocking, free_port};

const LIBRARY: &str = "/usr/lib/postgresql";
const SUPERUSER: &str = "scitq";

/// A private PostgreSQL server that trusts everyone on this machine. It runs as another user when the test is root's.
#[derive(Debug)]
pub struct Postgres(Arc<Server>);

#[derive(Debug)]
struct Server {
    scratch: Scratch,
    programs: PathBuf,
    account: Option<Account>,
    durable: bool,
    port: u16,
    service: Mutex<Option<Service>>,
    last_database: AtomicU32,
}

/// A user of the system.
#[derive(Clone, Copy, Debug)]
struct Account {
    user: u32,
    group: u32,
}

impl Postgres {
    /// Starts a server that does not wait for the disk: fast, and safe against its own crash though not the machine's
    /// (what is committed has been handed to the kernel).
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    /// Starts a server that waits for the disk as one in production does.
    pub async fn durable() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(durable: bool) -> Self {
        blocking(move || {
            let server = Server {
                scratch: Scratch::new("postgres"),
                programs: programs(),
                account: getuid().is_root().then(service_account),
                durable,
                port: free_port(),
                service: Mutex::new(None),
                last_database: AtomicU32::new(0),
            };
            server.initialize();
            server.start();
            Self(Arc::new(server))
        })
        .await
    }

    /// The one server that all tests of this process share; it ends with the process. Do not kill it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// The URL of the database `postgres`, over loopback TCP.
    pub fn url(&self) -> String {
        self.0.url("postgres")
    }

    /// A new, empty database; returns its URL.
    pub async fn database(&self) -> String {
        self.database_from("template1").await
    }

    /// A new database copied from another of this server, to which nobody may be connected; returns its URL.
    pub async fn database_from(&self, template: &str) -> String {
        let number = self.0.last_database.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("test{number}");
        let statement = format!("CREATE DATABASE {name} TEMPLATE \"{template}\"");
        self.with_server(move |server| {
            server.execute("postgres", &statement);
        })
        .await;
        self.0.url(&name)
    }

    /// Runs a statement in a database, named by its URL, as the superuser; returns its rows, with bars between columns.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn execute(&self, database_url: &str, statement: &str) -> String {
        let database = database_url
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let statement = statement.to_owned();
        let server = Arc::clone(&self.0);
        blocking(move || server.execute(&database, &statement)).await
    }

    /// Kills the server with all its processes, as a crash would. What is on disk stays.
    pub async fn kill(&self) {
        self.with_server(|server| {
            if let Some(service) = server.lock().take() {
                service.kill();
            }
        })
        .await;
    }

    /// Stops the server if it runs and deletes all its databases; the next [`restart`](Self::restart) starts an empty one.
    ///
    /// # Panics
    /// If the data cannot be deleted, or made anew.
    pub async fn wipe(&self) {
        self.with_server(|server| {
            server.stop();
            server.remove_shared_memory();
            let data = server.data();
            fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
            server.initialize();
        })
        .await;
    }

    /// The file that holds all that the server has said, over restarts.
    pub fn log_file(&self) -> PathBuf {
        self.0.log_file()
    }

    /// Stops the server in an orderly way, ending its connections. What is on disk stays.
    pub async fn stop(&self) {
        self.with_server(Server::stop).await;
    }

    /// Stops the server if it runs, and starts it again with the same data and port.
    pub async fn restart(&self) {
        self.with_server(|server| {
            server.stop();
            server.start();
        })
        .await;
    }

    async fn with_server(&self, work: impl FnOnce(&Server) + Send + 'static) {
        let server = Arc::clone(&self.0);
        blocking(move || work(&server)).await;
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Option<Service>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("log.txt")
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// A command that runs as the user the server runs as.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PGDATA")
            .current_dir(self.scratch.path());
        if let Some(Account { user, group }) = self.account {
            command.uid(user).gid(group);
        }
        command
    }

    fn initialize(&self) {
        if let Some(Account { user, group }) = self.account {
            let owned = std::os::unix::fs::chown(self.scratch.path(), Some(user), Some(group));
            owned.unwrap_or_else(|error| panic!("{}: {error}", self.scratch.path().display()));
        }
        let mut command = self.command("initdb");
        command.args([
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-U",
            SUPERUSER,
            "-D",
        ]);
        run(command.arg(self.data()));
    }

    fn start(&self) {
        let mut service = self.lock();
        assert!(service.is_none(), "the PostgreSQL server runs already");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        command.args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &format!("port={}", self.port),
            "-c",
        ]);
        command.arg(format!(
            "unix_socket_directories={}",
            self.scratch.path().display()
        ));
        command.args(["-c", "shared_buffers=64MB", "-c", "max_connections=200"]);
        if !self.durable {
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        // Kept in the data directory rather than in /dev/shm, where a killed server would leave it.
        command.args(["-c", "dynamic_shared_memory_type=mmap"]);
        // Told to quit at once, it removes its shared memory, which a kill would leave.
        let ready = "database system is ready to accept connections";
        *service = Some(Service::start(
            "PostgreSQL",
            command,
            ready,
            Signal::QUIT,
            &self.log_file(),
        ));
    }

    /// Removes the segment of System V shared memory that a killed server has left, by which it would know at its next
    /// start whether processes of it still live.
    fn remove_shared_memory(&self) {
        // Only a server that did not end by itself leaves this file; the second number of its seventh line is the segment.
        let Ok(text) = fs::read_to_string(self.data().join("postmaster.pid")) else {
            return;
        };
        let segment = text
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            // It may be gone, and a few bytes left behind harm nobody.
            let _ = Command::new("ipcrm").args(["-m", segment]).output();
        }
    }

    fn stop(&self) {
        if let Some(service) = self.lock().take() {
            service.stop(Signal::INT);
        }
    }

    fn execute(&self, database: &str, statement: &str) -> String {
        let mut command = self.command("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.scratch.path());
        run(command.args([
            "-p",
            &self.port.to_string(),
            "-U",
            SUPERUSER,
            "-d",
            database,
            "-c",
            statement,
        ]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that runs ends now, and removes what it uses itself.
        let running = self.lock().take();
        drop(running);
        self.remove_shared_memory();
    }
}

/// Runs a command to its end; returns what it wrote.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// The programs of the newest version installed.
fn programs() -> PathBuf {
    let versions = fs::read_dir(LIBRARY)
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path());
    let usable = versions.filter(|path| path.join("bin/postgres").exists());
    let newest = usable.max_by_key(|path| version(path));
    newest
        .unwrap_or_else(|| panic!("no PostgreSQL server under {LIBRARY}; run `make setup`"))
        .join("bin")
}

fn version(path: &Path) -> u32 {
    path.file_name()
        .and_then(|name| name.to_str()?.parse().ok())
        .unwrap_or(0)
}

/// A user without rights to run the server as, because it refuses to be root.
fn service_account() -> Account {
    let users =
        fs::read_to_string("/etc/passwd").unwrap_or_else(|error| panic!("/etc/passwd: {error}"));
    let account = |name: &str| {
        let mut lines = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let fields = lines.find(|fields| fields.first() == Some(&name))?;
        Some(Account {
            user: fields.get(2)?.parse().ok()?,
            group: fields.get(3)?.parse().ok()?,
        })
    };
    account("postgres")
        .or_else(|| account("nobody"))
        .unwrap_or_else(|| panic!("no user to run PostgreSQL as"))
}
