//! What is asked of scitq on two cores that all its parts, broker and database included, share. The one place where
//! these numbers stand.

use crate::figure::Bound;
use crate::pair::Pair;
use crate::system::Role;

/// `true` tasks end to end, per second.
pub fn throughput(pair: Pair) -> Bound {
    Bound::AtLeast(match pair {
        Pair::Embedded => 700.0,
        Pair::Rabbitmq => 500.0,
    })
}

/// Tasks accepted in bulk, per second.
pub const BULK: Bound = Bound::AtLeast(20_000.0);

/// Submission to start, median, milliseconds.
pub const LATENCY_MEDIAN: Bound = Bound::Below(15.0);

/// Resident memory when idle, MiB. The one process of the embedded pair may use what the two may together.
pub fn idle_memory(role: Role) -> Bound {
    Bound::Below(match role {
        Role::Worker => 30.0,
        Role::Server => 60.0,
        Role::Both => 90.0,
    })
}

/// Largest resident memory while a task prints 1 GB, MiB.
pub fn output_memory(role: Role) -> Bound {
    Bound::Below(match role {
        Role::Worker => 64.0,
        Role::Server => 200.0,
        Role::Both => 264.0,
    })
}
