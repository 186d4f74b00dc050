//! What goes wrong, and what people change meanwhile.

use std::time::Duration;

use rand::Rng as _;

use crate::broker::{Client, QueueName};
use crate::world::{Event, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The connection of a worker breaks.
    WorkerCut,
    /// The connection of the leader breaks.
    LeaderCut,
    /// The agent of a worker is killed and started again.
    AgentKilled,
    /// A machine is gone with everything on it; another takes its name.
    MachineDestroyed,
    /// A worker is stopped for long, then resumed.
    WorkerStopped,
    /// A worker drains, ends and comes back.
    WorkerDrained,
    /// A server is killed and started again.
    ServerKilled,
    /// A server is stopped for long, then resumed.
    ServerStopped,
    /// The broker crashes and comes back with its data.
    BrokerCrashed,
    /// The broker crashes and comes back empty.
    BrokerWiped,
    /// The database is away for a while.
    DatabaseAway,
    /// The broker closes a worker's channel for deliveries.
    ChannelClosed,
    /// A batch's queue is deleted with everything in it.
    QueueDestroyed,
    /// The clock of a machine jumps.
    ClockJumped,
}

/// All kinds, the frequent ones several times.
const FAULTS: [Fault; 18] = [
    Fault::WorkerCut,
    Fault::WorkerCut,
    Fault::LeaderCut,
    Fault::LeaderCut,
    Fault::AgentKilled,
    Fault::AgentKilled,
    Fault::MachineDestroyed,
    Fault::WorkerStopped,
    Fault::WorkerDrained,
    Fault::ServerKilled,
    Fault::ServerKilled,
    Fault::ServerStopped,
    Fault::BrokerCrashed,
    Fault::BrokerWiped,
    Fault::DatabaseAway,
    Fault::ChannelClosed,
    Fault::QueueDestroyed,
    Fault::ClockJumped,
];

/// A broker notices a silent connection within two heartbeats.
const HEARTBEATS: u64 = 10_000;

impl World {
    pub(crate) fn random_fault(&mut self) -> Fault {
        FAULTS[self.random.random_range(0..FAULTS.len())]
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        let worker = self.random.random_range(0..self.workers.len());
        let server = self.random.random_range(0..self.servers.len());
        let back = self.milliseconds(50..20_000);
        let struck = match fault {
            Fault::WorkerCut => self.workers[worker]
                .connection()
                .map(|id| self.cut(Client::Worker(worker), id, HEARTBEATS))
                .is_some(),
            Fault::LeaderCut => {
                let [commanding, reading] = self.servers[server].connections()[..] else {
                    return;
                };
                let id = if self.random.random() {
                    commanding
                } else {
                    reading
                };
                self.cut(Client::Server(server), id, HEARTBEATS);
                true
            }
            Fault::AgentKilled => {
                let died = self.agent_dies(worker);
                self.at(back, Event::WorkerStarts(worker));
                died
            }
            Fault::MachineDestroyed => {
                let died = self.machine_dies(worker);
                self.at(back, Event::WorkerStarts(worker));
                died
            }
            Fault::WorkerStopped => {
                let until = self.now + back * 2;
                self.stop_worker(worker, until);
                if back * 2 > Duration::from_millis(HEARTBEATS)
                    && let Some(id) = self.workers[worker].connection()
                {
                    self.cut(Client::Worker(worker), id, HEARTBEATS);
                }
                true
            }
            Fault::WorkerDrained => self.drain_worker(worker),
            Fault::ServerKilled => {
                let died = self.server_dies(server, 1000);
                self.at(back, Event::ServerStarts(server));
                died
            }
            Fault::ServerStopped => {
                let until = self.now + back * 2;
                self.stop_server(server, until);
                for id in self.servers[server].connections() {
                    self.cut(Client::Server(server), id, HEARTBEATS);
                }
                true
            }
            Fault::BrokerCrashed | Fault::BrokerWiped => {
                let up = self.broker.up;
                if up {
                    self.tell_of_crash();
                    self.broker.crash(fault == Fault::BrokerWiped);
                    self.at(back, Event::BrokerStarts);
                }
                up
            }
            Fault::DatabaseAway => {
                let up = std::mem::replace(&mut self.database.up, false);
                if up {
                    self.at(back, Event::DatabaseReturns);
                }
                up
            }
            Fault::ChannelClosed => self.workers[worker]
                .connection()
                .is_some_and(|id| self.broker.close_channel(id)),
            Fault::QueueDestroyed => {
                let batch = self.any_batch();
                let waiting = self.broker.depth(&QueueName::Batch(batch.clone()));
                self.broker.destroy(&batch);
                waiting > 0
            }
            Fault::ClockJumped => {
                let by = Duration::from_secs(self.random.random_range(0..100_000));
                self.move_clock(worker, by);
                true
            }
        };
        if struck {
            *self.faults.entry(fault).or_default() += 1;
        }
    }

    /// Everyone notices the end of the broker, sooner or later.
    fn tell_of_crash(&mut self) {
        let connections: Vec<_> = self
            .broker
            .connections
            .iter()
            .map(|(id, connection)| (*id, connection.client))
            .collect();
        for (id, client) in connections {
            let notices = self.milliseconds(0..500);
            self.at(notices, Event::ClientNotices(client, id));
        }
    }

    /// Somebody changes something.
    pub(crate) fn steer(&mut self) {
        let worker = self.random.random_range(0..self.workers.len());
        let name = self.workers[worker].name.clone();
        match self.random.random_range(0..5) {
            0 => {
                let paused = self.random.random();
                self.database
                    .change(&name, |desired| desired.paused = paused);
                self.nudge_worker(&name);
            }
            1 => {
                let batch = self.any_batch();
                self.database.change(&name, |desired| desired.batch = batch);
                self.nudge_worker(&name);
            }
            2 => {
                let (concurrency, prefetch) = (
                    self.random.random_range(0..=4),
                    self.random.random_range(0..=3),
                );
                self.database.change(&name, |desired| {
                    desired.concurrency = concurrency;
                    desired.prefetch = prefetch;
                });
                self.nudge_worker(&name);
            }
            _ => {
                let tasks: Vec<_> = self.database.tasks.keys().copied().collect();
                for task in tasks {
                    if self.random.random_ratio(1, 3) {
                        self.database.rewrite(task);
                    }
                }
            }
        }
    }

    /// Peace: everyone is there and may work, and somebody works for each batch.
    pub(crate) fn settle(&mut self) {
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
