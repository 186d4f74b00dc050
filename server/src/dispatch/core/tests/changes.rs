//! Changes of tasks that have not started (D4, D8).

use super::*;
use crate::db::Unstarted;

fn recall(number: u64, range: std::ops::Range<u128>) -> Input {
    Input::Recall {
        recall: RecallNumber(number),
        batch: batch(),
        tasks: tasks(range).into_iter().map(|(task, _)| task).collect(),
    }
}

fn list_unstarted(number: u64) -> Effect {
    Effect::ListUnstarted {
        batch: batch(),
        recall: RecallNumber(number),
    }
}

/// Those of the first range are with nobody in particular, each of the others is with a worker of that name.
fn unstarted(
    number: u64,
    range: std::ops::Range<u128>,
    held: &[(u128, &str)],
    asked: &[&str],
) -> Input {
    let out = |(task, dispatch), holder| Unstarted {
        task,
        dispatch,
        holder,
    };
    let nowhere = tasks(range).into_iter().map(|it| out(it, None));
    let held = held.iter().map(|(n, holder)| {
        let it = tasks(*n..*n + 1)[0];
        out(it, Some(worker(holder)))
    });
    Input::Unstarted {
        batch: batch(),
        recall: RecallNumber(number),
        unstarted: nowhere.chain(held).collect(),
        workers: names(asked),
    }
}

fn change(number: u64, out: &[(u128, &[&str])]) -> Effect {
    let out = out.iter().map(|(n, holders)| {
        let (task, dispatch) = tasks(*n..*n + 1)[0];
        let holders = names(holders);
        Out {
            task,
            dispatch,
            holders,
        }
    });
    Effect::Change {
        batch: batch(),
        recall: RecallNumber(number),
        out: out.collect(),
    }
}

fn changed(number: u64) -> Input {
    Input::Changed {
        batch: batch(),
        recall: RecallNumber(number),
        pending: BTreeSet::new(),
    }
}

fn withdrawn(dispatches: usize) -> Input {
    Input::Withdrawn {
        batch: batch(),
        dispatches,
    }
}

const WITHDRAW: fn() -> Effect = || Effect::Withdraw { batch: batch() };

#[test]
fn a_change_waits_for_confirms_and_nothing_is_claimed_until_it_is_made() {
    let mut table = Table::working(0, false);
    assert_eq!(table.tell(pending()), [claim(256)]);
    assert_eq!(table.tell(recall(1, 1..4)), [], "a claim is on its way");
    let claimed = Input::Claimed {
        batch: batch(),
        dispatches: 2,
        assigned: 2,
        pending_left: true,
    };
    assert_eq!(table.tell(claimed), [], "two are on their way to the queue");
    let confirmed = || Input::Confirmed { batch: batch() };
    assert_eq!(table.tell(confirmed()), []);
    assert_eq!(table.tell(confirmed()), [WITHDRAW()]);
    assert_eq!(table.tell(pending()), [], "barred");
    assert_eq!(table.tell(withdrawn(2)), [list_unstarted(1)]);
    assert_eq!(
        table.tell(unstarted(1, 0..0, &[], &["w"])),
        [change(1, &[])]
    );
    assert_eq!(table.tell(pending()), [], "barred");
    assert_eq!(table.core.barred(table.now), [batch()]);
    assert_eq!(table.tell(changed(1)), [claim(256)], "and free again");
}

#[test]
fn what_is_out_is_asked_back_from_its_holder_or_from_everybody() {
    let mut table = Table::working(3, false);
    assert_eq!(table.tell(recall(1, 1..4)), [WITHDRAW()]);
    assert_eq!(table.tell(withdrawn(0)), [list_unstarted(1)]);
    // The fourth is no task of the change.
    let asked = table.tell(unstarted(1, 1..2, &[(3, "v"), (4, "w")], &["v", "w"]));
    let both = Effect::Revoke {
        worker: worker("v"),
        dispatches: vec![dispatch(1), dispatch(3)],
    };
    assert_eq!(asked, [both, revoke("w", 1..2)]);
    // One is given back, the other starts; each is looked for at once, and nobody is asked twice.
    assert_eq!(table.tell(room(1)), []);
    assert_eq!(table.wait(0.1), [list_unstarted(1)]);
    assert_eq!(table.tell(room(0)), [], "the database is being asked");
    assert_eq!(table.tell(unstarted(1, 0..0, &[(3, "v")], &["v", "w"])), []);
    assert_eq!(table.wait(0.1), [list_unstarted(1)]);
    assert_eq!(
        table.tell(unstarted(1, 0..0, &[], &["v", "w"])),
        [change(1, &[])]
    );
}

