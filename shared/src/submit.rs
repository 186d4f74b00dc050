//! What a user submits, and the rules it is checked by.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::command;
use crate::definition::TaskDefinition;
use crate::ids::{Revision, TaskId};
use crate::names::BatchName;

/// Longest command in bytes. One word of a command ends at 128 KiB on Linux (`MAX_ARG_STRLEN`), a command may have several.
pub const MAX_COMMAND_BYTES: usize = 1024 * 1024;
/// Longest name, URI, label or other short text in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Most labels of one task.
pub const MAX_LABELS: usize = 64;
/// Most tasks that one task may wait for.
pub const MAX_REQUIREMENTS: usize = 100_000;
/// Priorities lie between minus this and this.
pub const MAX_PRIORITY: i32 = 1_000_000;

/// Text or a list of texts: URIs may be given as a JSON array or, as in scitq 1, as one text separated by white space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, or an array of texts")]
pub enum TextOrList {
    /// Separated by white space.
    Text(String),
    /// One each.
    List(Vec<String>),
}

impl Default for TextOrList {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl TextOrList {
    /// The single texts.
    pub fn into_list(self) -> Vec<String> {
        match self {
            Self::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
            Self::List(list) => list,
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::List(list) => list.is_empty(),
        }
    }
}

/// A task as it is submitted. Only `command` is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    /// The command as one line of text. Without a shell it is split into words by the shell's quoting rules, and nothing is expanded.
    pub command: String,
    /// A shell to run the command with: `sh`, `bash`, or a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Name for people; need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Batch, `Default` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Image to run the command in; bare without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Options of the container, as words of docker's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_options: Option<String>,
    /// URIs fetched into the input directory.
    #[serde(default, skip_serializing_if = "TextOrList::is_empty")]
    pub input: TextOrList,
    /// URI where the output directory is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// URIs fetched once per worker into the resource directory.
    #[serde(default, skip_serializing_if = "TextOrList::is_empty")]
    pub resource: TextOrList,
    /// Ids of tasks that must succeed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_task_ids: Vec<i64>,
    /// How often a failed attempt is repeated, 0 to 1000.
    #[serde(default)]
    pub retry: i32,
    /// Seconds that fetching input may take, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_timeout: Option<i64>,
    /// Seconds that the process may run, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_timeout: Option<i64>,
    /// True when an earlier identical task's stored output may stand in.
    #[serde(default)]
    pub use_cache: bool,
    /// Tasks of higher priority are dispatched first; −1,000,000 to 1,000,000, 0 by default.
    #[serde(default)]
    pub priority: i32,
    /// How many slots of a worker the task takes, 1 to 10,000, 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// A key of the submitter: a second submission with the same key creates nothing and answers the first's task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Free pairs of key and value, to find tasks by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// User id that the process runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<i64>,
    /// Group id that the process runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<i64>,
}

/// A submitted task that keeps all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidTask {
    /// Batch.
    pub batch: BatchName,
    /// Definition at revision 1.
    pub definition: TaskDefinition,
    /// Ids of tasks that must succeed first: sorted, each once.
    pub requirements: Vec<TaskId>,
    /// How often a failed attempt is repeated.
    pub retry: u16,
    /// Higher first.
    pub priority: i32,
    /// The submitter's key.
    pub idempotency_key: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field} {rule}")]
pub struct FieldError {
    /// The field as the submitter wrote it.
    pub field: String,
    /// The rule that it breaks, to be read behind the field's name.
    pub rule: String,
}

impl FieldError {
    /// Names a field and the rule that it breaks.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }
}

fn ranged<T: TryFrom<i64>>(field: &str, value: i64, low: i64, high: i64) -> Result<T, FieldError> {
    let rule = || {
        FieldError::new(
            field,
            format!("must be between {low} and {high}, not {value}"),
        )
    };
    if (low..=high).contains(&value) {
        T::try_from(value).map_err(|_| rule())
    } else {
        Err(rule())
    }
}

fn text(field: &str, value: Option<String>) -> Result<Option<String>, FieldError> {
    match &value {
        Some(text) if text.trim().is_empty() => Err(FieldError::new(
            field,
            "must not be empty (leave it out instead)",
        )),
        Some(text) => check_text(field, text).map(|()| value),
        None => Ok(None),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(FieldError::new(
            field,
            format!(
                "is {} bytes long, at most {MAX_TEXT_BYTES} are allowed",
                text.len()
            ),
        ));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(FieldError::new(
            field,
            format!("must not contain the control character {control:?}"),
        )),
        None => Ok(()),
    }
}

fn uris(field: &str, value: TextOrList) -> Result<Vec<String>, FieldError> {
    let list = value.into_list();
    for uri in &list {
        if uri.trim().is_empty() {
            return Err(FieldError::new(field, "must not hold an empty URI"));
        }
        check_text(field, uri)?;
    }
    Ok(list)
}

