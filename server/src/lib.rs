//! The scitq server: database, REST interface, dispatcher and event projection.
