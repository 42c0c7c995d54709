//! Archives that want out, want everything, or want to confuse. Whatever they are, the directory
//! outside stays as it was, nothing half-made is published, and it is over soon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_cache::{
    CommitOptions, DiffId, Digest, ExtractOptions, Limits, RootView, StoreError, extract,
};

use crate::archive::{Archive, Entry, directory, entry, file, hard_link, symlink};
use crate::support::{TestStore, need_root, tree_of};

/// How a case may end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// With an error.
    Refused,
    /// With a harmless tree.
    Fine,
    /// As a layer with an error, as `ADD` with a harmless tree.
    Clamped,
}
use End::{Clamped, Fine, Refused};

/// Everything that must stay as it is.
struct Canary {
    paths: Vec<std::path::PathBuf>,
    state: Vec<(u64, u32, i64, i64, Vec<u8>)>,
    directory: std::path::PathBuf,
}

impl Canary {
    fn new(directory: &Path) -> Canary {
        fs::create_dir_all(directory.join("canary_dir/inner")).unwrap();
        fs::write(directory.join("canary"), b"tweet").unwrap();
        let mut canary = Canary {
            paths: Vec::new(),
            state: Vec::new(),
            directory: directory.to_path_buf(),
        };
        (canary.paths, canary.state) = canary.look();
        canary
    }

    #[allow(clippy::type_complexity, reason = "a test's snapshot")]
    fn look(&self) -> (Vec<std::path::PathBuf>, Vec<(u64, u32, i64, i64, Vec<u8>)>) {
        let paths = tree_of(&self.directory);
        let state = paths
            .iter()
            .map(|path| {
                let found = path.symlink_metadata().unwrap();
                let content = if found.is_file() {
                    fs::read(path).unwrap()
                } else {
                    Vec::new()
                };
                (
                    found.ino(),
                    found.mode(),
                    found.mtime(),
                    found.mtime_nsec(),
                    content,
                )
            })
            .collect();
        (paths, state)
    }

    fn check(&self, case: &str) {
        let (paths, state) = self.look();
        assert_eq!(paths, self.paths, "{case}: something came or went outside");
        assert!(state == self.state, "{case}: something outside changed");
    }
}

