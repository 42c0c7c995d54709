//! The value of `RUN --mount=`.

use crate::ExpandError;

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

/// Parses a value in which nothing is left to expand.
pub fn parse_mount(value: &str) -> Result<MountSpec, String> {
    expand_mount(value, &mut |text| Ok(text.to_owned())).map_err(|error| error.to_string())
}

/// Expands the fields of a value, then parses it.
pub fn expand_mount(
    raw: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<MountSpec, MountError> {
    let _ = expand(raw)?;
    Err(MountError::Invalid("mounts cannot be read yet".to_owned()))
}
