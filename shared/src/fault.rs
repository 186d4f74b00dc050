//! The words of a failure that is the worker's own, and what of them two workers have in common (D13). Made and read in
//! one place, so that one does not change without the other.

use std::io;
use std::path::Path;

use crate::execution::FailureReason;

/// Longest key, in characters: what comes behind it tells nothing apart.
const MOST_CHARACTERS: usize = 200;

/// Why a worker could not do its part, as a word and in words; that its disk is full is told apart. `what` is what it was
/// about to do to `path`, as in "make the work directory".
pub fn of_worker(what: &str, path: &Path, error: &io::Error) -> (FailureReason, String) {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            FailureReason::DiskFull,
            format!("the worker cannot {what} {shown}: {error}; make room there"),
        ),
        _ => (
            FailureReason::WorkerFault,
            format!("the worker cannot {what} {shown}: {error}"),
        ),
    }
}

/// What two failures must have in common to be the same: what failed and how, but not the file that it failed on, nor the
/// attempt. Every attempt has a directory of its own, and every worker its own disk.
pub fn key(detail: &str) -> String {
    let tells_attempts_apart = |word: &str| {
        let bare = word.trim_matches(|character: char| !character.is_ascii_alphanumeric());
        word.contains('/') || uuid::Uuid::try_parse(bare).is_ok()
    };
    let mut key = String::new();
    let words = detail.split_whitespace();
    for word in words.filter(|word| !tells_attempts_apart(word)) {
        if !key.is_empty() {
            key.push(' ');
        }
        key.push_str(word);
    }
    key.chars().take(MOST_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AttemptId;

    fn words(what: &str, directory: &str, errno: i32) -> (FailureReason, String) {
        let path = Path::new(directory).join(AttemptId::generate().to_string());
        of_worker(what, &path, &io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn the_same_failure_on_two_workers_has_one_key() {
        let (no_space, not_permitted, quota) = (28, 1, 122);
        let make = "make the work directory";
        let (reason, here) = words(make, "/var/lib/scitq/work", no_space);
        let (_, there) = words(make, "/scratch/my disk/work", no_space);
        assert_eq!(reason, FailureReason::DiskFull);
        assert!(here.contains("make room there"), "{here}");
        assert_ne!(here, there);
        let disk = key(&here);
        assert_eq!(key(&words(make, "/var/lib/scitq/work", no_space).1), disk);
        assert!(
            disk.starts_with("the worker cannot make the work directory No space left"),
            "{disk}"
        );
        assert_eq!(words(make, "/w", quota).0, FailureReason::DiskFull);
        let (reason, other) = words(make, "/var/lib/scitq/work", not_permitted);
        assert_eq!(reason, FailureReason::WorkerFault);
        let keep = words("keep the attempt in", "/var/lib/scitq/work", no_space).1;
        assert!(key(&other) != disk && key(&keep) != disk);
        let attempt = AttemptId::generate();
        assert_eq!(key(&format!("attempt {attempt}: broken")), "attempt broken");
        assert_eq!(key(&"x ".repeat(10_000)).chars().count(), MOST_CHARACTERS);
        assert_eq!(key(""), "");
    }
}
