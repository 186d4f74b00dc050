use std::collections::BTreeMap;

use scitq_shared::task::TaskStatus;

/// What a transaction changes about the counters of its batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    changes: BTreeMap<String, BTreeMap<TaskStatus, i64>>,
}

impl Tally {
    /// So many tasks more (or less) of a batch are in a status.
    pub(super) fn add(&mut self, batch: &str, status: TaskStatus, delta: i64) {
        let batch = match self.changes.get_mut(batch) {
            Some(batch) => batch,
            None => self.changes.entry(batch.to_owned()).or_default(),
        };
        *batch.entry(status).or_default() += delta;
    }

    /// A task goes from one status to another.
    pub(super) fn moved(&mut self, batch: &str, from: TaskStatus, to: TaskStatus) {
        if from != to {
            self.add(batch, from, -1);
            self.add(batch, to, 1);
        }
    }

    /// What is left to be written, in the order of batch and status as words.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&str, TaskStatus, i64)> {
        self.changes.iter().flat_map(|(batch, statuses)| {
            let mut statuses: Vec<_> = statuses.iter().filter(|(_, delta)| **delta != 0).collect();
            statuses.sort_by_key(|(status, _)| status.as_str());
            statuses
                .into_iter()
                .map(move |(status, delta)| (batch.as_str(), *status, *delta))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_changes_are_written_in_order() {
        let mut tally = Tally::default();
        tally.moved("b", TaskStatus::Pending, TaskStatus::Assigned);
        tally.moved("b", TaskStatus::Assigned, TaskStatus::Running);
        tally.moved("a", TaskStatus::Running, TaskStatus::Running);
        tally.add("a", TaskStatus::Pending, 2);
        let changes: Vec<_> = tally.changes().collect();
        assert_eq!(
            changes,
            [
                ("a", TaskStatus::Pending, 2),
                ("b", TaskStatus::Pending, -1),
                ("b", TaskStatus::Running, 1)
            ]
        );
    }
}
