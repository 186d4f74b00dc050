//! What goes wrong.

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
    /// The disk of a worker is full for a while.
    DiskFull,
    /// The clock of a machine jumps.
    ClockJumped,
    /// The clock of the database jumps, ahead or back.
    DatabaseClockJumped,
}

/// All kinds, the frequent ones several times.
const FAULTS: [Fault; 21] = [
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
    Fault::DiskFull,
    Fault::DatabaseClockJumped,
    Fault::BrokerCrashed,
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
                    let wiped = fault == Fault::BrokerWiped;
                    self.broker.crash(wiped, &mut self.random);
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
            Fault::DiskFull => {
                let until = self.now + back;
                self.fill_disk(worker, until);
                true
            }
            Fault::ClockJumped => {
                let by = Duration::from_secs(self.random.random_range(0..100_000));
                self.move_clock(worker, by);
                true
            }
            Fault::DatabaseClockJumped => {
                let forward = self.random.random();
                let most = if forward { 100_000 } else { 300 };
                let by = Duration::from_secs(self.random.random_range(0..most));
                self.database.move_clock(forward, by);
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
}
