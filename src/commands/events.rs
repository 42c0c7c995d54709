//! `rbuild events`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::filter::moment;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::format::{Template, Value};
use crate::ui::{self, control::visible};

/// Show what happens to containers, images, volumes and networks
///
/// Goes on until it is interrupted, or until the time given. Containers that are not listed (`run --rm` in
/// the foreground without a name) are not told of.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild events
  rbuild events --since 1h --until 0s -f type=container -f event=die
  rbuild events --format '{{.Action}} {{.Actor.ID}}'

Placeholders of --format: .Type .Action .Actor.ID .Actor.Attributes .Time .TimeNano .Scope .ID .From .Status")]
pub(crate) struct EventsArgs {
    /// Show what has happened since a time (RFC 3339, seconds since 1970) or for a while (`42m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stop at a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show only what meets a condition: type=, event=, container=, image=, volume=, network=, label=,
    /// scope=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each by a Go template, or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const KINDS: [&str; 8] = [
    "type",
    "event",
    "container",
    "image",
    "volume",
    "network",
    "label",
    "scope",
];

/// How events are shown.
enum Shape {
    Line,
    Json,
    Template(Template),
}

/// Shows events.
pub(crate) fn run(settings: &Settings, args: &EventsArgs) -> Result<(), Failure> {
    let since = args.since.as_deref().map(moment).transpose()?;
    let until = args.until.as_deref().map(moment).transpose()?;
    // After the times, which may be told by how long ago they were.
    let now = Timestamp::now();
    let filters = filters(&args.filter)?;
    let shape = match args.format.as_deref() {
        None | Some("") => Shape::Line,
        Some("json" | "{{json .}}") => Shape::Json,
        Some(format) => Shape::Template(Template::parse(format)?),
    };
    let root = settings.store_root()?;
    fs::create_dir_all(&root)?;
    // Without a time only what is to come; with an end in the past everything before it.
    let past = until.is_some_and(|until| until <= now);
    let from = since.unwrap_or(if past { Timestamp::UNIX_EPOCH } else { now });
    let nanoseconds = |time: Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    let (from, until) = (nanoseconds(from), until.map(nanoseconds));
    let mut log = Log::open(&root)?;
    loop {
        let mut text = String::new();
        for event in log.next()? {
            let in_time = event.time >= from && until.is_none_or(|until| event.time <= until);
            if in_time && accepts(&filters, &event) {
                text.push_str(&shape.show(&event)?);
            }
        }
        if !text.is_empty() {
            ui::print(&text)?;
        }
        if !log.wait(until)? {
            return Ok(());
        }
    }
}

/// The log, read from its beginning and then as it grows.
struct Log {
    root: PathBuf,
    inotify: OwnedFd,
    /// The log before the last and the last one: somebody may write a last line to the one that was just
    /// put aside.
    tails: Vec<Tail>,
}

/// One file of the log.
struct Tail {
    file: File,
    /// What was read of a line that is not whole yet.
    rest: Vec<u8>,
}

