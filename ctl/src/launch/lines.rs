//! Tasks from lines: commands and JSON objects.

use std::io::{BufRead, Read as _};

use scitq_shared::submit::SubmitTask;
use serde_json::{Map, Value};

use super::options::TaskOptions;
use crate::failure::Failure;

/// Longest line in bytes: room for the longest command, or a JSON object with the most requirements, and no more, so
/// that an endless line cannot take all memory.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads tasks, one a line, and gives each with its line's number to `add`.
///
/// The first character decides: `{` begins a JSON object, `#` a comment; a line of white space is skipped; everything
/// else is a command, taken as it stands without its line end.
pub fn read<R: BufRead + ?Sized>(
    reader: &mut R,
    name: &str,
    options: &TaskOptions,
    add: &mut impl FnMut(usize, SubmitTask) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let defaults = options.fields();
    let template = options.template()?;
    let mut bytes = Vec::new();
    let mut tasks = 0_usize;
    for number in 1.. {
        bytes.clear();
        let mut limited = (&mut *reader).take(MAX_LINE_BYTES + 1);
        let length = limited
            .read_until(b'\n', &mut bytes)
            .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
        if length == 0 {
            break;
        }
        let wrong = |what: String| Failure::usage(format!("{name}, line {number}: {what}"));
        if length as u64 > MAX_LINE_BYTES {
            return Err(wrong(format!("is longer than {MAX_LINE_BYTES} bytes")));
        }
        let line = std::str::from_utf8(&bytes).map_err(|error| {
            wrong(format!(
                "byte {} is not valid UTF-8",
                error.valid_up_to() + 1
            ))
            .remedy(r"a command can hold any byte as $'\xff'")
        })?;
        let line = if number == 1 {
            line.trim_start_matches('\u{feff}')
        } else {
            line
        };
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let Some(task) = task_of(line, &defaults, &template).map_err(wrong)? else {
            continue;
        };
        task.clone()
            .validate()
            .map_err(|error| wrong(error.to_string()))?;
        tasks += 1;
        add(number, task)?;
    }
    if tasks == 0 {
        return Err(
            Failure::usage(format!("{name} holds no task")).remedy("write one command a line")
        );
    }
    Ok(())
}

/// The task of a line; none when the line holds none.
fn task_of(
    line: &str,
    defaults: &Map<String, Value>,
    template: &SubmitTask,
) -> Result<Option<SubmitTask>, String> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if !line.starts_with('{') {
        return Ok(Some(SubmitTask {
            command: line.to_owned(),
            ..template.clone()
        }));
    }
    let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        format!("is no JSON object: {error} (a command that begins with {{ needs a space in front)")
    })?;
    for (name, value) in defaults {
        match (fields.get_mut(name), value) {
            // labels add up; the line's own win
            (Some(Value::Object(own)), Value::Object(given)) if name == "labels" => {
                for (key, value) in given {
                    own.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
    serde_json::from_value(Value::Object(fields))
        .map(Some)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(
        text: impl AsRef<[u8]>,
        options: &TaskOptions,
    ) -> Result<Vec<(usize, SubmitTask)>, String> {
        let mut tasks = Vec::new();
        read(&mut text.as_ref(), "file", options, &mut |line, task| {
            tasks.push((line, task));
            Ok(())
        })
        .map_err(|failure| failure.to_string())?;
        Ok(tasks)
    }

    #[test]
    fn commands_comments_and_objects() {
        let text = "\u{feff}echo 'a b'\r\n\n# comment\n  \t\n {not json\n{\"command\":\"sort x\",\"name\":\"n\"}\necho last # kept";
        let tasks = read_text(text, &TaskOptions::default()).unwrap();
        let seen: Vec<(usize, &str)> = tasks
            .iter()
            .map(|(line, task)| (*line, task.command.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (1, "echo 'a b'"),
                (5, " {not json"),
                (6, "sort x"),
                (7, "echo last # kept")
            ]
        );
        assert_eq!(tasks[2].1.name.as_deref(), Some("n"));
    }

    #[test]
    fn options_hold_where_a_line_says_nothing() {
        let options = TaskOptions {
            batch: Some("b".to_owned()),
            shell: Some("sh".to_owned()),
            retry: Some(3),
            label: vec![
                ("k".to_owned(), "option".to_owned()),
                ("x".to_owned(), "1".to_owned()),
            ],
            ..Default::default()
        };
        let text = "echo $HOME | wc\n{\"command\":\"a\",\"retry\":0,\"shell\":null,\"labels\":{\"k\":\"line\"}}\n";
        let tasks = read_text(text, &options).unwrap();
        let (command, object) = (&tasks[0].1, &tasks[1].1);
        assert_eq!((command.shell.as_deref(), command.retry), (Some("sh"), 3));
        assert_eq!(
            (
                object.batch.as_deref(),
                object.shell.as_deref(),
                object.retry
            ),
            (Some("b"), None, 0)
        );
        let labels: Vec<(&str, &str)> = object
            .labels
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(labels, [("k", "line"), ("x", "1")]);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_line() {
        let table: [(&[u8], &str); 9] = [
            (b"", "file holds no task"),
            (b"# nothing\n\n", "file holds no task"),
            (
                b"true\necho 'a\n",
                "file, line 2: command cannot be used: the ' quote opened at byte 5 is never closed",
            ),
            (b"\xff\xfe\n", "file, line 1: byte 1 is not valid UTF-8"),
            (
                b"{\"command\":\"a\",\"comand\":1}",
                "file, line 1: unknown field `comand`",
            ),
            (b"{\"command\":5}", "file, line 1: invalid type"),
            (b"{ echo a; }", "file, line 1: is no JSON object"),
            (b"{\"name\":\"x\"}", "missing field `command`"),
            (
                b"true\n{\"command\":\"a\",\"retry\":-1}",
                "file, line 2: retry must be between 0 and 1000, not -1",
            ),
        ];
        for (text, part) in table {
            let error = read_text(text, &TaskOptions::default()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_endless_line_ends() {
        let mut endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let failure = read(
            &mut endless,
            "file",
            &TaskOptions::default(),
            &mut |_, _| Ok(()),
        )
        .unwrap_err();
        assert!(
            failure.message.contains("line 1: is longer than"),
            "{failure}"
        );
    }
}
