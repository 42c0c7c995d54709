//! `rbuild top`.

use std::fs;

use jiff::Timestamp;
use rbuild_runtime::container::{ContainerError, Status};

use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;
use crate::ui::table::columns;

/// Show the processes of a container
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild top web")]
pub(crate) struct TopArgs {
    /// Name or ID
    container: String,
}

/// One process, as the host sees it.
struct Process {
    pid: u32,
    parent: u32,
    user: u32,
    /// Ticks of the clock that `/proc` counts in: hundredths of a second.
    began: u64,
    used: u64,
    terminal: String,
    command: String,
}

/// Shows processes.
pub(crate) fn run(settings: &Settings, args: &TopArgs) -> Result<(), Failure> {
    let container = super::containers(settings)?.find(&args.container)?;
    let state = container.state()?;
    if state.status != Status::Running {
        return Err(ContainerError::NotRunning(container.config.id).into());
    }
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(state.pid);
    let mut lines = vec!["UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD".to_owned()];
    let mut pids: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let booted = boot_time();
    for pid in pids {
        // One that has ended meanwhile is not shown.
        if own.is_some()
            && namespace(pid) == own
            && let Some(process) = process(pid)
        {
            lines.push(line(&process, booted));
        }
    }
    ui::print(&columns(lines.iter().map(String::as_str)))
}

/// When the machine was started, in seconds since 1970.
fn boot_time() -> i64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|time| time.trim().parse().ok()).unwrap_or(0)
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also blanks and parentheses.
    let (front, rest) = stat.rsplit_once(") ")?;
    let name = front.split_once('(')?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let terminal = number(4)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    Some(Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        user: user.split_whitespace().nth(1)?.parse().ok()?,
        began: number(19)?,
        used: number(11)? + number(12)?,
        terminal: match terminal {
            0 => "?".to_owned(),
            // Major 136: a pseudo terminal.
            number => format!("pts/{}", number & 0xff),
        },
        command: match command.trim_end() {
            "" => format!("[{name}]"),
            command => command.to_owned(),
        },
    })
}

fn line(process: &Process, booted: i64) -> String {
    let seconds = process.used / 100;
    let began = booted + (process.began / 100) as i64;
    let time = Timestamp::from_second(began).map_or_else(
        |_| "?".to_owned(),
        |time| time.strftime("%H:%M").to_string(),
    );
    format!(
        "{}\t{}\t{}\t0\t{time}\t{}\t{:02}:{:02}:{:02}\t{}",
        process.user,
        process.pid,
        process.parent,
        process.terminal,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        ui::control::visible(&process.command)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let own = process(std::process::id()).unwrap();
        assert_eq!(own.pid, std::process::id());
        assert!(own.command.contains("rbuild"), "{}", own.command);
        let line = line(&own, 0);
        assert_eq!(line.split('\t').count(), 8, "{line}");
    }
}
