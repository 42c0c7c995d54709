//! The store through its public interface, against the kernel's overlay and other tar readers.
//!
//! Many of these tests mount overlays and make devices: run them as root.

mod archive;
mod blobs;
mod compression;
mod hostile;
mod layers;
mod support;
mod unpack;
mod view;
