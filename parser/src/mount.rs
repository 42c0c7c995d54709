//! The value of `RUN --mount=`.

mod csv;

use crate::text::{parse_bool, quote};
use crate::{ExpandError, closest_same_case, parse_size};

/// Kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty directory in memory.
    Tmpfs,
    /// A secret as a file or variable.
    Secret,
    /// A socket to the ssh agent.
    Ssh,
}

/// How steps share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All writers at once.
    #[default]
    Shared,
    /// A new directory while another writer holds it.
    Private,
    /// One writer after the other.
    Locked,
}

/// A mount, checked and with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// `type`, default bind.
    pub kind: MountKind,
    /// `target`, as written; relative paths join the working directory.
    pub target: Option<String>,
    /// `source`
    pub source: Option<String>,
    /// `from`: stage, named context or image.
    pub from: Option<String>,
    /// Whether writing is refused, the default of the kind resolved.
    pub readonly: bool,
    /// `id`, only when given.
    pub id: Option<String>,
    /// `sharing`
    pub sharing: Sharing,
    /// `size` in bytes.
    pub size: Option<u64>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
    /// `required`
    pub required: bool,
    /// `env`: variable that takes the secret.
    pub env: Option<String>,
}

/// Why a mount cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A variable in a value cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The value is malformed; the text is `BuildKit`'s.
    #[error("{0}")]
    Invalid(String),
}

impl MountKind {
    const ALL: [Self; 5] = [
        Self::Bind,
        Self::Cache,
        Self::Tmpfs,
        Self::Secret,
        Self::Ssh,
    ];

    /// Returns the name used in `type=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

impl Sharing {
    const ALL: [(&'static str, Self); 3] = [
        ("shared", Self::Shared),
        ("private", Self::Private),
        ("locked", Self::Locked),
    ];
}

/// The keys, in the order in which they are suggested.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Checks what can be checked before variables are expanded: the fields, and that `from` has none.
pub(crate) fn check_mount(value: &str) -> Result<(), String> {
    let fields =
        csv::fields(value).map_err(|reason| format!("failed to parse csv mounts: {reason}"))?;
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            continue;
        };
        let dollar = value
            .find('$')
            .is_some_and(|position| position + 1 != value.len());
        if key.eq_ignore_ascii_case("from") && dollar {
            let key = key.to_lowercase();
            return Err(format!(
                "'{key}' doesn't support variable expansion, define alias stage instead"
            ));
        }
    }
    Ok(())
}

/// Parses a value in which nothing is left to expand. The error is `BuildKit`'s text.
pub fn parse_mount(value: &str) -> Result<MountSpec, String> {
    check_mount(value)?;
    expand_mount(value, &mut |text| Ok(text.to_owned())).map_err(|error| error.to_string())
}

