//! The whole topology of scitq as data: names of exchanges and queues, and what is declared.
//!
//! Servers and workers declare [`base_topology`] alike whenever they connect. Batch queues are the leader's: it creates
//! them when a batch has work and a worker, and deletes them drained and idle. Control queues and the leader's queue
//! belong to the connection that declares them.

use std::fmt::Write as _;

use crate::spec::{ExchangeSpec, Overflow, QueueLimit, QueueSpec, QueueType, Topology};

/// Direct exchange that carries tasks to the queue of their batch; the routing key is the queue's name.
pub const TASKS_EXCHANGE: &str = "scitq.tasks";
/// Topic exchange that carries what workers report, routed by `state.…`, `output.…`, `heartbeat.…`.
pub const EVENTS_EXCHANGE: &str = "scitq.events";
/// Topic exchange that carries what the server committed, for anyone who wants to listen.
pub const FEED_EXCHANGE: &str = "scitq.feed";
/// Direct exchange that carries messages to workers; the routing key is [`worker_routing_key`].
pub const CONTROL_EXCHANGE: &str = "scitq.control";
/// Direct exchange that takes submissions of plain AMQP clients.
pub const SUBMIT_EXCHANGE: &str = "scitq.submit";
/// Direct exchange that dead letters go through to [`REJECTED_QUEUE`].
pub const REJECTED_EXCHANGE: &str = "scitq.rejected";

/// Queue of state events, for the leader.
pub const STATE_QUEUE: &str = "scitq.events.state";
/// Queue of task output, for the leader; bounded, refuses what is too much.
pub const OUTPUT_QUEUE: &str = "scitq.events.output";
/// Queue of heartbeats, for the leader; bounded, drops the oldest.
pub const HEARTBEAT_QUEUE: &str = "scitq.events.heartbeat";
/// Queue of messages that could not be read or were rejected.
pub const REJECTED_QUEUE: &str = "scitq.rejected";
/// Exclusive queue whose holder is the leader; nudges to the leader go to it through the default exchange.
pub const LEADER_QUEUE: &str = "scitq.leader";

/// What the queue of task output holds at most, in bytes, unless said otherwise.
pub const DEFAULT_OUTPUT_BYTES: u64 = 256 * 1024 * 1024;
/// How many heartbeats are kept at most.
pub const HEARTBEAT_MESSAGES: u64 = 10_000;

const BATCH_PREFIX: &str = "scitq.batch.";
const CONTROL_PREFIX: &str = "scitq.control.";
const NAME_BYTES: usize = 200;

/// What every server and worker declares when it connects.
pub fn base_topology() -> Topology {
    base_topology_with_output_limit(DEFAULT_OUTPUT_BYTES)
}

/// [`base_topology`] with another bound, in bytes, on the queue of task output. Servers and workers of one broker must
/// agree on it.
pub fn base_topology_with_output_limit(output_bytes: u64) -> Topology {
    let output_limit = QueueLimit {
        bytes: Some(output_bytes),
        messages: None,
        overflow: Overflow::RejectPublish,
    };
    let heartbeat_limit = QueueLimit {
        bytes: None,
        messages: Some(HEARTBEAT_MESSAGES),
        overflow: Overflow::DropHead,
    };
    Topology {
        exchanges: vec![
            ExchangeSpec::direct(TASKS_EXCHANGE),
            ExchangeSpec::topic(EVENTS_EXCHANGE),
            ExchangeSpec::topic(FEED_EXCHANGE),
            ExchangeSpec::direct(CONTROL_EXCHANGE),
            ExchangeSpec::direct(SUBMIT_EXCHANGE),
            ExchangeSpec::direct(REJECTED_EXCHANGE),
        ],
        queues: vec![
            QueueSpec::durable(REJECTED_QUEUE).bound_to(REJECTED_EXCHANGE, REJECTED_QUEUE),
            rejecting(events_queue(STATE_QUEUE, "state.#")),
            events_queue(OUTPUT_QUEUE, "output.#").limited(output_limit),
            events_queue(HEARTBEAT_QUEUE, "heartbeat.#").limited(heartbeat_limit),
        ],
    }
}

