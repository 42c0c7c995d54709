//! Other limits for a sandbox that runs.

use std::fs;
use std::io;
use std::path::Path;

use super::Controller;
use super::hierarchies::Hierarchies;
use super::settings::{Setting, concerns, settings};
use crate::spec::Limits;

/// Changes limits of a sandbox that runs, by its first process.
///
/// What was not limited when it was started has no group of its own, and cannot be limited now.
pub(crate) fn change(pid: u32, limits: &Limits) -> Result<(), String> {
    let theirs = Hierarchies::of_process(pid);
    for controller in Controller::ALL {
        if !concerns(controller, limits) {
            continue;
        }
        let group = theirs.group(controller);
        let (directory, unified) = group.filter(|(group, _)| is_ours(group)).ok_or_else(|| {
            let name = controller.name();
            format!(
                "the container was started without a limit of {name}: it can have one when it is \
                 started again"
            )
        })?;
        let parent = directory.parent().unwrap_or(&directory);
        let mut wanted = settings(controller, limits, unified, parent);
        // Memory alone must never be above memory with swap: which comes first depends on the old ones.
        if write(&directory, &wanted).is_err() {
            wanted.reverse();
            write(&directory, &wanted)?;
        }
    }
    Ok(())
}

fn write(directory: &Path, settings: &[Setting]) -> Result<(), String> {
    for Setting { name, value } in settings {
        let file = directory.join(name);
        match fs::write(&file, value) {
            Ok(()) => {}
            // Without swap accounting the file is not there.
            Err(error) if name.contains("sw") && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", file.display())),
        }
    }
    Ok(())
}

/// Says whether a group has the name of a sandbox's.
fn is_ours(group: &Path) -> bool {
    let name = group.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("rbuild-"))
}