fn cases(outside: &Path) -> Vec<(&'static str, Vec<u8>, End)> {
    let out = outside.display().to_string();
    let up = format!("../../../../../../../../..{out}");
    let of = |entries: Vec<Entry>| Archive::of(entries);
    let chain = |length: usize| {
        let mut entries: Vec<Entry> = (0..length)
            .map(|number| symlink(format!("l{number}"), format!("l{}", number + 1)))
            .collect();
        entries.push(directory(format!("l{length}/")));
        entries.push(file("l0/through", "x"));
        Archive::of(entries)
    };
    let pax = |records: &[(&str, &[u8])], member: Entry| {
        let mut archive = Archive::new();
        archive.pax(records);
        archive.add(&member);
        archive.end()
    };
    let raw_pax = |data: &[u8]| {
        let mut archive = Archive::new();
        archive.raw_pax(data);
        archive.add(&file("f", "f"));
        archive.end()
    };
    vec![
        (
            "absolute name",
            of(vec![file(format!("{out}/new"), "x")]),
            Fine,
        ),
        ("dot-dot first", of(vec![file("../evil", "x")]), Clamped),
        (
            "dot-dot in the middle",
            of(vec![file("a/../../evil", "x")]),
            Clamped,
        ),
        ("dot-dot last", of(vec![directory("a/..")]), Clamped),
        (
            "long way up",
            of(vec![file(format!("{up}/new"), "x")]),
            Clamped,
        ),
        (
            "member through a relative link",
            of(vec![symlink("l", &up), file("l/new", "x")]),
            Fine,
        ),
        (
            "member through an absolute link",
            of(vec![symlink("l", &out), file("l/new", "x")]),
            Fine,
        ),
        (
            "member through a link to the root",
            of(vec![symlink("l", "/"), file("l/new", "x")]),
            Fine,
        ),
        (
            "link, then file of the same name through it",
            of(vec![symlink("l", format!("{out}/canary")), file("l", "x")]),
            Fine,
        ),
        (
            "link, then directory of the same name",
            of(vec![
                symlink("l", format!("{out}/canary_dir")),
                directory("l/").mode(0o777),
            ]),
            Fine,
        ),
        (
            "link, then directory of the same name without slash",
            of(vec![
                symlink("l", format!("{out}/canary_dir")),
                directory("l").mode(0o777),
            ]),
            Fine,
        ),
        (
            "link to itself",
            of(vec![symlink("l", "l"), file("l/x", "x")]),
            Refused,
        ),
        (
            "two links in a circle",
            of(vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "x")]),
            Refused,
        ),
        ("chain of 39 links", chain(39), Fine),
        ("chain of 41 links", chain(41), Refused),
        (
            "hard link out, relative",
            of(vec![hard_link("h", format!("{up}/canary"))]),
            Refused,
        ),
        (
            "hard link out, absolute",
            of(vec![hard_link("h", format!("{out}/canary"))]),
            Refused,
        ),
        (
            "hard link to a link out, then written",
            of(vec![
                symlink("l", format!("{out}/canary")),
                hard_link("h", "l"),
                file("h", "x"),
            ]),
            Fine,
        ),
        (
            "hard link through a link out",
            of(vec![symlink("l", &out), hard_link("h", "l/canary")]),
            Refused,
        ),
        (
            "hard link to itself",
            of(vec![file("h", "x"), hard_link("h", "h")]),
            Fine,
        ),
        (
            "hard link to itself without a file",
            of(vec![hard_link("h", "h")]),
            Refused,
        ),
        (
            "hard link to a later member",
            of(vec![hard_link("h", "x"), file("x", "x")]),
            Refused,
        ),
        (
            "hard link to a directory",
            of(vec![directory("d/"), hard_link("h", "d")]),
            Refused,
        ),
        (
            "hard link to the root",
            of(vec![hard_link("h", "/")]),
            Refused,
        ),
        (
            "file as a parent",
            of(vec![file("f", "x"), file("f/x", "x")]),
            Refused,
        ),
        (
            "fifo as a parent",
            of(vec![entry(b'6', "f"), file("f/x", "x")]),
            Refused,
        ),
        (
            "link replaced by a directory and back",
            of(vec![
                symlink("l", &out),
                directory("l/"),
                file("l/a", "a"),
                symlink("l", &out),
                file("l", "x"),
            ]),
            Fine,
        ),
        (
            "directory replaced by a link out, then a member in it",
            of(vec![
                directory("d/"),
                file("d/a", "a"),
                symlink("d", &out),
                file("d/new", "x"),
            ]),
            Fine,
        ),
        (
            "root as a link",
            of(vec![symlink(".", &out), file("x", "x")]),
            Refused,
        ),
        (
            "root as a link with a slash",
            of(vec![symlink("./", &out), file("x", "x")]),
            Refused,
        ),
        ("root as a file", of(vec![file(".", "x")]), Refused),
        ("root as a device", of(vec![entry(b'3', "/")]), Refused),
        (
            "root as a directory",
            of(vec![directory("./").mode(0o700), file("./x", "x")]),
            Fine,
        ),
        ("empty name", of(vec![file("", "x")]), Refused),
        ("only slashes", of(vec![directory("///")]), Fine),
        (
            "file with a trailing slash is a directory",
            of(vec![file("f/", "")]),
            Fine,
        ),
        (
            "NUL in a PAX name",
            pax(&[("path", b"a\0b")], file("x", "x")),
            Refused,
        ),
        (
            "NUL in a PAX link",
            pax(&[("linkpath", b"a\0b")], symlink("x", "x")),
            Refused,
        ),
        (
            "newline and escape in a name",
            pax(&[("path", b"a\n\x1b[31mb")], file("x", "x")),
            Fine,
        ),
        (
            "name of 255 bytes",
            pax(&[("path", &[b'n'; 255])], file("x", "x")),
            Fine,
        ),
        (
            "name of 256 bytes",
            pax(&[("path", &[b'n'; 256])], file("x", "x")),
            Refused,
        ),
        (
            "path of 5000 bytes",
            pax(&[("path", "n/".repeat(2500).as_bytes())], file("x", "x")),
            Refused,
        ),
        (
            "PAX path leads out",
            pax(&[("path", up.as_bytes())], file("x", "x")),
            Clamped,
        ),
        (
            "PAX link leads out",
            pax(&[("linkpath", up.as_bytes())], hard_link("x", "y")),
            Refused,
        ),
        (
            "PAX record longer than its header",
            raw_pax(b"99 path=x\n"),
            Refused,
        ),
        ("PAX record of length 0", raw_pax(b"0 path=x\n"), Refused),
        (
            "PAX record without equals sign",
            raw_pax(b"8 pathx\n"),
            Refused,
        ),
        ("PAX record without newline", raw_pax(b"9 path=xx"), Refused),
        (
            "PAX length of 30 digits",
            raw_pax(b"999999999999999999999999999999 a=b\n"),
            Refused,
        ),
        (
            "negative size",
            of(vec![
                file("f", "").size(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ]),
            Refused,
        ),
        (
            "size beyond everything",
            of(vec![
                file("f", "").size(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ]),
            Refused,
        ),
        (
            "size of terabytes",
            of(vec![file("f", "").size(b"\x80\0\0\0\0\0\x10\0\0\0\0\0")]),
            Refused,
        ),
        (
            "size that is no number",
            of(vec![file("f", "").size(b"zzzzzzzzzzz")]),
            Refused,
        ),
        (
            "truncated data",
            Archive::of(vec![file("f", vec![b'x'; 5000])])[..2000].to_vec(),
            Refused,
        ),
        (
            "truncated header",
            Archive::of(vec![file("f", "x")])[..300].to_vec(),
            Refused,
        ),
        (
            "no end blocks",
            {
                let tar = of(vec![file("f", "x")]);
                tar[..tar.len() - 1024].to_vec()
            },
            Fine,
        ),
        (
            "one end block",
            {
                let tar = of(vec![file("f", "x")]);
                tar[..tar.len() - 512].to_vec()
            },
            Fine,
        ),
        (
            "two archives, the second is not read",
            [of(vec![file("f", "x")]), of(vec![file("../evil", "x")])].concat(),
            Fine,
        ),
        (
            "wrong checksum",
            {
                let mut tar = of(vec![file("f", "x")]);
                tar[0] ^= 1;
                tar
            },
            Refused,
        ),
        ("unknown type", of(vec![entry(b'Z', "f")]), Refused),
        (
            "socket-like and contiguous types",
            of(vec![entry(b'7', "f")]),
            Fine,
        ),
        (
            "setuid and sticky",
            of(vec![
                file("f", "x").mode(0o6755),
                directory("d/").mode(0o1777),
            ]),
            Fine,
        ),
        ("device 0:0", of(vec![entry(b'3', "f")]), Refused),
        (
            "symlink without target",
            of(vec![symlink("l", "")]),
            Refused,
        ),
        (
            "link target of 5000 bytes",
            pax(&[("linkpath", &[b'x'; 5000])], symlink("l", "x")),
            Refused,
        ),
        (
            "owner that is no number",
            pax(&[("uid", b"-1")], file("f", "x")),
            Refused,
        ),
        (
            "owner beyond 32 bits",
            pax(&[("uid", b"4294967296")], file("f", "x")),
            Refused,
        ),
        (
            "overlay's own attributes",
            pax(
                &[
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/"),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                    ("SCHILY.xattr.security.selinux", b"x"),
                ],
                directory("d/"),
            ),
            Fine,
        ),
        (
            "sparse map that overlaps",
            pax(
                &[
                    ("GNU.sparse.size", b"100"),
                    ("GNU.sparse.map", b"0,50,20,50"),
                ],
                file("f", vec![b'x'; 100]),
            ),
            Refused,
        ),
        (
            "sparse map beyond the file",
            pax(
                &[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"90,50")],
                file("f", vec![b'x'; 50]),
            ),
            Refused,
        ),
        (
            "sparse map with more data than there is",
            pax(
                &[
                    ("GNU.sparse.size", b"1000000"),
                    ("GNU.sparse.map", b"0,999999"),
                ],
                file("f", vec![b'x'; 100]),
            ),
            Refused,
        ),
        (
            "sparse file of petabytes",
            pax(
                &[
                    ("GNU.sparse.size", b"1000000000000000"),
                    ("GNU.sparse.map", b"0,1"),
                ],
                file("f", "x"),
            ),
            Refused,
        ),
    ]
}

