//! `rbuild fsck`.

use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui;

/// Check the store
///
/// Reads every blob and layer and compares them with their digests. Exit status 1 if anything is
/// wrong and was not repaired.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild fsck
  rbuild fsck --repair")]
pub(crate) struct FsckArgs {
    /// Remove what is damaged, so that it is made or fetched again
    #[arg(long)]
    repair: bool,
}

/// Checks the store.
pub(crate) fn run(settings: &Settings, args: &FsckArgs) -> Result<u8, Failure> {
    let store = super::open_store(settings)?;
    let report = store.fsck(args.repair)?;
    for problem in &report.problems {
        ui::println(&format!("problem: {}", ui::control::visible_lines(problem)))?;
    }
    ui::println(&format!(
        "checked {} blobs and {} layers",
        report.blobs, report.layers
    ))?;
    let problems = report.problems.len() as u64;
    if problems == 0 {
        ui::println("the store is sound")?;
        return Ok(0);
    }
    ui::println(&format!(
        "{problems} problems found, {} repaired",
        report.repaired
    ))?;
    Ok(if report.repaired >= problems {
        0
    } else {
        status::ERROR
    })
}
