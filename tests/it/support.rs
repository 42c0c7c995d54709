//! What the tests stand on: environments, base images, readers of images and of progress.

pub(crate) mod apart;
pub(crate) mod base;
pub(crate) mod debian;
pub(crate) mod disk;
pub(crate) mod env;
pub(crate) mod git;
pub(crate) mod layout;
pub(crate) mod leftovers;
pub(crate) mod name_server;
pub(crate) mod needs;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod random;
pub(crate) mod registry;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod web;
pub(crate) mod write_layout;

pub(crate) use env::TestEnv;
pub(crate) use process::Outcome;

/// Waits for something that another process does; panics if it has not happened in a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !happened() {
        assert!(
            std::time::Instant::now() < deadline,
            "not after a minute: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
