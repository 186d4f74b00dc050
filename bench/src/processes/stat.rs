//! `/proc/PID/stat`: family and processor time.

use std::collections::BTreeMap;
use std::fs;

/// Length of the unit in which the kernel tells processor time; a constant of its interface (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Name of the process that is the parent of a worker's tasks.
const KEEPER: &str = "scitq-keeper";

/// One process at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// Name of its program, cut to 15 bytes.
    pub name: String,
    /// Its parent.
    pub parent: u32,
    /// Seconds in user mode.
    pub user: f64,
    /// Seconds in kernel mode.
    pub system: f64,
    /// Seconds of its children that it has waited for, and of theirs.
    pub waited_for: f64,
}

/// Reads the text of a stat file. The name stands in parentheses and may itself contain some, and spaces.
pub fn parse(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // The first of these is the field that proc(5) numbers 3.
    let seconds = |number: usize| -> Option<f64> {
        Some(fields.get(number - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND)
    };
    Some(Stat {
        name: name.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        user: seconds(14)?,
        system: seconds(15)?,
        waited_for: seconds(16)? + seconds(17)?,
    })
}

/// All processes of the machine, by id. Those that end meanwhile may be missing.
pub fn all() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read(entry.path().join("stat")).ok()?;
            Some((pid, parse(&String::from_utf8_lossy(&text))?))
        })
        .collect()
}

/// The children of this process whose program has this name, the newest first.
pub fn children_named(name: &str) -> Vec<u32> {
    let own = std::process::id();
    let all = all();
    let children = all
        .iter()
        .rev()
        .filter(|(_, stat)| stat.parent == own && stat.name == name);
    children.map(|(pid, _)| *pid).collect()
}

/// Counts the keepers of tasks, which have left their worker's family so that they outlive it, as children of the one of
/// these processes that runs the same program.
pub fn give_keepers_to(programs: impl Iterator<Item = u32>, all: &mut BTreeMap<u32, Stat>) {
    let file = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let programs: Vec<_> = programs
        .filter_map(|pid| file(pid).map(|file| (pid, file)))
        .collect();
    let keepers = all.iter_mut().filter(|(_, stat)| stat.name == KEEPER);
    for (pid, keeper) in keepers {
        let Some(file) = file(*pid) else { continue };
        if let Some((program, _)) = programs.iter().find(|(_, other)| *other == file) {
            keeper.parent = *program;
        }
    }
}

/// The processes below one, without itself.
pub fn below(root: u32, all: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(
            all.iter()
                .filter(|(_, stat)| stat.parent == parent)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    found.split_off(1)
}

/// Seconds that all processors together have worked since the machine started, from the text of `/proc/stat`.
pub fn busy_seconds(text: &str) -> Option<f64> {
    let mut fields = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let mut next = || fields.next()?.parse::<f64>().ok();
    let (user, nice, system, _idle, _waiting, interrupts, soft_interrupts) = (
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
    );
    Some((user + nice + system + interrupts + soft_interrupts) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 9 0 100 0 0";

    #[test]
    fn names_may_hold_parentheses() {
        let stat = parse(TEXT).unwrap();
        assert_eq!(stat.name, "a (b) c");
        assert_eq!(stat.parent, 7);
        assert_eq!((stat.user, stat.system, stat.waited_for), (1.5, 0.5, 1.0));
    }

    #[test]
    fn unreadable_text_is_none() {
        for text in ["", "1 (x", "1 (x) S 7", "1 (x) S a b c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_is_found_below_its_parent() {
        let all = all();
        let own = std::process::id();
        let parent = all[&own].parent;
        assert!(below(parent, &all).contains(&own));
        assert!(!below(own, &all).contains(&own));
    }

    #[test]
    fn a_tree_is_followed_to_its_leaves() {
        let stat = |parent| Stat {
            parent,
            ..parse(TEXT).unwrap()
        };
        let all = BTreeMap::from([
            (1, stat(0)),
            (2, stat(1)),
            (3, stat(2)),
            (4, stat(1)),
            (5, stat(9)),
        ]);
        assert_eq!(below(1, &all), [2, 4, 3]);
        assert!(below(5, &all).is_empty());
    }

    #[test]
    fn keepers_belong_to_the_program_that_they_run() {
        let own = std::process::id();
        let mut all = all();
        // Only by its name it is a keeper.
        let this = all.get_mut(&own).unwrap();
        let parent = this.parent;
        KEEPER.clone_into(&mut this.name);
        give_keepers_to([parent].into_iter(), &mut all);
        assert_eq!(all[&own].parent, parent, "that one runs another program");
        give_keepers_to([own].into_iter(), &mut all);
        assert_eq!(all[&own].parent, own);
    }

    #[test]
    fn idle_and_waiting_are_not_work() {
        let text = "cpu  100 20 30 5000 600 4 6 7 0 0\ncpu0 1 2 3\n";
        assert_eq!(busy_seconds(text), Some(1.6));
        assert_eq!(busy_seconds("intr 1"), None);
    }
}
