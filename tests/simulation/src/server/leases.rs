//! Whose lease has ended: judged by the real function, by the clocks of the database and of the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use scitq_server::db::Silent;
use scitq_server::events::Happening;
use scitq_server::maintenance::Count;
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::{Marker, PROTOCOL_VERSION};
use uuid::Uuid;

use super::{Done, OFFLINE_AFTER, Over};
use crate::broker::Request;
use crate::database::Refused;
use crate::mutant::Mutant;
use crate::world::{Event, World};

const CHECK_EVERY: Duration = Duration::from_secs(5);

/// How long a leader has been able to hear, and whom it has heard.
#[derive(Debug, Default)]
pub(super) struct Listening {
    since: Option<Duration>,
    heard: BTreeMap<WorkerName, Duration>,
    /// Its own word in the state queue, and when it was said.
    marker: Option<(Uuid, Duration)>,
}

impl Listening {
    /// A sign of life was read.
    pub(super) fn heard(&mut self, worker: &WorkerName, now: Duration) {
        self.heard.insert(worker.clone(), now);
    }
}

impl World {
    /// Says a word that comes back when everything before it has been read.
    pub(super) fn listen(&mut self, index: usize) {
        let marker = self.uuid();
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return;
        };
        term.listening.marker = Some((marker, now));
        let (epoch, id) = (term.epoch, term.commanding);
        let message = Marker {
            version: PROTOCOL_VERSION,
            epoch,
            marker,
            returned: Vec::new(),
        };
        self.send(id, Request::Marker(message));
    }

    /// The leader has read a word of its own.
    pub(super) fn own_word_read(&mut self, index: usize, marker: Uuid) -> Done {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return Err(Over);
        };
        let ours = term.listening.marker.take_if(|(ours, _)| *ours == marker);
        let Some((_, said)) = ours else { return Ok(()) };
        if term.listening.since.is_none() {
            term.listening.since = Some(now);
            let check = Event::ServerChecksLeases(index, term.number);
            self.at(CHECK_EVERY, check);
            return Ok(());
        }
        for silent in self.expired(index, now.saturating_sub(said)) {
            self.give_up(index, &silent)?;
        }
        Ok(())
    }

    fn expired(&self, index: usize, waited: Duration) -> Vec<Silent> {
        let mut silent = self.database.silent_beyond_lease(self.lost_after, self.now);
        if self.mutant == Some(Mutant::TrustsOneClock) {
            return silent;
        }
        let Some(term) = &self.servers[index].term else {
            return Vec::new();
        };
        let Some(since) = term.listening.since else {
            return Vec::new();
        };
        let now = self.now;
        let count = Count {
            listening: now.saturating_sub(since),
            least: Duration::ZERO,
            waited,
        };
        silent.retain(|silent| {
            let heard = term.listening.heard.get(&silent.worker);
            count.is_over(silent, heard.map(|at| now.saturating_sub(*at)))
        });
        silent
    }

    fn give_up(&mut self, index: usize, silent: &Silent) -> Done {
        let live = self
            .database
            .live_attempts(&silent.worker, silent.incarnation);
        if !silent.former {
            self.check_silence(&silent.worker, silent.incarnation, self.lost_after);
        }
        let lost: Vec<Happening> = live
            .into_iter()
            .map(|live| Happening::Lost {
                attempt: live.attempt,
                dispatch: live.dispatch,
                task: live.task,
                detail: "silent past its lease".to_owned(),
            })
            .collect();
        self.store(index, &lost, &[])?;
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        self.database
            .set_lost(term.epoch, &silent.worker, silent.incarnation)
            .map_err(|_: Refused| Over)?;
        self.dispatcher_hears(index, scitq_server::dispatch::core::Input::WorkersChanged);
        Ok(())
    }

    pub(crate) fn server_checks_leases(&mut self, index: usize, number: u64) {
        let again = Event::ServerChecksLeases(index, number);
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, again);
        }
        if self.servers[index].term(number).is_none() {
            return;
        }
        if self.database.up && !self.expired(index, Duration::ZERO).is_empty() {
            self.listen(index);
        }
        self.at(CHECK_EVERY, again);
    }

    pub(crate) fn server_checks_silence(&mut self, index: usize, number: u64) {
        let again = Event::ServerChecksSilence(index, number);
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            // What came meanwhile is heard first.
            return self.schedule(until + OFFLINE_AFTER, again);
        }
        let now = self.now;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        let epoch = term.epoch;
        if !self.database.up {
            return self.at(OFFLINE_AFTER, again);
        }
        let Ok(offline) = self.database.set_offline(epoch, OFFLINE_AFTER, now) else {
            return self.end_term(index);
        };
        if offline {
            self.dispatcher_hears(index, scitq_server::dispatch::core::Input::WorkersChanged);
        }
        self.at(OFFLINE_AFTER / 4, again);
    }
}
