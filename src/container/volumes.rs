//! From the mounts that were asked for to what the sandbox mounts: volumes are made and filled, images
//! are unpacked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rbuild_cache::{
    DiffId, Follow, Layer, Lease, RootView, Store, TargetKind, Volume as StoreVolume, VolumeRecord,
    VolumeUse,
};
use rbuild_runtime::{Mount, MountSource, UpperDir};

use super::details::{MountKind, MountPoint};
use super::mounts::{self, StoredVolume, Volume, VolumeKind};
use super::{lowers_of, protect, unpack};
use crate::commands::lookup;
use crate::events::{self, Event};
use crate::failure::Failure;

/// Label of volumes that nobody has named, as in Docker.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Mounts of one container.
#[derive(Default)]
pub(crate) struct Attached {
    /// For the sandbox, with what each needs as its target.
    pub(crate) mounts: Vec<(Mount, TargetKind)>,
    /// What is told about them.
    pub(crate) points: Vec<MountPoint>,
    /// Layers of images that are mounted.
    pub(crate) layers: Vec<DiffId>,
    /// Held until the container is listed, or has ended.
    pub(crate) held: Held,
}

/// Keeps volumes and layers from being removed.
#[derive(Default)]
pub(crate) struct Held {
    volumes: Vec<VolumeUse>,
    leases: Vec<Lease>,
}

/// What a container's root is made of, as far as mounts depend on it.
pub(crate) struct Base<'a> {
    /// The store.
    pub(crate) store: &'a Store,
    /// The image's files.
    pub(crate) view: &'a RootView,
    /// Directories of the root, the topmost first.
    pub(crate) lowers: &'a [PathBuf],
    /// It is listed: its unnamed volumes can outlive it.
    pub(crate) listed: bool,
    /// Its root cannot be written to.
    pub(crate) read_only: bool,
}

