//! What people want while all that goes on, and the peace that they make in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use scitq_server::db::NewRevision;
use scitq_server::dispatch::core::{Input, RecallNumber};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

use crate::world::{Event, World};

/// Tasks of one batch that are to be changed; the wish stands in the database until a leader has fulfilled it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    number: RecallNumber,
    batch: BatchName,
    pub(crate) revisions: Vec<NewRevision>,
}

impl Change {
    /// What a leader's dispatcher is told.
    pub(crate) fn input(&self) -> Input {
        Input::Recall {
            recall: self.number,
            batch: self.batch.clone(),
            tasks: self.revisions.iter().map(|wanted| wanted.task).collect(),
        }
    }
}

impl World {
    /// Somebody changes something.
    pub(crate) fn steer(&mut self) {
        let worker = self.random.random_range(0..self.workers.len());
        let name = self.workers[worker].name.clone();
        match self.random.random_range(0..10) {
            0 => {
                let paused = self.random.random();
                self.change_worker(&name, |desired| desired.paused = paused);
            }
            1 => {
                let batch = self.any_batch();
                self.change_worker(&name, |desired| desired.batch = batch);
            }
            2 => {
                let (concurrency, prefetch) = (
                    self.random.random_range(0..=4),
                    self.random.random_range(0..=3),
                );
                self.change_worker(&name, |desired| {
                    desired.concurrency = concurrency;
                    desired.prefetch = prefetch;
                });
            }
            3 => {
                let (batch, paused) = (self.any_batch(), self.random.random());
                self.pause_batch(&batch, paused);
            }
            4 => {
                if let Some(worker) = self.database.workers.get_mut(&name) {
                    worker.restart = Some(worker.boots);
                }
            }
            5 => {
                let to = self.any_batch();
                self.change_tasks(|wanted| wanted.batch = to.clone());
            }
            6 => {
                let priority = self.random.random_range(0..3);
                self.change_tasks(|wanted| wanted.priority = priority);
            }
            _ => self.change_tasks(|wanted| wanted.definition.command.push('x')),
        }
    }

    fn change_worker(&mut self, name: &WorkerName, change: impl FnOnce(&mut DesiredState)) {
        self.database.change(name, change);
        self.nudge_worker(name);
    }

    /// Both ways the dispatcher looks at what there is to dispatch.
    fn pause_batch(&mut self, batch: &BatchName, paused: bool) {
        if paused {
            self.database.paused.insert(batch.clone());
        } else {
            self.database.paused.remove(batch);
        }
        self.nudge(batch);
    }

    /// Some tasks are to be something else: those that have not started by the time that their batch is asked back.
    fn change_tasks(&mut self, change: impl Fn(&mut NewRevision)) {
        let tasks: Vec<_> = self.database.tasks.keys().copied().collect();
        let mut batches: BTreeMap<BatchName, Vec<NewRevision>> = BTreeMap::new();
        for task in tasks {
            if !self.is_unfinished(task) || self.random.random_ratio(1, 3) {
                continue;
            }
            if let Some((batch, mut wanted)) = self.database.definition(task) {
                change(&mut wanted);
                batches.entry(batch).or_default().push(wanted);
            }
        }
        for (batch, revisions) in batches {
            self.last_change += 1;
            let number = RecallNumber(self.last_change);
            let change = Change {
                number,
                batch,
                revisions,
            };
            for index in 0..self.servers.len() {
                self.dispatcher_hears(index, change.input());
            }
            self.changes.insert(number, change);
        }
    }

    /// Peace: everyone is there and may work, and somebody works for each batch.
    pub(crate) fn settle(&mut self) {
        for batch in self.batches.clone() {
            self.pause_batch(&batch, false);
        }
        for worker in 0..self.workers.len() {
            self.at(Duration::from_secs(25), Event::WorkerStarts(worker));
        }
        for server in 0..self.servers.len() {
            self.at(Duration::from_secs(25), Event::ServerStarts(server));
        }
        let mut open: Vec<_> = self.unfinished_batches().into_iter().collect();
        if open.is_empty() {
            open.clone_from(&self.batches);
        }
        for index in 0..self.workers.len() {
            let name = self.workers[index].name.clone();
            let batch = open[index % open.len()].clone();
            let wanted = self.database.workers.get(&name).map(|it| &it.desired);
            let fits = wanted.is_some_and(|it| {
                !it.paused && it.concurrency > 0 && (it.batch == batch || open.contains(&it.batch))
            });
            if !fits || open.len() > self.workers.len() {
                self.database.change(&name, |desired| {
                    desired.paused = false;
                    desired.concurrency = desired.concurrency.max(1);
                    desired.batch = batch;
                });
                self.nudge_worker(&name);
            }
        }
        if self.workers.len() > 1 && open.len() > 1 {
            self.spread(&open);
        }
        self.at(Duration::from_mins(1), Event::Settle);
    }

    /// One worker at least for each batch that has work.
    fn spread(&mut self, open: &[scitq_shared::names::BatchName]) {
        for (index, batch) in open.iter().enumerate() {
            let name = self.workers[index % self.workers.len()].name.clone();
            let has = self
                .database
                .workers
                .get(&name)
                .map(|it| it.desired.batch.clone());
            if has.as_ref() != Some(batch) {
                let batch = batch.clone();
                self.database.change(&name, |desired| desired.batch = batch);
                self.nudge_worker(&name);
            }
        }
    }
}
