//! `rbuild top`.

use std::fs;

use jiff::Timestamp;
use rbuild_runtime::container::{Order, Reply};

use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;
use crate::ui::table::columns;

/// Show the processes of a container
///
/// By their numbers on this machine. Behind the name come options as those of ps: `-ef` (as without any),
/// `aux`, or `-o` and names of columns.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild top CONTAINER [PS OPTIONS]",
    after_help = "Examples:
  rbuild top web
  rbuild top web -o pid,rss,args"
)]
pub(crate) struct TopArgs {
    /// Name or ID
    container: String,
    /// What to show
    #[arg(
        value_name = "PS OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<String>,
}

/// One process, as the host sees it.
struct Process {
    pid: u32,
    parent: u32,
    user: u32,
    state: String,
    /// Ticks of the clock that `/proc` counts in: hundredths of a second.
    began: u64,
    used: u64,
    nice: i64,
    threads: u64,
    /// Kibibytes.
    size: u64,
    resident: u64,
    terminal: String,
    name: String,
    command: String,
}

/// Title and value of a column.
type Column = (&'static str, fn(&Process, &Clock) -> String);

/// Times of the machine.
struct Clock {
    /// When it was started, in seconds since 1970.
    booted: i64,
    /// How long ago that is, in ticks.
    uptime: u64,
    /// Kibibytes of memory.
    memory: u64,
}

/// Shows processes.
pub(crate) fn run(settings: &Settings, args: &TopArgs) -> Result<(), Failure> {
    let shown = chosen(&args.options)?;
    let container = super::containers(settings)?.find(&args.container)?;
    let Reply::Processes(pids) = super::order(&container, &Order::Processes)? else {
        return Err(Failure::new(
            "the container's monitor answered something else",
        ));
    };
    let clock = Clock::read();
    let titles: Vec<&str> = shown.iter().map(|(title, _)| *title).collect();
    let mut lines = vec![titles.join("\t")];
    // One that has ended meanwhile is not shown.
    for process in pids.into_iter().filter_map(process) {
        let cells: Vec<String> = shown
            .iter()
            .map(|(_, cell)| cell(&process, &clock))
            .collect();
        lines.push(cells.join("\t"));
    }
    ui::print(&columns(lines.iter().map(String::as_str)))
}

/// The columns that are asked for.
fn chosen(options: &[String]) -> Result<Vec<Column>, Failure> {
    let named = |names: &str| -> Result<Vec<Column>, Failure> {
        names.split(',').map(|name| column(name.trim())).collect()
    };
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["-ef" | "-e" | "-f"] => named("uid,pid,ppid,c,stime,tty,time,cmd"),
        ["aux" | "-aux" | "au" | "ax"] => {
            named("user,pid,%cpu,%mem,vsz,rss,tty,stat,start,time,command")
        }
        ["-o" | "o" | "-eo" | "axo" | "-axo", names] => named(names),
        [both]
            if both
                .strip_prefix("-o")
                .is_some_and(|names| !names.is_empty()) =>
        {
            named(&both[2..])
        }
        words => Err(Failure::unsupported(&format!("`{}`", words.join(" ")))
            .hint("known: -ef, aux, and -o with names of columns")),
    }
}

