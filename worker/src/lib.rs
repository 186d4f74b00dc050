//! The scitq worker: receives tasks from the broker, runs them and reports what happened.
