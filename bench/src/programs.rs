//! Where the measured programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// The directory of the measured programs.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Those in this directory, or else beside this program. Those that are missing are found out here, before
    /// anything is started.
    pub fn find(directory: Option<&Path>, names: &[&str]) -> anyhow::Result<Self> {
        let directory = match directory {
            Some(directory) => directory.to_owned(),
            None => std::env::current_exe()
                .context("cannot tell where this program is; give --programs")?
                .parent()
                .context("this program is in no directory; give --programs")?
                .to_owned(),
        };
        for name in names {
            let path = directory.join(name);
            ensure!(
                path.is_file(),
                "{} is not there: `make build` builds it, --programs says where to look",
                path.display()
            );
        }
        let absolute = std::path::absolute(&directory);
        Ok(Self(absolute.with_context(|| {
            format!("{} cannot be used", directory.display())
        })?))
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("one"), "").unwrap();
        let find = |names| Programs::find(Some(directory.path()), names);
        assert_eq!(
            find(&["one"]).unwrap().path("one"),
            directory.path().join("one")
        );
        let error = find(&["one", "two"]).unwrap_err().to_string();
        assert!(error.contains("two is not there: `make build`"), "{error}");
    }
}
