//! End-to-end tests of the scitq binaries; see tests/e2e/tests.
