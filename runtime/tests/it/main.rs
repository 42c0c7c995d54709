//! Sandboxes on the real kernel. All tests here need root; they say so when it is missing.

mod basics;
mod confinement;
mod lifetime;
mod mounts;
mod network;
mod support;
mod system;