impl SubmitTask {
    /// Checks every rule that needs no database. The first broken rule is reported.
    pub fn validate(self) -> Result<ValidTask, FieldError> {
        let batch = match self.batch {
            Some(name) => {
                BatchName::new(name).map_err(|error| FieldError::new("batch", error.to_string()))?
            }
            None => BatchName::default(),
        };
        let shell = text("shell", self.shell)?;
        if self.command.len() > MAX_COMMAND_BYTES {
            let rule = format!(
                "is {} bytes long, at most {MAX_COMMAND_BYTES} are allowed",
                self.command.len()
            );
            return Err(FieldError::new("command", rule));
        }
        command::check(&self.command, shell.is_some())
            .map_err(|error| FieldError::new("command", format!("cannot be used: {error}")))?;
        if let Some(options) = &self.container_options {
            command::split(options).map_err(|error| {
                FieldError::new("container_options", format!("cannot be used: {error}"))
            })?;
        }
        if self.container_options.is_some() && self.container.is_none() {
            return Err(FieldError::new("container_options", "needs a container"));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(FieldError::new(
                "labels",
                format!(
                    "has {} entries, at most {MAX_LABELS} are allowed",
                    self.labels.len()
                ),
            ));
        }
        for (key, value) in &self.labels {
            if key.is_empty() {
                return Err(FieldError::new("labels", "must not have an empty key"));
            }
            check_text("labels", key)?;
            check_text("labels", value)?;
        }
        if self.required_task_ids.len() > MAX_REQUIREMENTS {
            let rule = format!(
                "has {} entries, at most {MAX_REQUIREMENTS} are allowed",
                self.required_task_ids.len()
            );
            return Err(FieldError::new("required_task_ids", rule));
        }
        let mut requirements = Vec::with_capacity(self.required_task_ids.len());
        for id in self.required_task_ids {
            requirements.push(TaskId(ranged("required_task_ids", id, 1, i64::MAX)?));
        }
        requirements.sort_unstable();
        requirements.dedup();
        let seconds = |field, value: Option<i64>| {
            value
                .map(|v| ranged(field, v, 1, i64::from(i32::MAX)))
                .transpose()
        };
        let id = |field, value: Option<i64>| {
            value
                .map(|v| ranged(field, v, 0, i64::from(u32::MAX) - 1))
                .transpose()
        };
        Ok(ValidTask {
            batch,
            definition: TaskDefinition {
                revision: Revision(1),
                name: text("name", self.name)?,
                command: self.command,
                shell,
                container: text("container", self.container)?,
                container_options: text("container_options", self.container_options)?,
                input: uris("input", self.input)?,
                output: text("output", self.output)?,
                resource: uris("resource", self.resource)?,
                download_timeout_seconds: seconds("download_timeout", self.download_timeout)?,
                run_timeout_seconds: seconds("run_timeout", self.run_timeout)?,
                use_cache: self.use_cache,
                weight: ranged("weight", i64::from(self.weight.unwrap_or(1)), 1, 10_000)?,
                uid: id("uid", self.uid)?,
                gid: id("gid", self.gid)?,
            },
            requirements,
            retry: ranged("retry", i64::from(self.retry), 0, 1000)?,
            priority: ranged(
                "priority",
                i64::from(self.priority),
                i64::from(-MAX_PRIORITY),
                i64::from(MAX_PRIORITY),
            )?,
            idempotency_key: text("idempotency_key", self.idempotency_key)?,
            labels: self.labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(json: &str) -> String {
        let task: SubmitTask = serde_json::from_str(json).unwrap();
        task.validate().unwrap_err().to_string()
    }

    #[test]
    fn each_rule_names_its_field() {
        let table = [
            (
                r#"{"command":""}"#,
                "command cannot be used: the command is empty",
            ),
            (
                r#"{"command":"echo 'a"}"#,
                "command cannot be used: the ' quote opened at byte 5 is never closed",
            ),
            (
                r#"{"command":"a","batch":"x/y"}"#,
                "batch must not contain '/' (allowed is every printable character but '/')",
            ),
            (
                r#"{"command":"a","retry":-1}"#,
                "retry must be between 0 and 1000, not -1",
            ),
            (
                r#"{"command":"a","weight":0}"#,
                "weight must be between 1 and 10000, not 0",
            ),
            (
                r#"{"command":"a","priority":1000001}"#,
                "priority must be between -1000000 and 1000000, not 1000001",
            ),
            (
                r#"{"command":"a","run_timeout":0}"#,
                "run_timeout must be between 1 and 2147483647, not 0",
            ),
            (
                r#"{"command":"a","uid":-1}"#,
                "uid must be between 0 and 4294967294, not -1",
            ),
            (
                r#"{"command":"a","name":""}"#,
                "name must not be empty (leave it out instead)",
            ),
            (
                r#"{"command":"a","name":"x\u001b[2J"}"#,
                "name must not contain the control character '\\u{1b}'",
            ),
            (
                r#"{"command":"a","container_options":"-e A"}"#,
                "container_options needs a container",
            ),
            (
                r#"{"command":"a","labels":{"":"x"}}"#,
                "labels must not have an empty key",
            ),
            (
                r#"{"command":"a","required_task_ids":[0]}"#,
                "required_task_ids must be between 1 and 9223372036854775807, not 0",
            ),
        ];
        for (json, expected) in table {
            assert_eq!(broken(json), expected, "{json}");
        }
    }

    #[test]
    fn json_errors_name_the_field() {
        let unknown = serde_json::from_str::<SubmitTask>(r#"{"command":"a","comand":1}"#)
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("unknown field `comand`"), "{unknown}");
    }

    #[test]
    fn defaults_and_lists() {
        let json = r#"{"command":"a","input":"s3://a  s3://b","required_task_ids":[5,3,5]}"#;
        let task = serde_json::from_str::<SubmitTask>(json)
            .unwrap()
            .validate()
            .unwrap();
        assert_eq!(task.batch.as_str(), "Default");
        assert_eq!(task.definition.input, ["s3://a", "s3://b"]);
        assert_eq!(task.requirements, [TaskId(3), TaskId(5)]);
        assert_eq!(task.definition.weight, 1);
    }
}
