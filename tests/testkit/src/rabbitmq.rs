//! A private RabbitMQ node.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use tokio::sync::OnceCell;

use crate::scratch::Scratch;
use crate::service::Service;
use crate::{blocking, free_port};

/// Where Debian and the generic package keep the server; the wrapper in /usr/sbin insists on the user rabbitmq.
const LIBRARY: &str = "/usr/lib/rabbitmq/lib";
const COOKIE: &str = "scitqtestkit";

/// What a node is started with beside the defaults.
#[derive(Clone, Debug, Default)]
pub struct RabbitOptions {
    /// Lines added to rabbitmq.conf, for instance `consumer_timeout = 10000`.
    pub configuration: Vec<String>,
}

/// A private RabbitMQ node without plugins; user and password are guest. Starting one takes several seconds, so most
/// tests use [`shared`](Self::shared) and a [`vhost`](Self::vhost) of their own.
#[derive(Debug)]
pub struct RabbitMq(Arc<Node>);

#[derive(Debug)]
struct Node {
    scratch: Scratch,
    options: RabbitOptions,
    port: u16,
    distribution_port: u16,
    epmd_port: u16,
    processes: Mutex<Option<Processes>>,
    last_vhost: AtomicU32,
    last_call: AtomicU32,
}

/// The node, and the port mapper that Erlang wants beside it. Dropped in this order.
#[derive(Debug)]
struct Processes {
    node: Service,
    _port_mapper: Service,
}

impl RabbitMq {
    /// Starts a node.
    pub async fn start() -> Self {
        Self::start_with(RabbitOptions::default()).await
    }

    /// Starts a node with options.
    pub async fn start_with(options: RabbitOptions) -> Self {
        blocking(|| {
            let node = Node {
                scratch: Scratch::new("rabbitmq"),
                options,
                port: free_port(),
                distribution_port: free_port(),
                epmd_port: free_port(),
                processes: Mutex::new(None),
                last_vhost: AtomicU32::new(0),
                last_call: AtomicU32::new(0),
            };
            node.start();
            Self(Arc::new(node))
        })
        .await
    }

    /// The one node that all tests of this process share; it ends with the process. Do not kill it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// The URL of the default virtual host.
    pub fn url(&self) -> String {
        self.vhost_url("/")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.port))
    }

    /// A new, empty virtual host; returns its URL.
    pub async fn vhost(&self) -> String {
        let number = self.0.last_vhost.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("test{number}");
        self.evaluate(&format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"testkit\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, \
             <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"testkit\">>)."
        ))
        .await;
        self.vhost_url(&name)
    }

    /// Evaluates Erlang expressions, ended by a dot, in the node; returns the result in Erlang's notation.
    ///
    /// # Panics
    /// If the node does not answer or the evaluation fails.
    pub async fn evaluate(&self, expressions: &str) -> String {
        let mut command = Command::new("erl_call");
        command.env("ERL_EPMD_PORT", self.0.epmd_port.to_string());
        command.env("HOME", self.0.scratch.path());
        // A name of its own: the node ends a connection when another comes under the same name.
        let call = self.0.last_call.fetch_add(1, Ordering::Relaxed);
        command.args(["-h", &format!("call{}n{call}", std::process::id())]);
        command.args(["-timeout", "60", "-c", COOKIE, "-e", "-address"]);
        command.arg(format!("localhost:{}", self.0.distribution_port));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let expressions = format!("{expressions}\n");
        blocking(move || {
            let fail = |error: io::Error| -> ! { panic!("erl_call: {error}; run `make setup`") };
            let mut child = command.spawn().unwrap_or_else(|error| fail(error));
            if let Some(mut stdin) = child.stdin.take() {
                stdin
                    .write_all(expressions.as_bytes())
                    .unwrap_or_else(|error| fail(error));
            }
            let output = child.wait_with_output().unwrap_or_else(|error| fail(error));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // The answer is {ok, Result} or {error, Reason}.
            let done = output.status.success() && text.starts_with("{ok,");
            assert!(
                done,
                "{expressions}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            text
        })
        .await
    }

    /// Kills the node, as a crash would. What is on disk stays.
    pub async fn kill(&self) {
        self.with_node(|node| {
            if let Some(Processes { node, _port_mapper }) = node.lock().take() {
                node.kill();
            }
        })
        .await;
    }

    /// Stops the node in an orderly way. What is on disk stays.
    pub async fn stop(&self) {
        self.with_node(Node::stop).await;
    }

    /// Stops the node if it runs, and starts it again with the same data and ports.
    pub async fn restart(&self) {
        self.with_node(|node| {
            node.stop();
            node.start();
        })
        .await;
    }

    /// Stops the node if it runs and deletes its data; the next [`restart`](Self::restart) starts an empty one.
    ///
    /// # Panics
    /// If the data cannot be deleted.
    pub async fn wipe(&self) {
        self.with_node(|node| {
            node.stop();
            let data = node.data();
            fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
        })
        .await;
    }

    /// The file that holds all that the node has said, over restarts.
    pub fn log_file(&self) -> PathBuf {
        self.0.log_file()
    }

    async fn with_node(&self, work: impl FnOnce(&Node) + Send + 'static) {
        let node = Arc::clone(&self.0);
        blocking(move || work(&node)).await;
    }

    fn vhost_url(&self, name: &str) -> String {
        format!(
            "amqp://guest:guest@127.0.0.1:{}/{}",
            self.0.port,
            name.replace('/', "%2f")
        )
    }
}