impl Base<'_> {
    /// Makes what is asked for; of two on one target the later counts.
    pub(crate) fn attach(
        &self,
        wanted: &[Volume],
        draft: &mut dyn FnMut() -> Result<UpperDir, Failure>,
    ) -> Result<Attached, Failure> {
        let mut attached = Attached::default();
        for (index, volume) in wanted.iter().enumerate() {
            let again = wanted[index + 1..].iter();
            if again.clone().any(|later| later.target == volume.target) {
                continue;
            }
            self.one(volume, &mut attached, draft)?;
        }
        Ok(attached)
    }

    fn one(
        &self,
        volume: &Volume,
        attached: &mut Attached,
        draft: &mut dyn FnMut() -> Result<UpperDir, Failure>,
    ) -> Result<(), Failure> {
        let mut readonly = volume.readonly;
        let mut point = MountPoint::new(&volume.target, MountKind::Bind);
        let (source, kind) = match &volume.kind {
            VolumeKind::Bind {
                source,
                create,
                recursive,
            } => {
                let kind = mounts::bind_kind(source, *create)?;
                point.source = source.display().to_string();
                (bind(source.clone(), *recursive), kind)
            }
            VolumeKind::Device { source } => {
                let mount = Mount {
                    target: volume.target.clone(),
                    source: bind(source.clone(), false),
                    readonly: false,
                };
                attached.mounts.push((mount, TargetKind::File));
                return Ok(());
            }
            VolumeKind::Tmpfs { .. } => {
                point.kind = MountKind::Tmpfs;
                (tmpfs(&volume.kind), TargetKind::Directory)
            }
            VolumeKind::Image { name, subpath } => {
                point.kind = MountKind::Image;
                point.source.clone_from(name);
                readonly = true;
                self.image(name, subpath.as_deref(), attached)?
            }
            // The root is thrown away with the container, so it serves as well as a volume that is
            // thrown away with it.
            VolumeKind::Stored(StoredVolume { name: None, .. }) if !self.listed => {
                let there = self.view.lookup(&volume.target, Follow::Last)?;
                if !self.read_only && there.is_some_and(|entry| entry.is_directory()) {
                    return Ok(());
                }
                point.kind = MountKind::Volume;
                let source = MountSource::Overlay {
                    lowers: self.lowers.to_vec(),
                    upper: Some(draft()?),
                    subpath: Some(volume.target.clone()),
                };
                (source, TargetKind::Directory)
            }
            VolumeKind::Stored(stored) => {
                point.kind = MountKind::Volume;
                let (source, kind, by_options) =
                    self.stored(stored, &volume.target, attached, &mut point)?;
                readonly |= by_options;
                (source, kind)
            }
        };
        point.writable = !readonly;
        attached.points.push(point);
        let mount = Mount {
            target: volume.target.clone(),
            source,
            readonly,
        };
        attached.mounts.push((mount, kind));
        Ok(())
    }

    fn stored(
        &self,
        wanted: &StoredVolume,
        target: &Path,
        attached: &mut Attached,
        point: &mut MountPoint,
    ) -> Result<(MountSource, TargetKind, bool), Failure> {
        check_options(&wanted.options)?;
        let mut record = new_record(wanted.name.clone())?;
        record.labels.extend(wanted.labels.clone());
        record.options.clone_from(&wanted.options);
        let (volume, used) = self.store.use_volume(&record)?;
        if volume.record == record {
            // Made just now: nobody else has its time.
            events::note_in(self.store.root(), &Event::volume("create", &record.name));
        }
        attached.held.volumes.push(used);
        point.name.clone_from(&volume.record.name);
        point.source = volume.data().display().to_string();
        match shown(&volume)? {
            Shown::Files => {
                if !wanted.nocopy {
                    self.store.fill_volume(&volume, self.view, target)?;
                }
                let kind = sub_kind(&volume.data(), wanted.subpath.as_deref())
                    .map_err(|failure| failure.within_volume(&volume))?;
                let source = MountSource::Bind {
                    source: volume.data(),
                    subpath: wanted.subpath.clone(),
                };
                Ok((source, kind, false))
            }
            Shown::Bind(source, readonly) => {
                let kind = sub_kind(&source, wanted.subpath.as_deref())
                    .map_err(|failure| failure.within_volume(&volume))?;
                let subpath = wanted.subpath.clone();
                Ok((MountSource::Bind { source, subpath }, kind, readonly))
            }
            Shown::Tmpfs(kind, readonly) => {
                if wanted.subpath.is_some() {
                    return Err(Failure::new(
                        "a volume in memory has no files before it is mounted",
                    )
                    .within_volume(&volume));
                }
                Ok((tmpfs(&kind), TargetKind::Directory, readonly))
            }
        }
    }

    fn image(
        &self,
        name: &str,
        subpath: Option<&Path>,
        attached: &mut Attached,
    ) -> Result<(MountSource, TargetKind), Failure> {
        let found = lookup::require(self.store, name)
            .map_err(|failure| failure.hint("`rbuild pull` gets it"))?;
        attached.held.leases.push(protect(self.store, &found)?);
        let (_, layers) = unpack(self.store, &found)?;
        attached.layers.extend(found.entry.record.layers.clone());
        let kind = match subpath {
            None => TargetKind::Directory,
            Some(subpath) => kind_in(&RootView::new(&layers), subpath)
                .map_err(|failure| failure.within(format!("could not mount the image {name}")))?,
        };
        let source = MountSource::Overlay {
            lowers: layer_paths(&layers),
            upper: None,
            subpath: subpath.map(Path::to_path_buf),
        };
        Ok((source, kind))
    }
}

fn layer_paths(layers: &[Layer]) -> Vec<PathBuf> {
    lowers_of(layers).collect()
}

fn bind(source: PathBuf, recursive: bool) -> MountSource {
    if recursive {
        MountSource::Bind {
            source,
            subpath: None,
        }
    } else {
        MountSource::BindAlone { source }
    }
}

fn tmpfs(kind: &VolumeKind) -> MountSource {
    match *kind {
        VolumeKind::Tmpfs {
            size,
            mode,
            options,
        } => MountSource::Tmpfs {
            size,
            mode,
            options,
        },
        _ => MountSource::Tmpfs {
            size: None,
            mode: None,
            options: rbuild_runtime::TmpfsOptions::default(),
        },
    }
}

/// What the subdirectory or file of a volume needs as its target.
fn sub_kind(root: &Path, subpath: Option<&Path>) -> Result<TargetKind, Failure> {
    match subpath {
        Some(subpath) => kind_in(&RootView::of_directory(root), subpath),
        None => mounts::bind_kind(root, false),
    }
}

fn kind_in(view: &RootView, subpath: &Path) -> Result<TargetKind, Failure> {
    let found = view.lookup(Path::new("/").join(subpath), Follow::Last)?;
    let Some(found) = found else {
        return Err(Failure::new(format!(
            "there is no `{}` in it",
            subpath.display()
        )));
    };
    Ok(if found.is_directory() {
        TargetKind::Directory
    } else {
        TargetKind::File
    })
}

