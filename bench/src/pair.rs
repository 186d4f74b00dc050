//! The pairs of broker and database.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A pair of broker and database that scitq runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Pair {
    /// `scitq-ctl up`: one process, broker inside, SQLite
    Embedded,
    /// `scitq-server` and `scitq-worker` on RabbitMQ and PostgreSQL
    Rabbitmq,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embedded => "embedded",
            Self::Rabbitmq => "RabbitMQ + PostgreSQL",
        })
    }
}