/// The queue of a batch's tasks. Its name serves as the routing key in [`TASKS_EXCHANGE`].
pub fn batch_queue(batch: &str, queue_type: QueueType) -> QueueSpec {
    let name = batch_queue_name(batch);
    let queue = QueueSpec {
        queue_type,
        ..QueueSpec::durable(name.clone())
    };
    rejecting(queue.bound_to(TASKS_EXCHANGE, name))
}

/// The name of the queue of a batch's tasks, at most 200 bytes; different batches have different names.
pub fn batch_queue_name(batch: &str) -> String {
    bounded_name(BATCH_PREFIX, batch)
}

/// The queue by which a worker is told things; exclusive, so that of two workers of one name the second is refused.
pub fn worker_control_queue(worker: &str) -> QueueSpec {
    let queue = QueueSpec {
        auto_delete: true,
        ..QueueSpec::exclusive(bounded_name(CONTROL_PREFIX, worker))
    };
    queue.bound_to(CONTROL_EXCHANGE, worker_routing_key(worker))
}

/// The routing key of a worker in [`CONTROL_EXCHANGE`].
pub fn worker_routing_key(worker: &str) -> String {
    bounded_name("", worker)
}

/// The queue whose holder is the leader.
pub fn leader_queue() -> QueueSpec {
    QueueSpec::exclusive(LEADER_QUEUE)
}

/// A name as one word of a queue name or routing key: everything but ASCII letters, digits, `-` and `_` is
/// percent-encoded, dots included, because they separate words.
pub fn encode_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn events_queue(name: &str, pattern: &str) -> QueueSpec {
    let queue = QueueSpec {
        confirm_when_settled: true,
        ..QueueSpec::durable(name)
    };
    queue.bound_to(EVENTS_EXCHANGE, pattern)
}

fn rejecting(queue: QueueSpec) -> QueueSpec {
    queue.dead_lettered_to(REJECTED_EXCHANGE, REJECTED_QUEUE)
}

/// Prefix and encoded name; what is too long is cut and told apart by a fingerprint after `~`, which the encoding never
/// produces.
fn bounded_name(prefix: &str, name: &str) -> String {
    let encoded = encode_name(name);
    if prefix.len() + encoded.len() <= NAME_BYTES {
        return format!("{prefix}{encoded}");
    }
    let fingerprint = format!("~{:032x}", fingerprint(name));
    let room = NAME_BYTES - prefix.len() - fingerprint.len();
    format!("{prefix}{}{fingerprint}", &encoded[..room])
}

/// FNV-1a with 128 bits: the same in every process and version, which is all that is asked of it.
fn fingerprint(name: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    name.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_and_stay_apart() {
        assert_eq!(batch_queue_name("Default"), "scitq.batch.Default");
        assert_eq!(
            batch_queue_name("a b.c/é"),
            "scitq.batch.a%20b%2Ec%2F%C3%A9"
        );
        assert_ne!(batch_queue_name("a.b"), batch_queue_name("a%2Eb"));
        assert_eq!(worker_routing_key("node.1"), "node%2E1");
    }

    #[test]
    fn long_names_are_cut_to_200_bytes_and_stay_apart() {
        let long = "é".repeat(100);
        let other = format!("{long}x");
        let name = batch_queue_name(&long);
        assert_eq!(name.len(), 200);
        assert_ne!(name, batch_queue_name(&other));
        assert_eq!(name, batch_queue_name(&long));
        assert_eq!(batch_queue_name(&"x".repeat(188)).len(), 200);
        assert!(!batch_queue_name(&"x".repeat(188)).contains('~'));
        assert!(worker_routing_key(&"w".repeat(300)).len() <= 200);
    }

    #[test]
    fn every_binding_and_dead_letter_names_a_declared_exchange() {
        let topology = base_topology();
        let known = |name: &str| {
            topology
                .exchanges
                .iter()
                .any(|exchange| exchange.name == name)
        };
        let mut queues = topology.queues.clone();
        queues.push(batch_queue("b", QueueType::Quorum));
        queues.push(worker_control_queue("w"));
        for queue in &queues {
            assert!(
                queue
                    .bindings
                    .iter()
                    .all(|binding| known(&binding.exchange)),
                "{queue:?}"
            );
            assert!(
                queue
                    .dead_letter
                    .iter()
                    .all(|letter| known(&letter.exchange)),
                "{queue:?}"
            );
        }
    }
}
