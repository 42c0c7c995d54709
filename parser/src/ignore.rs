//! Ignore files (`.dockerignore`) and `COPY` wildcards.

/// The patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct IgnoreMatcher {
    patterns: Vec<String>,
}

/// What is known about a path during a walk; made by [`IgnoreMatcher::enter`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchState {
    /// Whether the path is ignored.
    pub ignored: bool,
    /// Whether something below an ignored directory can be taken back by a `!` pattern. When it is
    /// false, an ignored directory need not be read.
    pub may_reinclude_below: bool,
    path: String,
}

/// The pattern that decided over a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreReason {
    /// Position in the list of patterns, counted from 0.
    pub index: usize,
    /// The pattern as written.
    pub pattern: String,
    /// Line of the ignore file, counted from 1; 0 for patterns that come from no file.
    pub line: u32,
}

impl IgnoreMatcher {
    /// Reads an ignore file. The error is `BuildKit`'s text.
    pub fn parse(_file: &[u8]) -> Result<Self, String> {
        Err("ignore files cannot be read yet".to_owned())
    }

    /// Takes patterns as given with `--exclude`. The error is `BuildKit`'s text.
    pub fn from_patterns(patterns: &[String]) -> Result<Self, String> {
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        Err("ignore patterns cannot be read yet".to_owned())
    }

    /// Tells whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Tells whether there is a `!` pattern.
    pub fn has_negation(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.starts_with('!'))
    }

    /// Tells whether a path is ignored. The path is relative and `/`-separated.
    pub fn ignored(&self, _path: &str) -> bool {
        false
    }

    /// Returns the state of the root of a walk.
    pub fn root(&self) -> MatchState {
        MatchState::default()
    }

    /// Returns the state of `name` in the directory with the state `parent`.
    pub fn enter(&self, parent: &MatchState, name: &str) -> MatchState {
        let path = if parent.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", parent.path)
        };
        MatchState {
            ignored: false,
            may_reinclude_below: false,
            path,
        }
    }

    /// Returns the pattern that made a path ignored, `None` when it is not ignored.
    pub fn reason(&self, _path: &str) -> Option<IgnoreReason> {
        None
    }
}

/// Matches one path component as Go's `filepath.Match` does.
pub fn glob_match(_pattern: &str, _name: &str) -> Result<bool, String> {
    Err("patterns cannot be matched yet".to_owned())
}
