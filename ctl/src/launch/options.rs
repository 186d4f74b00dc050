//! What a user says about a task.

use std::ffi::OsString;

use clap::Args;
use scitq_shared::command;
use scitq_shared::submit::SubmitTask;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Every property of a task but its command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The task")]
pub struct TaskOptions {
    /// Name for people; need not be unique
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,
    /// Batch that the task belongs to [default: Default]
    #[arg(short, long, value_name = "BATCH")]
    pub batch: Option<String>,
    /// Let this shell read the command, sh without a value: one word is the script as it is, several words are joined
    /// so that the shell reads the same words
    #[arg(long, value_name = "SHELL", num_args = 0..=1, require_equals = true, default_missing_value = "sh")]
    pub shell: Option<String>,
    /// Image to run the command in; bare without one
    #[arg(short = 'd', long, value_name = "IMAGE")]
    pub container: Option<String>,
    /// Options of the container, as words of docker's command line
    #[arg(short = 'O', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub container_options: Option<String>,
    /// URIs to fetch into the input directory, separated by spaces; may be repeated
    #[arg(short, long, value_name = "URI")]
    pub input: Vec<String>,
    /// URI where the output directory is stored (no short form: -o is the format of results)
    #[arg(long, value_name = "URI")]
    pub output: Option<String>,
    /// URIs to fetch once per worker into the resource directory, separated by spaces; may be repeated
    #[arg(short, long, value_name = "URI")]
    pub resource: Vec<String>,
    /// Ids of tasks that must succeed first, separated by commas; may be repeated
    #[arg(short = 'R', long, value_name = "IDS", value_delimiter = ',')]
    pub requires: Vec<i64>,
    /// How often a failed attempt is repeated [default: 0]
    #[arg(long, value_name = "TIMES", allow_negative_numbers = true)]
    pub retry: Option<i32>,
    /// Seconds that fetching input may take
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub download_timeout: Option<i64>,
    /// Seconds that the process may run
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub run_timeout: Option<i64>,
    /// An earlier identical task's stored output may stand in
    #[arg(long)]
    pub use_cache: bool,
    /// Tasks of higher priority are dispatched first; may be negative [default: 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// How many slots of a worker the task takes [default: 1]
    #[arg(long, value_name = "SLOTS", allow_negative_numbers = true)]
    pub weight: Option<i32>,
    /// A second launch with the same key creates nothing and answers the first one's tasks; with --from each task gets
    /// it with its number behind
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Label to find the task by; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// User id that the process runs as
    #[arg(short, long, value_name = "ID", allow_negative_numbers = true)]
    pub uid: Option<i64>,
    /// Group id that the process runs as
    #[arg(short, long, value_name = "ID", allow_negative_numbers = true)]
    pub gid: Option<i64>,
}

/// Reads `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is given as KEY=VALUE".to_owned()),
    }
}

fn words(texts: &[String]) -> Vec<&str> {
    texts
        .iter()
        .flat_map(|text| text.split_whitespace())
        .collect()
}

impl TaskOptions {
    /// The fields that were given, as they are named in JSON; without the idempotency key, which no two tasks share.
    pub fn fields(&self) -> Map<String, Value> {
        let labels: Map<String, Value> = self
            .label
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let all = [
            ("name", json!(self.name)),
            ("batch", json!(self.batch)),
            ("shell", json!(self.shell)),
            ("container", json!(self.container)),
            ("container_options", json!(self.container_options)),
            (
                "input",
                json!((!self.input.is_empty()).then(|| words(&self.input))),
            ),
            ("output", json!(self.output)),
            (
                "resource",
                json!((!self.resource.is_empty()).then(|| words(&self.resource))),
            ),
            (
                "required_task_ids",
                json!((!self.requires.is_empty()).then_some(&self.requires)),
            ),
            ("retry", json!(self.retry)),
            ("download_timeout", json!(self.download_timeout)),
            ("run_timeout", json!(self.run_timeout)),
            ("use_cache", json!(self.use_cache.then_some(true))),
            ("priority", json!(self.priority)),
            ("weight", json!(self.weight)),
            ("labels", json!((!labels.is_empty()).then_some(labels))),
            ("uid", json!(self.uid)),
            ("gid", json!(self.gid)),
        ];
        let given = all.into_iter().filter(|(_, value)| !value.is_null());
        given
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// A task without a command.
    pub fn template(&self) -> Result<SubmitTask, Failure> {
        let mut fields = self.fields();
        fields.insert("command".to_owned(), json!(""));
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| Failure::usage(format!("the options cannot be used: {error}")))
    }

    /// The task that a command line describes, checked by the rules that the server checks.
    pub fn task_of(&self, words: &[OsString]) -> Result<SubmitTask, Failure> {
        let task = SubmitTask {
            command: self.command(words)?,
            idempotency_key: self.idempotency_key.clone(),
            ..self.template()?
        };
        task.clone()
            .validate()
            .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(task)
    }

