//! Either pair, for tests that are written once.

use std::ops::Deref;

use crate::embedded::Embedded;
use crate::separate::Separate;
use crate::setup::Setup;
use crate::site::Site;

/// Which broker and database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// In-process broker and SQLite, all in one process.
    Embedded,
    /// RabbitMQ and PostgreSQL, server and worker in processes of their own.
    Separate,
}

/// A running system of either pair, with one worker.
#[derive(Debug)]
pub enum System {
    /// See [`Pair::Embedded`].
    Embedded(Embedded),
    /// See [`Pair::Separate`].
    Separate(Separate),
}

impl Pair {
    /// Starts a system with the default setup.
    pub async fn start(self) -> System {
        self.start_with(Setup::default()).await
    }

    /// Starts a system.
    pub async fn start_with(self, setup: Setup) -> System {
        match self {
            Self::Embedded => System::Embedded(Embedded::start(setup).await),
            Self::Separate => System::Separate(Separate::start(setup).await),
        }
    }
}

impl Deref for System {
    type Target = Site;

    fn deref(&self) -> &Site {
        match self {
            Self::Embedded(embedded) => embedded,
            Self::Separate(separate) => separate,
        }
    }
}