impl Failure {
    fn within_volume(self, volume: &StoreVolume) -> Failure {
        self.within(format!("could not mount the volume {}", volume.record.name))
    }
}

/// A volume that is to be made; without a name it gets one, and the label that says so.
pub(crate) fn new_record(name: Option<String>) -> Result<VolumeRecord, Failure> {
    let mut labels = BTreeMap::new();
    let name = if let Some(name) = name {
        name
    } else {
        labels.insert(ANONYMOUS.to_owned(), String::new());
        let mut bytes = [0_u8; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes
            .iter()
            .fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
    };
    Ok(VolumeRecord {
        name,
        created: Timestamp::now().to_string(),
        labels,
        options: BTreeMap::new(),
    })
}

/// What a volume shows, by the options that it was made with.
enum Shown {
    /// Its own directory.
    Files,
    /// A directory of this machine, read-only or not.
    Bind(PathBuf, bool),
    /// A directory in memory, of each container its own.
    Tmpfs(VolumeKind, bool),
}

/// Says whether a volume can have these options.
pub(crate) fn check_options(options: &BTreeMap<String, String>) -> Result<(), Failure> {
    shown_by(options).map(drop)
}

fn shown(volume: &StoreVolume) -> Result<Shown, Failure> {
    shown_by(&volume.record.options).map_err(|failure| failure.within_volume(volume))
}

fn shown_by(options: &BTreeMap<String, String>) -> Result<Shown, Failure> {
    let unknown = options
        .keys()
        .find(|key| !matches!(key.as_str(), "type" | "o" | "device"));
    if let Some(key) = unknown {
        return Err(Failure::new(format!("invalid option: {key:?}"))
            .hint("the driver `local` knows `type`, `o` and `device`"));
    }
    if options.is_empty() {
        return Ok(Shown::Files);
    }
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let words: Vec<&str> = option("o")
        .split(',')
        .filter(|word| !word.is_empty())
        .collect();
    let is_bind = words.iter().any(|word| matches!(*word, "bind" | "rbind"));
    match option("type") {
        "tmpfs" => {
            let invalid = |reason: String| Failure::new(format!("invalid option `o`: {reason}"));
            let (kind, readonly) = mounts::tmpfs_words(option("o"), &invalid)?;
            Ok(Shown::Tmpfs(kind, readonly))
        }
        "" | "none" | "bind" if is_bind => {
            let device = Path::new(option("device"));
            if !device.is_absolute() {
                return Err(Failure::new(
                    "missing device in volume options: `-o device=DIR` names the directory, by an \
                     absolute path",
                ));
            }
            if let Some(word) = words
                .iter()
                .find(|word| !matches!(**word, "bind" | "rbind" | "ro" | "rw"))
            {
                return Err(Failure::unsupported(&format!("the bind option `{word}`")));
            }
            Ok(Shown::Bind(device.to_path_buf(), words.contains(&"ro")))
        }
        "" => Err(Failure::new("missing type in volume options")
            .hint("known types: tmpfs, and none with `-o o=bind`")),
        other => Err(
            Failure::unsupported(&format!("a volume with the file system `{other}`")).hint(
                "mount it on this machine, and show it with `-o type=none -o o=bind -o device=DIR`",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[(&str, &str)]) -> Result<(), String> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        check_options(&options).map_err(|failure| failure.message.unwrap_or_default())
    }

    #[test]
    fn options_of_volumes_are_honoured_or_refused() {
        assert_eq!(check(&[]), Ok(()));
        let tmpfs = [
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,uid=7"),
        ];
        assert_eq!(check(&tmpfs), Ok(()));
        let bind = [("type", "none"), ("o", "bind,ro"), ("device", "/a")];
        assert_eq!(check(&bind), Ok(()));
        for (options, want) in [
            (&[("x", "y")][..], "invalid option: \"x\""),
            (&[("type", "nfs"), ("device", ":/a")], "file system `nfs`"),
            (&[("type", "none"), ("o", "bind")], "missing device"),
            (&[("device", "/a")], "missing type"),
            (&[("type", "tmpfs"), ("o", "size=x")], "invalid option `o`"),
            (
                &[("o", "bind,fast"), ("device", "/a")],
                "bind option `fast`",
            ),
        ] {
            let message = check(options).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn unnamed_volumes_say_so() {
        let record = new_record(None).unwrap();
        assert_eq!(record.name.len(), 64);
        assert!(record.labels.contains_key(ANONYMOUS));
        assert!(new_record(Some("a1".into())).unwrap().labels.is_empty());
    }
}
