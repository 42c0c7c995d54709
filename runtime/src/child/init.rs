//! A small init as process 1: starts the command as its child, reaps orphans, forwards signals.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::sys::{self, Cloned};
use crate::wire::{Failure, InStep as _, Step};

/// Splits into init, which never returns, and the process that goes on to be the command.
///
/// Init executes nothing and keeps a single right: to signal the command, whatever its user.
pub(super) fn split() -> Step<()> {
    let blocked = sys::block_signals();
    match sys::clone_process(0) {
        Ok(Cloned::Child) => {
            sys::restore_signals(&blocked);
            Ok(())
        }
        Ok(Cloned::Parent { pid, pidfd }) => {
            let kill = CapabilitySet::KILL;
            let sets = CapabilitySets {
                effective: kill,
                permitted: kill,
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, sets).step("drop the rights of init")?;
            sys::be_init(pid, pidfd)
        }
        Err(error) => Err(Failure::new("start the command below init", &error)),
    }
}
