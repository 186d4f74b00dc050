//! The queries, written once and compiled once per backend: [`Conn`] is PostgreSQL's connection in one and SQLite's in
//! the other.
//!
//! Every write runs in one transaction, which locks its rows in this order: the leadership, tasks by id, attempts by
//! UUID, streams, and the counters last. What others' locks break off all the same is begun again.

use super::{Backend, Conn, Pool, dialect};

mod ahead;
mod batches;
mod changes;
mod chunks;
mod claim;
mod completion;
mod condition;
mod counters;
mod executions;
mod faults;
mod inventory;
mod leadership;
mod leases;
mod output;
mod progress;
mod project;
mod requirements;
mod restoration;
mod revision;
mod roll;
mod statement;
mod steering;
mod submit;
mod tasks;
mod transaction;
mod upsert;
mod worker_list;
mod workers;

pub(in crate::db) use ahead::tasks_ahead;
pub(in crate::db) use batches::{batch, batches, dispatchable};
pub(in crate::db) use claim::{claim, is_overtaken, return_all_dispatches};
pub(in crate::db) use counters::{check_counters, repair_counters};
pub(in crate::db) use executions::{execution, executions};
pub(in crate::db) use faults::{fault_history, pause_faulty_batch, pause_faulty_worker};
pub(in crate::db) use inventory::held_attempts;
pub(in crate::db) use leadership::{epoch, ping, take_leadership};
pub(in crate::db) use leases::{live_attempts, set_lost, silent_beyond_lease};
pub(in crate::db) use output::{output_chunks, output_state};
pub(in crate::db) use progress::progress_of_tasks;
pub(in crate::db) use project::project;
pub(in crate::db) use restoration::{
    import, restoration_heard, restorations, restore, whereabouts,
};
pub(in crate::db) use revision::{revise, unstarted};
pub(in crate::db) use roll::{dispatches_beyond, unaccepted};
pub(in crate::db) use steering::{
    cancel_restart, held_of_paused, pause_batch, paused_with_dispatches, request_restart,
};
pub(in crate::db) use submit::submit;
pub(in crate::db) use tasks::{task, tasks};
pub(in crate::db) use worker_list::{batch_capacity, worker, workers};
pub(in crate::db) use workers::{change_worker, farewell, greet, heard_from, set_offline, wish};
