//! File trees as plain data: read from a tar or a directory, merged, compared.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// A tree by path without leading or closing slash; the root itself is not in it.
pub(crate) type Tree = BTreeMap<String, Entry>;

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `-` file, `d` directory, `l` symbolic link, `h` hard link, `p` fifo, `c`, `b` devices,
    /// `s` socket.
    pub(crate) kind: char,
    /// Permission bits with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// Target of a symbolic or hard link.
    pub(crate) link: Option<String>,
    /// Major and minor number of a device.
    pub(crate) device: Option<(u32, u32)>,
    /// Content of a regular file.
    pub(crate) content: Option<Content>,
}

/// Content of a regular file: small ones whole, all by size and digest.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
    /// The bytes, if they are fewer than [`SMALL`].
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Files below this size are kept whole.
pub(crate) const SMALL: u64 = 600;

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bytes {
            Some(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            None => write!(f, "{} bytes {:02x?}…", self.size, &self.sha256[..4]),
        }
    }
}

impl Content {
    /// Reads a file's content to the end.
    pub(crate) fn read(mut from: impl Read) -> Self {
        let (mut hash, mut size, mut bytes) = (Sha256::new(), 0, Vec::new());
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count as u64;
            if size < SMALL {
                bytes.extend_from_slice(&buffer[..count]);
            }
        }
        let bytes = (size < SMALL).then_some(bytes);
        Self {
            size,
            sha256: hash.finalize().into(),
            bytes,
        }
    }
}

/// Reads all members of a tar, in its order.
pub(crate) fn read_tar(tar: impl Read) -> Vec<(String, Entry)> {
    let mut archive = tar::Archive::new(tar);
    let mut members = Vec::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = clean_name(&member.path_bytes());
        let entry = entry_of_member(&mut member);
        members.push((name, entry));
    }
    members
}

/// `./a/b/` as `a/b`.
fn clean_name(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let text = text.trim_end_matches('/');
    text.strip_prefix("./").unwrap_or(text).to_owned()
}

fn entry_of_member<R: Read>(member: &mut tar::Entry<'_, R>) -> Entry {
    use tar::EntryType;
    let link = member
        .link_name_bytes()
        .map(|l| String::from_utf8_lossy(&l).into_owned());
    let header = member.header();
    let kind = match header.entry_type() {
        EntryType::Directory => 'd',
        EntryType::Symlink => 'l',
        EntryType::Link => 'h',
        EntryType::Fifo => 'p',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => '-',
        other => panic!("member of unexpected type {other:?}"),
    };
    let device = matches!(kind, 'c' | 'b').then(|| {
        (
            header.device_major().unwrap().unwrap(),
            header.device_minor().unwrap().unwrap(),
        )
    });
    let mut entry = Entry {
        kind,
        mode: header.mode().unwrap() & 0o7777,
        uid: header.uid().unwrap(),
        gid: header.gid().unwrap(),
        mtime: header.mtime().unwrap().cast_signed(),
        link: if matches!(kind, 'l' | 'h') {
            link
        } else {
            None
        },
        device,
        content: None,
    };
    apply_pax(member, &mut entry);
    if kind == '-' {
        entry.content = Some(Content::read(member));
    }
    entry
}

/// PAX records that override header fields too small for their value.
fn apply_pax<R: Read>(member: &mut tar::Entry<'_, R>, entry: &mut Entry) {
    let Some(records) = member.pax_extensions().unwrap() else {
        return;
    };
    for record in records {
        let record = record.unwrap();
        let value = String::from_utf8_lossy(record.value_bytes()).into_owned();
        let seconds = || value.split('.').next().unwrap().parse().unwrap();
        match record.key() {
            Ok("mtime") => entry.mtime = seconds(),
            Ok("uid") => entry.uid = value.parse().unwrap(),
            Ok("gid") => entry.gid = value.parse().unwrap(),
            _ => {}
        }
    }
}

/// Extended attributes of each member of a tar, as PAX records `SCHILY.xattr.…`.
pub(crate) fn tar_xattrs(tar: impl Read) -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let mut archive = tar::Archive::new(tar);
    let mut all = BTreeMap::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = clean_name(&member.path_bytes());
        let mut found = Vec::new();
        for record in member.pax_extensions().unwrap().into_iter().flatten() {
            let record = record.unwrap();
            if let Some(attribute) = record.key().unwrap().strip_prefix("SCHILY.xattr.") {
                found.push((attribute.to_owned(), record.value_bytes().to_vec()));
            }
        }
        if !found.is_empty() {
            all.insert(name, found);
        }
    }
    all
}

