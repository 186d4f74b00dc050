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
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 11] = [
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
    ];
}
