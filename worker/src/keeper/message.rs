//! What agent and keeper say to each other.
//!
//! They may be of different versions: an agent that was upgraded speaks with the keeper of its predecessor until the
//! last task there has ended. So everything but the start of a program keeps its form for good, and [`PROTOCOL`] is the
//! version of that one order; an agent starts programs with a keeper of its own program only. A kind of message that one
//! does not know is passed over.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use scitq_shared::ids::AttemptId;

use super::frame::{Fields, FrameError, FrameWriter};
use crate::attempt::journal::ProcessEnd;

/// Version of [`Order::Start`].
pub(super) const PROTOCOL: u64 = 1;

/// What is said in a hello: which program a keeper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Version of [`Order::Start`].
    pub(super) protocol: u64,
    /// Device and inode of the program's file: another file is another program, whatever its version says.
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// User and group to become before a program is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A program to be started for an attempt, whose directory and work directory are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartOrder {
    pub(crate) attempt: AttemptId,
    pub(crate) file: PathBuf,
    pub(crate) words: Vec<OsString>,
    /// `NAME=value` each.
    pub(crate) environment: Vec<OsString>,
    pub(crate) work_directory: PathBuf,
    pub(crate) user: Option<User>,
}

/// What an agent asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Claim the attempt and start its program.
    Start(StartOrder),
    /// Send a signal to the attempt's process group, if its process has not ended.
    Signal { attempt: AttemptId, signal: i32 },
    /// The agent ends on purpose: end, too, when nothing runs any more.
    Leave,
}

/// Why a program was not started. Nothing of it has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// The attempt could not be claimed, with this error of the system; "not found" says that somebody else has it.
    Claim(i32),
    /// The attempt is claimed, but executing failed with this error of the system.
    Execute(i32),
}

/// What a keeper says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// The first word on a connection: who speaks, and every attempt whose process runs.
    Hello {
        program: Program,
        running: Vec<AttemptId>,
    },
    /// The program runs as this process.
    Started { attempt: AttemptId, pid: u64 },
    /// The program does not run.
    NotStarted { attempt: AttemptId, why: NotStarted },
    /// The process has ended and was waited for; the journal says so already, unless the disk was full.
    Ended { attempt: AttemptId, end: ProcessEnd },
}

const START: u8 = 1;
const SIGNAL: u8 = 2;
const LEAVE: u8 = 3;
const HELLO: u8 = 65;
const STARTED: u8 = 66;
const NOT_STARTED: u8 = 67;
const ENDED: u8 = 68;

impl Order {
    /// Appends it as a frame.
    pub(super) fn write(&self, into: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Start(order) => {
                let mut frame = FrameWriter::new(into, START);
                put_attempt(&mut frame, order.attempt);
                frame
                    .bytes(order.file.as_os_str().as_bytes())
                    .list(order.words.iter().map(|word| word.as_bytes()))
                    .list(order.environment.iter().map(|entry| entry.as_bytes()))
                    .bytes(order.work_directory.as_os_str().as_bytes());
                if let Some(user) = order.user {
                    frame.number(user.uid.into()).number(user.gid.into());
                }
                frame.end()
            }
            Self::Signal { attempt, signal } => {
                let mut frame = FrameWriter::new(into, SIGNAL);
                put_attempt(&mut frame, *attempt);
                frame.number(u64::from(signal.unsigned_abs()));
                frame.end()
            }
            Self::Leave => FrameWriter::new(into, LEAVE).end(),
        }
    }

    /// Reads it from a frame.
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, FrameError> {
        let kind = fields.kind;
        let order = match kind {
            START => {
                let path = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
                let words = |list: Vec<Vec<u8>>| list.into_iter().map(OsString::from_vec).collect();
                let attempt = attempt(&mut fields)?;
                let file = path(fields.bytes()?).into();
                let arguments = words(fields.list()?);
                let environment = words(fields.list()?);
                let work_directory = path(fields.bytes()?).into();
                let user = if fields.is_empty() {
                    None
                } else {
                    Some(User {
                        uid: small(&mut fields)?,
                        gid: small(&mut fields)?,
                    })
                };
                Self::Start(StartOrder {
                    attempt,
                    file,
                    words: arguments,
                    environment,
                    work_directory,
                    user,
                })
            }
            SIGNAL => Self::Signal {
                attempt: attempt(&mut fields)?,
                signal: small(&mut fields)?,
            },
            LEAVE => Self::Leave,
            other => return Err(FrameError::Kind(other)),
        };
        fields.end()?;
        Ok(order)
    }
}