/// Cases that only mean something in a layer.
fn layer_cases() -> Vec<(&'static str, Vec<u8>, End)> {
    let of = |entries: Vec<Entry>| Archive::of(entries);
    vec![
        ("whiteout of nothing", of(vec![file(".wh.", "")]), Refused),
        (
            "whiteout of the directory itself",
            of(vec![file(".wh..", "")]),
            Refused,
        ),
        (
            "whiteout of the parent",
            of(vec![file("a/.wh...", "")]),
            Refused,
        ),
        (
            "directory named as a whiteout",
            of(vec![file(".wh.d/x", "")]),
            Refused,
        ),
        (
            "whiteout through a link out",
            of(vec![symlink("l", "/"), file("l/.wh.etc", "")]),
            Fine,
        ),
        ("opaque root", of(vec![file(".wh..wh..opq", "")]), Fine),
        (
            "aufs bookkeeping",
            of(vec![file(".wh..wh.aufs", ""), directory("d/")]),
            Fine,
        ),
    ]
}

#[test]
fn needs_root_hostile_layers_touch_nothing_outside() {
    need_root();
    let outside = tempfile::tempdir().unwrap();
    let canary = Canary::new(outside.path());
    for (case, tar, end) in cases(outside.path()).into_iter().chain(layer_cases()) {
        let test = TestStore::new();
        let blob = test.store.put_blob(&tar).unwrap();
        let diff_id = DiffId::from_digest(Digest::of(&tar));
        let start = Instant::now();
        let result = test.store.unpack(&blob.digest, &diff_id);
        assert!(start.elapsed() < Duration::from_secs(5), "{case}: too slow");
        canary.check(case);
        match (end, &result) {
            (Fine, Ok(_)) | (Refused | Clamped, Err(_)) => {}
            (_, Ok(_)) => panic!("{case}: was unpacked"),
            (_, Err(error)) => panic!("{case}: {}", chain_of(error)),
        }
        if result.is_err() {
            assert!(
                test.store.layer(&diff_id).unwrap().is_none(),
                "{case}: published"
            );
        }
        assert_eq!(
            fs::read_dir(test.store.root().join("tmp")).unwrap().count(),
            0,
            "{case}"
        );
    }
}

