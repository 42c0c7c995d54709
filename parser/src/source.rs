//! Sources of `ADD` and contexts: a path, a file on the web, or a git repository.

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A path.
    Path,
    /// A file at an `http://` or `https://` address.
    Http,
    /// A git repository.
    Git(GitUrl),
    /// A git address that cannot be used; the text is `BuildKit`'s.
    InvalidGit(String),
}

/// A reference to a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitUrl {
    /// Address without fragment and query.
    pub remote: String,
    /// Branch, tag or commit, when given.
    pub reference: Option<String>,
    /// Directory inside the repository, when given.
    pub subdir: Option<String>,
    /// What else was asked for.
    pub query: GitQuery,
}

/// The further query parameters of a git address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitQuery {
    /// Commit that must be met: `checksum` or `commit`.
    pub checksum: Option<String>,
    /// `keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `submodules`
    pub submodules: Option<bool>,
    /// `mtime`: `checkout` or `commit`.
    pub mtime: Option<String>,
    /// `fetch-by-commit`
    pub fetch_by_commit: Option<bool>,
}

/// Tells what kind of source a word is.
pub fn source_kind(_word: &str) -> SourceKind {
    SourceKind::Path
}
