//! What the tests share: a store of their own, real overlay mounts, a tar reader that is not ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rbuild_cache::{CommitOptions, Draft, Layer, Store, StoreOptions};
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, UnmountFlags};

/// Fails clearly where a test cannot run.
pub(crate) fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts overlays and makes devices: run it as root"
    );
}

/// A store in a directory of its own.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("store"));
        TestStore { store, directory }
    }

    /// Makes a layer whose upper directory `fill` writes without any mount.
    pub(crate) fn layer(&self, parents: &[Layer], fill: impl FnOnce(&Path)) -> Layer {
        let draft = self.store.draft_on(parents).unwrap();
        fill(draft.upper());
        draft.commit(parents, &CommitOptions::default()).unwrap()
    }

    /// Makes a layer by doing something in a real overlay mount of `parents`.
    pub(crate) fn step(&self, parents: &[Layer], act: impl FnOnce(&Path)) -> Layer {
        let draft = self.store.draft_on(parents).unwrap();
        {
            let mounted = Overlay::of_draft(parents, &draft);
            act(mounted.path());
        }
        draft.commit(parents, &CommitOptions::default()).unwrap()
    }

    /// The layer as a tar.
    pub(crate) fn tar(&self, layer: &Layer) -> Vec<u8> {
        let mut bytes = Vec::new();
        let diff_id = self
            .store
            .layer_tar(layer.diff_id(), &mut bytes, None)
            .unwrap();
        assert_eq!(&diff_id, layer.diff_id());
        assert_eq!(bytes.len() as u64, layer.size());
        bytes
    }
}

pub(crate) fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions::default()).unwrap()
}

/// An overlay mount that ends with its value.
pub(crate) struct Overlay {
    target: tempfile::TempDir,
}

impl Overlay {
    pub(crate) fn of_draft(parents: &[Layer], draft: &Draft) -> Overlay {
        Overlay::mount(parents, Some((draft.upper(), draft.work())))
    }

    /// Mounts layers, bottom first.
    pub(crate) fn mount(layers: &[Layer], upper: Option<(&Path, &Path)>) -> Overlay {
        need_root();
        let lower = rbuild_cache::overlay_lowers(layers);
        let target = tempfile::tempdir().unwrap();
        // Overlay wants at least one lower directory, and two if there is no upper one.
        let empty = target.path().join("empty");
        let merged = target.path().join("merged");
        fs::create_dir(&empty).unwrap();
        fs::create_dir(&merged).unwrap();
        let mut lowers: Vec<String> = lower
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        lowers.push(empty.display().to_string());
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some((upper, work)) = upper {
            options += &format!(
                ",upperdir={},workdir={},volatile",
                upper.display(),
                work.display()
            );
        } else if lower.is_empty() {
            options = format!("lowerdir={0}:{0}", empty.display());
        }
        options += ",index=off,metacopy=off,redirect_dir=off,xino=off";
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(
            "overlay",
            &merged,
            "overlay",
            MountFlags::empty(),
            Some(&*options),
        )
        .unwrap();
        Overlay { target }
    }

    pub(crate) fn path(&self) -> &Path {
        // Leaked on purpose: a test's few bytes, for a simple signature.
        Box::leak(self.target.path().join("merged").into_boxed_path())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(self.target.path().join("merged"), UnmountFlags::DETACH).unwrap();
    }
}

/// What Python's `tarfile` reads, one line an entry: type and mode, owner, name, link, size.
pub(crate) fn listing(tar: &[u8]) -> Vec<String> {
    let script = r"
import sys, tarfile
kinds = {b'0': '-', b'1': 'h', b'2': 'l', b'3': 'c', b'4': 'b', b'5': 'd', b'6': 'p'}
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|', errors='surrogateescape') as archive:
    for m in archive:
        line = '%s%04o %d:%d %s' % (kinds[m.type], m.mode, m.uid, m.gid, m.name + ('/' if m.isdir() else ''))
        if m.linkname: line += ' -> ' + m.linkname
        if m.isreg(): line += ' =%d' % m.size
        if m.isdev() and not m.isfifo(): line += ' %d,%d' % (m.devmajor, m.devminor)
        for key in sorted(m.pax_headers):
            if key.startswith('SCHILY'): line += ' ' + key
        sys.stdout.buffer.write(line.encode('utf-8', 'surrogateescape') + b'\n')
";
    let output = pipe(Command::new("python3").arg("-c").arg(script), tar);
    String::from_utf8_lossy(&output)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Runs a program with some input and returns its output.
pub(crate) fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{command:?} failed");
    output.stdout
}

pub(crate) fn make_node(path: &Path, kind: FileType, mode: u32, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device).unwrap();
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Every path below a directory, for comparing before and after.
pub(crate) fn tree_of(path: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(path)
        .sort_by_file_name()
        .into_iter()
        .filter(|entry| !entry.as_ref().is_err_and(vanished))
        .map(|entry| entry.unwrap().into_path())
        .collect()
}

/// Something was removed meanwhile: drafts are, beside all else.
fn vanished(error: &walkdir::Error) -> bool {
    error
        .io_error()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
