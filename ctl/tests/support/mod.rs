//! A small HTTP server that answers as a test wants, and the program run against it.

#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test whose surroundings fail has failed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Value of a query parameter, as it stands in the address.
    pub fn query(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers.
    Reply {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Sends these bytes of a longer body, then breaks the connection.
    Broken(Vec<u8>),
    /// Reads the request and closes the connection: the answer is lost.
    Lost,
    /// Never answers; the connection stays open.
    Silent,
}

impl Answer {
    pub fn json(value: &serde_json::Value) -> Self {
        Self::Reply {
            status: 200,
            headers: Vec::new(),
            body: value.to_string().into_bytes(),
        }
    }

    pub fn bytes(body: &[u8]) -> Self {
        Self::Reply {
            status: 200,
            headers: Vec::new(),
            body: body.to_vec(),
        }
    }

    pub fn status(status: u16, value: &serde_json::Value) -> Self {
        Self::Reply {
            status,
            headers: Vec::new(),
            body: value.to_string().into_bytes(),
        }
    }

    pub fn problem(status: u16, detail: &str) -> Self {
        Self::status(
            status,
            &serde_json::json!({"type": "/problems/x", "title": "X", "status": status, "detail": detail}),
        )
    }

    pub fn header(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Reply {
                status,
                mut headers,
                body,
            } => {
                headers.push((name, value.to_owned()));
                Self::Reply {
                    status,
                    headers,
                    body,
                }
            }
            other => other,
        }
    }
}

/// The server. Lives until the test's process ends.
pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// Answers the n-th request (from 0) with what `answer` says.
    pub fn start(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer)
    }

    pub fn start_at(
        address: SocketAddr,
        answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || serve(connection.unwrap(), &log, answer.as_ref()));
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The program, to be run against this server.
    pub fn command(&self, words: &[&str]) -> Command {
        command(self.address, words)
    }

    /// Runs the program to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Seen>>, answer: &dyn Fn(usize, &Seen) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap().to_owned(),
        words.next().unwrap().to_owned(),
    );
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let seen = Seen {
        method,
        target,
        body,
    };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let mut stream = stream;
    match answer(number, &seen) {
        Answer::Reply {
            status,
            headers,
            body,
        } => {
            let mut head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n",
                body.len()
            );
            for (name, value) in headers {
                head = format!("{head}{name}: {value}\r\n");
            }
            // the program may have gone, which is its right
            let _ = stream
                .write_all(format!("{head}\r\n").as_bytes())
                .and_then(|()| stream.write_all(&body));
        }
        Answer::Broken(part) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                part.len() + 1
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&part));
        }
        Answer::Lost => {}
        Answer::Silent => loop {
            std::thread::park();
        },
    }
}

/// The program, to be run against a server.
pub fn command(server: SocketAddr, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scitq-ctl"));
    command
        .env("SCITQ_SERVER", format!("http://{server}"))
        .env_remove("SCITQ_TIMEOUT")
        .env("TZ", "UTC")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits until the program has said something on standard error that contains `part`; answers all that was said.
pub fn until_said(child: &mut Child, part: &str) -> (String, BufReader<std::process::ChildStderr>) {
    let mut said = String::new();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    while !said.contains(part) {
        assert!(
            reader.read_line(&mut said).unwrap() > 0,
            "it ended without saying {part:?}: {said}"
        );
    }
    (said, reader)
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Asserts the exit code, and shows all output when it is another one.
#[track_caller]
pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("panicked"),
        "{output:?}"
    );
}

/// The answer to a submission: a created task for each line of the body, ids from 1.
pub fn created(seen: &Seen) -> Answer {
    created_from(seen, 1, true)
}

/// As [`created`], with ids from `first`.
pub fn created_from(seen: &Seen, first: usize, new: bool) -> Answer {
    let tasks: Vec<serde_json::Value> = seen
        .lines()
        .iter()
        .enumerate()
        .map(|(number, task)| {
            let batch = task["batch"].as_str().unwrap_or("Default");
            serde_json::json!({"task_id": first + number, "batch": batch, "status": "pending", "created": new})
        })
        .collect();
    Answer::status(201, &serde_json::json!(tasks))
}

/// A task as the server shows it.
pub fn task(id: i64, status: &str, execution: Option<i64>) -> serde_json::Value {
    serde_json::json!({
        "task_id": id, "name": null, "batch": "Default", "status": status, "uploading": false,
        "command": "echo 'a\u{1b}[2Jb'", "shell": null, "container": null, "container_options": null, "input": [],
        "output": null, "resource": [], "required_task_ids": [], "missing_requirements": 0, "retry": 0,
        "retries_left": 0, "download_timeout": null, "run_timeout": null, "use_cache": false, "priority": 0,
        "weight": 1, "idempotency_key": null, "labels": {}, "uid": null, "gid": null, "revision": 1,
        "execution_id": execution, "created_at": "2026-07-01T10:00:00Z", "modified_at": "2026-07-01T10:00:00Z",
    })
}

/// An execution as the server shows it.
pub fn execution(id: i64, task: i64, status: &str, cut: Option<(u64, u64)>) -> serde_json::Value {
    let over = !matches!(status, "accepted" | "running");
    serde_json::json!({
        "execution_id": id, "attempt_id": "a", "task_id": task, "batch": "Default", "worker": "w", "incarnation": "i",
        "dispatch_id": "d", "epoch": 1, "revision": 1, "status": status, "uploading": false, "latest": true,
        "command": "echo a", "shell": null, "container": null, "container_options": null, "input": [], "output": null,
        "resource": [], "queued_at": "2026-07-01T10:00:00Z", "accepted_at": "2026-07-01T10:00:01Z",
        "started_at": "2026-07-01T10:00:02Z", "ended_at": over.then_some("2026-07-01T10:01:03.500Z"),
        "exit_code": over.then_some(i32::from(status != "succeeded") * 3), "signal": null,
        "failure_reason": (status == "failed").then_some("exit_code"),
        "failure_detail": (status == "failed").then_some("the command ended with exit code 3"),
        "user_cpu_ms": 10, "system_cpu_ms": 5, "peak_memory_bytes": 2_097_152, "memory_source": "largest_process",
        "stdout_bytes": 10, "stderr_bytes": 0,
        "stdout_cut": cut.map(|(from, to)| serde_json::json!({"from": from, "to": to})), "stderr_cut": null,
        "output_complete": over,
    })
}

/// A page of a list.
pub fn page(items: &[serde_json::Value], next: Option<i64>) -> Answer {
    Answer::json(&serde_json::json!({"items": items, "next": next}))
}
