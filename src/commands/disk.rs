//! What to do when it is the disk that is in the way.

use rbuild_cache::{DiskSpace, DiskTrouble};

use crate::config::Settings;
use crate::ui::units;

/// The way out, with what is known of the store's file system.
pub(crate) fn hints(trouble: DiskTrouble, settings: &Settings) -> Vec<String> {
    // Without a place for the store there is nothing to clean up.
    let Ok(root) = settings.store_root() else {
        return Vec::new();
    };
    let root = root.as_path();
    let shown = root.display();
    match trouble {
        DiskTrouble::Full | DiskTrouble::Quota => {
            let space = DiskSpace::of(root).map_or_else(
                |_| format!("the store is `{shown}`"),
                |space| {
                    format!(
                        "the store `{shown}` has {} left of {}",
                        units::exact_size(space.free),
                        units::exact_size(space.total)
                    )
                },
            );
            let limit = match trouble {
                DiskTrouble::Quota => ", and there is a quota",
                _ => "",
            };
            vec![
                format!("{space}{limit}; `rbuild system df` tells what it holds"),
                "make room with `rbuild prune` (build cache that nobody needs), `rbuild prune \
                 --all` (all build cache) or `rbuild rmi` (images), or name another place with \
                 `--root DIR`"
                    .to_owned(),
            ]
        }
        DiskTrouble::Failing => vec![format!(
            "the disk cannot be read or written: see the kernel's log (`dmesg`), and check the \
             store `{shown}` with `rbuild fsck`"
        )],
        DiskTrouble::ReadOnly => vec![format!(
            "the file system is mounted read-only; the store is `{shown}`, another place can be \
             named with `--root DIR`"
        )],
    }
}
