//! The whole topology of scitq as data: names of exchanges and queues, and what is declared.
//!
//! Servers and workers declare [`base_topology`] alike whenever they connect. Batch queues are the leader's: it creates
//! them when a batch has work and a worker, and deletes them drained and idle. Control queues and the leader's queue
//! belong to the connection that declares them.

use scitq_shared::names::encode_name;

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

/// The name of the queue of a batch's tasks; different batches have different names. A valid batch name stays under the
/// 255 bytes that AMQP allows.
pub fn batch_queue_name(batch: &str) -> String {
    format!("{BATCH_PREFIX}{}", encode_name(batch))
}

/// The queue by which a worker is told things; exclusive, so that of two workers of one name the second is refused.
pub fn worker_control_queue(worker: &str) -> QueueSpec {
    let queue = QueueSpec {
        auto_delete: true,
        ..QueueSpec::exclusive(format!("{CONTROL_PREFIX}{}", encode_name(worker)))
    };
    queue.bound_to(CONTROL_EXCHANGE, worker_routing_key(worker))
}

/// The routing key of a worker in [`CONTROL_EXCHANGE`].
pub fn worker_routing_key(worker: &str) -> String {
    encode_name(worker)
}

/// The queue whose holder is the leader.
pub fn leader_queue() -> QueueSpec {
    QueueSpec::exclusive(LEADER_QUEUE)
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

#[cfg(test)]
mod tests {
    use scitq_shared::names::MAX_ENCODED_NAME_BYTES;

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
    fn the_longest_valid_names_fit() {
        let longest = "x".repeat(MAX_ENCODED_NAME_BYTES);
        assert!(batch_queue_name(&longest).len() <= 255);
        assert!(worker_control_queue(&longest).name.len() <= 255);
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
