use std::collections::{BTreeMap, BTreeSet};

use scitq_shared::names::BatchName;

use crate::db::{BatchLoad, Capacity};

/// Smallest window of a batch that has a worker.
pub const MIN_WINDOW: usize = 256;

/// How many dispatches of a batch may wait for acceptance: enough that its workers go on while the server is away, few
/// enough that a change reaches all but these at once. 0 without workers (D3).
pub fn window_of(capacity: Capacity) -> usize {
    if capacity.workers <= 0 {
        return 0;
    }
    let places = usize::try_from(capacity.slots_and_prefetch).unwrap_or(0);
    MIN_WINDOW.max(places.saturating_mul(4))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    size: usize,
    /// Dispatches not accepted, as last counted by the database and lowered by what was accepted since.
    assigned: usize,
    /// True unless the database said that there are none. `assigned` may be too low, when a claim and what was accepted
    /// before it are told in the other order; this is what decides whether dispatches are looked for.
    dispatched: bool,
    /// Those of them whose whereabouts are not known: they do not fill the window (D12).
    outside: usize,
    /// True when the database may have pending tasks.
    pending: bool,
    /// True when the batch is to be looked at whatever its fill.
    urgent: bool,
}

/// Which batches are due for a refill. Pure; owned by the dispatcher.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    batches: BTreeMap<BatchName, Window>,
}

impl Windows {
    /// What the database holds when a leader begins; batches not named have nothing.
    pub fn load(&mut self, loads: impl IntoIterator<Item = (BatchName, BatchLoad)>) {
        for window in self.batches.values_mut() {
            (window.assigned, window.pending) = (0, false);
        }
        for (batch, load) in loads {
            let window = self.batches.entry(batch).or_default();
            window.assigned = usize::try_from(load.assigned).unwrap_or(0);
            window.dispatched = load.assigned > 0;
            window.pending = load.pending > 0;
            window.urgent = window.pending;
        }
    }

    /// What workers there are; batches not named have none.
    pub fn capacities(&mut self, capacities: impl IntoIterator<Item = (BatchName, Capacity)>) {
        let sizes: BTreeMap<BatchName, usize> = capacities
            .into_iter()
            .map(|(batch, capacity)| (batch, window_of(capacity)))
            .collect();
        for batch in sizes.keys() {
            self.batches.entry(batch.clone()).or_default();
        }
        for (batch, window) in &mut self.batches {
            let size = sizes.get(batch).copied().unwrap_or(0);
            // More room than before is used at once.
            window.urgent |= size > window.size;
            window.size = size;
        }
    }

    /// These batches have newly pending tasks.
    pub fn pending(&mut self, batches: impl IntoIterator<Item = BatchName>) {
        for batch in batches {
            let window = self.batches.entry(batch).or_default();
            window.pending = true;
            window.urgent = true;
        }
    }

    /// Those that have pending tasks and are taken to have none.
    pub fn overlooked(&self, loads: Vec<(BatchName, BatchLoad)>) -> BTreeSet<BatchName> {
        let overlooked = loads.into_iter().filter(|(batch, load)| {
            load.pending > 0 && !self.batches.get(batch).is_some_and(|known| known.pending)
        });
        overlooked.map(|(batch, _)| batch).collect()
    }

    /// This many dispatches of a batch were accepted or came back.
    pub fn room(&mut self, batch: &BatchName, dispatches: usize) {
        if let Some(window) = self.batches.get_mut(batch) {
            window.assigned = window.assigned.saturating_sub(dispatches);
        }
    }

    /// So many dispatches of a batch are not accepted.
    pub fn recounted(&mut self, batch: &BatchName, assigned: usize) {
        if let Some(window) = self.batches.get_mut(batch) {
            window.assigned = assigned;
            window.dispatched = assigned > 0;
        }
    }

    /// What a claim found.
    pub fn claimed(&mut self, batch: &BatchName, assigned: usize, pending_left: bool) {
        let window = self.batches.entry(batch.clone()).or_default();
        window.assigned = assigned;
        window.dispatched = assigned > 0;
        window.pending = pending_left;
        window.urgent = false;
        if window.size == 0 && !window.pending && window.assigned == 0 {
            self.batches.remove(batch);
        }
    }

    /// So many dispatches of a batch are not in its queue and with no worker for certain.
    pub fn outside(&mut self, batch: &BatchName, dispatches: usize) {
        if let Some(window) = self.batches.get_mut(batch) {
            // Their places are free now.
            window.urgent |= dispatches > window.outside;
            window.outside = dispatches;
        }
    }

