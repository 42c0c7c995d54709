//! `--mount`: a list of keys and values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_parser::parse_size;
use rbuild_runtime::TmpfsOptions;

use super::{
    InsertPair as _, StoredVolume, Volume, VolumeKind, absolute, host_path, octal, propagation,
    unknown_driver, volume_name,
};
use crate::csv;
use crate::failure::Failure;

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

fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_typed() {
        assert_eq!(
            parse_mount("type=bind,src=/a,dst=/b,readonly").unwrap(),
            Volume {
                target: "/b".into(),
                kind: VolumeKind::Bind {
                    source: "/a".into(),
                    create: false,
                    recursive: true,
                },
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
}
