//! The files behind a part of a key, kept beside the records so that a miss can name them.
//!
//! One flat file a step and source: the digest of the whole, then flags, length, path and half of the
//! digest of each entry. It is no part of any key: without it a miss is told less exactly, and a copy
//! takes nothing over from the one before.

use std::cmp::Ordering;
use std::fmt;
use std::fs;
use std::io;

use rbuild_cache::{Digest, Store};
use serde::{Deserialize, Serialize};

use crate::tree::{Content, Entry};

const HEADER: &[u8; 16] = b"rbuild files v2\n";

/// Files that the line of a miss names.
const NAMED: usize = 5;

/// How the files of a source differ from those of the step's last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileChanges {
    /// The source as written.
    pub source: String,
    /// Files there are now, directories not counted.
    pub total: usize,
    /// Paths with another content, mode, type or owner.
    pub changed: Vec<String>,
    /// Paths that were not there.
    pub new: Vec<String>,
    /// Paths that are not there any more.
    pub gone: Vec<String>,
}

/// The memo that the listing of a source of a step is kept in.
fn memo_name(step: &str, part: &str) -> String {
    format!("files {step}\n{part}")
}

/// One entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line<'a> {
    path: &'a [u8],
    is_directory: bool,
    digest: [u8; 16],
}

impl<'a> From<&'a Entry> for Line<'a> {
    fn from(entry: &'a Entry) -> Line<'a> {
        Line {
            path: &entry.path,
            is_directory: entry.is_directory(),
            digest: entry.digest,
        }
    }
}

/// Keeps a listing for the step's next miss.
pub(crate) fn keep(store: &Store, step: &str, part: &str, content: &Content) -> io::Result<()> {
    let mut bytes = HEADER.to_vec();
    bytes.extend_from_slice(content.digest.to_string().as_bytes());
    bytes.push(b'\n');
    for entry in &content.entries {
        bytes.push(u8::from(entry.is_directory()));
        bytes.extend_from_slice(&(entry.path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&entry.path);
        bytes.extend_from_slice(&entry.digest);
    }
    let kept = store.write_memo(&memo_name(step, part), &bytes);
    kept.map_err(io::Error::other)
}

/// Compares with the listing of a digest; none if another one was kept, or nothing was.
pub(crate) fn compare(
    store: &Store,
    step: &str,
    part: &str,
    source: &str,
    digest: &Digest,
    now: &Content,
) -> Option<FileChanges> {
    let bytes = fs::read(store.memo_path(&memo_name(step, part))).ok()?;
    let (kept, old) = decode(&bytes)?;
    if kept != digest.to_string() {
        return None;
    }
    let new: Vec<Line<'_>> = now.entries.iter().map(Line::from).collect();
    let changes = difference(source, &old, &new);
    // A single file has nothing to count.
    let single = matches!(now.entries.as_slice(), [one] if one.path.is_empty());
    (!single).then_some(changes)
}

/// What stayed since a listing was kept.
pub(crate) struct Unchanged {
    /// Of each entry there is now whether paths, types, modes, owners, contents are the same.
    pub(crate) entries: Vec<bool>,
    /// Every path of the listing is still there.
    pub(crate) nothing_gone: bool,
}

/// Compares with the listing of a digest; none if another listing was kept, or nothing was.
pub(crate) fn unchanged(
    store: &Store,
    step: &str,
    part: &str,
    digest: &str,
    now: &Content,
) -> Option<Unchanged> {
    let bytes = fs::read(store.memo_path(&memo_name(step, part))).ok()?;
    let (kept, old) = decode(&bytes)?;
    if kept != digest {
        return None;
    }
    let count = old.len();
    let mut old = old.iter().peekable();
    let mut met = 0;
    let same = now.entries.iter().map(|entry| {
        while old
            .next_if(|old| old.path < entry.path.as_slice())
            .is_some()
        {}
        let old = old.next_if(|old| old.path == entry.path);
        met += usize::from(old.is_some());
        old.is_some_and(|old| *old == Line::from(entry))
    });
    let entries = same.collect();
    Some(Unchanged {
        entries,
        nothing_gone: met == count,
    })
}

fn decode(bytes: &[u8]) -> Option<(&str, Vec<Line<'_>>)> {
    let bytes = bytes.strip_prefix(HEADER)?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let digest = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut rest = &bytes[end + 1..];
    let mut lines = Vec::new();
    while let Some((flag, after)) = rest.split_first() {
        let (length, after) = after.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let (path, after) = after.split_at_checked(length)?;
        let (half, after) = after.split_at_checked(16)?;
        lines.push(Line {
            path,
            is_directory: *flag == 1,
            digest: half.try_into().ok()?,
        });
        rest = after;
    }
    Some((digest, lines))
}

/// Both lists are in byte order of the paths.
fn difference(source: &str, old: &[Line<'_>], new: &[Line<'_>]) -> FileChanges {
    let shown = |entry: &Line<'_>| {
        let path = String::from_utf8_lossy(entry.path);
        let slash = if entry.is_directory { "/" } else { "" };
        match source.trim_start_matches("./").trim_matches('/') {
            "" | "." => format!("{path}{slash}"),
            source => format!("{source}/{path}{slash}"),
        }
    };
    let mut changes = FileChanges {
        source: source.to_owned(),
        total: new.iter().filter(|entry| !entry.is_directory).count(),
        changed: Vec::new(),
        new: Vec::new(),
        gone: Vec::new(),
    };
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(new.path),
        };
        let before = if order == Ordering::Greater {
            None
        } else {
            old.next()
        };
        let now = if order == Ordering::Less {
            None
        } else {
            new.next()
        };
        match (before, now) {
            (Some(before), Some(now)) if before.digest != now.digest => {
                changes.changed.push(shown(now));
            }
            (Some(before), None) => changes.gone.push(shown(before)),
            (None, Some(now)) => changes.new.push(shown(now)),
            _ => {}
        }
    }
}

