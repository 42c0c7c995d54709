//! A step in a copy of its root, where overlay cannot be mounted.
//!
//! Where nothing at all can be mounted, everything that would be is put in place and taken out again.
//! What lies in the way is moved aside meanwhile. All names are remembered with a descriptor of their
//! directory, so that a step which puts a symbolic link above one of them leads nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::{FileKind, PlainRoot, RootView, Scratch, Store, StoreError, copy_tree, owners};
use rbuild_runtime::{Mount, MountSource, Sandbox, overlay_refusal};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::sub_directory;
use crate::error::BuildError;

/// The devices of every container: name, major and minor number.
const DEVICES: [(&str, (u32, u32)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

/// A root laid out for one step. Dropping it takes out again what was put in.
pub struct PlainStep {
    root: Option<PlainRoot>,
    placed: Vec<Placed>,
    /// Where things go that were in the way.
    aside: PathBuf,
    /// Devices that cannot be made here.
    pub missing_devices: bool,
}

/// Something in the place of a mount.
struct Placed {
    target: PathBuf,
    parent: OwnedFd,
    name: Vec<u8>,
    /// Times of the parent before.
    times: Timestamps,
    /// Where it came from and goes back to.
    origin: Option<PathBuf>,
    /// Where that lies which was in its place.
    aside: Option<PathBuf>,
    /// It was made by us and is no copy: nothing was there.
    inode: u64,
}

impl PlainStep {
    /// Copies the root of a sandbox, puts its mounts in place, and changes the sandbox so that it
    /// runs there.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn prepare(sandbox: &mut Sandbox, scratch: &Scratch) -> Result<Self, BuildError> {
        let path = sub_directory(scratch, "root")?;
        let root = &sandbox.root;
        let upper = root.upper.as_ref().map(|upper| upper.upper.as_path());
        let view = overlay_view(&root.lowers, upper);
        let root = PlainRoot::lay_out(&view, &path)
            .map_err(|error| BuildError::io("could not copy the root file system", &error))?;
        let mut step = PlainStep {
            root: Some(root),
            placed: Vec::new(),
            aside: sub_directory(scratch, "aside")?,
            missing_devices: false,
        };
        step.devices(scratch)
            .map_err(|error| BuildError::io("could not make the devices", &error))?;
        for (number, mount) in sandbox.mounts.iter().enumerate() {
            step.mount(mount, scratch, number).map_err(|error| {
                let target = mount.target.display();
                BuildError::io(format!("could not put {target} in its place"), &error)
            })?;
        }
        sandbox.mounts.clear();
        sandbox.root.plain = Some(path);
        Ok(step)
    }

    /// Copies the root of a sandbox and the layers of its mounts, and changes the sandbox so that it
    /// mounts these: for a host that allows mounts, and a store on which overlay cannot be.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn without_overlay(sandbox: &mut Sandbox, scratch: &Scratch) -> Result<Self, BuildError> {
        let path = sub_directory(scratch, "root")?;
        let root = &sandbox.root;
        let upper = root.upper.as_ref().map(|upper| upper.upper.as_path());
        let root = PlainRoot::lay_out(&overlay_view(&root.lowers, upper), &path)
            .map_err(|error| BuildError::io("could not copy the root file system", &error))?;
        for (number, mount) in sandbox.mounts.iter_mut().enumerate() {
            if let MountSource::Overlay {
                lowers,
                upper,
                subpath,
            } = &mount.source
            {
                let made = scratch.path().join(format!("mount-{number}"));
                let upper = upper.as_ref().map(|upper| upper.upper.as_path());
                copy_layers(lowers, upper, subpath.as_deref(), &made).map_err(|error| {
                    let target = mount.target.display();
                    BuildError::io(
                        format!("could not copy what is mounted at {target}"),
                        &error,
                    )
                })?;
                mount.source = MountSource::Bind {
                    source: made,
                    subpath: None,
                };
            }
        }
        sandbox.root.plain = Some(path);
        Ok(PlainStep {
            root: Some(root),
            placed: Vec::new(),
            aside: PathBuf::new(),
            missing_devices: false,
        })
    }

    /// Takes out what was put in, and moves what the step has changed into its upper directory.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn finish(mut self, upper: &Path) -> Result<(), BuildError> {
        self.take_out();
        let Some(root) = self.root.take() else {
            return Ok(());
        };
        root.collect(upper)
            .map_err(|error| BuildError::io("could not find what the step has changed", &error))
    }

    fn devices(&mut self, scratch: &Scratch) -> io::Result<()> {
        let made = scratch.path().join("dev");
        std::fs::create_dir(&made)?;
        let directory = File::open(&made)?;
        owners::set(&directory, 0, 0, 0o755)?;
        for (name, device) in DEVICES {
            let kind = FileKind::CharDevice;
            match owners::make_node(&directory, name.as_bytes(), kind, device, (0, 0, 0o666)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    self.missing_devices = true;
                }
                Err(error) => return Err(error),
            }
        }
        let shm = made.join("shm");
        std::fs::create_dir(&shm)?;
        owners::set(File::open(&shm)?, 0, 0, 0o1777)?;
        self.place(Path::new("/dev"), &made, None)
    }

    fn mount(&mut self, mount: &Mount, scratch: &Scratch, number: usize) -> io::Result<()> {
        let made = scratch.path().join(format!("mount-{number}"));
        match &mount.source {
            MountSource::Bind {
                source,
                subpath: None,
            } => {
                return self.place(&mount.target, source, Some(source.clone()));
            }
            MountSource::Bind { .. } | MountSource::BindAlone { .. } => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            MountSource::Overlay {
                lowers,
                upper,
                subpath,
            } => {
                let upper = upper.as_ref().map(|upper| upper.upper.as_path());
                copy_layers(lowers, upper, subpath.as_deref(), &made)
                    .map_err(|error| into_io(&error))?;
            }
            MountSource::Tmpfs { mode, .. } => {
                std::fs::create_dir(&made)?;
                owners::set(File::open(&made)?, 0, 0, mode.unwrap_or(0o1777))?;
            }
            MountSource::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let mut file = File::create_new(&made)?;
                file.write_all(content)?;
                owners::set(&file, *uid, *gid, *mode)?;
            }
        }
        self.place(&mount.target, &made, None)
    }

    /// Moves `source` to `target` in the root.
    fn place(&mut self, target: &Path, source: &Path, origin: Option<PathBuf>) -> io::Result<()> {
        let (parent, name) = self.parent(target)?;
        let found = rustix::fs::fstat(&parent)?;
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time(found.st_atime, found.st_atime_nsec.cast_signed()),
            last_modification: time(found.st_mtime, found.st_mtime_nsec.cast_signed()),
        };
        let aside = self.aside.join(self.placed.len().to_string());
        let aside = match rustix::fs::renameat(&parent, name, CWD, &aside) {
            Ok(()) => Some(aside),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        rustix::fs::renameat(CWD, source, &parent, name)?;
        let inode = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        self.placed.push(Placed {
            target: target.to_path_buf(),
            parent,
            name: name.as_bytes().to_vec(),
            times,
            origin,
            aside,
            inode,
        });
        Ok(())
    }

    /// The directory of a target, made with all that is missing above it.
    fn parent<'p>(&self, target: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::other("the root cannot be replaced"));
        };
        let root = self.root.as_ref().map_or(Path::new("/"), PlainRoot::path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::open(root, flags, Mode::empty())?;
        for part in crate::tree::relative(parent).components() {
            let part = part.as_os_str();
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            here = match rustix::fs::openat2(&here, part, flags, Mode::empty(), how) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, part, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat2(&here, part, flags, Mode::empty(), how)?
                }
                opened => opened?,
            };
        }
        Ok((here, name))
    }

    fn take_out(&mut self) {
        for placed in self.placed.drain(..).rev() {
            if let Err(error) = placed.take_out(&self.aside) {
                // The copy of the root is thrown away in the end, and this with it.
                tracing::debug!(%error, "something stays in the root of a step");
            }
            if placed.aside.is_some()
                && let Some(root) = &mut self.root
                && let Err(error) = root.restored(&placed.target)
            {
                tracing::debug!(%error, "something counts as changed that was not");
            }
        }
    }
}

