//! The store through its public interface, against the kernel's overlay and other tar readers.
//!
//! Many of these tests mount overlays and make devices: run them as root.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]
#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "quotes and escapes are wanted here"
)]

mod add;
mod archive;
mod blobs;
mod compression;
mod garbage;
mod hostile;
mod images;
mod layers;
mod over;
mod recovery;
mod steps;
mod support;
mod tar_bytes;
mod unpack;
mod view;
