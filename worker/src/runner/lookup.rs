//! Where a command's first word leads: the same search as execvp(3), with its failures told apart.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use scitq_shared::execution::FailureReason;

use super::StartFailure;

/// Finds the file of a program. A word with a slash is a path, seen from the work directory; any other is looked for in
/// the directories of `path`. Executable by anyone counts: whether the task's own user may is said by exec.
pub(crate) fn find(
    program: &OsStr,
    path: &OsStr,
    work_directory: &Path,
) -> Result<PathBuf, StartFailure> {
    let shown = program.to_string_lossy();
    if program.as_bytes().contains(&b'/') {
        let file = work_directory.join(program);
        return match look(&file) {
            Found::Executable => Ok(file),
            Found::Other(why) => Err(not_executable(&format!("{shown:?} {why}"))),
            Found::Nothing => Err(StartFailure::new(
                FailureReason::CommandNotFound,
                format!("there is no file {shown:?} on this worker"),
            )),
        };
    }
    let mut obstacle = None;
    for directory in std::env::split_paths(path) {
        // An empty entry means the working directory, as in every shell.
        let file = work_directory.join(directory).join(program);
        match look(&file) {
            Found::Executable => return Ok(file),
            Found::Other(why) => {
                obstacle.get_or_insert_with(|| format!("{:?} {why}", file.display()));
            }
            Found::Nothing => {}
        }
    }
    Err(match obstacle {
        Some(obstacle) => not_executable(&obstacle),
        None => StartFailure::new(
            FailureReason::CommandNotFound,
            format!(
                "there is no program {shown:?} in the PATH of this worker ({})",
                path.to_string_lossy()
            ),
        ),
    })
}

enum Found {
    Executable,
    Other(&'static str),
    Nothing,
}

fn look(file: &Path) -> Found {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => Found::Other("is a directory"),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Found::Other("may not be executed (no x permission)")
        }
        Ok(_) => Found::Executable,
        Err(_) => Found::Nothing,
    }
}

fn not_executable(obstacle: &str) -> StartFailure {
    StartFailure::new(
        FailureReason::NotExecutable,
        format!("the command cannot be executed: {obstacle}"),
    )
}
