//! `-v`, `--device`, and what all mounts of a container have in common.

mod keys;
mod tmpfs;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::{TargetKind, is_volume_name};
use rbuild_runtime::TmpfsOptions;

use crate::failure::Failure;
pub(crate) use keys::parse_mount;
pub(crate) use tmpfs::{parse_tmpfs, tmpfs_words};

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Where it appears.
    pub(crate) target: PathBuf,
    /// What appears.
    pub(crate) kind: VolumeKind,
    /// It cannot be written to.
    pub(crate) readonly: bool,
}

/// Kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeKind {
    /// A file or directory of the host.
    Bind {
        /// Its path.
        source: PathBuf,
        /// It is made, as a directory, if it is missing.
        create: bool,
        /// What is mounted below it comes along.
        recursive: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Largest size in bytes.
        size: Option<u64>,
        /// Mode of the directory.
        mode: Option<u32>,
        /// The rest.
        options: TmpfsOptions,
    },
    /// A volume of the store.
    Stored(StoredVolume),
    /// A device of the host.
    Device {
        /// Its path.
        source: PathBuf,
    },
    /// The files of an image, read-only.
    Image {
        /// Name or ID of the image.
        name: String,
        /// Directory in it.
        subpath: Option<PathBuf>,
    },
}

/// A volume that is wanted; it is made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredVolume {
    /// Its name; none for one of the container's own.
    pub(crate) name: Option<String>,
    /// It stays empty when the image has files where it appears.
    pub(crate) nocopy: bool,
    /// What of it appears.
    pub(crate) subpath: Option<PathBuf>,
    /// Labels, if it is made.
    pub(crate) labels: BTreeMap<String, String>,
    /// Options of the driver, if it is made.
    pub(crate) options: BTreeMap<String, String>,
}

/// Parses `-v [SRC:]DST[:OPTIONS]`.
pub(crate) fn parse_volume(value: &str) -> Result<Volume, Failure> {
    let invalid =
        |reason: &str| Failure::new(format!("invalid volume specification: '{value}': {reason}"));
    let parts: Vec<&str> = value.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] if target.starts_with('/') => (Some(*source), *target, ""),
        [target, options] if target.starts_with('/') => (None, *target, *options),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(invalid("it must have the form [SOURCE:]TARGET[:OPTIONS]")),
    };
    let target = absolute(target).ok_or_else(|| invalid("the target must be an absolute path"))?;
    let Words { readonly, nocopy } = volume_words(options, &invalid)?;
    let stored = |name: Option<String>| {
        VolumeKind::Stored(StoredVolume {
            name,
            nocopy,
            ..StoredVolume::default()
        })
    };
    let kind = match source {
        None => stored(None),
        Some("") => return Err(invalid("the source is empty")),
        Some(path) if path.starts_with(['/', '.', '~']) => VolumeKind::Bind {
            source: host_path(path)?,
            create: true,
            recursive: true,
        },
        Some(name) => stored(Some(volume_name(name)?)),
    };
    Ok(Volume {
        target,
        kind,
        readonly,
    })
}

/// The name of a volume, if it can be one.
pub(crate) fn volume_name(name: &str) -> Result<String, Failure> {
    if is_volume_name(name) {
        return Ok(name.to_owned());
    }
    let failure = Failure::new(format!(
        "{name:?} is no name for a volume: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two of them at \
         least"
    ));
    Err(failure.hint("to mount a directory of this machine, write `./` or `/` before its name"))
}

/// The options behind a volume.
struct Words {
    readonly: bool,
    nocopy: bool,
}

fn volume_words(options: &str, invalid: &dyn Fn(&str) -> Failure) -> Result<Words, Failure> {
    let mut words = Words {
        readonly: false,
        nocopy: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => words.readonly = true,
            "nocopy" => words.nocopy = true,
            // The rest asks for what happens anyway: labels and caching mean nothing here.
            "rw" | "z" | "Z" | "private" | "rprivate" | "cached" | "delegated" | "consistent"
            | "default" => {}
            "shared" | "rshared" | "slave" | "rslave" => return Err(propagation(option)),
            other => return Err(invalid(&format!("unknown option `{other}`"))),
        }
    }
    Ok(words)
}

/// Mounts that appear later on one side are not seen on the other.
fn propagation(option: &str) -> Failure {
    Failure::unsupported(&format!("the mount propagation `{option}`")).hint(
        "a sandbox lets go of the host's mounts before it starts: mount what is needed first, or mount it \
         in the container",
    )
}