#[test]
fn needs_root_hostile_archives_of_add_touch_nothing_outside() {
    need_root();
    let outside = tempfile::tempdir().unwrap();
    let canary = Canary::new(outside.path());
    for (case, tar, end) in cases(outside.path()) {
        let test = TestStore::new();
        let base = test.layer(&[], |root| {
            fs::create_dir(root.join("x")).unwrap();
            fs::write(root.join("x/kept"), b"kept").unwrap();
        });
        let base = [base];
        let before = tree_of(base[0].path());
        let view = RootView::new(&base);
        let draft = test.store.draft_on(&base).unwrap();
        let options = ExtractOptions {
            view: Some(&view),
            upper: draft.upper(),
            into: Path::new("/x"),
            chown: None,
            limits: Limits::default(),
        };
        let start = Instant::now();
        let result = extract(&mut tar.as_slice(), &options);
        assert!(start.elapsed() < Duration::from_secs(5), "{case}: too slow");
        canary.check(case);
        assert_eq!(
            tree_of(base[0].path()),
            before,
            "{case}: a lower layer changed"
        );
        match (end, &result) {
            (Fine | Clamped, Ok(_)) | (Refused, Err(_)) => {}
            (_, Ok(_)) => panic!("{case}: was unpacked"),
            (_, Err(error)) => panic!("{case}: {}", chain_of(error)),
        }
        // Everything is in the destination, unless a link of the archive leads elsewhere in the
        // root. And the layer can be made and seen.
        if result.is_ok() {
            let layer = draft.commit(&base, &CommitOptions::default()).unwrap();
            let merged = RootView::new(&[base[0].clone(), layer]);
            assert_eq!(
                merged.read_small("/x/kept", 9).unwrap().unwrap(),
                b"kept",
                "{case}"
            );
        }
        canary.check(case);
    }
}

