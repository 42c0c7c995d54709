//! Version 2 lets a group hold processes or limited groups, not both: room for the latter.

use std::fs;
use std::io;
use std::path::Path;

use super::hierarchies::Hierarchies;
use super::owner::owner_name;
use super::settings::concerns;
use super::{Controller, Home};
use crate::spec::Limits;

/// Ends the name of a group that processes were moved into.
pub(crate) const ASIDE: &str = "-supervisor";

/// How often processes that are born meanwhile are moved, too.
const ATTEMPTS: usize = 10;

/// Makes room for a sandbox with these limits beside this process and whoever else is in its group.
///
/// For the program: its spawner, whose pid namespace is its own, does not see those who would have to
/// move. What cannot be done is told by the spawner, who comes to the same place.
pub(crate) fn make_room(limits: &Limits) {
    let hierarchies = Hierarchies::of_this_process();
    for controller in Controller::ALL {
        if concerns(controller, limits)
            && let Some(Home::Unified(parent)) = hierarchies.home(controller)
        {
            let _ = enable(&parent, controller);
        }
    }
}

/// Lets groups below `parent` use a controller, which all groups from `root` down have to hand on.
pub(super) fn enable_down(
    root: &Path,
    parent: &Path,
    controller: Controller,
) -> Result<(), String> {
    if hands_down(parent, controller) {
        return Ok(());
    }
    let mut above: Vec<&Path> = parent
        .ancestors()
        .take_while(|directory| directory.starts_with(root))
        .collect();
    above.reverse();
    above
        .into_iter()
        .try_for_each(|directory| enable(directory, controller))
}

/// Whether groups below one can use a controller.
pub(super) fn hands_down(directory: &Path, controller: Controller) -> bool {
    let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    enabled
        .split_whitespace()
        .any(|word| word == controller.name())
}

fn enable(directory: &Path, controller: Controller) -> Result<(), String> {
    if hands_down(directory, controller) {
        return Ok(());
    }
    let file = directory.join("cgroup.subtree_control");
    let enabling = format!("+{}", controller.name());
    let mut result = fs::write(&file, &enabling);
    for _ in 0..ATTEMPTS {
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                move_aside(directory)?;
                result = fs::write(&file, &enabling);
            }
            _ => break,
        }
    }
    result.map_err(|error| format!("{}: {error}", file.display()))
}

/// Moves all processes of a group into a group below it.
fn move_aside(parent: &Path) -> Result<(), String> {
    let aside = parent.join(format!("{}{ASIDE}", owner_name()));
    let explain = |error: io::Error| format!("{}: {error}", aside.display());
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(explain(error)),
        _ => {}
    }
    let processes = fs::read_to_string(parent.join("cgroup.procs")).map_err(explain)?;
    // 0 is one that this process cannot see; written, it would mean the writer.
    for process in processes.lines().filter(|process| *process != "0") {
        match fs::write(aside.join("cgroup.procs"), process) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result.map_err(explain)?,
        }
    }
    Ok(())
}