impl Log {
    fn open(root: &Path) -> Result<Log, Failure> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Before the first look, so that nothing is missed in between.
        let kinds = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        add_watch(&inotify, root, kinds)?;
        let mut log = Log {
            root: root.to_path_buf(),
            inotify,
            tails: Vec::new(),
        };
        log.take_up(&events::before(root))?;
        Ok(log)
    }

    /// Adds a file, unless it is the last one already; says whether it did.
    fn take_up(&mut self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        if let Some(last) = self.tails.last()
            && identity(&last.file)? == identity(&file)?
        {
            return Ok(false);
        }
        self.tails.push(Tail {
            file,
            rest: Vec::new(),
        });
        Ok(true)
    }

    /// What was written since the last call.
    fn next(&mut self) -> Result<Vec<Event>, Failure> {
        let mut found = Vec::new();
        let log = events::log(&self.root);
        loop {
            let new = self.take_up(&log)?;
            for tail in &mut self.tails {
                tail.read(&mut found)?;
            }
            let surplus = self.tails.len().saturating_sub(2);
            self.tails.drain(..surplus);
            if !new {
                return Ok(found);
            }
        }
    }

    /// Sleeps until something was written; false when the time is over.
    fn wait(&mut self, until: Option<i64>) -> Result<bool, Failure> {
        loop {
            let left = match until {
                None => None,
                Some(until) => {
                    let now = Timestamp::now().as_nanosecond();
                    let Ok(left @ 1..) = i64::try_from(i128::from(until) - now) else {
                        return Ok(false);
                    };
                    Some(Timespec {
                        tv_sec: left / 1_000_000_000,
                        tv_nsec: left % 1_000_000_000,
                    })
                }
            };
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                // Once more: the last ones may have come with the end.
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            if self.was_ours()? {
                return Ok(true);
            }
        }
    }

    /// Takes what inotify has to say; the store's directory holds other files, too.
    fn was_ours(&self) -> Result<bool, Failure> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        let mut ours = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(std::ffi::CStr::to_bytes);
                    ours |= matches!(name, None | Some(b"events" | b"events.1"));
                }
                Err(Errno::AGAIN) => return Ok(ours),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Tail {
    fn read(&mut self, found: &mut Vec<Event>) -> io::Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n');
        let lines: Vec<u8> = self.rest.drain(..whole.map_or(0, |end| end + 1)).collect();
        found.extend(events::parse(&lines));
        Ok(())
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

fn filters(filters: &[String]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut parsed = BTreeMap::<String, Vec<String>>::new();
    for filter in filters {
        let Some((key, value)) = filter.split_once('=') else {
            return Err(Failure::new(format!(
                "invalid filter {filter:?}: it must have the form key=value"
            )));
        };
        if !KINDS.contains(&key) {
            return Err(Failure::new(format!("invalid filter {key:?}"))
                .hint(format!("known filters: {}", KINDS.join(", "))));
        }
        let values = parsed.entry(key.to_owned()).or_default();
        values.push(value.to_owned());
    }
    Ok(parsed)
}

/// Conditions of one kind are alternatives, except labels; all kinds must hold.
fn accepts(filters: &BTreeMap<String, Vec<String>>, event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let is = |kind: &str, value: &str| {
        let names = [Some(event.id.as_str()), attribute("name"), attribute(kind)];
        event.kind == kind
            && (names.contains(&Some(value)) || value.len() >= 4 && event.id.starts_with(value))
    };
    filters.iter().all(|(key, values)| {
        let mut values = values.iter().map(String::as_str);
        match key.as_str() {
            "type" => values.any(|value| event.kind == value),
            // `exec_start: sh` is an `exec_start`.
            "event" => values.any(|value| {
                event.action == value || event.action.starts_with(&format!("{value}:"))
            }),
            "image" => values.any(|value| {
                is("image", value) || event.kind == "container" && attribute("image") == Some(value)
            }),
            "label" => values.all(|value| match value.split_once('=') {
                Some((name, value)) => attribute(name) == Some(value),
                None => attribute(value).is_some(),
            }),
            "scope" => values.any(|value| value == "local"),
            kind => values.any(|value| is(kind, value)),
        }
    })
}

impl Shape {
    fn show(&self, event: &Event) -> Result<String, Failure> {
        Ok(match self {
            Shape::Line => line(event),
            Shape::Json => object(event).to_json() + "\n",
            Shape::Template(template) => template.render(&object(event))? + "\n",
        })
    }
}

/// As Docker shows it: time, type, action, ID and attributes.
fn line(event: &Event) -> String {
    let time = Timestamp::from_nanosecond(event.time.into()).unwrap_or_default();
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", visible(&attributes.join(", ")))
    };
    format!(
        "{} {} {} {}{attributes}\n",
        time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"),
        event.kind,
        visible(&event.action),
        visible(&event.id),
    )
}

/// The object of Docker's interface.
fn object(event: &Event) -> Value {
    let attributes: BTreeMap<String, Value> = event
        .attributes
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let mut fields = Vec::new();
    if matches!(event.kind.as_str(), "container" | "image") {
        fields.extend([
            ("status", event.action.clone().into()),
            ("id", event.id.clone().into()),
        ]);
    }
    if event.kind == "container" {
        let from = event.attributes.get("image").cloned().unwrap_or_default();
        fields.push(("from", from.into()));
    }
    fields.extend([
        ("Type", Value::from(event.kind.clone())),
        ("Action", event.action.clone().into()),
        (
            "Actor",
            Value::Struct(vec![
                ("ID", event.id.clone().into()),
                ("Attributes", Value::Map(attributes)),
            ]),
        ),
        ("scope", "local".into()),
        ("time", Value::Int(event.time / 1_000_000_000)),
        ("timeNano", Value::Int(event.time)),
    ]);
    Value::Struct(fields)
}
