//! The overlay of layers, by whichever interface the kernel has.
//!
//! 1. Layers by descriptor, one `lowerdir+` each (Linux 6.13).
//! 2. Layers by name, one `lowerdir+` each (6.8). The name is `/proc/self/fd/N`, for a value may
//!    have 255 bytes at most and a path may have more.
//! 3. One option string for `mount(2)`, with the same short names: 4095 bytes, some 200 layers.
//!
//! Defaults of the kernel are never trusted: distributions switch `redirect_dir` or `metacopy` on,
//! and then the upper directory is no longer the difference that a layer is made from.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::mount::{Detached, FileSystem, READ_ONLY, Stage, name_of};
use crate::spec::UpperDir;
use crate::userns::in_user_namespace;
use crate::wire::{Failure, InStep as _, Step};

/// Options of every overlay, as in the module's text; `xino` keeps inode numbers of the layers.
const OPTIONS: [(&str, &str); 4] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("nfs_export", "off"),
    ("xino", "off"),
];

/// How to say that directories are not renamed by reference. With `userxattr` the kernel refuses
/// `off`, which may mean to follow references that are there.
fn redirect_option() -> (&'static str, &'static str) {
    let value = if in_user_namespace() {
        "nofollow"
    } else {
        "off"
    };
    ("redirect_dir", value)
}

/// The ways to name layers one by one, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Descriptors,
    Names,
}

/// What became of an attempt to mount by one of them.
enum Attempt {
    Mounted(Detached),
    /// The kernel does not know this way.
    Unknown,
    /// Options are only words of one string that nobody looks at before the end, so none of these ways
    /// is known, and no option but a string is taken (before Linux 6.5).
    OneString,
}

/// Opened directories of an overlay.
struct Layers {
    lowers: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

/// Mounts the layers, the topmost first; without upper directory the mount is read-only.
///
/// Two steps may give the same layer (empty ones often do), and the kernel refuses a directory that
/// is stacked twice (`ELOOP`). What a layer says at its topmost place hides everything that it says
/// further down, so only that place counts.
pub(crate) fn mount(
    lowers: &[impl AsRef<Path>],
    upper: Option<&UpperDir>,
    attributes: MountAttrFlags,
    stage: &mut Stage,
) -> Step<Detached> {
    let mut seen = HashSet::new();
    let lowers: Vec<&Path> = lowers
        .iter()
        .map(AsRef::as_ref)
        .filter(|path| seen.insert(*path))
        .collect();
    match (lowers.as_slice(), upper) {
        ([], None) => {
            let nothing = std::io::Error::from_raw_os_error(libc::EINVAL);
            Err(Failure::new("mount overlay", &nothing).because("a root without any layer"))
        }
        // The kernel wants two directories: with one, the directory itself is the view.
        ([only], None) => bind(only, attributes | READ_ONLY),
        ([], Some(upper)) => bind(&upper.upper, attributes),
        (lowers, upper) => {
            let attributes = if upper.is_none() {
                attributes | READ_ONLY
            } else {
                attributes
            };
            let layers = Layers::open(lowers, upper)?;
            let mount = layers.mount(attributes, stage)?;
            if !attributes.contains(READ_ONLY) {
                layers.refuse_read_only(&mount)?;
            }
            Ok(mount)
        }
    }
}

/// Tries to make an overlay that writes to `upper`, and lets go of it again.
pub(crate) fn attempt(lower: &Path, upper: &UpperDir) -> Step<()> {
    let layers = Layers::open(&[lower], Some(upper))?;
    layers
        .mount_detached(MountAttrFlags::MOUNT_ATTR_NODEV)
        .map(drop)
}

/// A directory as it is, in the place of an overlay.
pub(crate) fn bind(directory: &Path, attributes: MountAttrFlags) -> Step<Detached> {
    let directory_fd = open_directory(directory)?;
    let mount = Detached::clone_of_fd(&directory_fd).step_at("bind the layer", directory)?;
    mount
        .set(attributes)
        .step_at("set mount attributes of the layer", directory)?;
    Ok(mount)
}

fn open_directory(path: &Path) -> Step<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).step_at("open the layer", path)
}