/// Splits a value into its fields, expands each field's value, and parses it.
///
/// The order of the keys matters: a `required` or `size` is judged by the `type` before it.
pub fn expand_mount(
    raw: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<MountSpec, MountError> {
    let fields = csv::fields(raw)
        .map_err(|reason| MountError::Invalid(format!("failed to parse csv mounts: {reason}")))?;
    let mut draft = Draft::default();
    for field in &fields {
        match field.split_once('=') {
            None => draft.bare(field)?,
            Some((key, value)) => {
                let value = expand(value)?;
                draft.set(&key.to_lowercase(), value, field)?;
            }
        }
    }
    Ok(draft.finish()?)
}

/// A mount while its fields are read.
#[derive(Default)]
struct Draft {
    kind: Option<MountKind>,
    readonly: Option<bool>,
    sharing: Option<Sharing>,
    required: bool,
    target: String,
    source: String,
    from: String,
    id: String,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl From<String> for MountError {
    fn from(message: String) -> Self {
        Self::Invalid(message)
    }
}

impl Draft {
    fn kind(&self) -> MountKind {
        self.kind.unwrap_or(MountKind::Bind)
    }

    fn unexpected(&self, key: &str) -> String {
        format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind().name()
        )
    }

    /// A field without `=`.
    fn bare(&mut self, field: &str) -> Result<(), String> {
        let key = field.to_lowercase();
        match key.as_str() {
            "readonly" | "ro" => self.readonly = Some(true),
            "readwrite" | "rw" => self.readonly = Some(false),
            "required" => {
                self.check_required(&key)?;
                self.required = true;
            }
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn check_required(&self, key: &str) -> Result<(), String> {
        match self.kind() {
            MountKind::Secret | MountKind::Ssh => Ok(()),
            _ => Err(self.unexpected(key)),
        }
    }

    fn set(&mut self, key: &str, value: String, field: &str) -> Result<(), String> {
        match key {
            "type" => self.kind = Some(kind(&value)?),
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.readonly = Some(boolean(key, &value)?),
            "readwrite" | "rw" => self.readonly = Some(!boolean(key, &value)?),
            "required" => {
                self.check_required(key)?;
                self.required = boolean(key, &value)?;
            }
            "size" if self.kind() == MountKind::Tmpfs => {
                let size = parse_size(&value);
                self.size = Some(size.map_err(|_| format!("invalid value for {key}: {value}"))?);
            }
            "size" => return Err(self.unexpected(key)),
            "id" => self.id = value,
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.mode = Some(number(key, &value, 8)?),
            "uid" => self.uid = Some(number(key, &value, 10)?),
            "gid" => self.gid = Some(number(key, &value, 10)?),
            "env" => self.env = Some(value),
            _ => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(suggest(message, key, KEYS.into_iter()));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<MountSpec, String> {
        let kind = self.kind();
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(format!(
                        "{key} not allowed for {} type mounts",
                        quote(kind.name())
                    ));
                }
            }
        }
        if kind == MountKind::Secret {
            self.check_secret()?;
        }
        if self.sharing.is_some() && kind != MountKind::Cache {
            return Err(format!(
                "invalid cache sharing set for {} mount",
                kind.name()
            ));
        }
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let default_readonly = !matches!(kind, MountKind::Cache | MountKind::Tmpfs);
        Ok(MountSpec {
            kind,
            target: filled(self.target),
            source: filled(self.source),
            from: filled(self.from),
            readonly: self.readonly.unwrap_or(default_readonly),
            id: filled(self.id),
            sharing: self.sharing.unwrap_or_default(),
            size: self.size,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            required: self.required,
            env: self.env,
        })
    }

    fn check_secret(&self) -> Result<(), String> {
        let error = if !self.from.is_empty() {
            "secret mount should not have a from"
        } else if self.sharing.is_some() {
            "secret mount should not define sharing"
        } else if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
            "invalid secret mount. one of source, target required"
        } else if !self.source.is_empty() && !self.id.is_empty() {
            "both source and id can't be set"
        } else {
            return Ok(());
        };
        Err(error.to_owned())
    }
}

fn suggest<'a>(message: String, name: &str, names: impl Iterator<Item = &'a str>) -> String {
    match closest_same_case(name, names) {
        Some(name) => format!("{message} (did you mean {name}?)"),
        None => message,
    }
}

fn kind(value: &str) -> Result<MountKind, String> {
    let lower = value.to_lowercase();
    MountKind::ALL
        .into_iter()
        .find(|kind| kind.name() == lower)
        .ok_or_else(|| {
            let message = format!("unsupported mount type {}", quote(value));
            suggest(
                message,
                value,
                MountKind::ALL.into_iter().map(MountKind::name),
            )
        })
}

fn sharing(value: &str) -> Result<Sharing, String> {
    let lower = value.to_lowercase();
    let found = Sharing::ALL.into_iter().find(|(name, _)| *name == lower);
    found.map(|(_, sharing)| sharing).ok_or_else(|| {
        let message = format!("unsupported sharing value {}", quote(value));
        suggest(
            message,
            value,
            Sharing::ALL.into_iter().map(|(name, _)| name),
        )
    })
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    parse_bool(value).ok_or_else(|| format!("invalid value for {key}: {value}"))
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, String> {
    // The standard library would take a plus sign.
    let digits = Some(value).filter(|value| !value.starts_with('+'));
    digits
        .and_then(|digits| u32::from_str_radix(digits, radix).ok())
        .ok_or_else(|| format!("invalid value {value} for {key}"))
}

/// A `--device` value: the name of a CDI device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceSpec {
    /// Name, such as `vendor.com/gpu=0`.
    pub name: String,
    /// Whether the build fails when there is no such device.
    pub required: bool,
}

/// Parses a `--device` value. The error is `BuildKit`'s text.
pub fn parse_device(value: &str) -> Result<DeviceSpec, String> {
    let fields =
        csv::fields(value).map_err(|reason| format!("failed to parse csv devices: {reason}"))?;
    let mut device = DeviceSpec::default();
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => device.required = boolean(&key, value)?,
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(format!("device name already set to {}", device.name));
            }
            ("name", Some(value)) => value.clone_into(&mut device.name),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            (key, Some(_)) => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(suggest(message, key, ["name", "required"].into_iter()));
            }
        }
    }
    Ok(device)
}

