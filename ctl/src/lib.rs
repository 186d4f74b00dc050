//! The command line of scitq.
