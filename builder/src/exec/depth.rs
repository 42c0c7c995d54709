//! Roots of more layers than can be mounted.

use rbuild_cache::{Lease, Store, StoreError};
use rbuild_runtime::{MountSource, Sandbox};

/// Puts stacks in the place of the lowest layers wherever a sandbox mounts very many; `lease` keeps
/// the stacks and must live as long as the sandbox.
///
/// # Errors
///
/// A layer cannot be read, or a stack cannot be written.
pub fn shorten_roots(
    store: &Store,
    lease: &Lease,
    sandbox: &mut Sandbox,
) -> Result<(), StoreError> {
    let of_mounts = sandbox
        .mounts
        .iter_mut()
        .filter_map(|mount| match &mut mount.source {
            MountSource::Overlay { lowers, .. } => Some(lowers),
            _ => None,
        });
    for lowers in std::iter::once(&mut sandbox.root.lowers).chain(of_mounts) {
        *lowers = store.shorten(lease, lowers)?;
    }
    Ok(())
}
