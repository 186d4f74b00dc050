//! Domain types, ids, the state machine, protocol messages and settings of scitq. No I/O frameworks.
