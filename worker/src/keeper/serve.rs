//! The keeper's own life: a thread that waits for children, for its agent and for the next one.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::frame::{FrameError, FrameReader};
use super::message::{Order, PROTOCOL, Program, Word};
use super::start::PREFIX;
use super::tasks::Tasks;

/// How long a keeper without tasks waits for an agent to come.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How often it is tried again to write down an end.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// Before it is waited again after waiting was not possible.
const WAIT_AGAIN: Duration = Duration::from_millis(100);
/// What may wait to be said to an agent that does not listen; then it is hung up on. The next connection tells it all.
const MOST_UNSAID: usize = 8 * 1024 * 1024;
/// Where attempts are, seen from the directory of sockets, which is the keeper's working directory.
const ATTEMPTS: &str = "../attempts";

/// Runs the keeper whose socket is standard input, bound to this name in the working directory.
pub(super) fn run(name: &OsStr) -> io::Result<()> {
    let listens = rustix::net::sockopt::socket_acceptconn(io::stdin()).unwrap_or(false);
    if !listens || !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
        let detail = "this is what a worker starts for itself; it is of no use to people";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
    }
    if !detach()? {
        return Ok(());
    }
    let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let children = watch_children()?;
    let keeper = Keeper {
        tasks: Tasks::new(Path::new(ATTEMPTS))?,
        listener,
        children,
        program: own_program("/proc/self/exe")?,
        agent: None,
        leaving: false,
        alone_since: Instant::now(),
    };
    let ended = keeper.serve();
    // The next agent would remove it, too.
    let _ = fs::remove_file(name);
    ended
}

/// Leaves the process that started it, its session, its group and its terminal. False in the one to be left.
fn detach() -> io::Result<bool> {
    #[expect(unsafe_code, reason = "fork has no safe form")]
    // SAFETY: this process has one thread, so its copy finds every lock as it was.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            rustix::process::setsid()?;
            close_inherited();
            // For people who list processes; that of the program's link would say nothing.
            let _ = rustix::thread::set_name(c"scitq-keeper");
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Closes what its starter had open without close-on-exec: it lives long, and would keep the other ends of pipes open.
fn close_inherited() {
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    #[expect(
        unsafe_code,
        reason = "closing descriptors that nobody owns has no safe form"
    )]
    // SAFETY: this process has just begun and has opened nothing itself. An old kernel without the call closes nothing.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, 0);
    }
}

