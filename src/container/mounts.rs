//! `-v`, `--mount` and `--tmpfs`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::{TargetKind, is_volume_name};
use rbuild_parser::parse_size;
use rbuild_runtime::TmpfsOptions;

use crate::csv;
use crate::failure::Failure;

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

/// What `--mount` was given, key by key.
#[derive(Default)]
struct Keys {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    subpath: Option<PathBuf>,
    readonly: bool,
    nonrecursive: bool,
    create: bool,
    nocopy: bool,
    size: Option<u64>,
    mode: Option<u32>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    /// The first key that belongs to one type only, and that type.
    special: Option<(String, &'static str)>,
}

/// Parses `--mount type=bind|volume|tmpfs|image,…`.
pub(crate) fn parse_mount(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid mount `{value}`: {reason}"));
    let mut keys = Keys::default();
    for field in csv::fields(value).map_err(|error| invalid(error.to_string()))? {
        keys.set(&field, &invalid)?;
    }
    let Some(target) = &keys.target else {
        return Err(invalid("target is required".into()));
    };
    let target =
        absolute(target).ok_or_else(|| invalid("the target must be an absolute path".into()))?;
    let readonly = keys.readonly;
    let kind = keys.kind.clone().unwrap_or_else(|| "volume".to_owned());
    if let Some((key, of)) = &keys.special
        && *of != kind
    {
        return Err(invalid(format!("`{key}` is for type {of} only")));
    }
    Ok(Volume {
        target,
        kind: keys.kind_of(&kind, &invalid)?,
        readonly,
    })
}

impl Keys {
    fn set(&mut self, field: &str, invalid: &dyn Fn(String) -> Failure) -> Result<(), Failure> {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let key = key.to_ascii_lowercase();
        let flag =
            || truth(value).ok_or_else(|| invalid(format!("invalid value for {key}: {value}")));
        let of = match key.split('-').next() {
            Some("bind") => Some("bind"),
            Some("tmpfs") => Some("tmpfs"),
            Some("image") => Some("image"),
            Some("volume") => Some("volume"),
            _ => None,
        };
        if let Some(of) = of.filter(|_| key.contains('-') && self.special.is_none()) {
            self.special = Some((key.clone(), of));
        }
        match key.as_str() {
            "type" => self.kind = Some(value.to_owned()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "readonly" | "ro" => self.readonly = flag()?,
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            "bind-propagation" => return Err(propagation(value)),
            "bind-nonrecursive" => self.nonrecursive = flag()?,
            "bind-recursive" => match value {
                "enabled" | "writable" | "readonly" | "true" | "1" => {}
                "disabled" | "false" | "0" => self.nonrecursive = true,
                _ => return Err(invalid(format!("invalid value for {key}: {value}"))),
            },
            "bind-create-src" => self.create = flag()?,
            // Caching of virtual machines.
            "consistency" => {}
            "tmpfs-size" => self.size = Some(parse_size(value).map_err(invalid)?),
            "tmpfs-mode" => {
                let mode = octal(value);
                self.mode =
                    Some(mode.ok_or_else(|| {
                        invalid(format!("invalid value for tmpfs-mode: {value}"))
                    })?);
            }
            "volume-nocopy" => self.nocopy = flag()?,
            "volume-driver" if matches!(value, "" | "local") => {}
            "volume-driver" => return Err(unknown_driver(value)),
            "volume-label" => drop(self.labels.insert_pair(value)),
            "volume-opt" => drop(self.options.insert_pair(value)),
            "volume-subpath" | "image-subpath" => self.subpath = Some(PathBuf::from(value)),
            _ => return Err(invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
        Ok(())
    }

    fn kind_of(
        self,
        kind: &str,
        invalid: &dyn Fn(String) -> Failure,
    ) -> Result<VolumeKind, Failure> {
        Ok(match (kind, self.source) {
            ("bind", Some(source)) => VolumeKind::Bind {
                source: host_path(&source)?,
                create: self.create,
                recursive: !self.nonrecursive,
            },
            ("bind" | "image", None) => {
                return Err(invalid(format!("source is required for type {kind}")));
            }
            ("tmpfs", None) => VolumeKind::Tmpfs {
                size: self.size,
                mode: self.mode,
                options: TmpfsOptions {
                    noexec: true,
                    ..TmpfsOptions::default()
                },
            },
            ("tmpfs", Some(_)) => return Err(invalid("type tmpfs has no source".into())),
            ("volume", name) => VolumeKind::Stored(StoredVolume {
                name: name.as_deref().map(volume_name).transpose()?,
                nocopy: self.nocopy,
                subpath: self.subpath,
                labels: self.labels,
                options: self.options,
            }),
            ("image", Some(name)) => VolumeKind::Image {
                name,
                subpath: self.subpath,
            },
            (other, _) => return Err(Failure::unsupported(&format!("the mount type `{other}`"))),
        })
    }
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

/// Parses `--tmpfs DST[:OPTIONS]`; without options no programs, devices and set-user-id programs work in
/// it, as in Docker.
pub(crate) fn parse_tmpfs(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid tmpfs `{value}`: {reason}"));
    let (target, words) = value.split_once(':').unwrap_or((value, ""));
    let target =
        absolute(target).ok_or_else(|| invalid("the target must be an absolute path".into()))?;
    let (kind, readonly) = tmpfs_words(words, &invalid)?;
    Ok(Volume {
        target,
        kind,
        readonly,
    })
}

/// The options of a directory in memory, and whether it is read-only.
pub(crate) fn tmpfs_words(
    words: &str,
    invalid: &dyn Fn(String) -> Failure,
) -> Result<(VolumeKind, bool), Failure> {
    let (mut readonly, mut size, mut mode) = (false, None, None);
    let mut options = TmpfsOptions {
        noexec: true,
        ..TmpfsOptions::default()
    };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let number = |value: &str| {
            let number = value.parse::<u32>();
            number.map_err(|_| invalid(format!("`{word}` needs a number")))
        };
        match word.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).map_err(invalid)?),
            Some(("mode", value)) => {
                let parsed = octal(value);
                mode = Some(parsed.ok_or_else(|| invalid(format!("invalid mode: {value}")))?);
            }
            Some(("uid", value)) => options.uid = Some(number(value)?),
            Some(("gid", value)) => options.gid = Some(number(value)?),
            Some(("nr_inodes", value)) => {
                options.inodes = Some(parse_size(value).map_err(invalid)?);
            }
            None => match word {
                "ro" => readonly = true,
                "exec" => options.noexec = false,
                "noexec" => options.noexec = true,
                "suid" => options.suid = true,
                "nosuid" => options.suid = false,
                // Devices never work there; when a file was read is never noted in memory.
                "rw" | "nodev" | "noatime" | "relatime" | "rprivate" | "private" => {}
                _ => return Err(unknown_tmpfs(word)),
            },
            _ => return Err(unknown_tmpfs(word)),
        }
    }
    let kind = VolumeKind::Tmpfs {
        size,
        mode,
        options,
    };
    Ok((kind, readonly))
}

fn unknown_tmpfs(word: &str) -> Failure {
    Failure::unsupported(&format!("the tmpfs option `{word}`")).hint(
        "known options: size=, mode=, uid=, gid=, nr_inodes=, ro, rw, exec, noexec, suid, nosuid, nodev",
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

fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
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
    fn mounts_are_typed() {
        assert_eq!(
            parse_mount("type=bind,src=/a,dst=/b,readonly").unwrap(),
            Volume {
                target: "/b".into(),
                kind: bind("/a", false),
                readonly: true
            }
        );
        assert_eq!(
            parse_mount("type=tmpfs,target=/t,tmpfs-mode=700")
                .unwrap()
                .kind,
            VolumeKind::Tmpfs {
                size: None,
                mode: Some(0o700),
                options: TmpfsOptions {
                    noexec: true,
                    ..TmpfsOptions::default()
                }
            }
        );
        let kind = parse_mount(
            "type=volume,src=data,dst=/v,volume-subpath=a/b,volume-nocopy,volume-label=x=y",
        );
        assert_eq!(
            kind.unwrap().kind,
            VolumeKind::Stored(StoredVolume {
                name: Some("data".into()),
                nocopy: true,
                subpath: Some("a/b".into()),
                labels: [("x".to_owned(), "y".to_owned())].into(),
                options: BTreeMap::new(),
            })
        );
        let alone = parse_mount("type=bind,src=/a,dst=/b,bind-nonrecursive").unwrap();
        assert!(matches!(
            alone.kind,
            VolumeKind::Bind {
                recursive: false,
                ..
            }
        ));
        for (value, want) in [
            ("type=bind,dst=/b", "source is required"),
            ("type=bind,src=/a", "target is required"),
            ("type=bind,src=/a,dst=/b,x=1", "unexpected key 'x'"),
            ("type=image,dst=/b", "source is required"),
            ("type=cluster,src=a,dst=/b", "not supported yet"),
            ("src=name,dst=/b,tmpfs-size=1m", "is for type tmpfs only"),
            ("src=name,dst=/b,volume-driver=nfs", "no volume driver"),
            (
                "type=bind,src=/a,dst=/b,bind-propagation=rshared",
                "propagation `rshared`",
            ),
        ] {
            let message = parse_mount(value).unwrap_err().message.unwrap();
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
