//! `rbuild stats`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use rbuild_runtime::Usage;
use rbuild_runtime::container::{Container, Containers, Order, Reply};

use super::{containers, order};
use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::ui;
use crate::ui::listing::Listing;
use crate::ui::screen::{Screen, Size};
use crate::ui::units::{binary_size, size};

/// Between two looks, the processor time of which is compared.
const INTERVAL: Duration = Duration::from_secs(1);
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// Show what containers use: processor, memory, network, disks
///
/// Again and again until Ctrl-C; without names of all that run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild stats
  rbuild stats --no-stream --format '{{.Name}} {{.MemUsage}}' web

Placeholders of --format: .Container .Name .ID .CPUPerc .MemUsage .NetIO .BlockIO .MemPerc .PIDs")]
pub(crate) struct StatsArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Show those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Show them once
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show each by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t\
                     {{.BlockIO}}\t{{.PIDs}}";

/// What was seen of a container at some time.
#[derive(Clone)]
struct Sample {
    usage: Usage,
    at: Instant,
}

/// Shows what containers use.
pub(crate) fn run(settings: &Settings, args: &StatsArgs) -> Result<(), Failure> {
    let containers = containers(settings)?;
    let mut before = BTreeMap::new();
    look(&containers, args, &mut before)?;
    std::thread::sleep(FIRST_INTERVAL);
    let (text, _) = look(&containers, args, &mut before)?;
    if args.no_stream {
        return ui::print(&text);
    }
    let mut screen = std::io::stdout().is_terminal().then(Screen::stdout);
    let (mut text, mut goes_on) = (text, true);
    loop {
        match &mut screen {
            Some(screen) => draw(screen, &text),
            None => ui::print(&text)?,
        }
        if !goes_on {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
        (text, goes_on) = look(&containers, args, &mut before)?;
    }
}

fn draw<W: std::io::Write>(screen: &mut Screen<W>, text: &str) {
    let size = Size::of_stdout();
    let lines = text.lines().take(size.rows.saturating_sub(1));
    let fitting = lines.map(|line| {
        let line: String = line.chars().take(size.columns).collect();
        let columns = line.chars().count();
        (line, columns)
    });
    screen.draw(fitting.collect(), size);
}

/// Looks at all containers; returns the list, and whether there may be something to see later on.
fn look(
    containers: &Containers,
    args: &StatsArgs,
    before: &mut BTreeMap<String, Sample>,
) -> Result<(String, bool), Failure> {
    let mut shown: Vec<(String, Container)> = Vec::new();
    if args.containers.is_empty() {
        for container in containers.list()? {
            if args.all || container.state()?.status.is_alive() {
                shown.push((container.short_id().to_owned(), container));
            }
        }
    } else {
        for query in &args.containers {
            shown.push((query.clone(), containers.find(query)?));
        }
    }
    let mut rows = Vec::new();
    let mut any = args.containers.is_empty();
    for (query, container) in &shown {
        // One that has ended meanwhile uses nothing.
        let now = match order(container, &Order::Usage) {
            Ok(Reply::Usage(usage)) => Some(Sample {
                usage,
                at: Instant::now(),
            }),
            _ => None,
        };
        any |= now.is_some();
        let earlier = before.remove(&container.config.id);
        rows.push(row(args, query, container, earlier.as_ref(), now.as_ref()));
        if let Some(now) = now {
            before.insert(container.config.id.clone(), now);
        }
    }
    let listing = Listing {
        headers: HEADERS,
        table: TABLE,
        format: args.format.as_deref(),
    };
    Ok((listing.render(&rows)?, any))
}

fn row(
    args: &StatsArgs,
    query: &str,
    container: &Container,
    before: Option<&Sample>,
    now: Option<&Sample>,
) -> Value {
    let usage = now.map(|now| now.usage.clone()).unwrap_or_default();
    let limit = match now {
        Some(_) => container
            .config
            .sandbox
            .limits
            .memory
            .unwrap_or_else(machine),
        None => 0,
    };
    let id = if args.no_trunc {
        container.config.id.clone()
    } else {
        container.short_id().to_owned()
    };
    let pair = |a: u64, b: u64| format!("{} / {}", size(a), size(b));
    let memory = format!("{} / {}", binary_size(usage.memory), binary_size(limit));
    Value::Struct(vec![
        ("BlockIO", pair(usage.read, usage.written).into()),
        ("CPUPerc", format!("{:.2}%", processor(before, now)).into()),
        ("Container", query.to_owned().into()),
        ("ID", id.into()),
        (
            "MemPerc",
            format!("{:.2}%", share(usage.memory, limit)).into(),
        ),
        ("MemUsage", memory.into()),
        ("Name", container.config.name.clone().into()),
        ("NetIO", pair(usage.received, usage.sent).into()),
        ("PIDs", usage.tasks.to_string().into()),
    ])
}

/// Processor time between two looks, in hundredths of one processor.
fn processor(before: Option<&Sample>, now: Option<&Sample>) -> f64 {
    let (Some(before), Some(now)) = (before, now) else {
        return 0.0;
    };
    let time = now.at.duration_since(before.at).as_secs_f64();
    // After a restart the count begins anew.
    let used = now.usage.cpu.saturating_sub(before.usage.cpu);
    if time > 0.0 {
        used.as_secs_f64() / time * 100.0
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "only two decimals are shown")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    }
}

/// The memory of the machine, which is the limit where there is no other.
pub(super) fn machine() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_in_parts_of_one_processor() {
        let at = Instant::now();
        let sample = |milliseconds: u64, after: u64| Sample {
            usage: Usage {
                cpu: Duration::from_millis(milliseconds),
                ..Usage::default()
            },
            at: at + Duration::from_millis(after),
        };
        let (first, second) = (sample(100, 0), sample(1600, 1000));
        assert!((processor(Some(&first), Some(&second)) - 150.0).abs() < 0.001);
        assert!(processor(None, Some(&second)).abs() < 0.001);
        let anew = sample(5, 2000);
        assert!(processor(Some(&second), Some(&anew)).abs() < 0.001);
        assert!((share(1, 4) - 25.0).abs() < 0.001);
        assert!(share(1, 0).abs() < 0.001);
        assert!(machine() > 0);
    }
}
