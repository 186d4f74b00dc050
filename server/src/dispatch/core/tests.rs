use std::collections::BTreeSet;
use std::time::Duration;

use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

use super::*;
use crate::db::{BatchLoad, Capacity};

mod changes;

fn batch() -> BatchName {
    BatchName::new("b").unwrap()
}

fn worker(name: &str) -> WorkerName {
    WorkerName::new(name).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<WorkerName> {
    names.iter().map(|name| worker(name)).collect()
}

fn dispatch(n: u128) -> DispatchId {
    DispatchId(uuid::Uuid::from_u128(n))
}

fn tasks(range: std::ops::Range<u128>) -> Vec<(TaskId, DispatchId)> {
    range
        .map(|n| (TaskId(i64::try_from(n).unwrap()), dispatch(n)))
        .collect()
}

fn dispatches(range: std::ops::Range<u128>) -> Vec<DispatchId> {
    range.map(dispatch).collect()
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A core with its clock.
#[derive(Default)]
struct Table {
    core: Core,
    now: Duration,
}

impl Table {
    /// Tells something. What is to be read after a withdrawal is read at once.
    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let empty = matches!(input, Input::Withdrawn { .. });
        let mut effects = self.core.handle(self.now, input);
        if empty && let Some(Effect::Marker { marker }) = effects.first().cloned() {
            effects.remove(0);
            effects.extend(self.core.handle(self.now, Input::MarkerRead { marker }));
        }
        effects
    }

    /// Lets time pass to the core's next deadline, which must come by then.
    fn wait(&mut self, until: f64) -> Vec<Effect> {
        let deadline = self.core.next_deadline(self.now).expect("a deadline");
        assert!(deadline <= at(until), "{deadline:?}");
        self.now = self.now.max(deadline);
        self.tell(Input::Tick)
    }

    /// One worker; so many dispatches are with the broker, more tasks pending or not.
    fn working(assigned: usize, pending: bool) -> Self {
        let mut table = Self::default();
        let load = BatchLoad {
            pending: i64::from(pending),
            assigned: i64::try_from(assigned).unwrap(),
        };
        let effects = table.tell(Input::Loaded {
            loads: vec![(batch(), load)],
        });
        assert_eq!(
            effects,
            [
                Effect::LoadWorkers,
                Effect::Marker {
                    marker: MarkerNumber(1)
                }
            ]
        );
        table.tell(workers(1));
        if pending {
            table.tell(Input::Claimed {
                batch: batch(),
                dispatches: 0,
                assigned,
                pending_left: true,
            });
        }
        table
    }

    /// The roll is called: the queue is empty, these are not accepted, and these workers are asked.
    fn called(&mut self, unstarted: std::ops::Range<u128>, asked: &[&str]) -> Vec<Effect> {
        self.tell(Input::MarkerRead {
            marker: MarkerNumber(1),
        });
        assert_eq!(
            self.wait(2.0),
            [Effect::Count {
                batch: batch(),
                age: at(2.0)
            }]
        );
        let effects = self.tell(Input::Counted {
            batch: batch(),
            surplus: dispatches(unstarted.clone()),
            assigned: dispatches(unstarted.clone()).len(),
        });
        assert_eq!(effects, []);
        let suspects = Question::Suspects(dispatches(unstarted.clone()));
        assert_eq!(self.wait(5.0), [list(suspects.clone())]);
        assert_eq!(
            self.tell(listed(suspects, unstarted.clone(), asked)),
            [Effect::Withdraw { batch: batch() }]
        );
        let withdrawn = Input::Withdrawn {
            batch: batch(),
            dispatches: 0,
        };
        assert_eq!(self.tell(withdrawn), [list(Question::All)]);
        self.tell(listed(Question::All, unstarted, asked))
    }
}

fn workers(count: i64) -> Input {
    let capacity = Capacity {
        workers: count,
        slots_and_prefetch: 2 * count,
    };
    Input::Workers {
        capacities: vec![(batch(), capacity)],
    }
}

fn list(question: Question) -> Effect {
    Effect::List {
        batch: batch(),
        question,
    }
}

fn listed(question: Question, unstarted: std::ops::Range<u128>, asked: &[&str]) -> Input {
    Input::Listed {
        batch: batch(),
        question,
        unstarted: tasks(unstarted),
        workers: names(asked),
    }
}

fn revoke(name: &str, range: std::ops::Range<u128>) -> Effect {
    Effect::Revoke {
        worker: worker(name),
        dispatches: dispatches(range),
    }
}

fn absent(name: &str, range: std::ops::Range<u128>) -> Input {
    Input::Absent {
        worker: worker(name),
        dispatches: dispatches(range),
    }
}

fn pending() -> Input {
    Input::Pending {
        batches: [batch()].into(),
    }
}

fn claim(window: usize) -> Effect {
    Effect::Claim {
        batch: batch(),
        window,
    }
}

#[test]
fn the_queue_is_there_before_the_worker_is_welcome() {
    let mut table = Table::working(0, false);
    let other = BatchName::new("other").unwrap();
    let desired = DesiredState {
        version: 1,
        batch: other.clone(),
        concurrency: 1,
        prefetch: 0,
        paused: true,
    };
    let greeted = Input::Greeted {
        worker: worker("w"),
        desired: desired.clone(),
    };
    let welcome = Effect::Welcome {
        worker: worker("w"),
        desired,
    };
    assert_eq!(
        table.tell(greeted),
        [
            Effect::LoadWorkers,
            Effect::Declare {
                batch: other.clone()
            },
            welcome
        ]
    );
    // A paused worker needs no queue: it goes again, as does that of the batch without any.
    let gone = table.tell(Input::Workers { capacities: vec![] });
    let deleted = [batch(), other].map(|batch| Effect::DeleteQueue { batch });
    assert_eq!(gone, deleted);
    assert_eq!(
        table.tell(workers(1)),
        [Effect::Declare { batch: batch() }],
        "and comes back with the next worker"
    );
}

#[test]
fn new_tasks_are_claimed_once_and_a_refused_one_comes_back_after_a_rest() {
    let mut table = Table::working(0, false);
    assert_eq!(table.tell(pending()), [claim(256)]);
    assert_eq!(table.tell(pending()), [], "a claim is on its way");
    let claimed = Input::Claimed {
        batch: batch(),
        dispatches: 1,
        assigned: 1,
        pending_left: false,
    };
    assert_eq!(table.tell(claimed), []);
    let [(task, dispatch)] = tasks(1..2)[..] else {
        unreachable!()
    };
    let refused = Input::Refused {
        batch: batch(),
        task,
        dispatch,
    };
    let dispatches = vec![(task, dispatch)];
    assert_eq!(
        table.tell(refused),
        [Effect::Return {
            batch: batch(),
            dispatches
        }]
    );
    let returned = Input::Returned {
        batch: batch(),
        dispatches: 1,
    };
    assert_eq!(table.tell(returned), []);
    assert_eq!(
        table.wait(0.2),
        [Effect::Declare { batch: batch() }, claim(256)]
    );
}

#[test]
fn a_more_urgent_task_has_the_queue_withdrawn_when_all_is_confirmed() {
    let mut table = Table::working(256, true);
    table.tell(Input::Room {
        room: [(batch(), 100)].into(),
    });
    let claimed = Input::Claimed {
        batch: batch(),
        dispatches: 2,
        assigned: 256,
        pending_left: true,
    };
    table.tell(claimed);
    let compare = Effect::Compare { batch: batch() };
    assert_eq!(table.tell(pending()), std::slice::from_ref(&compare));
    let compared = Input::Compared {
        batch: batch(),
        overtaken: true,
    };
    assert_eq!(table.tell(compared), []);
    assert_eq!(table.tell(Input::Confirmed { batch: batch() }), []);
    assert_eq!(
        table.core.next_deadline(table.now),
        Some(at(60.0)),
        "it waits for the answer, not for the time"
    );
    assert_eq!(
        table.tell(Input::Confirmed { batch: batch() }),
        [Effect::Withdraw { batch: batch() }]
    );
    assert_eq!(table.tell(pending()), [], "barred meanwhile");
    let withdrawn = Input::Withdrawn {
        batch: batch(),
        dispatches: 200,
    };
    assert_eq!(table.tell(withdrawn), [claim(256)]);
    let claimed = Input::Claimed {
        batch: batch(),
        dispatches: 0,
        assigned: 256,
        pending_left: true,
    };
    assert_eq!(table.tell(claimed), []);
    assert_eq!(table.tell(pending()), [], "at most once a second");
    assert_eq!(table.wait(1.0), [compare]);
}

#[test]
fn nothing_is_counted_before_what_was_said_is_applied() {
    let mut table = Table::working(3, false);
    // A marker that does not come back is lost: another one is sent.
    let effects = table.wait(60.0);
    let marker = MarkerNumber(2);
    assert_eq!(effects, [Effect::Marker { marker }]);
    table.tell(Input::MarkerRead {
        marker: MarkerNumber(1),
    });
    assert_eq!(table.core.next_deadline(table.now), Some(at(120.0)));
    table.tell(Input::MarkerRead { marker });
    assert_eq!(table.core.next_deadline(table.now), Some(at(62.0)));
}

#[test]
fn what_was_only_on_its_way_calls_no_roll() {
    let mut table = Table::working(3, false);
    table.tell(Input::MarkerRead {
        marker: MarkerNumber(1),
    });
    table.wait(2.0);
    table.tell(Input::Counted {
        batch: batch(),
        surplus: dispatches(1..4),
        assigned: 3,
    });
    let suspects = Question::Suspects(dispatches(1..4));
    assert_eq!(table.wait(5.0), [list(suspects.clone())]);
    assert_eq!(table.tell(listed(suspects, 0..0, &["v", "w"])), []);
    assert_eq!(
        table.wait(32.0),
        [Effect::Count {
            batch: batch(),
            age: at(30.0)
        }]
    );
}

#[test]
fn a_dispatch_is_missing_when_every_worker_denies_it() {
    let mut table = Table::working(2, false);
    assert_eq!(
        table.called(1..3, &["v", "w"]),
        [revoke("v", 1..3), revoke("w", 1..3)]
    );
    assert_eq!(table.tell(absent("v", 1..3)), []);
    let asked = Question::Asked(dispatches(1..3));
    assert_eq!(table.tell(absent("w", 1..2)), [list(asked.clone())]);
    let missing = Effect::Return {
        batch: batch(),
        dispatches: tasks(1..2),
    };
    assert_eq!(table.tell(listed(asked, 1..3, &["v", "w"])), [missing]);
    // The other one is asked for again, of the one that has not answered.
    let asked = Question::Asked(dispatches(2..3));
    assert_eq!(table.core.unaccounted(&batch()), 1);
    table.now = at(10.0);
    let effects = table.tell(Input::Tick);
    assert!(effects.contains(&list(asked.clone())), "{effects:?}");
    assert_eq!(
        table.tell(listed(asked.clone(), 2..3, &["v", "w"])),
        [revoke("w", 2..3)]
    );
    // It was there: it has started.
    table.tell(Input::Room {
        room: [(batch(), 1)].into(),
    });
    table.now = at(10.5);
    assert_eq!(table.tell(Input::Tick), [list(asked.clone())]);
    assert_eq!(table.tell(listed(asked, 0..0, &["v", "w"])), []);
    assert_eq!(table.core.unaccounted(&batch()), 0);
}

#[test]
fn a_worker_that_comes_back_is_asked_again() {
    let mut table = Table::working(1, false);
    table.called(1..2, &["v", "w"]);
    table.tell(absent("w", 1..2));
    let desired = DesiredState {
        version: 1,
        batch: batch(),
        concurrency: 1,
        prefetch: 0,
        paused: false,
    };
    let greeted = |name: &str| Input::Greeted {
        worker: worker(name),
        desired: desired.clone(),
    };
    assert!(table.tell(greeted("v")).contains(&revoke("v", 1..2)));
    let effects = table.tell(greeted("w"));
    assert!(!effects.contains(&revoke("w", 1..2)), "it has answered");
}

#[test]
fn without_workers_what_is_not_in_the_queue_is_missing() {
    let mut table = Table::working(1, false);
    let asked = Question::Asked(dispatches(1..2));
    assert_eq!(table.called(1..2, &[]), [list(asked.clone())]);
    let effects = table.tell(listed(asked, 1..2, &[]));
    assert!(
        matches!(&effects[..], [Effect::Return { .. }, ..]),
        "{effects:?}"
    );
}

#[test]
fn a_lost_worker_is_waited_for_no_longer() {
    let mut table = Table::working(1, false);
    table.called(1..2, &["silent", "w"]);
    table.tell(absent("w", 1..2));
    table.now = at(10.0);
    table.tell(Input::Tick);
    let asked = Question::Asked(dispatches(1..2));
    let effects = table.tell(listed(asked, 1..2, &["w"]));
    assert!(
        matches!(&effects[..], [Effect::Return { .. }, ..]),
        "{effects:?}"
    );
}

#[test]
fn the_unaccounted_bar_the_batch_for_two_seconds_and_do_not_fill_its_window() {
    let mut table = Table::working(256, true);
    table.called(1..257, &["w"]);
    assert_eq!(table.tell(pending()), [], "barred");
    let effects = table.wait(7.0);
    assert_eq!(effects, [Effect::Compare { batch: batch() }]);
    let compared = Input::Compared {
        batch: batch(),
        overtaken: false,
    };
    assert_eq!(table.tell(compared), [claim(512)]);
}

#[test]
fn what_is_dispatched_of_a_paused_batch_comes_back() {
    let mut table = Table::working(2, true);
    let paused = || Input::Paused { batch: batch() };
    let withdraw = Effect::Withdraw { batch: batch() };
    // A publication is on its way: first its answer.
    table.tell(pending());
    table.tell(Input::Compared {
        batch: batch(),
        overtaken: false,
    });
    table.tell(Input::Claimed {
        batch: batch(),
        dispatches: 1,
        assigned: 3,
        pending_left: false,
    });
    assert_eq!(table.tell(paused()), []);
    assert_eq!(
        table.tell(Input::Confirmed { batch: batch() }),
        std::slice::from_ref(&withdraw)
    );
    // Paused again (by another person, say) in the middle: everything once more, afterwards.
    assert_eq!(table.tell(paused()), []);
    let withdrawn = |dispatches| Input::Withdrawn {
        batch: batch(),
        dispatches,
    };
    assert_eq!(table.tell(withdrawn(1)), [list(Question::All)]);
    let effects = table.tell(listed(Question::All, 1..3, &["w"]));
    assert_eq!(effects, [revoke("w", 1..3), withdraw]);
    assert_eq!(table.tell(withdrawn(0)), [list(Question::All)]);
    let effects = table.tell(listed(Question::All, 1..3, &["w"]));
    assert_eq!(effects, [revoke("w", 1..3)]);
}

#[test]
fn a_batch_can_be_paused_that_nobody_works_for() {
    let mut table = Table::default();
    let loads = vec![(
        batch(),
        BatchLoad {
            pending: 0,
            assigned: 1,
        },
    )];
    table.tell(Input::Loaded { loads });
    assert_eq!(
        table.tell(Input::Paused { batch: batch() }),
        [
            Effect::Declare { batch: batch() },
            Effect::Withdraw { batch: batch() }
        ]
    );
}

#[test]
fn what_nobody_told_of_is_found() {
    let mut table = Table::working(0, false);
    let looked = |pending| Input::Looked {
        loads: vec![(
            batch(),
            BatchLoad {
                pending,
                assigned: 0,
            },
        )],
    };
    assert_eq!(table.tell(looked(0)), []);
    assert_eq!(table.tell(looked(1)), [claim(256)]);
    // What is known needs nothing.
    assert_eq!(table.tell(looked(1)), []);
}

fn room(dispatches: usize) -> Input {
    Input::Room {
        room: [(batch(), dispatches)].into(),
    }
}

#[test]
fn dispatches_are_counted_until_the_database_says_that_there_are_none() {
    let mut table = Table::working(3, false);
    // What was accepted before the claim is told after it: the window looks empty, and is not.
    let claimed = Input::Claimed {
        batch: batch(),
        dispatches: 0,
        assigned: 1,
        pending_left: false,
    };
    table.tell(claimed);
    table.tell(room(2));
    table.tell(Input::MarkerRead {
        marker: MarkerNumber(1),
    });
    let count = |age| Effect::Count {
        batch: batch(),
        age: at(age),
    };
    let counted = |assigned| Input::Counted {
        batch: batch(),
        surplus: vec![],
        assigned,
    };
    assert_eq!(table.wait(2.0), [count(2.0)]);
    table.tell(counted(1));
    assert_eq!(table.wait(32.0), [count(30.0)]);
    table.tell(counted(0));
    assert_eq!(table.core.next_deadline(table.now), None);
}

#[test]
fn nobody_is_asked_before_everything_is_read_that_was_said_until_the_queue_was_empty() {
    let mut table = Table::working(2, false);
    let paused = Input::Paused { batch: batch() };
    assert_eq!(table.tell(paused), [Effect::Withdraw { batch: batch() }]);
    let withdrawn = Input::Withdrawn {
        batch: batch(),
        dispatches: 0,
    };
    let marker = |number| Effect::Marker {
        marker: MarkerNumber(number),
    };
    let read = |number| Input::MarkerRead {
        marker: MarkerNumber(number),
    };
    assert_eq!(table.core.handle(table.now, withdrawn), [marker(2)]);
    table.tell(read(1));
    assert_eq!(table.tell(pending()), [], "barred");
    // A marker that is lost is sent again.
    assert_eq!(table.wait(60.0), [marker(3)]);
    assert_eq!(table.tell(read(2)), []);
    assert_eq!(table.tell(read(3)), [list(Question::All)]);
}
