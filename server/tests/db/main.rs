//! What the database layer promises, checked on PostgreSQL and on SQLite alike.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod counters;
mod dispatching;
mod fixture;
mod leases;
mod listing;
mod output;
mod postgres_only;
mod projecting;
mod projector;
mod requirements;
mod restoring;
mod revising;
mod schema;
mod submission;
mod workers;

/// Runs each named check on a fresh database of each backend.
macro_rules! contract {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        mod sqlite {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let fixture = crate::fixture::Fixture::sqlite().await;
                    crate::$module::$name(&fixture).await;
                })+
            })+
        }
        mod postgres {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let fixture = crate::fixture::Fixture::postgres().await;
                    crate::$module::$name(&fixture).await;
                })+
            })+
        }
    };
}

contract! {
    submission: ids_ascend_in_order, every_field_comes_back, a_key_creates_one_task, keys_race, hostile_text_is_stored,
        many_large_tasks;
    requirements: statuses_follow_requirements, unknown_requirements_store_nothing, a_parent_that_ends_meanwhile_is_not_missed,
        a_parent_counts_once, many_dependents, many_requirements;
    dispatching: order_and_window, only_the_leader_writes, claims_share_nothing, dispatches_can_be_returned,
        a_submission_in_progress_does_not_hide_tasks, what_is_not_accepted_is_listed_and_counted;
    projecting: any_order_ends_the_same, the_whole_history_of_an_attempt, retries_are_used_up, lost_and_found,
        released_attempts_are_complete, changes_must_follow, projections_race, other_revisions_have_no_definition;
    output: random_pieces_come_back, cut_streams_complete, completion_is_told_once, ends_and_output_race,
        damaged_chunks_are_named, output_before_its_attempt, chunks_are_found_by_offset;
    listing: filters, pages_neither_repeat_nor_hide, many_statuses_at_once, executions_by_filter, progress;
    workers: greeting, silence_and_return, changes, capacity, inventories;
    leases: leases_end, earlier_lives_have_leases, lost_attempts_are_taken_back, restarts, paused_batches, faults,
        resumed_batches_count_anew, hindrances, lives_before_the_migration, what_is_lost_is_told,
        attempts_of_nobody_have_leases, leases_are_judged_one_by_one, starts_are_heard_of;
    revising: what_has_not_started_is_changed, what_has_started_is_not, moved_tasks_are_counted_where_they_are;
    restoring: ids_are_left_free, unknown_tasks_are_taken_in;
    counters: random_walk, repair;
    schema: newer_schema_is_refused, servers_start_at_once, dropped_calls_leave_nothing_open, a_dropped_database_leaves_nothing_open, concurrent_writers,
        ping_and_address;
}
