//! Sources of `ADD` and contexts: a path, a file on the web, or a git repository.

use nom::bytes::complete::{tag, take_while1};
use nom::character::complete::char;
use nom::combinator::rest;
use nom::sequence::terminated;
use nom::{IResult, Parser};

use crate::text::{clean_path, parse_bool, quote};

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
    /// Branch, tag or commit, when given. From `?tag=` and `?branch=` it is a full `refs/…` name.
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

/// Tells what kind of source a word of `ADD` or `COPY` is.
pub fn source_kind(word: &str) -> SourceKind {
    match git(word) {
        Some(Ok(url)) => SourceKind::Git(url),
        Some(Err(error)) => SourceKind::InvalidGit(error),
        None if word.starts_with("http://") || word.starts_with("https://") => SourceKind::Http,
        None => SourceKind::Path,
    }
}

/// Tells what kind of build context a word is: as [`source_kind`], and `github.com/…` is git as well.
pub fn context_kind(word: &str) -> SourceKind {
    if word.starts_with("github.com/") {
        let address = format!("https://{word}");
        return match git_address(&address) {
            Ok(url) => SourceKind::Git(url),
            Err(error) => SourceKind::InvalidGit(error),
        };
    }
    source_kind(word)
}

/// Reads a word as a git address; `None` when it is none.
fn git(word: &str) -> Option<Result<GitUrl, String>> {
    if word.starts_with("./") || word.starts_with("../") {
        return None;
    }
    let Some(scheme_end) = scheme_end(word) else {
        return is_scp_style(word).then(|| git_address(word));
    };
    let scheme = word[..scheme_end].to_ascii_lowercase();
    let body = &word[scheme_end..];
    let end = body.find(['?', '#']).unwrap_or(body.len());
    let address = crate::platform::percent_decode(&body[..end])?;
    // Not a file name: the case of the ending counts.
    let is_repository = address.contains('/') && address.strip_suffix(".git").is_some();
    match scheme.as_str() {
        "http://" | "https://" if !is_repository => None,
        "http://" | "https://" | "ssh://" | "git://" => Some(git_address(word)),
        _ => None,
    }
}

/// Returns the length of `name://`.
fn scheme_end(word: &str) -> Option<usize> {
    let scheme: IResult<&str, &str> =
        terminated(take_while1(|c: char| c.is_ascii_alphanumeric()), tag("://")).parse(word);
    scheme.ok().map(|(after, _)| word.len() - after.len())
}

/// Tells whether a word is `user@host:path`.
fn is_scp_style(word: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let parsed: IResult<&str, _> = (
        take_while1(name),
        char('@'),
        take_while1(host),
        char(':'),
        rest,
    )
        .parse(word);
    parsed.is_ok()
}

/// Takes a git address apart: fragment `#ref:dir`, query `?key=value&…`.
fn git_address(word: &str) -> Result<GitUrl, String> {
    let (address, fragment) = match word.split_once('#') {
        Some((address, fragment)) => (address, fragment),
        None => (word, ""),
    };
    let (remote, query) = match address.split_once('?') {
        Some((remote, query)) => (remote, query),
        None => (address, ""),
    };
    let fragment = crate::platform::percent_decode(fragment)
        .ok_or_else(|| format!("parse {}: invalid URL escape in fragment", quote(word)))?;
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    let subdir = clean_path(&format!("/{subdir}"));
    let mut url = GitUrl {
        remote: remote.to_owned(),
        reference: filled(reference),
        subdir: filled(&subdir[1..]),
        query: GitQuery::default(),
    };
    read_query(&mut url, query)?;
    Ok(url)
}

fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn read_query(url: &mut GitUrl, query: &str) -> Result<(), String> {
    let mut seen: Vec<String> = Vec::new();
    let (mut tag, mut branch) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A pair that cannot be decoded is passed over, as Go does.
        let (Some(key), Some(value)) = (decode(key), decode(value)) else {
            continue;
        };
        if seen.contains(&key) {
            return Err(format!("query {} has multiple values", quote(&key)));
        }
        let flag = matches!(
            key.as_str(),
            "submodules" | "keep-git-dir" | "fetch-by-commit"
        );
        if value.is_empty() && !flag {
            return Err(format!("query {} has no value", quote(&key)));
        }
        match key.as_str() {
            "ref" => merge(&mut url.reference, "ref", value)?,
            "subdir" => merge(&mut url.subdir, "subdir", value)?,
            "tag" => tag = Some(value),
            "branch" => branch = Some(value),
            "checksum" | "commit" => url.query.checksum = Some(value),
            "keep-git-dir" => url.query.keep_git_dir = Some(flag_value(&key, &value)?),
            "submodules" => url.query.submodules = Some(flag_value(&key, &value)?),
            "fetch-by-commit" => url.query.fetch_by_commit = Some(flag_value(&key, &value)?),
            "mtime" if matches!(value.as_str(), "checkout" | "commit") => {
                url.query.mtime = Some(value);
            }
            "mtime" => {
                let value = quote(&value);
                return Err(format!(
                    "invalid mtime value: {value} (must be \"checkout\" or \"commit\")"
                ));
            }
            _ => return Err(format!("unexpected query {}", quote(&key))),
        }
        seen.push(key);
    }
    if tag.is_some() && branch.is_some() {
        return Err("branch conflicts with tag".to_owned());
    }
    for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
        let Some(name) = name else { continue };
        let full = if name.starts_with(prefix) {
            name
        } else {
            format!("{prefix}{name}")
        };
        merge(&mut url.reference, "ref", full)?;
    }
    Ok(())
}

fn decode(text: &str) -> Option<String> {
    crate::platform::percent_decode(&text.replace('+', " "))
}

/// Sets a value that may have been given in the fragment already.
fn merge(place: &mut Option<String>, what: &str, value: String) -> Result<(), String> {
    match place {
        Some(earlier) if *earlier != value => Err(format!(
            "{what} conflicts: {} vs {}",
            quote(earlier),
            quote(&value)
        )),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn flag_value(key: &str, value: &str) -> Result<bool, String> {
    if value.is_empty() {
        return Ok(true);
    }
    parse_bool(value).ok_or_else(|| format!("invalid {key} value: {}", quote(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn git(word: &str) -> GitUrl {
        match source_kind(word) {
            SourceKind::Git(url) => url,
            other => panic!("{word}: {other:?}"),
        }
    }

    #[test]
    fn kinds() {
        for word in [
            "a",
            "./a",
            "/a",
            "a:b",
            "github.com/a/b",
            "ftp://x/y",
            "a@b",
            "../g@h:x",
        ] {
            assert_eq!(source_kind(word), SourceKind::Path, "{word}");
        }
        for word in [
            "http://x",
            "https://x/y.tar.gz",
            "https://x/y?z=a.git",
            "https://.git",
        ] {
            assert_eq!(source_kind(word), SourceKind::Http, "{word}");
        }
        assert_eq!(git("git://x/y").remote, "git://x/y");
        assert_eq!(git("git@github.com:a/b").remote, "git@github.com:a/b");
        assert_eq!(git("HTTPS://x/y.git").remote, "HTTPS://x/y.git");
        assert!(matches!(context_kind("github.com/a/b"), SourceKind::Git(_)));
    }

    #[test]
    fn fragments_and_queries() {
        let url = git("https://x/y.git#v1:a/../b/");
        assert_eq!(url.remote, "https://x/y.git");
        assert_eq!(
            (url.reference.as_deref(), url.subdir.as_deref()),
            (Some("v1"), Some("b"))
        );
        let url = git("https://x/y.git#:d");
        assert_eq!((url.reference, url.subdir.as_deref()), (None, Some("d")));
        let url = git("https://x/y.git?tag=v1&subdir=d&keep-git-dir&submodules=0&mtime=commit");
        assert_eq!(url.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(url.subdir.as_deref(), Some("d"));
        assert_eq!(
            (url.query.keep_git_dir, url.query.submodules),
            (Some(true), Some(false))
        );
        assert_eq!(url.query.mtime.as_deref(), Some("commit"));
        assert_eq!(
            git("git@h:a.git?branch=b#").reference.as_deref(),
            Some("refs/heads/b")
        );
    }

    #[test]
    fn errors() {
        for (query, error) in [
            ("foo=1", "unexpected query \"foo\""),
            ("ref", "query \"ref\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
            ("submodules=x", "invalid submodules value: \"x\""),
        ] {
            let word = format!("https://x/y.git?{query}");
            assert_eq!(source_kind(&word), SourceKind::InvalidGit(error.to_owned()));
        }
    }
}
