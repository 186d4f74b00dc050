//! Executions: one attempt of a task by one worker, and how it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::text_enum;

text_enum! {
    /// Status of an execution.
    ExecutionStatus {
        /// A worker holds the task and has not started it.
        Accepted = "accepted",
        /// The process runs, or has ended and its output is being stored.
        Running = "running",
        /// Ended with exit code 0.
        Succeeded = "succeeded",
        /// Ended otherwise, or could not be started.
        Failed = "failed",
        /// Given back by the worker without having run.
        Released = "released",
        /// Its worker is gone, or does not know it any more.
        Lost = "lost",
        /// Ended by a person.
        Cancelled = "cancelled",
    }
}

impl ExecutionStatus {
    /// True when the attempt is over.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Running)
    }
}

text_enum! {
    /// Why an attempt did not succeed, as a word for rules; the words for people stand beside it.
    FailureReason {
        /// The process ended with an exit code other than 0.
        ExitCode = "exit_code",
        /// The process was ended by a signal.
        Signal = "signal",
        /// The command's first word names no file.
        CommandNotFound = "command_not_found",
        /// The command's first word names a file that cannot be executed.
        NotExecutable = "not_executable",
        /// The process could not be started for another reason.
        StartFailed = "start_failed",
        /// The kernel killed it because memory ran out; said only on the kernel's word.
        OutOfMemory = "out_of_memory",
        /// It ran for longer than it was given.
        Timeout = "timeout",
        /// The worker could not prepare the attempt because a disk is full.
        DiskFull = "disk_full",
        /// The worker could not prepare the attempt for another reason (its work directory, say).
        WorkerFault = "worker_fault",
        /// The worker does not offer what the task asks for: a container before the container runner is set up, or another
        /// user than that of a worker which is not root's.
        Unsupported = "unsupported",
        /// The agent ended while the task ran, and its result cannot be known.
        AgentRestarted = "agent_restarted",
        /// The worker does not know the attempt, or its lease has expired.
        Lost = "lost",
        /// Ended by a person.
        Cancelled = "cancelled",
    }
}

/// How many attempts of one task may fail by what spares it ([`FailureReason::spares_task`]) before each further one costs
/// it a retry: workers are paused long before, so a task that is hindered so often has a part in it (D13).
pub const HINDRANCES_SPARED: u32 = 10;

impl FailureReason {
    /// True when the attempt could not be run where it was, which may be the worker's own doing: a worker that has nothing
    /// else is paused (D13). A command that is not there is the task's own fault, even where another worker has it.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::StartFailed | Self::DiskFull | Self::WorkerFault)
    }

    /// True when the task has certainly no part in it, as far as one attempt can tell: it uses up no retry by it. What
    /// happens to it again and again costs retries all the same ([`HINDRANCES_SPARED`]). A process that cannot be started is
    /// not among them: an interpreter that is not there, or a command that is too long, would come back for ever.
    pub fn spares_task(self) -> bool {
        matches!(self, Self::DiskFull | Self::WorkerFault)
    }
}

/// How a process ended: with a code, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Exit code, 0 to 255.
    Code(i32),
    /// Number of the signal.
    Signal(i32),
}

/// What an ended attempt came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0.
    Succeeded,
    /// Anything else.
    Failed {
        /// The reason as a word.
        reason: FailureReason,
        /// The reason in words, for people.
        detail: String,
    },
}

impl Outcome {
    /// The outcome of a process that ran and ended by itself or by a signal.
    pub fn of_exit(exit: Exit) -> Self {
        match exit {
            Exit::Code(0) => Self::Succeeded,
            Exit::Code(code) => Self::Failed {
                reason: FailureReason::ExitCode,
                detail: format!("the command ended with exit code {code}"),
            },
            Exit::Signal(signal) => Self::Failed {
                reason: FailureReason::Signal,
                detail: format!(
                    "the command was ended by signal {signal} ({})",
                    signal_name(signal)
                ),
            },
        }
    }
}

/// Name of a Linux signal, for people.
pub fn signal_name(signal: i32) -> &'static str {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    usize::try_from(signal - 1)
        .ok()
        .and_then(|index| NAMES.get(index))
        .copied()
        .unwrap_or("a real-time signal")
}

text_enum! {
    /// Where a figure of peak memory comes from.
    MemorySource {
        /// The largest process of the task (`ru_maxrss` of wait4(2)): processes side by side are not added up.
        LargestProcess = "largest_process",
        /// The memory cgroup of the task: all of its processes and their page cache.
        Cgroup = "cgroup",
    }
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// CPU time in user mode of the process and its waited-for children, in milliseconds.
    pub user_cpu_ms: u64,
    /// CPU time in kernel mode, in milliseconds.
    pub system_cpu_ms: u64,
    /// Largest memory, in bytes.
    pub peak_memory_bytes: u64,
    /// What `peak_memory_bytes` counts.
    pub memory_source: MemorySource,
}
