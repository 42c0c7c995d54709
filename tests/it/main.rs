//! End-to-end tests over the real `rbuild` binary.
//!
//! One test binary, one module a topic. Every test makes a [`support::TestEnv`]: its own store,
//! home and temporary directory, a clean environment and an empty `PATH`, and at its end the proof
//! that no process, mount or file of it is left. Tests run as root, because building and comparing
//! file trees with many owners needs it; a missing tool fails the test and says what to install.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and report on standard error"
)]

mod support;

mod archives;
mod bad_input;
mod bounds;
mod cache_rules;
mod cases;
mod changed_copy;
mod check;
mod concurrency;
mod containers;
mod context;
mod cve;
mod debian;
mod debug;
mod deep;
mod disk_faults;
mod errors;
mod explain;
mod failures;
mod foreign;
mod full_disk;
mod generated;
mod hello;
mod hostile;
mod images;
mod kill;
mod ladder;
mod limits;
mod looks;
mod manual;
mod networks;
mod no_overlay;
mod options;
mod outputs;
mod peers;
mod plain_progress;
mod power_cut;
mod rebuild;
mod registry;
mod remote;
mod remote_context;
mod reproducible;
mod rights;
mod rootless;
mod roundtrip;
mod run;
mod sandbox;
mod seccomp;
mod side_by_side;
mod squash;
mod ssh;
mod store;
mod terminal;
mod timeline;
mod usage;
mod watch;
