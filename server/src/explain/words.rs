//! Small pieces of sentences.

use scitq_shared::Timestamp;

/// "one task", "3 tasks"; of words that take an s, and "retry".
pub(super) fn count(number: u64, word: &str) -> String {
    match number {
        1 => format!("one {word}"),
        _ => match word.strip_suffix('y') {
            Some(stem) => format!("{number} {stem}ies"),
            None => format!("{number} {word}s"),
        },
    }
}

/// "task 1", "tasks 1 and 2", "tasks 1, 2 and 7 more".
pub(super) fn these(word: &str, named: &[String], more: usize) -> String {
    let mut all = named.to_vec();
    if more > 0 {
        all.push(format!("{more} more"));
    }
    match all.as_slice() {
        [] => format!("no {word}"),
        [one] if more == 0 => format!("{word} {one}"),
        [one] => format!("{one} {word}s"),
        [first @ .., last] => format!("{word}s {} and {last}", first.join(", ")),
    }
}

/// A moment, in UTC.
pub(super) fn since(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A word as a shell reads it: quoted where it must be.
pub(super) fn shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
