//! The command of a task as text, and the words that reach the process.
//!
//! A command is kept as one line of text, because people read, search and rewrite it as text. Without a shell it is
//! split into words by the quoting rules of the POSIX shell (white space, `'…'`, `"…"`, `\`) plus `$'…'` of bash and
//! POSIX 2024 for bytes that text cannot hold; nothing is expanded. [`join`] is the inverse: words joined by it come
//! out of [`split`] byte for byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Why a command cannot be split into words. Positions count bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("the command is empty")]
    Empty,
    /// A quote that is never closed.
    #[error("the {quote} quote opened at byte {at} is never closed")]
    UnbalancedQuote {
        /// The quote as it was written.
        quote: &'static str,
        /// Where it was opened.
        at: usize,
    },
    /// A backslash with nothing behind it.
    #[error("the backslash at the end escapes nothing")]
    TrailingBackslash,
    /// An escape in `$'…'` that is not known or cannot be used.
    #[error(
        "the escape at byte {at} in $'…' is not one of \\\\ \\' \\\" \\a \\b \\e \\f \\n \\r \\t \\v \\xHH, or it is \\x00"
    )]
    BadEscape {
        /// Where the backslash stands.
        at: usize,
    },
    /// No process can be given a NUL byte.
    #[error("byte {at} is NUL, which no command can contain")]
    Nul {
        /// Where it stands.
        at: usize,
    },
}

/// Checks a command as it is checked at submission: not empty, no NUL, and, when no shell will read it, quotes that
/// balance and a first word.
pub fn check(command: &str, with_shell: bool) -> Result<(), CommandError> {
    if let Some(at) = command.bytes().position(|byte| byte == 0) {
        return Err(CommandError::Nul { at });
    }
    if command.trim().is_empty() {
        return Err(CommandError::Empty);
    }
    if with_shell {
        Ok(())
    } else {
        split(command).map(|_| ())
    }
}

/// Splits a command into the words given to the process. At least one word, the first not empty.
pub fn split(command: &str) -> Result<Vec<OsString>, CommandError> {
    let bytes = command.as_bytes();
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            0 => return Err(CommandError::Nul { at }),
            b' ' | b'\t' | b'\n' | b'\r' => {
                words.extend(word.take().map(OsString::from_vec));
                at += 1;
            }
            b'\\' => {
                let next = *bytes.get(at + 1).ok_or(CommandError::TrailingBackslash)?;
                // A backslash before a line end joins the lines, as in a shell.
                if next != b'\n' {
                    word.get_or_insert_default().push(next);
                }
                at += 2;
            }
            b'\'' => at = single_quoted(bytes, at, word.get_or_insert_default())?,
            b'"' => at = double_quoted(bytes, at, word.get_or_insert_default())?,
            b'$' if bytes.get(at + 1) == Some(&b'\'') => {
                at = escaped(bytes, at, word.get_or_insert_default())?;
            }
            byte => {
                word.get_or_insert_default().push(byte);
                at += 1;
            }
        }
    }
    words.extend(word.map(OsString::from_vec));
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(CommandError::Empty),
    }
}

fn single_quoted(bytes: &[u8], open: usize, word: &mut Vec<u8>) -> Result<usize, CommandError> {
    let unbalanced = CommandError::UnbalancedQuote {
        quote: "'",
        at: open,
    };
    let length = bytes[open + 1..]
        .iter()
        .position(|byte| *byte == b'\'')
        .ok_or(unbalanced)?;
    word.extend_from_slice(&bytes[open + 1..open + 1 + length]);
    Ok(open + length + 2)
}

fn double_quoted(bytes: &[u8], open: usize, word: &mut Vec<u8>) -> Result<usize, CommandError> {
    let unbalanced = CommandError::UnbalancedQuote {
        quote: "\"",
        at: open,
    };
    let mut at = open + 1;
    loop {
        match bytes.get(at).ok_or_else(|| unbalanced.clone())? {
            b'"' => return Ok(at + 1),
            b'\\' => {
                let next = *bytes.get(at + 1).ok_or_else(|| unbalanced.clone())?;
                match next {
                    b'"' | b'\\' | b'$' | b'`' => word.push(next),
                    b'\n' => {}
                    other => word.extend_from_slice(&[b'\\', other]),
                }
                at += 2;
            }
            byte => {
                word.push(*byte);
                at += 1;
            }
        }
    }
}

fn escaped(bytes: &[u8], open: usize, word: &mut Vec<u8>) -> Result<usize, CommandError> {
    let unbalanced = CommandError::UnbalancedQuote {
        quote: "$'",
        at: open,
    };
    let mut at = open + 2;
    loop {
        match bytes.get(at).ok_or_else(|| unbalanced.clone())? {
            b'\'' => return Ok(at + 1),
            b'\\' => {
                let escape = *bytes.get(at + 1).ok_or_else(|| unbalanced.clone())?;
                let (byte, length) = match escape {
                    b'\\' | b'\'' | b'"' => (escape, 2),
                    b'a' => (0x07, 2),
                    b'b' => (0x08, 2),
                    b'e' => (0x1b, 2),
                    b'f' => (0x0c, 2),
                    b'n' => (b'\n', 2),
                    b'r' => (b'\r', 2),
                    b't' => (b'\t', 2),
                    b'v' => (0x0b, 2),
                    b'x' => {
                        let digits = bytes
                            .get(at + 2..at + 4)
                            .and_then(|d| std::str::from_utf8(d).ok());
                        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
                        match byte {
                            Some(byte) if byte != 0 => (byte, 4),
                            _ => return Err(CommandError::BadEscape { at }),
                        }
                    }
                    _ => return Err(CommandError::BadEscape { at }),
                };
                word.push(byte);
                at += length;
            }
            byte => {
                word.push(*byte);
                at += 1;
            }
        }
    }
}

