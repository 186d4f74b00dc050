//! Making a keeper, and finding the way to one that is there.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names of sockets begin with this.
pub(super) const PREFIX: &str = "keeper-";
/// What keepers could not tell an agent, for whoever looks for the cause.
const LOG: &str = "log";
/// A log that has become longer is begun anew.
const LOG_BYTES: u64 = 64 * 1024;

/// The directory of the keepers' sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    path: PathBuf,
    open: File,
}

impl Sockets {
    /// Makes the directory if needed. Nobody else may look into it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !fs::symlink_metadata(path)?.is_dir() {
            // Keepers find attempts beside it.
            let detail = format!(
                "{} is a link or a file; it must be a directory",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotADirectory, detail));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let path = fs::canonicalize(path)?;
        let open = File::open(&path)?;
        Ok(Self { path, open })
    }

    /// A path to a socket that is short however long that of the directory is: socket addresses hold 108 bytes.
    fn short(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.open.as_raw_fd()).into()
    }

    /// Connects to the keeper of this name, if it lives.
    pub(super) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.short(name))?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        if peer.uid != rustix::process::geteuid() {
            let detail = format!(
                "the keeper behind {} is of user {}",
                self.path.join(name).display(),
                peer.uid.as_raw()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, detail));
        }
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects to all keepers that live, and removes what others left.
    pub(super) fn connect_all(&self) -> io::Result<Vec<(String, UnixStream)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with(PREFIX) {
                continue;
            }
            match self.connect(&name) {
                Ok(stream) => found.push((name, stream)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(entry.path())?;
                }
                // It ended in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Starts a keeper by running this program, and connects to it. Its name holds the agent's start and a number.
    pub(super) fn start(
        &self,
        program: &Path,
        (boots, number): (u32, u32),
    ) -> io::Result<(String, UnixStream)> {
        let name = format!("{PREFIX}{boots}-{number}");
        // Bound here, so that there is nothing to be waited for: who connects is served as soon as the keeper runs.
        let listener = UnixListener::bind(self.short(&name))?;
        match self.run(program, &name, listener) {
            Ok(stream) => Ok((name, stream)),
            Err(error) => {
                let _ = fs::remove_file(self.path.join(&name));
                Err(error)
            }
        }
    }

    fn run(&self, program: &Path, name: &str, listener: UnixListener) -> io::Result<UnixStream> {
        let mut command = Command::new(program);
        command
            .arg0("scitq-keeper")
            .arg(super::ARGUMENT)
            .arg(name)
            // It lives long and needs none of the agent's secrets; the one name is for people who look for it.
            .env_clear()
            .env("SCITQ_KEEPER", &self.path)
            .current_dir(&self.path)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(self.log()?);
        // What is started splits off the keeper and ends at once.
        let status = command.spawn()?.wait()?;
        if !status.success() {
            let log = self.path.join(LOG);
            let detail = format!("it ended with {status}; see {}", log.display());
            return Err(io::Error::other(detail));
        }
        self.connect(name)
    }

    fn log(&self) -> io::Result<File> {
        let path = self.path.join(LOG);
        let long = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES);
        if long {
            fs::remove_file(&path)?;
        }
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
    }
}
