//! Everything that is tried.

/// Something that happens to a part of the system while a series runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    WorkerKill,
    ServerKill,
    BrokerKill,
    DatabaseKill,
    WorkerStop,
    ServerStop,
    NetworkCut,
    NetworkSilent,
    BrokerWipe,
    WorkerDestroyed,
    DiskFull,
    LeaderKill,
    LeaderStop,
}

/// A run of the system with its own acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// A series in which one fault strikes, several times.
    Series(Fault),
    /// A series in which all faults strike, in random order.
    Mixed,
    ServerAway,
    BrokerAway,
    ConsumerTimeout,
    QueueDeleted,
    QueueChanged,
    EventRefused,
    ListenerFull,
    BrokerAlarm,
    EmbeddedKill,
}

/// What there is to say about a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    pub(crate) case: Case,
    pub(crate) name: &'static str,
    /// What happens, in words.
    pub(crate) what: &'static str,
}

const fn case(case: Case, name: &'static str, what: &'static str) -> Description {
    Description { case, name, what }
}

/// All cases, in the order in which they are run.
pub(crate) const CASES: &[Description] = &[
    case(
        Case::Series(Fault::WorkerKill),
        "worker-kill",
        "SIGKILL of a worker's agent, started again at once",
    ),
    case(
        Case::Series(Fault::ServerKill),
        "server-kill",
        "SIGKILL of the server, started again at once",
    ),
    case(
        Case::Series(Fault::BrokerKill),
        "broker-kill",
        "SIGKILL of the RabbitMQ node, started again with its data",
    ),
    case(
        Case::Series(Fault::DatabaseKill),
        "database-kill",
        "SIGKILL of PostgreSQL with all its processes, started again with its data",
    ),
    case(
        Case::Series(Fault::WorkerStop),
        "worker-stop",
        "SIGSTOP of a worker until the broker has given it up, then SIGCONT",
    ),
    case(
        Case::Series(Fault::ServerStop),
        "server-stop",
        "SIGSTOP of the server until the broker has given it up, then SIGCONT",
    ),
    case(
        Case::Series(Fault::NetworkCut),
        "network-cut",
        "the network between a worker and the broker is cut, and healed",
    ),
    case(
        Case::Series(Fault::NetworkSilent),
        "network-silent",
        "the network between a worker and the broker swallows everything until the broker has given the worker up, and heals",
    ),
    case(
        Case::Series(Fault::BrokerWipe),
        "broker-wipe",
        "SIGKILL of the RabbitMQ node, its data deleted, started again empty",
    ),
    case(
        Case::Series(Fault::WorkerDestroyed),
        "worker-destroyed",
        "a worker is destroyed with its tasks and directories, and declared lost; another one comes",
    ),
    case(
        Case::Series(Fault::DiskFull),
        "disk-full",
        "the file system of a worker's state directory is full for a while",
    ),
    case(
        Case::Series(Fault::LeaderKill),
        "leader-kill",
        "two servers; SIGKILL of the leading one, started again when the other leads",
    ),
    case(
        Case::Series(Fault::LeaderStop),
        "leader-stop",
        "two servers; SIGSTOP of the leading one until the other leads, then SIGCONT",
    ),
    case(
        Case::Mixed,
        "mixed",
        "two servers; all of the above but the full disk, in random order, in one series",
    ),
    case(
        Case::QueueDeleted,
        "queue-deleted",
        "the queue of a batch is deleted with the dispatches in it",
    ),
    case(
        Case::ServerAway,
        "server-away",
        "the server is stopped with a window of tasks queued: workers finish it, and the history is true",
    ),
    case(
        Case::BrokerAway,
        "broker-away",
        "the broker is away: running tasks finish, and their results arrive after",
    ),
    case(
        Case::ConsumerTimeout,
        "consumer-timeout",
        "deliveries are held beyond the broker's consumer timeout: nothing runs twice",
    ),
    case(
        Case::QueueChanged,
        "queue-changed",
        "the queue of a batch is there with other arguments than ours: it is waited for, visibly",
    ),
    case(
        Case::EventRefused,
        "event-refused",
        "messages that the database refuses are put aside, and the series goes on",
    ),
    case(
        Case::ListenerFull,
        "listener-full",
        "a listener's queue is full and refuses events of workers: they wait, visibly, until it is gone",
    ),
    case(
        Case::BrokerAlarm,
        "broker-alarm",
        "the broker's disk alarm blocks publishing: it is waited for, visibly",
    ),
    case(
        Case::EmbeddedKill,
        "embedded-kill",
        "SIGKILL of `scitq-ctl up` in the middle of a series, started again",
    ),
];

impl Case {
    pub(crate) fn description(self) -> Description {
        let found = CASES.iter().find(|description| description.case == self);
        // A test makes sure that every case is described.
        *found.unwrap_or(&CASES[0])
    }

    pub(crate) fn name(self) -> &'static str {
        self.description().name
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        let found = CASES.iter().find(|description| description.name == name);
        found.map(|description| description.case)
    }
}

impl Fault {
    /// Faults that may strike in one series together. A full disk is not among them: there tasks may fail and be repeated,
    /// so the series is accepted by other rules.
    pub(crate) const TOGETHER: &[Self] = &[
        Self::WorkerKill,
        Self::ServerKill,
        Self::BrokerKill,
        Self::DatabaseKill,
        Self::WorkerStop,
        Self::ServerStop,
        Self::NetworkCut,
        Self::NetworkSilent,
        Self::BrokerWipe,
        Self::WorkerDestroyed,
        Self::LeaderKill,
        Self::LeaderStop,
    ];

    pub(crate) fn name(self) -> &'static str {
        Case::Series(self).name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_case() {
        for description in CASES {
            assert_eq!(Case::named(description.name), Some(description.case));
            assert_eq!(description.case.name(), description.name);
        }
    }

    #[test]
    fn every_fault_has_a_case() {
        for fault in Fault::TOGETHER {
            let own = Case::Series(*fault).description();
            assert_eq!(own.case, Case::Series(*fault));
        }
    }
}
