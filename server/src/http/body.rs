use actix_web::HttpRequest;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::Payload;
use futures::StreamExt as _;
use scitq_shared::submit::{FieldError, SubmitTask, ValidTask};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::ApiError;

/// Reads a request's body, at most `limit` bytes.
pub(super) async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
) -> Result<Vec<u8>, ApiError> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(ApiError::TooLong { limit });
    }
    let mut body = Vec::with_capacity(
        announced
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(0),
    );
    while let Some(part) = payload.next().await {
        let part =
            part.map_err(|error| ApiError::Unreadable(format!("the body broke off: {error}")))?;
        if body.len() + part.len() > limit {
            return Err(ApiError::TooLong { limit });
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

fn text(body: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(body).map_err(|error| {
        ApiError::Unreadable(format!(
            "the body is not valid UTF-8 at byte {}",
            error.valid_up_to()
        ))
    })
}

/// Reads a JSON body. Errors name the field.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    one(text(body)?, None)
}

/// Reads JSON; the error names the field, and which of many it stands in.
fn one<'a, T: Deserialize<'a>>(text: &'a str, index: Option<usize>) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let message = inner.to_string();
            // serde's message names an unknown or missing field itself; the path is that of its parent.
            let named = message
                .split('`')
                .nth(1)
                .filter(|_| message.contains(" field `"))
                .map(str::to_owned);
            let field = named.unwrap_or(if path == "." { "body".to_owned() } else { path });
            ApiError::Field {
                error: FieldError::new(field, format!("cannot be used: {message}")),
                index,
            }
        } else {
            ApiError::Unreadable(match index {
                Some(index) => format!("task {index} of the body is not valid JSON: {inner}"),
                None => format!("the body is not valid JSON: {inner}"),
            })
        }
    })?;
    deserializer.end().map_err(|error| {
        ApiError::Unreadable(format!("the body goes on behind its end: {error}"))
    })?;
    Ok(value)
}

/// Reads and checks the tasks of a submission: one JSON object, an array of them, or, with `lines`, one object a line.
pub(super) fn tasks(body: &[u8], lines: bool) -> Result<Vec<ValidTask>, ApiError> {
    let text = text(body)?;
    if lines {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate();
        return lines
            .map(|(index, line)| checked(line, Some(index)))
            .collect();
    }
    if text.trim_start().starts_with('[') {
        let items: Vec<&RawValue> = one(text, None)?;
        return items
            .iter()
            .enumerate()
            .map(|(index, item)| checked(item.get(), Some(index)))
            .collect();
    }
    if text.trim().is_empty() {
        return Err(ApiError::Unreadable(
            "the body is empty; a task as a JSON object, or an array of them, is wanted".to_owned(),
        ));
    }
    Ok(vec![checked(text, None)?])
}

fn checked(text: &str, index: Option<usize>) -> Result<ValidTask, ApiError> {
    let task: SubmitTask = one(text, index)?;
    task.validate()
        .map_err(|error| ApiError::Field { error, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &[u8], lines: bool) -> ApiError {
        tasks(body, lines).unwrap_err()
    }

    #[test]
    fn objects_arrays_and_lines() {
        assert_eq!(tasks(br#"{"command":"a"}"#, false).unwrap().len(), 1);
        assert_eq!(
            tasks(br#" [{"command":"a"},{"command":"b"}] "#, false)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(tasks(b"[]", false).unwrap().len(), 0);
        assert_eq!(
            tasks(b"{\"command\":\"a\"}\n\n{\"command\":\"b\"}\n", true)
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn errors_name_field_and_index() {
        type Row = (
            &'static [u8],
            bool,
            &'static str,
            Option<usize>,
            &'static str,
        );
        let table: &[Row] = &[
            (br#"{"command":""}"#, false, "command", None, "empty"),
            (
                br#"[{"command":"a"},{"command":"b","retry":-1}]"#,
                false,
                "retry",
                Some(1),
                "between 0 and 1000",
            ),
            (
                br#"[{"command":"a"},{"comand":"b"}]"#,
                false,
                "comand",
                Some(1),
                "unknown field",
            ),
            (br#"{"command":5}"#, false, "command", None, "invalid type"),
            (
                br#"{"command":"a","retry":"x"}"#,
                false,
                "retry",
                None,
                "invalid type",
            ),
            (
                br#"{"command":"a","labels":{"x":1}}"#,
                false,
                "labels.x",
                None,
                "invalid type",
            ),
            (b"{}", false, "command", None, "missing field"),
            (b"5", false, "body", None, "invalid type"),
            (
                b"{\"command\":\"a\"}\n{\"command\":\"b\",\"weight\":0}",
                true,
                "weight",
                Some(1),
                "between 1 and",
            ),
        ];
        for (body, lines, field, index, part) in table {
            match error(body, *lines) {
                ApiError::Field {
                    error,
                    index: found,
                } => {
                    assert_eq!((error.field.as_str(), found), (*field, *index), "{error}");
                    assert!(error.rule.contains(part), "{error}");
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn unreadable_bodies_say_why() {
        let table: &[(&[u8], &str)] = &[
            (b"", "is empty"),
            (b"{", "not valid JSON"),
            (b"{\"command\":\"\xff\"}", "not valid UTF-8 at byte 12"),
            (b"{\"command\":\"a\"} x", "goes on behind its end"),
        ];
        for (body, part) in table {
            let error = error(body, false);
            assert!(
                matches!(&error, ApiError::Unreadable(text) if text.contains(part)),
                "{error}"
            );
        }
    }
}
