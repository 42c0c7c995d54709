//! `--chmod` and `--chown`.

/// A mode of `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChmodMode {
    /// Octal digits, at most 07777.
    Octal(u32),
    /// A list as in chmod(1).
    Symbolic(SymbolicMode),
}

/// A symbolic mode such as `u=rwX,go=rX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolicMode {
    text: String,
}

impl ChmodMode {
    /// Parses an expanded `--chmod` value. The error is `BuildKit`'s text.
    pub fn parse(_value: &str) -> Result<Self, String> {
        Err("modes cannot be read yet".to_owned())
    }

    /// Returns the permission bits (07777) that `mode` becomes.
    pub fn apply(&self, mode: u32, _is_dir: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(list) => mode & list.text.len() as u32,
        }
    }
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    /// A name to look up in the destination stage.
    Name(String),
    /// A number, used as it is.
    Id(u32),
}

/// An expanded `--chown` value, `user[:group]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChownSpec {
    /// User, absent in `:group`.
    pub user: Option<NameOrId>,
    /// Group, absent in `user`.
    pub group: Option<NameOrId>,
}

impl ChownSpec {
    /// Parses an expanded `--chown` value.
    pub fn parse(_value: &str) -> Result<Self, String> {
        Err("owners cannot be read yet".to_owned())
    }
}