fn column(name: &str) -> Result<Column, Failure> {
    let command: fn(&Process, &Clock) -> String = |p, _| ui::control::visible(&p.command);
    let time: fn(&Process, &Clock) -> String = |p, _| clock_time(p.used / 100);
    let user: fn(&Process, &Clock) -> String = |p, _| p.user.to_string();
    Ok(match name.to_ascii_lowercase().as_str() {
        "uid" => ("UID", user),
        "user" | "euser" => ("USER", user),
        "pid" => ("PID", |p, _| p.pid.to_string()),
        "ppid" => ("PPID", |p, _| p.parent.to_string()),
        "c" => ("C", |p, clock| format!("{:.0}", clock.processor(p))),
        "%cpu" | "pcpu" => ("%CPU", |p, clock| format!("{:.1}", clock.processor(p))),
        "%mem" | "pmem" => ("%MEM", |p, clock| format!("{:.1}", clock.share(p))),
        "vsz" => ("VSZ", |p, _| p.size.to_string()),
        "rss" => ("RSS", |p, _| p.resident.to_string()),
        "stime" => ("STIME", |p, clock| clock.start(p)),
        "start" | "start_time" => ("START", |p, clock| clock.start(p)),
        "etime" => ("ELAPSED", |p, clock| clock_time(clock.age(p) / 100)),
        "etimes" => ("ELAPSED", |p, clock| (clock.age(p) / 100).to_string()),
        "tty" | "tt" | "tname" => ("TTY", |p, _| p.terminal.clone()),
        "time" | "cputime" => ("TIME", time),
        "stat" => ("STAT", |p, _| p.state.clone()),
        "s" | "state" => ("S", |p, _| p.state.clone()),
        "ni" | "nice" => ("NI", |p, _| p.nice.to_string()),
        "nlwp" | "thcount" => ("NLWP", |p, _| p.threads.to_string()),
        "comm" | "ucmd" => ("COMMAND", |p, _| ui::control::visible(&p.name)),
        "command" | "args" => ("COMMAND", command),
        "cmd" => ("CMD", command),
        other => {
            return Err(Failure::unsupported(&format!("the column `{other}`")).hint(
                "known columns: uid user pid ppid c %cpu %mem vsz rss stime start etime tty time \
                 stat state nice nlwp comm command args cmd",
            ));
        }
    })
}

impl Clock {
    fn read() -> Clock {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: Option<f64> = text.split(' ').next().and_then(|text| text.parse().ok());
        Clock {
            booted: boot_time(),
            uptime: (seconds.unwrap_or(0.0) * 100.0) as u64,
            memory: super::stats::machine() / 1024,
        }
    }

    /// Ticks since a process began.
    fn age(&self, process: &Process) -> u64 {
        self.uptime.saturating_sub(process.began)
    }

    /// Processor time in hundredths of the time since it began.
    #[expect(clippy::cast_precision_loss, reason = "only one decimal is shown")]
    fn processor(&self, process: &Process) -> f64 {
        process.used as f64 * 100.0 / self.age(process).max(1) as f64
    }

    /// Memory in hundredths of the machine's.
    #[expect(clippy::cast_precision_loss, reason = "only one decimal is shown")]
    fn share(&self, process: &Process) -> f64 {
        process.resident as f64 * 100.0 / self.memory.max(1) as f64
    }

    fn start(&self, process: &Process) -> String {
        let began = self.booted + (process.began / 100) as i64;
        Timestamp::from_second(began).map_or_else(
            |_| "?".to_owned(),
            |time| time.strftime("%H:%M").to_string(),
        )
    }
}

/// Hours, minutes and seconds.
fn clock_time(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
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
        state: (*fields.first()?).to_owned(),
        began: number(19)?,
        used: number(11)? + number(12)?,
        nice: fields.get(16)?.parse().ok()?,
        threads: number(17)?,
        size: number(20)? / 1024,
        resident: status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0),
        terminal: match terminal {
            0 => "?".to_owned(),
            // Major 136: a pseudo terminal.
            number => format!("pts/{}", number & 0xff),
        },
        name: name.to_owned(),
        command: match command.trim_end() {
            "" => format!("[{name}]"),
            command => command.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(options: &[&str]) -> Vec<String> {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        let own = process(std::process::id()).unwrap();
        let clock = Clock::read();
        let shown = chosen(&options).unwrap();
        shown.iter().map(|(_, cell)| cell(&own, &clock)).collect()
    }

    #[test]
    fn this_process_is_read() {
        let line = show(&[]);
        assert_eq!(line.len(), 8, "{line:?}");
        assert_eq!(line[1], std::process::id().to_string());
        assert!(line[7].contains("rbuild"), "{line:?}");
        assert_eq!(show(&["aux"]).len(), 11);
        let memory = show(&["-o", "rss,vsz,%mem"]);
        assert!(memory[0].parse::<u64>().unwrap() > 1000, "{memory:?}");
    }

    #[test]
    fn unknown_options_are_refused() {
        for wrong in [&["-Z"] as &[&str], &["-o", "pid,nope"], &["-o"]] {
            let options: Vec<String> = wrong.iter().map(|word| (*word).to_owned()).collect();
            assert!(chosen(&options).is_err(), "{wrong:?}");
        }
    }
}