/// The program in a file, as keepers introduce themselves.
pub(super) fn own_program(file: impl AsRef<Path>) -> io::Result<Program> {
    let metadata = fs::metadata(file)?;
    Ok(Program {
        protocol: PROTOCOL,
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// A descriptor that is readable when a child has ended. What asks a process to end is blocked as well: a service
/// manager or a person that means the tasks has to kill them.
fn watch_children() -> io::Result<fs::File> {
    let mut blocked = MaybeUninit::uninit();
    let mut child = MaybeUninit::uninit();
    #[expect(unsafe_code, reason = "signal sets and signalfd have no safe form")]
    // SAFETY: the sets are initialised by sigemptyset before they are used; the descriptor is new and owned by nobody.
    unsafe {
        libc::sigemptyset(blocked.as_mut_ptr());
        libc::sigemptyset(child.as_mut_ptr());
        libc::sigaddset(child.as_mut_ptr(), libc::SIGCHLD);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(blocked.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, blocked.as_ptr(), std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        let descriptor = libc::signalfd(-1, child.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if descriptor == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor).into())
    }
}

struct Keeper {
    tasks: Tasks,
    listener: UnixListener,
    children: fs::File,
    program: Program,
    agent: Option<Agent>,
    /// The last agent ended on purpose.
    leaving: bool,
    /// Since when neither a task nor an agent is here.
    alone_since: Instant,
}

/// The connection of an agent.
struct Agent {
    stream: UnixStream,
    reader: FrameReader,
    unsaid: Vec<u8>,
}

impl Keeper {
    /// Serves until there is nobody left to serve.
    fn serve(mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut record_at: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if record_at.is_some_and(|at| at <= now) {
                record_at = self.tasks.record_again().then(|| now + RECORD_AGAIN);
            }
            if !self.tasks.is_empty() || self.agent.is_some() {
                self.alone_since = now;
            }
            let over = self.alone_since + if self.leaving { Duration::ZERO } else { GRACE };
            if self.tasks.is_empty() && (self.leaving || self.agent.is_none()) && over <= now {
                return Ok(());
            }
            let idle = self.tasks.is_empty() && self.agent.is_none();
            let until = [record_at, idle.then_some(over)]
                .into_iter()
                .flatten()
                .min();
            self.flush();
            let patience = until.map(|until| until.saturating_duration_since(now));
            let happened = self.wait(patience).unwrap_or_else(|error| {
                // It wants memory, perhaps. Tasks do not lose their parent for that.
                complain(format_args!("cannot wait: {error}"));
                std::thread::sleep(WAIT_AGAIN);
                Happened::ANYTHING
            });
            if happened.starts {
                for word in self.tasks.started() {
                    self.say(&word);
                }
            }
            // What was started may have ended before it was known.
            if happened.children || happened.starts {
                if let Err(error) = self.collect() {
                    complain(format_args!(
                        "cannot look for tasks that have ended: {error}"
                    ));
                    std::thread::sleep(WAIT_AGAIN);
                }
                // Where an end could not be written down.
                if record_at.is_none() && self.tasks.unrecorded().next().is_some() {
                    record_at = Some(now + RECORD_AGAIN);
                }
            }
            if happened.agent {
                self.listen(&mut buffer);
            }
            if happened.newcomer {
                self.welcome(&mut buffer);
            }
        }
    }

    fn wait(&self, patience: Option<Duration>) -> io::Result<Happened> {
        let mut watched = vec![
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.tasks.starts(), PollFlags::IN),
        ];
        if let Some(agent) = &self.agent {
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, !agent.unsaid.is_empty());
            watched.push(PollFd::new(&agent.stream, wanted));
        }
        // Rounded up, so that a deadline has passed when it wakes.
        let patience = patience.map(|patience| patience + Duration::from_millis(1));
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match rustix::event::poll(&mut watched, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |index: usize| {
            watched
                .get(index)
                .is_some_and(|it| !it.revents().is_empty())
        };
        Ok(Happened {
            children: happened(0),
            newcomer: happened(1),
            starts: happened(2),
            agent: happened(3),
        })
    }

    /// Takes in all that has ended.
    fn collect(&mut self) -> io::Result<()> {
        let mut signals = [0; 1024];
        // Any number of children may be behind one signal: all are looked for.
        while matches!(self.children.read(&mut signals), Ok(length) if length == signals.len()) {}
        while let Some(word) = self.tasks.next_end()? {
            self.say(&word);
        }
        Ok(())
    }

    /// Does what the agent has asked until now.
    fn listen(&mut self, buffer: &mut [u8]) {
        loop {
            let Some(agent) = &mut self.agent else { return };
            match agent.stream.read(buffer) {
                Ok(0) => self.agent = None,
                Ok(length) => {
                    agent.reader.push(&buffer[..length]);
                    if let Err(error) = self.obey() {
                        complain(format_args!("hangs up on an agent: {error}"));
                        self.agent = None;
                    }
                    if length < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.agent = None,
            }
        }
    }

    fn obey(&mut self) -> Result<(), FrameError> {
        loop {
            let Some(agent) = &mut self.agent else {
                return Ok(());
            };
            let order = match agent.reader.next()?.map(Order::read) {
                Some(Ok(order)) => order,
                // Of a newer agent.
                Some(Err(FrameError::Kind(_))) => continue,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            };
            match order {
                Order::Start(order) => {
                    if let Some(word) = self.tasks.start(order) {
                        self.say(&word);
                    }
                }
                Order::Signal { attempt, signal } => self.tasks.signal(attempt, signal),
                Order::Leave => self.leaving = true,
            }
        }
    }

    /// Takes in a new agent, in place of the one before: of one state directory only one lives.
    fn welcome(&mut self, buffer: &mut [u8]) {
        // What the one before asked while it lived comes first.
        self.listen(buffer);
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let own = rustix::process::geteuid();
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        if !peer.is_ok_and(|peer| peer.uid == own) || stream.set_nonblocking(true).is_err() {
            complain(format_args!("refused a connection of another user"));
            return;
        }
        self.agent = Some(Agent {
            stream,
            reader: FrameReader::default(),
            unsaid: Vec::new(),
        });
        self.leaving = false;
        let hello = Word::Hello {
            program: self.program,
            running: self.tasks.attempts(),
        };
        self.say(&hello);
        let unrecorded: Vec<Word> = self.tasks.unrecorded().collect();
        for word in &unrecorded {
            self.say(word);
        }
    }

    /// Says something to the agent, if there is one; it goes out before the next wait.
    fn say(&mut self, word: &Word) {
        let Some(agent) = &mut self.agent else { return };
        if let Err(error) = word.write(&mut agent.unsaid) {
            complain(format_args!("cannot say something to the agent: {error}"));
        }
        if agent.unsaid.len() > MOST_UNSAID {
            complain(format_args!("hangs up on an agent that does not listen"));
            self.agent = None;
        }
    }

    fn flush(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        while !agent.unsaid.is_empty() {
            match agent.stream.write(&agent.unsaid) {
                Ok(length) => {
                    agent.unsaid.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Its end is read from it next; what it was not told is in the journals.
                    agent.unsaid.clear();
                    return;
                }
            }
        }
    }
}

/// What a wait was ended by.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each descriptor that was watched"
)]
struct Happened {
    children: bool,
    newcomer: bool,
    starts: bool,
    agent: bool,
}

impl Happened {
    /// Nothing here waits, so it may as well be looked at all of it.
    const ANYTHING: Self = Self {
        children: true,
        newcomer: true,
        starts: true,
        agent: true,
    };
}

/// Tells people, in the keepers' log. A full disk must not end the parent of tasks, as `eprintln!` would.
fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "scitq keeper: {what}");
}