/// Puts a layer over a tree, as the OCI image specification says (whiteouts, opaque markers).
pub(crate) fn apply_layer(tree: &mut Tree, layer: &[(String, Entry)]) {
    for (name, entry) in layer {
        let (parent, base) = name.rsplit_once('/').unwrap_or(("", name));
        let below = |parent: &str| {
            if parent.is_empty() {
                String::new()
            } else {
                format!("{parent}/")
            }
        };
        if base == ".wh..wh..opq" {
            let prefix = below(parent);
            tree.retain(|path, _| !path.starts_with(&prefix));
        } else if let Some(removed) = base.strip_prefix(".wh.") {
            let removed = format!("{}{removed}", below(parent));
            let prefix = format!("{removed}/");
            tree.retain(|path, _| *path != removed && !path.starts_with(&prefix));
        } else {
            if entry.kind != 'd' {
                let prefix = format!("{name}/");
                tree.retain(|path, _| !path.starts_with(&prefix));
            }
            tree.insert(name.clone(), entry.clone());
        }
    }
}

/// Replaces hard links by what they point to, so that trees of different readers compare.
pub(crate) fn without_hard_links(tree: &Tree) -> Tree {
    let mut plain = tree.clone();
    for (name, entry) in tree.iter().filter(|(_, entry)| entry.kind == 'h') {
        let target = entry.link.as_deref().unwrap();
        let target = clean_name(target.trim_start_matches('/').as_bytes());
        let linked = tree
            .get(&target)
            .unwrap_or_else(|| panic!("{name} links to no {target}"));
        assert_ne!(
            linked.kind, 'h',
            "{name} is a hard link to the hard link {target}"
        );
        plain.insert(name.clone(), linked.clone());
    }
    plain
}

/// Reads a directory of this machine.
pub(crate) fn read_directory(root: &Path) -> Tree {
    let mut tree = Tree::new();
    for found in walkdir::WalkDir::new(root).min_depth(1) {
        let found = found.unwrap();
        let metadata = found.path().symlink_metadata().unwrap();
        let kind = match metadata.file_type() {
            t if t.is_dir() => 'd',
            t if t.is_symlink() => 'l',
            t if t.is_fifo() => 'p',
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            t if t.is_socket() => 's',
            _ => '-',
        };
        let device = matches!(kind, 'c' | 'b').then(|| {
            (
                rustix::fs::major(metadata.rdev()),
                rustix::fs::minor(metadata.rdev()),
            )
        });
        let link = (kind == 'l').then(|| {
            std::fs::read_link(found.path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        });
        let content =
            (kind == '-').then(|| Content::read(std::fs::File::open(found.path()).unwrap()));
        let entry = Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: u64::from(metadata.uid()),
            gid: u64::from(metadata.gid()),
            mtime: metadata.mtime(),
            link,
            device,
            content,
        };
        let name = found
            .path()
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        tree.insert(name, entry);
    }
    tree
}

/// What two trees are compared by.
#[derive(Clone, Copy)]
pub(crate) struct Compare {
    pub(crate) owners: bool,
    pub(crate) times: bool,
}

impl Compare {
    /// Everything.
    pub(crate) const ALL: Self = Self {
        owners: true,
        times: true,
    };
    /// Everything but modification times.
    pub(crate) const NO_TIMES: Self = Self {
        owners: true,
        times: false,
    };
}

/// Panics with the first differences if two trees differ in names, types, modes, contents,
/// link targets, device numbers, or what `by` adds.
#[track_caller]
pub(crate) fn assert_same(what: &str, left: &Tree, right: &Tree, by: Compare) {
    let differences = differences(left, right, by);
    assert!(
        differences.is_empty(),
        "{what}: {} differences (left, right):\n  {}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n  ")
    );
}

/// One line for each name that differs.
pub(crate) fn differences(left: &Tree, right: &Tree, by: Compare) -> Vec<String> {
    let (left, right) = (without_hard_links(left), without_hard_links(right));
    let seen = |entry: &Entry| {
        let mut entry = entry.clone();
        if !by.owners {
            (entry.uid, entry.gid) = (0, 0);
        }
        // The time of a symbolic link cannot be set everywhere, and directories get theirs
        // from the order in which a tool fills them.
        if !by.times || entry.kind != '-' {
            entry.mtime = 0;
        }
        if entry.kind == 'l' {
            entry.mode = 0o777;
        }
        entry
    };
    let names: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let (l, r) = (left.get(name).map(seen), right.get(name).map(seen));
        if l != r {
            lines.push(format!("{name}: {l:?} ≠ {r:?}"));
        }
    }
    lines
}
