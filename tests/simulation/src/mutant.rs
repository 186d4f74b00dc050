//! Deliberately broken variants: each breaks one rule at the edge of the cores, and the simulation must notice.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A worker takes `started` for confirmed when it is published (D7).
    StartsUnconfirmed,
    /// The broker does not say that a message is redelivered, so it is run (D6).
    ForgetsRedelivery,
    /// The server acks state events before it has applied them (D9).
    AcksBeforeCommit,
    /// Nobody notices that dispatches are missing (D12).
    CallsNoRoll,
    /// A dispatch counts as denied by every worker that was asked (D12).
    BelievesInAbsence,
    /// A worker is told to forget an attempt as soon as its end is known, with its output or without (D9).
    ForgetsOutput,
    /// An inventory is taken for the whole truth, whatever was announced after it (D9).
    OverratesInventories,
    /// A publication is made before it is committed (D3).
    PublishesBeforeCommit,
    /// A returned dispatch is dispatched anew although it has started (D6).
    TrustsReturns,
    /// What is withdrawn comes back at once, redelivered or not, past what the state queue still holds (D6).
    BypassesStateQueue,
    /// A worker runs a dispatch with the definition that it first saw of the task (D8).
    RunsOldRevisions,
    /// A change of tasks is made although their dispatches are still out (D8).
    RecallsNothing,
    /// The answer to a change does not name what is still out (D8).
    ConfirmsEverything,
    /// After a change its batch stays barred (D4).
    BarsForEver,
    /// A lease ends by the database's clock alone (D7).
    TrustsOneClock,
    /// The last event of each batch is applied, and not acknowledged.
    LeavesMessages,
    /// A worker keeps the directories of attempts that the server has.
    KeepsDirectories,
    /// The end of a process that was killed is not told to its agent.
    HidesKilledProcesses,
    /// The ends of processes are written down with the wrong time.
    MisdatesEnds,
    /// All exits are written down as 0.
    WhitewashesExits,
    /// The starts of processes are not written down.
    OmitsStarts,
    /// A task that leaves `running` is still counted there.
    MiscountsTasks,
    /// Retries are not used up.
    KeepsRetries,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::StartsUnconfirmed,
        Self::ForgetsRedelivery,
        Self::AcksBeforeCommit,
        Self::CallsNoRoll,
        Self::BelievesInAbsence,
        Self::ForgetsOutput,
        Self::OverratesInventories,
        Self::PublishesBeforeCommit,
        Self::TrustsReturns,
        Self::BypassesStateQueue,
        Self::RunsOldRevisions,
        Self::RecallsNothing,
        Self::ConfirmsEverything,
        Self::BarsForEver,
        Self::TrustsOneClock,
        Self::LeavesMessages,
        Self::KeepsDirectories,
        Self::HidesKilledProcesses,
        Self::MisdatesEnds,
        Self::WhitewashesExits,
        Self::OmitsStarts,
        Self::MiscountsTasks,
        Self::KeepsRetries,
    ];

    /// Words of the violation that it must lead to in one schedule or another: the invariant that it breaks.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::ForgetsRedelivery | Self::TrustsReturns => "is alive and not lost",
            Self::StartsUnconfirmed
            | Self::AcksBeforeCommit
            | Self::BelievesInAbsence
            | Self::PublishesBeforeCommit
            | Self::BypassesStateQueue => "was started",
            Self::CallsNoRoll => "does not end",
            Self::BarsForEver => "stays barred",
            Self::ForgetsOutput => "the output of attempt",
            Self::OverratesInventories => "alive and not lost",
            Self::RunsOldRevisions | Self::RecallsNothing | Self::ConfirmsEverything => {
                "starts with revision"
            }
            Self::TrustsOneClock => "is lost, and was heard",
            Self::LeavesMessages => "stays in the queue",
            Self::KeepsDirectories => "keeps the directory",
            Self::HidesKilledProcesses => "occupy slots for nothing",
            Self::MisdatesEnds => "ended at",
            Self::WhitewashesExits => "the history says Some(Code(0))",
            Self::OmitsStarts => "without a start",
            Self::MiscountsTasks => "are counted",
            Self::KeepsRetries => "retries",
        }
    }
}