    /// The batches to refill now, with how many dispatches they may have.
    ///
    /// New pending tasks and new room by workers are used at once; room by acceptance is used when a quarter of the
    /// window is free, so that a busy series costs one transaction for many tasks and not one for each.
    pub fn due(&self) -> Vec<(BatchName, usize)> {
        let due = self.batches.iter().filter(|(_, window)| {
            let filled = window.assigned.saturating_sub(window.outside);
            let low = filled <= window.size - window.size / 4;
            window.pending && filled < window.size && (window.urgent || low)
        });
        due.map(|(batch, window)| (batch.clone(), window.size + window.outside))
            .collect()
    }

    /// True when a batch has dispatches waiting in its queue and tasks waiting for the queue: only then can one of these
    /// be more urgent than one of those.
    pub fn is_contended(&self, batch: &BatchName) -> bool {
        self.batches
            .get(batch)
            .is_some_and(|window| window.assigned > 0 && window.pending && window.size > 0)
    }

    /// The batches that may have dispatches.
    pub fn with_dispatches(&self) -> BTreeSet<BatchName> {
        let some = self.batches.iter().filter(|(_, window)| window.dispatched);
        some.map(|(batch, _)| batch.clone()).collect()
    }

    /// True when a batch has neither work nor workers.
    pub fn is_over(&self, batch: &BatchName) -> bool {
        self.batches
            .get(batch)
            .is_none_or(|window| window.size == 0 && !window.dispatched && !window.pending)
    }

    /// The batches that have workers.
    pub fn with_workers(&self) -> BTreeSet<BatchName> {
        let some = self.batches.iter().filter(|(_, window)| window.size > 0);
        some.map(|(batch, _)| batch.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(name: &str) -> BatchName {
        BatchName::new(name).unwrap()
    }

    fn workers(slots: i64) -> Capacity {
        Capacity {
            workers: 1,
            slots_and_prefetch: slots,
        }
    }

    #[test]
    fn sizes_of_windows() {
        let table = [
            (0, 0, 0),
            (0, 100, 0),
            (1, 0, 256),
            (1, 64, 256),
            (1, 65, 260),
            (3, 1000, 4000),
        ];
        for (workers, slots_and_prefetch, size) in table {
            assert_eq!(
                window_of(Capacity {
                    workers,
                    slots_and_prefetch
                }),
                size
            );
        }
    }

    #[test]
    fn nothing_is_due_without_workers_or_pending_tasks() {
        let mut windows = Windows::default();
        windows.pending([batch("a")]);
        assert_eq!(windows.due(), []);
        windows.capacities([(batch("a"), workers(2)), (batch("b"), workers(2))]);
        assert_eq!(windows.due(), [(batch("a"), 256)]);
        windows.capacities([]);
        assert_eq!(windows.due(), []);
    }

    #[test]
    fn acceptance_is_used_in_quarters_and_new_tasks_at_once() {
        let mut windows = Windows::default();
        windows.capacities([(batch("a"), workers(2))]);
        windows.pending([batch("a")]);
        windows.claimed(&batch("a"), 256, true);
        windows.room(&batch("a"), 63);
        assert_eq!(windows.due(), []);
        windows.room(&batch("a"), 1);
        assert_eq!(windows.due(), [(batch("a"), 256)]);
        windows.claimed(&batch("a"), 256, true);
        windows.room(&batch("a"), 1);
        windows.pending([batch("a")]);
        assert_eq!(windows.due(), [(batch("a"), 256)]);
        windows.claimed(&batch("a"), 200, false);
        windows.room(&batch("a"), 200);
        assert_eq!(windows.due(), []);
    }

    proptest! {
        /// Whatever was accepted, a batch with pending tasks and an empty window is always due: nothing can stall.
        #[test]
        fn an_empty_window_with_pending_tasks_is_due(slots in 0i64..5000, accepted in prop::collection::vec(1usize..100, 0..50)) {
            let mut windows = Windows::default();
            windows.capacities([(batch("a"), workers(slots))]);
            windows.pending([batch("a")]);
            let size = window_of(workers(slots));
            windows.claimed(&batch("a"), size, true);
            let mut left = size;
            for n in accepted {
                windows.room(&batch("a"), n);
                left = left.saturating_sub(n);
                prop_assert_eq!(windows.due().is_empty(), left > size - size / 4);
            }
            windows.room(&batch("a"), size);
            prop_assert_eq!(windows.due(), vec![(batch("a"), size)]);
        }
    }
}