fn chain_of(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn needs_root_limits_stop_in_time() {
    need_root();
    let test = TestStore::new();
    let try_with = |tar: &[u8], limits: Limits| {
        let blob = test.store.put_blob(tar).unwrap();
        let diff_id = DiffId::from_digest(Digest::of(tar));
        match test.store.unpack_over(&blob.digest, &diff_id, &[], &limits) {
            Err(StoreError::Limit { limit, .. }) => limit,
            Err(error) => panic!("{}", chain_of(&error)),
            Ok(_) => "none",
        }
    };
    let many = Archive::of((0..50).map(|number| file(format!("f{number}"), "")));
    assert_eq!(
        try_with(
            &many,
            Limits {
                entries: 49,
                ..Limits::default()
            }
        ),
        "entries"
    );
    assert_eq!(
        try_with(
            &many,
            Limits {
                entries: 50,
                ..Limits::default()
            }
        ),
        "none"
    );
    let large = Archive::of([file("a", vec![1; 600]), file("b", vec![1; 600])]);
    let limits = Limits {
        unpacked_bytes: 1000,
        ..Limits::default()
    };
    assert_eq!(try_with(&large, limits), "unpacked_bytes");
    let mut archive = Archive::new();
    archive.pax(&[("comment", &vec![b'x'; 100_000])]);
    archive.add(&file("f", ""));
    assert_eq!(
        try_with(&archive.clone().end(), Limits::default()),
        "pax_value"
    );
    let mut archive = Archive::new();
    archive.add(&entry(b'x', "h").size(b"77777777777"));
    assert_eq!(try_with(&archive.end(), Limits::default()), "header_bytes");
    let mut archive = Archive::new();
    archive.add(&entry(b'L', "h").size(b"77777777777"));
    assert_eq!(try_with(&archive.end(), Limits::default()), "header_bytes");
}

#[test]
fn needs_root_bomb_is_stopped_by_the_ratio() {
    need_root();
    let test = TestStore::new();
    let mut archive = Archive::new();
    archive.add(&file("f", "").size(format!("{:011o}", 300 << 20)));
    // 300 MiB of zeros, compressed by a thousand.
    let script = "import sys,gzip\nhead=sys.stdin.buffer.read()\nout=gzip.GzipFile(fileobj=sys.stdout.buffer,mode='wb',compresslevel=1)\nout.write(head)\nfor _ in range(300): out.write(bytes(1<<20))\nout.write(bytes(1024));out.close()";
    let mut command = std::process::Command::new("python3");
    let bomb = crate::support::pipe(command.args(["-c", script]), &archive.0);
    let blob = test.store.put_blob(&bomb).unwrap();
    let error = test
        .store
        .unpack(&blob.digest, &DiffId::from_digest(Digest::of(b"?")))
        .unwrap_err();
    assert!(
        chain_of(&error).contains("over the limit `ratio`"),
        "{}",
        chain_of(&error)
    );
    assert_eq!(
        fs::read_dir(test.store.root().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn needs_root_pax_size_wins_over_the_header() {
    need_root();
    // Read by the header's size of 0, the data would be a header that smuggles a member in.
    let smuggled = Archive::of([file("smuggled", "")]);
    let mut archive = Archive::new();
    archive.pax(&[("size", b"512")]);
    archive.add(&Entry {
        data: smuggled[..512].to_vec(),
        ..file("honest", "").size(b"00000000000")
    });
    let tar = archive.end();
    let test = TestStore::new();
    let blob = test.store.put_blob(&tar).unwrap();
    let layer = test
        .store
        .unpack(&blob.digest, &DiffId::from_digest(Digest::of(&tar)))
        .unwrap();
    assert_eq!(layer.entries(), 1);
    assert!(fs::read(layer.path().join("honest")).unwrap() == smuggled[..512]);
    assert!(!layer.path().join("smuggled").exists());
}
