//! What the tests stand on: environments, base images, readers of images and of progress.

pub(crate) mod base;
pub(crate) mod debian;
pub(crate) mod disk;
pub(crate) mod env;
pub(crate) mod git;
pub(crate) mod layout;
pub(crate) mod leftovers;
pub(crate) mod needs;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod random;
pub(crate) mod registry;
pub(crate) mod tree;
pub(crate) mod web;
pub(crate) mod write_layout;

pub(crate) use env::TestEnv;
pub(crate) use process::Outcome;