impl Layers {
    fn open(lowers: &[impl AsRef<Path>], upper: Option<&UpperDir>) -> Step<Self> {
        let lowers = lowers
            .iter()
            .map(|path| open_directory(path.as_ref()))
            .collect::<Step<_>>()?;
        let upper = match upper {
            None => None,
            Some(UpperDir { upper, work }) => {
                let work_fd = open_directory(work)?;
                forget_volatile(work_fd.as_fd()).step_at("clean the work directory", work)?;
                Some((open_directory(upper)?, work_fd))
            }
        };
        Ok(Self { lowers, upper })
    }

    fn mount(&self, attributes: MountAttrFlags, stage: &mut Stage) -> Step<Detached> {
        match self.mount_detached(attributes)? {
            Some(mount) => Ok(mount),
            None => self.mount_by_string(attributes, stage),
        }
    }

    /// Makes an error of an overlay that the kernel did mount, but read-only: so it does when it cannot
    /// write to the work directory, most often for want of space, and tells nobody but its log.
    fn refuse_read_only(&self, mount: &Detached) -> Step<()> {
        let Some((_, work)) = &self.upper else {
            return Ok(());
        };
        let found = rustix::fs::fstatvfs(mount.as_fd()).step("look at the overlay")?;
        if !found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(());
        }
        // What hindered the kernel most likely hinders us.
        let error = mkdirat(work, "probe", Mode::RWXU).err();
        Err(
            Failure::new("mount overlay", &error.unwrap_or(Errno::ROFS).into())
                .because("its work directory cannot be written"),
        )
    }

    /// Mounts nowhere; returns `None` before Linux 6.8, which cannot.
    fn mount_detached(&self, attributes: MountAttrFlags) -> Step<Option<Detached>> {
        for interface in [Interface::Descriptors, Interface::Names] {
            match self.mount_by(interface, attributes)? {
                Attempt::Mounted(mount) => return Ok(Some(mount)),
                Attempt::Unknown => {}
                Attempt::OneString => break,
            }
        }
        Ok(None)
    }

    fn mount_by(&self, interface: Interface, attributes: MountAttrFlags) -> Step<Attempt> {
        let overlay = FileSystem::new("overlay")?;
        let set = |key, fd: BorrowedFd<'_>| match interface {
            Interface::Descriptors => overlay.raw_descriptor(key, fd),
            Interface::Names => overlay.raw_option(key, &name_of(fd)),
        };
        for (index, lower) in self.lowers.iter().enumerate() {
            match set(c"lowerdir+", lower.as_fd()) {
                Ok(()) => {}
                Err(Errno::INVAL) if index == 0 => return Ok(Attempt::Unknown),
                Err(Errno::OPNOTSUPP) if index == 0 => return Ok(Attempt::OneString),
                Err(error) => {
                    let failure = Failure::new("mount overlay", &error.into());
                    return Err(failure.because(format!("layer {index} from the top")));
                }
            }
        }
        if let Some((upper, work)) = &self.upper {
            set(c"upperdir", upper.as_fd()).step("mount overlay: upper directory")?;
            set(c"workdir", work.as_fd()).step("mount overlay: work directory")?;
            overlay.flag(c"volatile")?;
        }
        if in_user_namespace() {
            // Marks are `user.overlay.*` then: `trusted.*` is out of reach.
            overlay.flag(c"userxattr")?;
        }
        for (key, value) in OPTIONS.into_iter().chain([redirect_option()]) {
            let key = CString::new(key).step("mount overlay")?;
            overlay.option(&key, value)?;
        }
        overlay.mount(attributes).map(Attempt::Mounted)
    }

    fn mount_by_string(&self, attributes: MountAttrFlags, stage: &mut Stage) -> Step<Detached> {
        let lowers: Vec<String> = self.lowers.iter().map(|fd| name_of(fd.as_fd())).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some((upper, work)) = &self.upper {
            let (upper, work) = (name_of(upper.as_fd()), name_of(work.as_fd()));
            options += &format!(",upperdir={upper},workdir={work},volatile");
        }
        if in_user_namespace() {
            options += ",userxattr";
        }
        for (key, value) in OPTIONS.into_iter().chain([redirect_option()]) {
            options += &format!(",{key}={value}");
        }
        if options.len() >= 4096 {
            let long = std::io::Error::from_raw_os_error(libc::E2BIG);
            let detail = format!("{} layers are too many before Linux 6.8", lowers.len());
            return Err(Failure::new("mount overlay", &long).because(detail));
        }
        let (target, name) = stage.fresh_directory()?;
        let options = CString::new(options).step("mount overlay")?;
        let on = name_of(target.as_fd());
        let flags = MountFlags::empty();
        rustix::mount::mount(
            c"overlay",
            on.as_str(),
            c"overlay",
            flags,
            options.as_c_str(),
        )
        .step("mount overlay")?;
        // `target` still shows the directory below the mount; a new look-up crosses it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&*stage, name.as_str(), flags, Mode::empty()).step("open the overlay")?;
        let mount = Detached::from_attached(root);
        mount
            .set(attributes)
            .step("set mount attributes of the overlay")?;
        Ok(mount)
    }
}