/// Joins words into a command that [`split`] and every POSIX shell read back as the same words.
///
/// The words must not contain NUL, as no words of a process do.
pub fn join<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| quote(word.as_ref())).collect();
    quoted.join(" ")
}

fn quote(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        // All of these are ASCII, so the conversion cannot lose anything.
        return String::from_utf8_lossy(bytes).into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            let mut quoted = String::from("$'");
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '\'' | '\\' => quoted.extend(['\\', c]),
                        '\n' => quoted.push_str(r"\n"),
                        '\t' => quoted.push_str(r"\t"),
                        c if c.is_ascii_control() => {
                            push_escape(&mut quoted, c as u32);
                        }
                        c => quoted.push(c),
                    }
                }
                for byte in chunk.invalid() {
                    push_escape(&mut quoted, u32::from(*byte));
                }
            }
            quoted.push('\'');
            quoted
        }
    }
}

/// Appends `\xHH`.
fn push_escape(quoted: &mut String, byte: u32) {
    quoted.push_str("\\x");
    for shift in [4, 0] {
        quoted.push(char::from_digit((byte >> shift) & 0xf, 16).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(command: &str) -> Result<Vec<String>, CommandError> {
        split(command).map(|words| {
            words
                .into_iter()
                .map(|w| w.into_string().unwrap())
                .collect()
        })
    }

    #[test]
    fn splitting_follows_the_shell() {
        let table: &[(&str, &[&str])] = &[
            ("echo hello", &["echo", "hello"]),
            ("  echo \t hello\n", &["echo", "hello"]),
            ("echo 'Hello world!'", &["echo", "Hello world!"]),
            (r#"echo "a $b \"c\" \x""#, &["echo", r#"a $b "c" \x"#]),
            (r"echo a\ b \'", &["echo", "a b", "'"]),
            ("echo '' \"\"", &["echo", "", ""]),
            ("a'b'\"c\"d", &["abcd"]),
            (r"echo $'a\nb\x41\'\\'", &["echo", "a\nbA'\\"]),
            ("echo a\\\nb", &["echo", "ab"]),
            (
                "echo $HOME *.txt ~ | > &",
                &["echo", "$HOME", "*.txt", "~", "|", ">", "&"],
            ),
        ];
        for (command, expected) in table {
            assert_eq!(words(command).unwrap(), *expected, "{command}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        let table = [
            ("", CommandError::Empty),
            (" \n", CommandError::Empty),
            ("'' a", CommandError::Empty),
            (
                "echo 'a",
                CommandError::UnbalancedQuote { quote: "'", at: 5 },
            ),
            (
                "echo \"a",
                CommandError::UnbalancedQuote { quote: "\"", at: 5 },
            ),
            (
                "echo \"a\\",
                CommandError::UnbalancedQuote { quote: "\"", at: 5 },
            ),
            (
                "echo $'a",
                CommandError::UnbalancedQuote { quote: "$'", at: 5 },
            ),
            ("echo a\\", CommandError::TrailingBackslash),
            (r"echo $'\q'", CommandError::BadEscape { at: 7 }),
            (r"echo $'\x00'", CommandError::BadEscape { at: 7 }),
            (r"echo $'\x4", CommandError::BadEscape { at: 7 }),
            ("a\0b", CommandError::Nul { at: 1 }),
        ];
        for (command, expected) in table {
            assert_eq!(split(command), Err(expected), "{command:?}");
        }
        assert_eq!(
            check("echo 'a", true),
            Ok(()),
            "a shell reads its own quotes"
        );
        assert_eq!(check("", true), Err(CommandError::Empty));
    }

    proptest! {
        #[test]
        fn joined_words_come_back_byte_for_byte(
            words in prop::collection::vec(prop::collection::vec(1u8.., 0..12), 1..6)
        ) {
            prop_assume!(!words[0].is_empty());
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assert_eq!(split(&join(&words)).unwrap(), words);
        }

        #[test]
        fn splitting_never_panics(command in ".*") {
            let _ = split(&command);
        }

        #[test]
        fn a_shell_reads_joined_words_alike(words in prop::collection::vec("[ -~\u{e9}]{0,8}", 1..4)) {
            let mut all = vec![String::from("printf"), String::from("%s\\0")];
            all.extend(words.iter().cloned());
            let output = std::process::Command::new("sh").arg("-c").arg(join(&all)).output().unwrap();
            let expected: Vec<u8> = words.iter().flat_map(|w| w.bytes().chain([0])).collect();
            prop_assert_eq!(output.stdout, expected);
        }
    }
}