    /// The command as text: the very words for a process, the script for a shell.
    fn command(&self, words: &[OsString]) -> Result<String, Failure> {
        match words {
            [script] if self.shell.is_some() => script.to_str().map(str::to_owned).ok_or_else(|| {
                Failure::usage("the script is not valid UTF-8")
                    .remedy("write such bytes as the shell's own escapes, for instance $(printf '\\377')")
            }),
            words => Ok(command::join(words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::os::unix::ffi::OsStringExt as _;

    #[derive(clap::Parser)]
    struct Launch {
        #[command(flatten)]
        arguments: super::super::LaunchArguments,
    }

    fn task(words: &[&str]) -> Result<SubmitTask, String> {
        let launch = Launch::try_parse_from(["launch"].iter().chain(words))
            .map_err(|error| error.to_string())?;
        launch
            .arguments
            .task
            .task_of(&launch.arguments.words)
            .map_err(|failure| failure.to_string())
    }

    fn words_that_run(words: &[&str]) -> Vec<OsString> {
        command::split(&task(words).unwrap().command).unwrap()
    }

    #[test]
    fn words_reach_the_process_as_they_are() {
        let table: [(&[&str], &[&str]); 7] = [
            (&["echo", "Hello world!"], &["echo", "Hello world!"]),
            (
                &["-n", "x", "git", "log", "-n", "1", "--", "a b"],
                &["git", "log", "-n", "1", "--", "a b"],
            ),
            (&["--", "-odd", "--", "--help"], &["-odd", "--", "--help"]),
            (
                &["echo", "$HOME", "*", "'", "\"", "\\", "", "\n\t"],
                &["echo", "$HOME", "*", "'", "\"", "\\", "", "\n\t"],
            ),
            (
                &["echo", "-o", "json", "--server", "x", "-h"],
                &["echo", "-o", "json", "--server", "x", "-h"],
            ),
            (&["--shell", "--", "echo", "a b"], &["echo", "a b"]),
            (&["a=b", "é"], &["a=b", "é"]),
        ];
        for (given, expected) in table {
            assert_eq!(words_that_run(given), *expected, "{given:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_reach_the_process() {
        let word = OsString::from_vec(vec![b'a', 0xff, 1, b'\'']);
        let words = [OsString::from("echo"), word];
        let task = TaskOptions::default().task_of(&words).unwrap();
        assert_eq!(command::split(&task.command).unwrap(), words);
        let shell = TaskOptions {
            shell: Some("sh".to_owned()),
            ..Default::default()
        };
        assert!(shell.task_of(&[OsString::from_vec(vec![0xff])]).is_err());
    }

    #[test]
    fn one_word_for_a_shell_is_its_script() {
        let script = task(&["--shell=bash", "for i in 1 2; do echo $i; done | tac"]).unwrap();
        assert_eq!(script.command, "for i in 1 2; do echo $i; done | tac");
        assert_eq!(script.shell.as_deref(), Some("bash"));
        let words = task(&["--shell", "echo", "$HOME x"]).unwrap();
        assert_eq!(
            (words.command.as_str(), words.shell.as_deref()),
            ("echo '$HOME x'", Some("sh"))
        );
    }

    #[test]
    fn every_option_becomes_its_field() {
        let given = [
            "-n",
            "name",
            "-b",
            "batch",
            "-d",
            "image",
            "-O",
            "--gpus all",
            "-i",
            "s3://a s3://b",
            "-i",
            "c",
            "--output",
            "s3://o",
            "-r",
            "d",
            "-R",
            "1,2",
            "-R",
            "3",
            "--retry",
            "4",
            "--download-timeout",
            "5",
            "--run-timeout",
            "6",
            "--use-cache",
            "--priority",
            "-7",
            "--weight",
            "8",
            "--idempotency-key",
            "key",
            "--label",
            "a=b=c",
            "--label",
            "d=",
            "-u",
            "9",
            "-g",
            "10",
            "true",
        ];
        let expected = json!({
            "command": "true", "name": "name", "batch": "batch", "container": "image",
            "container_options": "--gpus all", "input": ["s3://a", "s3://b", "c"], "output": "s3://o", "resource": ["d"],
            "required_task_ids": [1, 2, 3], "retry": 4, "download_timeout": 5, "run_timeout": 6, "use_cache": true,
            "priority": -7, "weight": 8, "idempotency_key": "key", "labels": {"a": "b=c", "d": ""}, "uid": 9, "gid": 10,
        });
        assert_eq!(
            serde_json::to_value(task(&given).unwrap()).unwrap(),
            expected
        );
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_rule() {
        let table: [(&[&str], &str); 9] = [
            (&[], "required"),
            (&[""], "command cannot be used: the command is empty"),
            (
                &["--retry", "-1", "true"],
                "retry must be between 0 and 1000, not -1",
            ),
            (&["-b", "a/b", "true"], "batch must not contain '/'"),
            (&["--label", "x", "true"], "KEY=VALUE"),
            (&["-R", "x", "true"], "invalid digit"),
            (
                &["-O", "-e A", "true"],
                "container_options needs a container",
            ),
            (&["--unknown", "true"], "--unknown"),
            (&["--from", "f", "true"], "cannot be used with"),
        ];
        for (given, part) in table {
            let error = task(given).unwrap_err();
            assert!(error.contains(part), "{given:?}: {error}");
        }
    }
}