pub(crate) fn check_device(value: &str) -> Result<(), String> {
    parse_device(value).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fails(value: &str, error: &str) {
        assert_eq!(parse_mount(value), Err(error.to_owned()), "{value}");
    }

    #[test]
    fn mounts() {
        let bind = parse_mount("target=/m").unwrap();
        assert_eq!((bind.kind, bind.readonly), (MountKind::Bind, true));
        assert_eq!(bind.target.as_deref(), Some("/m"));
        assert!(!parse_mount("type=bind,dst=/m,rw").unwrap().readonly);
        assert!(!parse_mount("dst=/m,RO=false").unwrap().readonly);
        let cache =
            parse_mount("type=cache,target=/c,id=x,sharing=LOCKED,mode=0700,uid=5,gid=6").unwrap();
        assert_eq!(
            (cache.kind, cache.readonly, cache.sharing),
            (MountKind::Cache, false, Sharing::Locked)
        );
        assert_eq!(
            (cache.mode, cache.uid, cache.gid),
            (Some(0o700), Some(5), Some(6))
        );
        assert_eq!(
            parse_mount("type=tmpfs,target=/t,size=1m").unwrap().size,
            Some(1 << 20)
        );
        assert!(parse_mount("type=secret,id=s,required").unwrap().required);
        assert!(!parse_mount("type=ssh,required=0").unwrap().required);
        let quoted = parse_mount("type=bind,\"source=w, space\",target=/m").unwrap();
        assert_eq!(quoted.source.as_deref(), Some("w, space"));
    }

    #[test]
    fn errors() {
        fails("type=foo,target=/c", "unsupported mount type \"foo\"");
        fails(
            "type=cach,target=/c",
            "unsupported mount type \"cach\" (did you mean cache?)",
        );
        fails(
            "type=cache,trget=/c",
            "unexpected key 'trget' in 'trget=/c' (did you mean target?)",
        );
        fails(
            "type=cache,sharing=foo",
            "unsupported sharing value \"foo\"",
        );
        fails(
            "type=cache,size=1m",
            "unexpected key 'size' for mount type 'cache'",
        );
        fails(
            "size=1m,type=tmpfs",
            "unexpected key 'size' for mount type 'bind'",
        );
        fails(
            "target=/t,mode=0700",
            "mode not allowed for \"bind\" type mounts",
        );
        fails(
            "type=secret",
            "invalid secret mount. one of source, target required",
        );
        fails("type=secret,id=a,src=b", "both source and id can't be set");
        fails(
            "required",
            "unexpected key 'required' for mount type 'bind'",
        );
        fails("x", "invalid field 'x' must be a key=value pair");
        fails("ro=maybe", "invalid value for ro: maybe");
        fails("type=cache,mode=9", "invalid value 9 for mode");
        fails("type=tmpfs,size=x", "invalid value for size: x");
        fails("sharing=shared", "invalid cache sharing set for bind mount");
        fails(
            "from=$x",
            "'from' doesn't support variable expansion, define alias stage instead",
        );
        fails("", "failed to parse csv mounts: EOF");
        fails(
            "a=\"b",
            "failed to parse csv mounts: parse error on line 1, column 3: bare \" in non-quoted-field",
        );
    }

    #[test]
    fn values_are_expanded_field_by_field() {
        let mut seen = Vec::new();
        let mut expand = |text: &str| {
            seen.push(text.to_owned());
            Ok(text.replace("$t", "a,b"))
        };
        let mount = expand_mount("type=tmpfs,target=$t", &mut expand).unwrap();
        assert_eq!(mount.target.as_deref(), Some("a,b"));
        assert_eq!(seen, ["tmpfs", "$t"]);
    }

    #[test]
    fn devices() {
        let device = parse_device("vendor.com/gpu=0,required").unwrap();
        assert_eq!(
            device,
            DeviceSpec {
                name: "vendor.com/gpu=0".to_owned(),
                required: true
            }
        );
        assert_eq!(parse_device("name=x,required=false").unwrap().name, "x");
        assert!(parse_device("a,b").is_err());
        assert!(parse_device("name=a,name=b").is_err());
    }
}