impl Node {
    fn lock(&self) -> MutexGuard<'_, Option<Processes>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("log.txt")
    }

    fn stop(&self) {
        if let Some(Processes { node, _port_mapper }) = self.lock().take() {
            node.stop(Signal::TERM);
        }
    }

    fn start(&self) {
        let mut processes = self.lock();
        assert!(processes.is_none(), "the RabbitMQ node runs already");
        self.write_configuration();
        let mut port_mapper = Command::new("epmd");
        port_mapper.args([
            "-d",
            "-address",
            "127.0.0.1",
            "-port",
            &self.epmd_port.to_string(),
        ]);
        let log = self.log_file();
        let port_mapper = Service::start("epmd", port_mapper, "epmd running", Signal::KILL, &log);
        let node = Service::start(
            "RabbitMQ",
            self.command(),
            "Server startup complete",
            Signal::KILL,
            &log,
        );
        *processes = Some(Processes {
            node,
            _port_mapper: port_mapper,
        });
    }

    fn write_configuration(&self) {
        let path = self.scratch.path();
        let mut configuration = format!(
            "listeners.tcp.default = 127.0.0.1:{}\n\
             log.console = true\n\
             log.console.level = info\n\
             log.file = false\n\
             disk_free_limit.absolute = 10MB\n\
             vm_memory_high_watermark.absolute = 1GB\n",
            self.port
        );
        for line in &self.options.configuration {
            // Writing to a String cannot fail.
            let _ = writeln!(configuration, "{line}");
        }
        write(&path.join("rabbitmq.conf"), &configuration);
        write(&path.join("enabled_plugins"), "[].\n");
        let cookie = path.join(".erlang.cookie");
        if !cookie.exists() {
            write(&cookie, COOKIE);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
            fs::set_permissions(&cookie, mode)
                .unwrap_or_else(|error| panic!("{}: {error}", cookie.display()));
        }
    }

    fn command(&self) -> Command {
        let path = self.scratch.path();
        let mut command = Command::new(server_script());
        command.env_clear();
        command.env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
        );
        command.env("LANG", "C.UTF-8");
        command.env("HOME", path).current_dir(path);
        // Makes the script become the server instead of watching over it.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_NODENAME", format!("scitq{}@localhost", self.port));
        command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODE_PORT", self.port.to_string());
        command.env("RABBITMQ_DIST_PORT", self.distribution_port.to_string());
        command.env("ERL_EPMD_PORT", self.epmd_port.to_string());
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_CONFIG_FILE", path.join("rabbitmq.conf"));
        command.env(
            "RABBITMQ_ADVANCED_CONFIG_FILE",
            path.join("advanced.config"),
        );
        command.env("RABBITMQ_GENERATED_CONFIG_DIR", path.join("generated"));
        command.env(
            "RABBITMQ_ENABLED_PLUGINS_FILE",
            path.join("enabled_plugins"),
        );
        command.env("RABBITMQ_MNESIA_BASE", self.data());
        command.env("RABBITMQ_LOG_BASE", path.join("log"));
        command.env("RABBITMQ_PID_FILE", path.join("pid"));
        // Two schedulers that do not spin while idle, few helper threads, distribution on the loopback only.
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+S 2:2 +SDcpu 1:1 +SDio 2 +A 2 +sbwt none +sbwtdcpu none +sbwtdio none \
             -kernel inet_dist_use_interface {127,0,0,1}",
        );
        command
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The server's own start script, of the newest version installed.
fn server_script() -> PathBuf {
    let versions = fs::read_dir(LIBRARY).into_iter().flatten().flatten();
    let scripts = versions.map(|version| version.path().join("sbin/rabbitmq-server"));
    let newest = scripts.filter(|script| script.exists()).max();
    newest.unwrap_or_else(|| panic!("no RabbitMQ server under {LIBRARY}; run `make setup`"))
}
