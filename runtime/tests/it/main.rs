//! Sandboxes on the real kernel. All tests here need root; they say so when it is missing.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

mod ahead;
mod basics;
mod confinement;
mod cost;
mod lifetime;
mod mounts;
mod network;
mod support;
mod system;