/// A number with a comma between thousands.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for FileChanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What there is most to say about comes first, with its names.
        let named: &Vec<String>;
        if !self.changed.is_empty() {
            named = &self.changed;
            let (changed, total) = (thousands(named.len()), thousands(self.total));
            write!(formatter, "{changed} of {total} files changed")?;
        } else if !self.new.is_empty() {
            named = &self.new;
            write!(formatter, "{} new", files(named.len()))?;
        } else {
            named = &self.gone;
            write!(formatter, "{} gone", files(named.len()))?;
        }
        let names: Vec<&str> = named.iter().take(NAMED).map(String::as_str).collect();
        write!(formatter, ": {}", names.join(", "))?;
        if named.len() > NAMED {
            write!(formatter, ", …")?;
        }
        let mut more = Vec::new();
        if !self.changed.is_empty() && !self.new.is_empty() {
            more.push(format!("+{} new", thousands(self.new.len())));
        }
        let only_gone = self.changed.is_empty() && self.new.is_empty();
        if !only_gone && !self.gone.is_empty() {
            more.push(format!("-{} gone", thousands(self.gone.len())));
        }
        if more.is_empty() {
            return Ok(());
        }
        write!(formatter, " ({})", more.join(", "))
    }
}

fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_owned(),
        count => format!("{} files", thousands(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(old: &[(&str, u8)], new: &[(&str, u8)]) -> String {
        fn lines<'a>(list: &'a [(&str, u8)]) -> Vec<Line<'a>> {
            let line = |(path, digest): &(&'a str, u8)| Line {
                path: path.as_bytes(),
                is_directory: path.ends_with('/'),
                digest: [*digest; 16],
            };
            list.iter().map(line).collect()
        }
        difference("./src/", &lines(old), &lines(new)).to_string()
    }

    #[test]
    fn files_are_counted_and_named() {
        let old = [("a", 1), ("b", 1), ("c", 1)];
        assert_eq!(
            told(&old, &[("a", 2), ("b", 1), ("d", 1)]),
            "1 of 3 files changed: src/a (+1 new, -1 gone)"
        );
        assert_eq!(told(&old, &old[..1]), "2 files gone: src/b, src/c");
        assert_eq!(told(&old[..2], &old), "1 file new: src/c");
        assert_eq!(told(&old[1..2], &old[..1]), "1 file new: src/a (-1 gone)");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(123), "123");
    }

    #[test]
    fn a_listing_that_is_cut_off_is_none() {
        let mut bytes = HEADER.to_vec();
        bytes.extend_from_slice(b"sha256:x\n");
        assert_eq!(decode(&bytes).unwrap().1.len(), 0);
        bytes.extend_from_slice(&[0, 4, 0, 0, 0, b'a']);
        assert!(decode(&bytes).is_none());
        assert!(decode(b"").is_none());
    }
}