/// Parses `--device SOURCE[:TARGET][:rwm]`.
pub(crate) fn parse_device(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: &str| Failure::new(format!("invalid device `{value}`: {reason}"));
    let parts: Vec<&str> = value.split(':').collect();
    let is_mode = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let (source, target, mode) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, mode] if is_mode(mode) => (*source, *source, *mode),
        [source, target] => (*source, *target, "rwm"),
        [source, target, mode] if is_mode(mode) => (*source, *target, *mode),
        _ => return Err(invalid("it must have the form SOURCE[:TARGET][:rwm]")),
    };
    if !(mode.contains('r') && mode.contains('w')) {
        return Err(
            Failure::unsupported(&format!("the right `{mode}` of a device")).hint(
                "who sees a device here may do with it what its mode allows: write `rw` or nothing",
            ),
        );
    }
    let target = absolute(target).ok_or_else(|| invalid("the target must be an absolute path"))?;
    let source = host_path(source)?;
    let found = std::fs::metadata(&source)
        .map_err(|error| invalid("it cannot be looked at").because(&error))?;
    let kind = found.file_type();
    if !(kind.is_char_device() || kind.is_block_device()) {
        return Err(invalid("it is no device"));
    }
    Ok(Volume {
        target,
        kind: VolumeKind::Device { source },
        readonly: false,
    })
}

/// There is one driver.
pub(crate) fn unknown_driver(name: &str) -> Failure {
    Failure::new(format!("there is no volume driver {name:?}")).hint(
        "the only driver is `local`; with `-o type=none -o o=bind -o device=DIR` it shows what \
               another program has mounted at DIR",
    )
}

/// Maps that are filled with `NAME=VALUE`.
pub(crate) trait InsertPair {
    /// Adds `NAME=VALUE`, or `NAME` without value; returns the value that was there.
    fn insert_pair(&mut self, pair: &str) -> Option<String>;
}

impl InsertPair for BTreeMap<String, String> {
    fn insert_pair(&mut self, pair: &str) -> Option<String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        self.insert(name.to_owned(), value.to_owned())
    }
}

/// Finds out what a bind mount needs as its target; makes a missing source if that is wanted.
pub(crate) fn bind_kind(source: &Path, create: bool) -> Result<TargetKind, Failure> {
    match std::fs::metadata(source) {
        Ok(metadata) if metadata.is_dir() => Ok(TargetKind::Directory),
        Ok(_) => Ok(TargetKind::File),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(source).map_err(|error| {
                Failure::new(format!(
                    "could not make the directory `{}`",
                    source.display()
                ))
                .because(&error)
            })?;
            Ok(TargetKind::Directory)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            source.display()
        ))),
        Err(error) => {
            Err(Failure::new(format!("could not mount `{}`", source.display())).because(&error))
        }
    }
}

/// A target is absolute and is not the root itself.
fn absolute(target: &str) -> Option<PathBuf> {
    let path = Path::new(target);
    let deep = path.components().count() > 1;
    (path.is_absolute() && deep).then(|| path.to_path_buf())
}

fn host_path(path: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(format!("could not mount `{path}`")).because(&error))
}

fn octal(value: &str) -> Option<u32> {
    u32::from_str_radix(value, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, create: bool) -> VolumeKind {
        VolumeKind::Bind {
            source: source.into(),
            create,
            recursive: true,
        }
    }

    #[test]
    fn volumes_have_three_forms() {
        let volume = parse_volume("/a:/b:ro").unwrap();
        assert_eq!(
            volume,
            Volume {
                target: "/b".into(),
                kind: bind("/a", true),
                readonly: true
            }
        );
        assert_eq!(parse_volume("/a:/b").unwrap().kind, bind("/a", true));
        let stored = |name: Option<&str>, nocopy| {
            VolumeKind::Stored(StoredVolume {
                name: name.map(str::to_owned),
                nocopy,
                ..StoredVolume::default()
            })
        };
        assert_eq!(parse_volume("/b").unwrap().kind, stored(None, false));
        assert_eq!(
            parse_volume("name:/b:nocopy").unwrap().kind,
            stored(Some("name"), true)
        );
        assert!(parse_volume("/a:/b:ro,z").unwrap().readonly);
        for (value, want) in [
            ("a/b:/b", "is no name for a volume"),
            ("x:/b", "is no name for a volume"),
            ("/a:b:ro", "absolute path"),
            ("/a:/", "absolute path"),
            ("/a:/b:shared", "not supported yet"),
            ("/a:/b:fast", "unknown option"),
            ("a:b:c:d", "form"),
        ] {
            let message = parse_volume(value).unwrap_err().message.unwrap();
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn a_missing_source_is_made_for_v_only() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("a/b");
        assert!(bind_kind(&missing, false).is_err());
        assert_eq!(bind_kind(&missing, true).unwrap(), TargetKind::Directory);
        assert!(missing.is_dir());
        std::fs::write(missing.join("f"), "").unwrap();
        assert_eq!(
            bind_kind(&missing.join("f"), true).unwrap(),
            TargetKind::File
        );
    }
}
