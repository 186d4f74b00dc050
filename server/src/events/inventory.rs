use std::collections::{BTreeMap, BTreeSet};

use scitq_shared::ids::{AttemptId, DispatchId, TaskId};
use scitq_shared::protocol::{AttemptPhase, InventoryItem};
use scitq_shared::transition::AttemptState;

use crate::db::HeldAttempts;

/// What follows from comparing a worker's inventory with the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server takes it to be alive, and its worker does not know it: lost at once (D9).
    Lost {
        /// The attempt.
        attempt: AttemptId,
        /// Its dispatch.
        dispatch: DispatchId,
        /// Its task.
        task: TaskId,
    },
    /// Its end and its output are in the database: the worker may forget it.
    Applied(AttemptId),
    /// It is over for the worker, and the database lacks something of it.
    Resend {
        /// The attempt.
        attempt: AttemptId,
        /// True when its end is lacking.
        end: bool,
        /// First byte of standard output that is lacking.
        stdout_from: Option<u64>,
        /// First byte of standard error that is lacking.
        stderr_from: Option<u64>,
    },
    /// It was declared lost and is alive at the worker: its task takes it back, or it is to stop (D7).
    Alive {
        /// The attempt.
        attempt: AttemptId,
        /// Its task.
        task: TaskId,
        /// How far it is.
        phase: AttemptPhase,
    },
    /// It is over for the database and alive at the worker: it does not count any more.
    Stop(AttemptId),
}

/// Compares what a worker holds with what the database takes it to hold. Pure.
///
/// `sequence` is the announcement up to which the inventory speaks: attempts announced later are not in it and are
/// left alone. An ended attempt that the database does not have yet is answered `Resend`; the caller gives what is on
/// its way in the queues the time to arrive before it asks.
pub fn compare(held: &HeldAttempts, inventory: &[InventoryItem], sequence: u64) -> Vec<Answer> {
    let listed: BTreeMap<AttemptId, _> = held.listed.iter().map(|a| (a.attempt, a)).collect();
    let named: BTreeSet<AttemptId> = inventory.iter().map(|item| item.attempt).collect();
    let lost = held
        .live
        .iter()
        .filter(|live| live.announced_sequence <= sequence && !named.contains(&live.attempt));
    let mut answers: Vec<Answer> = lost
        .map(|live| Answer::Lost {
            attempt: live.attempt,
            dispatch: live.dispatch,
            task: live.task,
        })
        .collect();
    for item in inventory {
        let known = listed.get(&item.attempt);
        let over = known.is_some_and(|known| known.state.is_over());
        let answer = match (item.phase, known) {
            (AttemptPhase::Ended, Some(known)) if over && known.complete => {
                Answer::Applied(item.attempt)
            }
            (AttemptPhase::Ended, Some(known)) if over => Answer::Resend {
                attempt: item.attempt,
                // Of one that was declared lost it is not known how it ended.
                end: known.state == AttemptState::Lost,
                stdout_from: known.stdout_from,
                stderr_from: known.stderr_from,
            },
            (AttemptPhase::Ended, _) => Answer::Resend {
                attempt: item.attempt,
                end: true,
                stdout_from: None,
                stderr_from: None,
            },
            (phase, Some(known)) if known.state == AttemptState::Lost => Answer::Alive {
                attempt: item.attempt,
                task: known.task,
                phase,
            },
            (_, Some(_)) if over => Answer::Stop(item.attempt),
            _ => continue,
        };
        answers.push(answer);
    }
    answers
}

/// The attempts of an inventory that the database does not know.
pub fn unknown(held: &HeldAttempts, inventory: &[InventoryItem]) -> Vec<AttemptId> {
    let known: BTreeSet<AttemptId> = held.listed.iter().map(|known| known.attempt).collect();
    let unknown = inventory.iter().map(|item| item.attempt);
    unknown.filter(|attempt| !known.contains(attempt)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{ListedAttempt, LiveAttempt};

    fn attempt(n: u128) -> AttemptId {
        AttemptId(uuid::Uuid::from_u128(n))
    }

    fn live(n: u128, sequence: u64) -> LiveAttempt {
        LiveAttempt {
            attempt: attempt(n),
            task: TaskId(1),
            dispatch: DispatchId(uuid::Uuid::from_u128(n)),
            state: AttemptState::Running,
            announced_sequence: sequence,
        }
    }

    fn listed(
        n: u128,
        state: AttemptState,
        complete: bool,
        stdout_from: Option<u64>,
    ) -> ListedAttempt {
        ListedAttempt {
            attempt: attempt(n),
            task: TaskId(1),
            state,
            complete,
            stdout_from,
            stderr_from: None,
        }
    }

    fn item(n: u128, phase: AttemptPhase) -> InventoryItem {
        InventoryItem {
            attempt: attempt(n),
            task: TaskId(1),
            phase,
        }
    }

    #[test]
    fn what_a_worker_does_not_know_is_lost_unless_announced_later() {
        let held = HeldAttempts {
            live: vec![live(1, 5), live(2, 6), live(3, 7)],
            listed: vec![],
        };
        let answers = compare(&held, &[item(1, AttemptPhase::Running)], 6);
        let dispatch = DispatchId(uuid::Uuid::from_u128(2));
        let task = TaskId(1);
        let expected = Answer::Lost {
            attempt: attempt(2),
            dispatch,
            task,
        };
        assert_eq!(answers, [expected]);
    }

    #[test]
    fn ended_attempts_are_applied_or_asked_for() {
        let held = HeldAttempts {
            live: vec![],
            listed: vec![
                listed(1, AttemptState::Succeeded, true, None),
                listed(2, AttemptState::Failed, false, Some(7)),
                listed(3, AttemptState::Running, false, None),
                listed(5, AttemptState::Lost, true, None),
                listed(6, AttemptState::Running, false, None),
                listed(8, AttemptState::Cancelled, true, None),
                listed(9, AttemptState::Lost, false, None),
            ],
        };
        let inventory = [
            item(1, AttemptPhase::Ended),
            item(2, AttemptPhase::Ended),
            item(3, AttemptPhase::Ended),
            item(4, AttemptPhase::Ended),
            item(5, AttemptPhase::Running),
            item(6, AttemptPhase::Running),
            item(7, AttemptPhase::Accepted),
            item(8, AttemptPhase::Running),
            item(9, AttemptPhase::Ended),
        ];
        let resend = |n, end, stdout_from| Answer::Resend {
            attempt: attempt(n),
            end,
            stdout_from,
            stderr_from: None,
        };
        let expected = vec![
            Answer::Applied(attempt(1)),
            resend(2, false, Some(7)),
            resend(3, true, None),
            resend(4, true, None),
            Answer::Alive {
                attempt: attempt(5),
                task: TaskId(1),
                phase: AttemptPhase::Running,
            },
            Answer::Stop(attempt(8)),
            resend(9, true, None),
        ];
        assert_eq!(compare(&held, &inventory, 0), expected);
    }
}