impl Word {
    /// Appends it as a frame.
    pub(super) fn write(&self, into: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Hello { program, running } => {
                let mut frame = FrameWriter::new(into, HELLO);
                let names: Vec<String> = running.iter().map(ToString::to_string).collect();
                frame
                    .number(program.protocol)
                    .number(program.device)
                    .number(program.inode)
                    .list(names.iter().map(String::as_bytes));
                frame.end()
            }
            Self::Started { attempt, pid } => {
                let mut frame = FrameWriter::new(into, STARTED);
                put_attempt(&mut frame, *attempt);
                frame.number(*pid);
                frame.end()
            }
            Self::NotStarted { attempt, why } => {
                let mut frame = FrameWriter::new(into, NOT_STARTED);
                put_attempt(&mut frame, *attempt);
                let (step, error) = match why {
                    NotStarted::Claim(error) => (0, *error),
                    NotStarted::Execute(error) => (1, *error),
                };
                frame.number(step).number(u64::from(error.unsigned_abs()));
                frame.end()
            }
            Self::Ended { attempt, end } => {
                let mut frame = FrameWriter::new(into, ENDED);
                put_attempt(&mut frame, *attempt);
                // As JSON, to which later versions may add. Our own record is always valid JSON.
                frame.bytes(&serde_json::to_vec(end).unwrap_or_default());
                frame.end()
            }
        }
    }

    /// Reads it from a frame.
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, FrameError> {
        let kind = fields.kind;
        let word = match kind {
            HELLO => {
                let program = Program {
                    protocol: fields.number()?,
                    device: fields.number()?,
                    inode: fields.number()?,
                };
                let names = fields.list()?;
                let parse = |name: &Vec<u8>| std::str::from_utf8(name).ok()?.parse().ok();
                let running: Option<Vec<AttemptId>> = names.iter().map(parse).collect();
                Self::Hello {
                    program,
                    running: running.ok_or(FrameError::Content(kind))?,
                }
            }
            STARTED => Self::Started {
                attempt: attempt(&mut fields)?,
                pid: fields.number()?,
            },
            NOT_STARTED => {
                let attempt = attempt(&mut fields)?;
                let (step, error) = (fields.number()?, small(&mut fields)?);
                let why = match step {
                    0 => NotStarted::Claim(error),
                    1 => NotStarted::Execute(error),
                    _ => return Err(FrameError::Content(kind)),
                };
                Self::NotStarted { attempt, why }
            }
            ENDED => {
                let attempt = attempt(&mut fields)?;
                let end = serde_json::from_slice(fields.bytes()?)
                    .map_err(|_| FrameError::Content(kind))?;
                Self::Ended { attempt, end }
            }
            other => return Err(FrameError::Kind(other)),
        };
        fields.end()?;
        Ok(word)
    }
}

fn put_attempt(frame: &mut FrameWriter<'_>, attempt: AttemptId) {
    frame.bytes(attempt.to_string().as_bytes());
}

fn attempt(fields: &mut Fields<'_>) -> Result<AttemptId, FrameError> {
    let kind = fields.kind;
    fields
        .text()?
        .parse()
        .map_err(|_| FrameError::Content(kind))
}

