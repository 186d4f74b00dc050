//! Names of the files of an attempt, and their removal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

/// The directory of an attempt in the directory of all attempts.
pub(crate) fn of(attempts: &Path, attempt: AttemptId) -> PathBuf {
    attempts.join(attempt.to_string())
}

/// The file that a stream is captured in.
pub(crate) fn stream_file(directory: &Path, stream: Stream) -> PathBuf {
    directory.join(stream.as_str())
}

/// Bytes captured of a stream; 0 when there is no such file.
pub(crate) fn stream_bytes(directory: &Path, stream: Stream) -> u64 {
    fs::metadata(stream_file(directory, stream)).map_or(0, |metadata| metadata.len())
}

/// Removes an attempt's directory; one that is gone is removed alike.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    for file in ["journal.jsonl", "stdout", "stderr"] {
        // Whatever cannot be removed this way is met again below.
        let _ = fs::remove_file(directory.join(file));
    }
    let removed = fs::remove_dir(directory).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => fs::remove_dir_all(directory),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