/// Removes the mark that makes the kernel refuse a work directory of an earlier `volatile` mount.
///
/// It warns of data that a crash of the machine may have lost; whoever mounts again has decided that
/// this does not matter (a container that is started again).
fn forget_volatile(work: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, unlinkat};
    for name in [c"work/incompat/volatile/dirty", c"work/incompat/volatile"] {
        match unlinkat(work, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(work, name, AtFlags::REMOVEDIR)?,
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::sys;

    /// Every interface gives the same view; the fallbacks are for kernels that are not here.
    #[test]
    fn root_each_interface_mounts_the_same() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["top", "bottom", "upper"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("which"), name).unwrap();
            fs::write(at(name).join(name), name).unwrap();
        }
        for interface in [Some(Interface::Descriptors), Some(Interface::Names), None] {
            let work = at(&format!("{interface:?}"));
            fs::create_dir(&work).unwrap();
            let lowers = [at("top"), at("bottom")];
            let upper = UpperDir {
                upper: at("upper"),
                work,
            };
            let files = std::thread::spawn(move || {
                sys::unshare_file_system().unwrap();
                sys::unshare(libc::CLONE_NEWNS).unwrap();
                let private = rustix::mount::MountPropagationFlags::PRIVATE
                    | rustix::mount::MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                let mut stage = Stage::new().unwrap();
                let layers = Layers::open(&lowers, Some(&upper)).unwrap();
                let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
                let mount = match interface {
                    None => layers.mount_by_string(nodev, &mut stage),
                    Some(interface) => match layers.mount_by(interface, nodev).unwrap() {
                        Attempt::Mounted(mount) => Ok(mount),
                        // The fallback of this kernel is tried as well.
                        Attempt::Unknown | Attempt::OneString => {
                            layers.mount_by_string(nodev, &mut stage)
                        }
                    },
                };
                let mount = mount.unwrap();
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let open = |name: &str| openat(&mount, name, flags, Mode::empty());
                assert!(open("top").is_ok() && open("bottom").is_ok());
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
                let new = openat(&mount, "new", flags, Mode::RWXU).unwrap();
                fs::File::from(new)
                    .write_all(format!("{interface:?}").as_bytes())
                    .unwrap();
                let found = open("which").unwrap();
                std::io::read_to_string(fs::File::from(found)).unwrap()
            });
            assert_eq!(files.join().unwrap(), "upper", "{interface:?}");
            let new = fs::read_to_string(at("upper").join("new")).unwrap();
            assert_eq!(new, format!("{interface:?}"));
        }
    }
}
