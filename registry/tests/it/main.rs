//! Tests of the client against real registries (Debian's `docker-registry` on loopback, started by
//! each test) and against servers that misbehave on purpose.
//!
//! Needed: `docker-registry`, `setpriv`, and for the interoperability tests `skopeo`. A test whose
//! program is missing fails and says so.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking where it went wrong"
)]

mod auth;
mod basics;
mod certificates;
mod documents;
mod interop;
mod mirrors;
mod proxy;
mod pull_faults;
mod push_faults;
mod redirects;
mod support;
mod tls;
mod tokens;
mod web;
