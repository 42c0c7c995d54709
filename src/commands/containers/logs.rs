//! `rbuild logs`.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use jiff::Timestamp;
use rbuild_parser::parse_duration;
use rbuild_runtime::container::{
    Connection, Container, ContainerError, LogLine, LogReader, Order, Stream,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use crate::config::Settings;
use crate::failure::Failure;

/// Show what a container has written
///
/// Standard output and standard error are kept apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild logs web
  rbuild logs -f --tail 20 web
  rbuild logs -t --since 10m web")]
pub(crate) struct LogsArgs {
    /// Name or ID
    container: String,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines: a number, or `all`
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written since a time (RFC 3339, seconds since 1970) or for a while (`42m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was written before a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Put before each line what `--log-opt labels=…` and `env=…` have named
    #[arg(long)]
    details: bool,
}

/// Shows a log.
pub(crate) fn run(settings: &Settings, args: &LogsArgs) -> Result<(), Failure> {
    let container = super::containers(settings)?.find(&args.container)?;
    let options = &container.config.log;
    if !options.keeps() {
        return Err(Failure::new(format!(
            "the log driver `{}` of the container keeps nothing that could be shown",
            options.driver
        )));
    }
    let wanted = Wanted {
        details: if args.details {
            let shown = options.attributes.iter();
            let shown: Vec<String> = shown
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            shown.join(",") + " "
        } else {
            String::new()
        },
        since: args.since.as_deref().map(moment).transpose()?,
        until: args.until.as_deref().map(moment).transpose()?,
        timestamps: args.timestamps,
    };
    let tail = match args.tail.as_str() {
        "all" => None,
        // As in Docker: what is no number means all.
        number => number.parse::<usize>().ok(),
    };
    // Before the log is read: what is written meanwhile is seen then, and its end is not missed.
    let alive = if args.follow {
        Alive::of(&container)?
    } else {
        None
    };
    let mut reader = LogReader::open(&container.log())?;
    let mut last = VecDeque::new();
    while let Some(line) = next(&mut reader)? {
        if !wanted.accepts(&line) {
            continue;
        }
        match tail {
            None => wanted.show(&line)?,
            Some(most) => {
                last.push_back(line);
                if last.len() > most {
                    last.pop_front();
                }
            }
        }
    }
    for line in last {
        wanted.show(&line)?;
    }
    let (Some(mut alive), Some(mut reader)) = (alive, reader) else {
        return Ok(());
    };
    loop {
        let goes_on = alive.wait(&container)?;
        while let Some(line) = reader.next_line()? {
            if wanted.accepts(&line) {
                wanted.show(&line)?;
            }
        }
        if !goes_on {
            return Ok(());
        }
    }
}

fn next(reader: &mut Option<LogReader>) -> Result<Option<LogLine>, Failure> {
    match reader {
        Some(reader) => Ok(reader.next_line()?),
        None => Ok(None),
    }
}

/// Which lines are shown, and how.
struct Wanted {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    timestamps: bool,
    details: String,
}

impl Wanted {
    fn accepts(&self, line: &LogLine) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        line.time.parse::<Timestamp>().is_ok_and(|time| {
            self.since.is_none_or(|since| time >= since)
                && self.until.is_none_or(|until| time < until)
        })
    }

    fn show(&self, line: &LogLine) -> Result<(), Failure> {
        let mut text = String::new();
        if self.timestamps {
            text.push_str(&format!("{} ", line.time));
        }
        text.push_str(&self.details);
        text.push_str(&line.text);
        let written = match line.stream {
            Stream::Stdout => write(&mut io::stdout().lock(), &text),
            Stream::Stderr => write(&mut io::stderr().lock(), &text),
        };
        Ok(written?)
    }
}

fn write(out: &mut dyn io::Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// `--since` and `--until`.
fn moment(text: &str) -> Result<Timestamp, Failure> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let invalid = || {
        Failure::new(format!("invalid time {text:?}"))
            .hint("give a time as 2026-01-02T15:04:05Z, seconds since 1970, or a duration as 42m")
    };
    if let Ok(seconds) = text.parse::<f64>() {
        let nanoseconds = (seconds * 1e9) as i128;
        return Timestamp::from_nanosecond(nanoseconds).map_err(|_| invalid());
    }
    if let Ok(date) = text.parse::<jiff::civil::DateTime>() {
        let zoned = date.to_zoned(jiff::tz::TimeZone::UTC);
        return Ok(zoned.map_err(|_| invalid())?.timestamp());
    }
    let ago = parse_duration(text).map_err(|_| invalid())?;
    let now = Timestamp::now().as_nanosecond();
    Timestamp::from_nanosecond(now - i128::from(ago)).map_err(|_| invalid())
}

/// Tells when there may be more to read, and when there will be no more.
struct Alive {
    changes: OwnedFd,
    connection: Connection,
}

impl Alive {
    fn of(container: &Container) -> Result<Option<Alive>, Failure> {
        let connection = match container.ask(&Order::Wait, &[]) {
            Err(ContainerError::NotRunning(_)) => return Ok(None),
            connection => connection?,
        };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let changes = inotify::init(flags)?;
        // The directory, not the file: a full log goes on in another one.
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&changes, container.directory(), flags)?;
        Ok(Some(Alive {
            changes,
            connection,
        }))
    }

    /// Waits for a change; false when the container has ended.
    fn wait(&mut self, container: &Container) -> Result<bool, Failure> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ended = !fds[1].revents().is_empty();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.changes, &mut buffer);
        while events.next().is_ok() {}
        if ended && container.state()?.status.is_alive() {
            // It is started again.
            match container.ask(&Order::Wait, &[]) {
                Err(ContainerError::NotRunning(_)) => return Ok(false),
                connection => self.connection = connection?,
            }
            return Ok(true);
        }
        Ok(!ended)
    }
}