impl Drop for PlainStep {
    fn drop(&mut self) {
        self.take_out();
    }
}

impl Placed {
    fn take_out(&self, trash: &Path) -> io::Result<()> {
        let name = OsStr::from_bytes(&self.name);
        let found = rustix::fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = found.is_ok_and(|found| found.st_ino == self.inode);
        let to = match &self.origin {
            Some(origin) if ours => origin.clone(),
            // Below the scratch directory, which is removed with all that is in it.
            _ => trash.join(format!("out-{}", self.inode)),
        };
        match rustix::fs::renameat(&self.parent, name, CWD, &to) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(aside) = &self.aside {
            rustix::fs::renameat(CWD, aside, &self.parent, name)?;
        }
        Ok(rustix::fs::futimens(&self.parent, &self.times)?)
    }
}

/// Copies what a mount of layers would show.
fn copy_layers(
    lowers: &[PathBuf],
    upper: Option<&Path>,
    subpath: Option<&Path>,
    into: &Path,
) -> Result<(), StoreError> {
    copy_tree(
        &overlay_view(lowers, upper),
        subpath.unwrap_or(Path::new("/")),
        into,
    )
}

/// Why overlay cannot be mounted on what is in a store, so that roots have to be copied; none if it can.
///
/// # Errors
///
/// The store's file system cannot be looked at.
pub fn why_roots_are_copied(store: &Store) -> Result<Option<String>, BuildError> {
    let refusal = overlay_refusal(store.root())
        .map_err(|error| BuildError::io("could not look at the store's file system", &error))?;
    let marks = || "the store's file system has no place for the marks of overlay".to_owned();
    Ok(refusal.or_else(|| store.has_recorded_marks().then(marks)))
}

/// The merged view of directories in overlay form, the topmost first, with `upper` on top of them.
pub fn overlay_view(lowers: &[PathBuf], upper: Option<&Path>) -> RootView {
    let all = lowers.iter().rev().map(PathBuf::as_path).chain(upper);
    all.fold(RootView::new(&[]), RootView::with_upper)
}

fn into_io(error: &StoreError) -> io::Error {
    io::Error::other(crate::error::chain(error).join(": "))
}