fn small<T: TryFrom<u64>>(fields: &mut Fields<'_>) -> Result<T, FrameError> {
    let kind = fields.kind;
    T::try_from(fields.number()?).map_err(|_| FrameError::Content(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scitq_shared::execution::Exit;

    use super::super::frame::FrameReader;
    use super::*;

    fn bytes() -> impl Strategy<Value = OsString> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec)
    }

    fn orders() -> impl Strategy<Value = Order> {
        let list = || prop::collection::vec(bytes(), 0..5);
        let user = prop::option::of((any::<u32>(), any::<u32>()));
        let start = (bytes(), list(), list(), bytes(), user).prop_map(
            |(file, words, environment, work, user)| {
                Order::Start(StartOrder {
                    attempt: AttemptId::generate(),
                    file: file.into(),
                    words,
                    environment,
                    work_directory: work.into(),
                    user: user.map(|(uid, gid)| User { uid, gid }),
                })
            },
        );
        let signal = (0..65i32).prop_map(|signal| Order::Signal {
            attempt: AttemptId::generate(),
            signal,
        });
        prop_oneof![start, signal, Just(Order::Leave)]
    }

    fn words() -> Vec<Word> {
        let attempt = AttemptId::generate();
        let program = Program {
            protocol: 3,
            device: u64::MAX,
            inode: 0,
        };
        let end = ProcessEnd {
            ended_at: scitq_shared::now(),
            exit: Exit::Signal(9),
            usage: scitq_shared::execution::Usage {
                user_cpu_ms: 1,
                system_cpu_ms: 2,
                peak_memory_bytes: 3,
                memory_source: scitq_shared::execution::MemorySource::LargestProcess,
            },
            stdout_bytes: 4,
            stderr_bytes: 5,
            out_of_memory: Some("why".to_owned()),
        };
        vec![
            Word::Hello {
                program,
                running: vec![attempt, AttemptId::generate()],
            },
            Word::Started { attempt, pid: 17 },
            Word::NotStarted {
                attempt,
                why: NotStarted::Claim(2),
            },
            Word::NotStarted {
                attempt,
                why: NotStarted::Execute(13),
            },
            Word::Ended { attempt, end },
        ]
    }

    proptest! {
        #[test]
        fn orders_arrive_as_they_were_sent_however_they_are_cut(
            orders in prop::collection::vec(orders(), 1..6), piece in 1usize..50
        ) {
            let mut stream = Vec::new();
            for order in &orders {
                order.write(&mut stream).unwrap();
            }
            let mut reader = FrameReader::default();
            let mut received = Vec::new();
            for piece in stream.chunks(piece) {
                reader.push(piece);
                while let Some(fields) = reader.next().unwrap() {
                    received.push(Order::read(fields).unwrap());
                }
            }
            prop_assert_eq!(received, orders);
        }

        #[test]
        fn nonsense_is_an_error_and_never_more(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::default();
            let length = u32::try_from(stream.len()).unwrap();
            reader.push(&length.to_le_bytes());
            reader.push(&stream);
            if let Ok(Some(fields)) = reader.next() {
                let _ = Order::read(fields);
            }
            let mut reader = FrameReader::default();
            reader.push(&stream);
            while let Ok(Some(fields)) = reader.next() {
                let _ = Word::read(fields);
            }
        }
    }

    #[test]
    fn words_arrive_as_they_were_said() {
        let mut stream = Vec::new();
        for word in words() {
            word.write(&mut stream).unwrap();
        }
        let mut reader = FrameReader::default();
        reader.push(&stream);
        for word in words() {
            let read = Word::read(reader.next().unwrap().unwrap()).unwrap();
            assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(&word));
        }
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn cut_long_and_unknown_messages_are_refused() {
        let mut stream = Vec::new();
        Order::Leave.write(&mut stream).unwrap();
        let mut too_long = stream.clone();
        too_long[0] += 1;
        too_long.push(0);
        let mut unknown = stream.clone();
        unknown[4] = 200;
        let endless = u32::MAX.to_le_bytes().to_vec();
        for (stream, expected) in [
            (too_long, FrameError::Fields(LEAVE)),
            (unknown, FrameError::Kind(200)),
            (endless, FrameError::Length(u32::MAX as usize)),
            (vec![0; 4], FrameError::Length(0)),
        ] {
            let mut reader = FrameReader::default();
            reader.push(&stream);
            let read = reader.next().map(|fields| fields.map(Order::read));
            let error = match read {
                Err(error) | Ok(Some(Err(error))) => error,
                other => panic!("{other:?}"),
            };
            assert_eq!(error, expected);
        }
        let order = Order::Start(StartOrder {
            attempt: AttemptId::generate(),
            file: PathBuf::new(),
            words: vec![OsString::from_vec(vec![
                b'x';
                super::super::frame::MOST_BYTES
            ])],
            environment: Vec::new(),
            work_directory: PathBuf::new(),
            user: None,
        });
        let mut stream = b"before".to_vec();
        assert!(matches!(
            order.write(&mut stream),
            Err(FrameError::Length(_))
        ));
        assert_eq!(stream, b"before");
    }
}
