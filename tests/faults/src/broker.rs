//! What is asked of the RabbitMQ node itself, behind scitq's back.

use anyhow::Context as _;
use scitq_testkit::RabbitMq;

/// Messages of each queue.
///
/// Names are asked for as lists of bytes: binaries are shown as numbers.
pub(crate) async fn queues(node: &RabbitMq) -> anyhow::Result<Vec<(String, u64)>> {
    let answer = node
        .evaluate(
            "[{binary_to_list(N), M} || [{name, {resource, _, queue, N}}, {messages, M}] \
             <- rabbit_amqqueue:info_all(<<\"/\">>, [name, messages])].",
        )
        .await;
    read_queues(&answer).with_context(|| format!("the broker's list of queues: {answer}"))
}

/// Reads `{ok, [{"name", 0}, …]}`. Every scitq has the queue of rejected messages: a list without it was not understood.
fn read_queues(answer: &str) -> Option<Vec<(String, u64)>> {
    let mut queues = Vec::new();
    for part in answer.split("{\"").skip(1) {
        let (name, rest) = part.split_once("\",")?;
        let (number, _) = rest.split_once('}')?;
        queues.push((name.to_owned(), number.trim().parse().ok()?));
    }
    let known = queues.iter().any(|(name, _)| name == "scitq.rejected");
    known.then_some(queues)
}

/// True while the broker has a connection of this name, or of this name and a word more.
pub(crate) async fn knows_connection(node: &RabbitMq, name: &str) -> bool {
    let answer = node
        .evaluate(
            "[binary_to_list(N) || [{client_properties, P}] <- rabbit_networking:connection_info_all([client_properties]), \
             is_list(P), {<<\"connection_name\">>, longstr, N} <- P].",
        )
        .await;
    [format!("\"{name}\""), format!("\"{name} ")]
        .iter()
        .any(|text| answer.contains(text))
}

/// The queue of a batch, as the broker knows it.
fn resource(queue: &str) -> String {
    format!("{{resource, <<\"/\">>, queue, <<\"{queue}\">>}}")
}

/// Deletes a queue with all that is in it.
pub(crate) async fn delete_queue(node: &RabbitMq, queue: &str) {
    node.evaluate(&format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup({}), {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, <<\"faults\">>), ok.",
        resource(queue)
    ))
    .await;
}

/// Makes a queue with arguments that nobody but the tests wants.
pub(crate) async fn declare_strange_queue(node: &RabbitMq, queue: &str) {
    node.evaluate(&format!(
        "{{new, _}} = rabbit_amqqueue:declare({}, true, false, [{{<<\"x-max-length\">>, long, 1}}], none, \
         <<\"faults\">>), ok.",
        resource(queue)
    ))
    .await;
}

/// Makes a queue that is bound to all messages of an exchange, takes none, and refuses them.
pub(crate) async fn declare_full_listener(node: &RabbitMq, queue: &str, exchange: &str) {
    node.evaluate(&format!(
        "{{new, _}} = rabbit_amqqueue:declare({0}, true, false, [{{<<\"x-max-length\">>, long, 0}}, \
         {{<<\"x-overflow\">>, longstr, <<\"reject-publish\">>}}], none, <<\"faults\">>), \
         ok = rabbit_binding:add({{binding, {{resource, <<\"/\">>, exchange, <<\"{exchange}\">>}}, <<\"#\">>, {0}, []}}, \
         <<\"faults\">>), ok.",
        resource(queue)
    ))
    .await;
}

/// Publishes a message.
pub(crate) async fn publish(node: &RabbitMq, exchange: &str, routing_key: &str, body: &[u8]) {
    let bytes: Vec<String> = body.iter().map(u8::to_string).collect();
    node.evaluate(&format!(
        "rabbit_basic:publish({{resource, <<\"/\">>, exchange, <<\"{exchange}\">>}}, <<\"{routing_key}\">>, [], \
         <<{}>>).",
        bytes.join(",")
    ))
    .await;
}

/// Throws away what a queue holds.
pub(crate) async fn purge(node: &RabbitMq, queue: &str) {
    node.evaluate(&format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup({}), {{ok, _}} = rabbit_amqqueue:purge(Q), ok.",
        resource(queue)
    ))
    .await;
}

/// Raises the disk alarm: the broker takes no messages any more.
pub(crate) async fn raise_alarm(node: &RabbitMq) {
    node.evaluate("rabbit_disk_monitor:set_disk_free_limit(1000000000000000), ok.")
        .await;
}

/// Ends the disk alarm.
pub(crate) async fn end_alarm(node: &RabbitMq) {
    node.evaluate("rabbit_disk_monitor:set_disk_free_limit(10000000), ok.")
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_queues_is_read() {
        let answer = "{ok, [{\"scitq.rejected\", 0},\n {\"scitq.batch.a%20b\", 12}]}";
        let expected = [("scitq.rejected", 0), ("scitq.batch.a%20b", 12)];
        assert_eq!(
            read_queues(answer).unwrap(),
            expected.map(|(name, count)| (name.to_owned(), count))
        );
        for not_understood in [
            "{ok, []}",
            "{ok, [{#Bin<1>, 0}]}",
            "{ok, [{\"scitq.rejected\", x}]}",
        ] {
            assert_eq!(read_queues(not_understood), None);
        }
    }
}
