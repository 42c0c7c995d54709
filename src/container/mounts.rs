//! `-v`, `--mount` and `--tmpfs`.

use std::io;
use std::path::{Path, PathBuf};

use rbuild_cache::TargetKind;
use rbuild_parser::parse_size;

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
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Largest size in bytes.
        size: Option<u64>,
        /// Mode of the directory.
        mode: Option<u32>,
    },
    /// A directory that is thrown away with the container.
    Anonymous,
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
    let readonly = volume_options(options, &invalid)?;
    let kind = match source {
        None => VolumeKind::Anonymous,
        Some("") => return Err(invalid("the source is empty")),
        Some(path) if path.starts_with(['/', '.', '~']) => VolumeKind::Bind {
            source: host_path(path)?,
            create: true,
        },
        Some(name) => {
            return Err(Failure::unsupported(&format!("the named volume `{name}`"))
                .hint("to mount a directory of this machine, write `./` or `/` before its name"));
        }
    };
    Ok(Volume {
        target,
        kind,
        readonly,
    })
}

/// Parses the options behind a volume; says whether it is read-only.
fn volume_options(options: &str, invalid: &dyn Fn(&str) -> Failure) -> Result<bool, Failure> {
    let mut readonly = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => readonly = true,
            // The rest asks for what happens anyway: labels and caching mean nothing here.
            "rw" | "z" | "Z" | "private" | "rprivate" | "nocopy" | "cached" | "delegated"
            | "consistent" => {}
            "shared" | "rshared" | "slave" | "rslave" => {
                return Err(Failure::unsupported(&format!(
                    "the mount propagation `{option}`"
                )));
            }
            other => return Err(invalid(&format!("unknown option `{other}`"))),
        }
    }
    Ok(readonly)
}

/// Parses `--mount type=bind|tmpfs,…`.
pub(crate) fn parse_mount(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid mount `{value}`: {reason}"));
    let (mut kind, mut source, mut target) = (String::from("volume"), None, None);
    let (mut readonly, mut size, mut mode) = (false, None, None);
    for field in csv::fields(value).map_err(|error| invalid(error.to_string()))? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match key.to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut kind),
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "readonly" | "ro" => {
                readonly = truth(value)
                    .ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))?;
            }
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            "tmpfs-size" => size = Some(parse_size(value).map_err(invalid)?),
            "tmpfs-mode" => {
                mode =
                    Some(octal(value).ok_or_else(|| {
                        invalid(format!("invalid value for tmpfs-mode: {value}"))
                    })?);
            }
            "bind-propagation" | "bind-nonrecursive" | "bind-recursive" | "consistency"
            | "volume-nocopy" | "volume-label" | "volume-driver" | "volume-opt"
            | "volume-subpath" | "image-subpath" => {
                return Err(Failure::unsupported(&format!("the mount option `{field}`")));
            }
            _ => return Err(invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    let Some(target) = target else {
        return Err(invalid("target is required".into()));
    };
    let target =
        absolute(&target).ok_or_else(|| invalid("the target must be an absolute path".into()))?;
    let kind = match (kind.as_str(), source) {
        ("bind", Some(source)) => VolumeKind::Bind {
            source: host_path(&source)?,
            create: false,
        },
        ("bind", None) => return Err(invalid("source is required for type bind".into())),
        ("tmpfs", None) => VolumeKind::Tmpfs { size, mode },
        ("tmpfs", Some(_)) => return Err(invalid("type tmpfs has no source".into())),
        ("volume", None) => VolumeKind::Anonymous,
        ("volume", Some(name)) => {
            return Err(Failure::unsupported(&format!("the named volume `{name}`")));
        }
        (other, _) => return Err(Failure::unsupported(&format!("the mount type `{other}`"))),
    };
    if (size.is_some() || mode.is_some()) && !matches!(kind, VolumeKind::Tmpfs { .. }) {
        return Err(invalid("size and mode are for type tmpfs only".into()));
    }
    Ok(Volume {
        target,
        kind,
        readonly,
    })
}

/// Parses `--tmpfs DST[:OPTIONS]`.
pub(crate) fn parse_tmpfs(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid tmpfs `{value}`: {reason}"));
    let (target, options) = value.split_once(':').unwrap_or((value, ""));
    let target =
        absolute(target).ok_or_else(|| invalid("the target must be an absolute path".into()))?;
    let (mut readonly, mut size, mut mode) = (false, None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).map_err(invalid)?),
            Some(("mode", value)) => {
                let parsed = octal(value);
                mode = Some(parsed.ok_or_else(|| invalid(format!("invalid mode: {value}")))?);
            }
            None if option == "ro" => readonly = true,
            None if matches!(option, "rw" | "nosuid" | "nodev") => {}
            _ => {
                return Err(Failure::unsupported(&format!(
                    "the tmpfs option `{option}`"
                )));
            }
        }
    }
    Ok(Volume {
        target,
        kind: VolumeKind::Tmpfs { size, mode },
        readonly,
    })
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
        assert_eq!(parse_volume("/b").unwrap().kind, VolumeKind::Anonymous);
        assert!(parse_volume("/a:/b:ro,z").unwrap().readonly);
        for (value, want) in [
            ("name:/b", "named volume `name` is not supported yet"),
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
                mode: Some(0o700)
            }
        );
        assert_eq!(parse_mount("dst=/v").unwrap().kind, VolumeKind::Anonymous);
        for (value, want) in [
            ("type=bind,dst=/b", "source is required"),
            ("type=bind,src=/a", "target is required"),
            ("type=bind,src=/a,dst=/b,x=1", "unexpected key 'x'"),
            ("type=image,src=a,dst=/b", "not supported yet"),
            ("src=name,dst=/b", "not supported yet"),
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
