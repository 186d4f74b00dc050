//! Packing tasks into as few requests as the server's limit allows.

use std::path::PathBuf;

use bytes::Bytes;
use scitq_shared::settings::ServerSettings;
use scitq_shared::submit::SubmitTask;

use crate::failure::Failure;

/// Tasks packed into request bodies of one JSON object a line.
#[derive(Clone, Debug)]
pub struct Requests {
    limit: usize,
    open: Vec<u8>,
    open_first: usize,
    closed: Vec<Request>,
    /// Number of each task's line, from 1; 0 for the task of the command line.
    lines: Vec<usize>,
    file: Option<PathBuf>,
}

/// One request: tasks that are created all or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of its first task in the submission, from 0.
    pub first: usize,
    /// Number of its tasks.
    pub count: usize,
    /// One JSON object a line.
    pub body: Bytes,
}

/// The longest body that a server takes by default, less some room for a proxy's opinion on limits.
pub fn default_limit() -> usize {
    let bytes = usize::try_from(ServerSettings::default().max_body_bytes).unwrap_or(usize::MAX);
    bytes - bytes / 16
}

/// A task as JSON on one line.
pub fn json(task: &SubmitTask) -> Result<String, Failure> {
    serde_json::to_string(task)
        .map_err(|error| Failure::local(format!("cannot write JSON: {error}")))
}

impl Requests {
    /// No tasks yet, in bodies of at most `limit` bytes. `file` is where they come from, for texts.
    pub fn new(limit: usize, file: Option<PathBuf>) -> Self {
        Self {
            limit,
            open: Vec::new(),
            open_first: 0,
            closed: Vec::new(),
            lines: Vec::new(),
            file,
        }
    }

    /// Adds the task of a line.
    pub fn push(&mut self, line: usize, task: &SubmitTask) -> Result<(), Failure> {
        let json = json(task)?;
        if !self.open.is_empty() && self.open.len() + json.len() + 1 > self.limit {
            self.close();
        }
        self.open.extend_from_slice(json.as_bytes());
        self.open.push(b'\n');
        self.lines.push(line);
        Ok(())
    }

    fn close(&mut self) {
        let count = self.lines.len() - self.open_first;
        if count > 0 {
            let body = Bytes::from(std::mem::take(&mut self.open));
            self.closed.push(Request {
                first: self.open_first,
                count,
                body,
            });
            self.open_first = self.lines.len();
        }
    }

    /// Number of all tasks.
    pub fn tasks(&self) -> usize {
        self.lines.len()
    }

    /// All requests, in order. Nothing may be added afterwards.
    pub fn take(&mut self) -> Vec<Request> {
        self.close();
        std::mem::take(&mut self.closed)
    }

    /// Where a task comes from, for texts: `tasks.txt, line 7: `; nothing for the task of the command line.
    pub fn place(&self, task: usize) -> String {
        match (&self.file, self.lines.get(task)) {
            (Some(file), Some(line)) if file.as_os_str() == "-" => {
                format!("standard input, line {line}: ")
            }
            (Some(file), Some(line)) => format!("{}, line {line}: ", file.display()),
            _ => String::new(),
        }
    }
}

impl Request {
    /// Two requests of half the tasks each; none when there is only one task.
    pub fn split(&self) -> Option<(Self, Self)> {
        let half = self.count / 2;
        if half == 0 {
            return None;
        }
        // a line end in a text is escaped in JSON, so these are the ends of tasks
        let ends = self
            .body
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n');
        let end = ends.map(|(at, _)| at + 1).nth(half - 1)?;
        let one = Self {
            first: self.first,
            count: half,
            body: self.body.slice(..end),
        };
        let other = Self {
            first: self.first + half,
            count: self.count - half,
            body: self.body.slice(end..),
        };
        Some((one, other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(limit: usize, tasks: usize) -> (Requests, Vec<Request>) {
        let mut requests = Requests::new(limit, Some("f".into()));
        for number in 0..tasks {
            let command = format!("echo '{number}\n'");
            requests
                .push(
                    number * 2 + 1,
                    &SubmitTask {
                        command,
                        ..Default::default()
                    },
                )
                .unwrap();
        }
        let taken = requests.take();
        (requests, taken)
    }

    fn commands(requests: &[Request]) -> Vec<String> {
        let lines = requests.iter().flat_map(|request| {
            let lines: Vec<&[u8]> = request.body.split(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len(), request.count + 1);
            assert_eq!(lines.last(), Some(&&b""[..]));
            lines[..request.count].to_vec()
        });
        lines
            .map(|line| serde_json::from_slice::<SubmitTask>(line).unwrap().command)
            .collect()
    }

    #[test]
    fn requests_hold_all_tasks_in_order_and_keep_the_limit() {
        for limit in [1, 100, 200, 1000, 1_000_000] {
            let (requests, taken) = packed(limit, 10);
            assert_eq!(
                commands(&taken),
                commands(&packed(usize::MAX, 10).1),
                "limit {limit}"
            );
            assert_eq!(requests.tasks(), 10);
            let mut first = 0;
            for request in &taken {
                assert_eq!(request.first, first);
                assert!(request.count == 1 || request.body.len() <= limit);
                first += request.count;
            }
        }
        assert_eq!(packed(1_000_000, 10).1.len(), 1);
        assert_eq!(packed(1, 10).1.len(), 10);
    }

    #[test]
    fn a_refused_request_is_halved_without_losing_a_task() {
        let (_, taken) = packed(usize::MAX, 5);
        let (one, other) = taken[0].split().unwrap();
        assert_eq!(
            (one.first, one.count, other.first, other.count),
            (0, 2, 2, 3)
        );
        assert_eq!(commands(&[one, other]), commands(&taken));
        assert_eq!(packed(usize::MAX, 1).1[0].split(), None);
    }

    #[test]
    fn places_name_the_line() {
        let (requests, _) = packed(1000, 3);
        assert_eq!(requests.place(2), "f, line 5: ");
        assert_eq!(Requests::new(1, None).place(0), "");
    }
}