#[test]
fn what_everybody_denies_is_void_but_not_what_somebody_has_accepted() {
    let mut table = Table::working(2, false);
    table.tell(recall(1, 1..3));
    table.tell(withdrawn(0));
    table.tell(unstarted(1, 1..2, &[(2, "v")], &["v", "w"]));
    assert_eq!(table.tell(absent("v", 1..3)), []);
    assert_eq!(table.tell(absent("w", 1..3)), [list_unstarted(1)]);
    let returned = Effect::Return {
        batch: batch(),
        dispatches: tasks(1..2),
    };
    let still = || unstarted(1, 1..2, &[(2, "v")], &["v", "w"]);
    assert_eq!(table.tell(still()), [returned]);
    let input = Input::Returned {
        batch: batch(),
        dispatches: 1,
    };
    table.tell(input);
    assert_eq!(table.wait(0.1), [list_unstarted(1)]);
    assert_eq!(table.tell(unstarted(1, 0..0, &[(2, "v")], &["v", "w"])), []);
    assert_eq!(table.wait(2.0), [change(1, &[(2, &["v"])])]);
}

#[test]
fn after_two_seconds_the_change_is_made_and_names_what_is_out() {
    let mut table = Table::working(3, false);
    table.tell(recall(1, 1..4));
    table.tell(withdrawn(0));
    table.tell(unstarted(1, 1..3, &[(3, "w")], &["v", "w"]));
    table.tell(absent("v", 1..2));
    // A worker that comes back may not have heard.
    let desired = DesiredState {
        version: 1,
        batch: batch(),
        concurrency: 1,
        prefetch: 0,
        paused: false,
    };
    let greeted = Input::Greeted {
        worker: worker("v"),
        desired,
    };
    assert!(table.tell(greeted).contains(&revoke("v", 2..3)));
    let out: [(u128, &[&str]); 3] = [(1, &["w"]), (2, &["v", "w"]), (3, &["w"])];
    assert_eq!(table.wait(2.0), [change(1, &out)]);
    assert_eq!(table.now, at(2.0));
    let compare = Effect::Compare { batch: batch() };
    assert_eq!(table.tell(changed(1)), [compare], "it goes on");
}

#[test]
fn changes_of_a_batch_are_made_one_after_the_other() {
    let mut table = Table::working(1, false);
    assert_eq!(table.tell(recall(1, 1..2)), [WITHDRAW()]);
    assert_eq!(table.tell(recall(2, 1..2)), []);
    table.tell(withdrawn(1));
    assert_eq!(
        table.tell(unstarted(1, 0..0, &[], &["w"])),
        [change(1, &[])]
    );
    assert_eq!(table.tell(changed(2)), [], "not its turn");
    assert_eq!(table.tell(changed(1)), [WITHDRAW()]);
    assert_eq!(table.tell(withdrawn(0)), [list_unstarted(2)]);
    assert_eq!(
        table.tell(unstarted(1, 0..0, &[], &["w"])),
        [],
        "an old answer"
    );
    assert_eq!(
        table.tell(unstarted(2, 0..0, &[], &["w"])),
        [change(2, &[])]
    );
    assert_eq!(table.tell(changed(2)), [claim(256)]);
}

#[test]
fn a_batch_without_workers_is_changed_at_once_and_moved_tasks_are_dispatched() {
    let mut table = Table::default();
    let other = BatchName::new("other").unwrap();
    table.tell(Input::Loaded { loads: vec![] });
    let capacity = Capacity {
        workers: 1,
        slots_and_prefetch: 1,
    };
    table.tell(Input::Workers {
        capacities: vec![(other.clone(), capacity)],
    });
    let declare = Effect::Declare { batch: batch() };
    assert_eq!(table.tell(recall(1, 1..2)), [declare, WITHDRAW()]);
    table.tell(withdrawn(0));
    assert_eq!(table.tell(unstarted(1, 0..0, &[], &[])), [change(1, &[])]);
    let moved = Input::Changed {
        batch: batch(),
        recall: RecallNumber(1),
        pending: [other.clone()].into(),
    };
    let claim = Effect::Claim {
        batch: other,
        window: 256,
    };
    assert_eq!(table.tell(moved), [claim]);
}
