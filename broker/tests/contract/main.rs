//! What every broker must do, written once and run for each backend. RabbitMQ is a private node, each test in a virtual
//! host of its own behind a proxy that can cut its connections.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "cases are tests, though the attribute stands elsewhere"
)]

mod consuming;
mod fixture;
mod losing;
mod ordering;
mod publishing;
mod queues;

use fixture::Fixture;

/// One test per case and backend.
macro_rules! contract {
    ($($file:ident: $($case:ident)*;)*) => {
        mod in_process {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$file::$case(&super::Fixture::in_process()).await;
                }
            )*)*
        }
        mod rabbitmq {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$file::$case(&super::Fixture::rabbitmq().await).await;
                }
            )*)*
        }
    };
}

contract! {
    publishing:
        a_message_arrives_as_it_was_published
        a_message_without_a_route_is_returned_if_mandatory
        returns_are_told_apart_in_a_stream
        many_confirms_may_be_outstanding
        messages_keep_their_order
        a_large_body_arrives
        an_empty_body_arrives
        topics_route_by_pattern
        a_missing_exchange_closes_the_channel_only
        what_cannot_be_sent_is_refused_before
        a_forgotten_confirmation_does_no_harm
        the_publisher_publishes_and_reports
    ;
    consuming:
        prefetch_bounds_what_is_delivered
        an_ack_settles
        ack_up_to_settles_all_before
        a_requeued_message_comes_back_redelivered
        get_takes_one_at_a_time
        withdrawing_empties_a_queue
        consumers_take_turns
        a_deleted_queue_cancels_its_consumers
        cancel_keeps_deliveries_and_returns_buffered_ones
        a_cancelled_consumer_does_not_count_in_the_next_prefetch
        a_dropped_consumer_gets_nothing_more
        a_dropped_channel_gives_its_messages_back
        a_closed_channel_ends_its_consumers_and_gives_back_in_order
        an_unknown_tag_closes_the_channel
        try_next_takes_what_is_there
    ;
    queues:
        a_rejected_message_is_dead_lettered
        a_full_queue_refuses
        a_full_queue_drops_its_oldest
        a_missing_queue_is_not_found_and_the_connection_stays
        other_properties_are_refused
        declaring_tells_the_depth
        an_exclusive_queue_is_refused_to_others_until_its_connection_goes
        an_auto_delete_queue_goes_with_its_last_consumer
        only_an_idle_queue_is_deleted_as_idle
        deleting_what_is_not_there_is_fine
        every_name_can_be_a_batch
        the_base_topology_carries_events
    ;
    losing:
        a_lost_connection_ends_everything
        a_closed_connection_ends_everything
        one_connects_again_after_a_loss
        unacknowledged_messages_come_back_after_a_loss
        the_publisher_survives_a_loss
        a_dropped_connection_is_gone
    ;
    ordering:
        a_start_stands_before_the_return
    ;
}
