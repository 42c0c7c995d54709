//! Git repositories, by the `git` program of this machine (language reference, section 5.4).
//!
//! A commit is looked up first; only one that is not in the store is fetched, with nothing of its
//! history, into a bare repository that the store keeps for each address. From there it is checked
//! out, by itself or, where `.git` or submodules are wanted, as a repository.

mod checkout;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rbuild_cache::CommitOptions;

use super::command::{CommandError, Program};
use super::http::public;
use super::{AgentSocket, Fetched, SourceContext};
use crate::error::BuildError;
use crate::event::{Event, Stream};
use crate::key::Parts;
use crate::request::SshSource;

/// A tree of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GitSource {
    /// Address of the repository.
    pub(crate) remote: String,
    /// Branch, tag or commit; the default branch if there is none.
    pub(crate) reference: Option<String>,
    /// Directory in the repository.
    pub(crate) subdir: Option<String>,
    /// Beginning of the commit (or tag object) that it must be.
    pub(crate) checksum: Option<String>,
    /// Keep `.git`.
    pub(crate) keep_git_dir: bool,
    /// Check submodules out.
    pub(crate) submodules: bool,
    /// Files get the time of the commit.
    pub(crate) commit_times: bool,
}

impl GitSource {
    /// The source that an address means.
    pub(crate) fn new(url: &rbuild_parser::GitUrl) -> GitSource {
        GitSource {
            remote: url.remote.clone(),
            reference: url.reference.clone(),
            subdir: url.subdir.clone(),
            checksum: url.query.checksum.clone(),
            keep_git_dir: url.query.keep_git_dir.unwrap_or(false),
            submodules: url.query.submodules.unwrap_or(true),
            commit_times: url.query.mtime.as_deref() == Some("commit"),
        }
    }

    /// The readable parts of what is fetched.
    pub(crate) fn parts(&self, parts: &mut Parts) {
        parts.push("op", "git");
        parts.push("remote", self.remote.clone());
        parts.push("reference", self.reference.clone().unwrap_or_default());
        parts.push("checksum", self.checksum.clone().unwrap_or_default());
        self.form(parts);
    }

    /// What a checkout depends on besides the commit.
    fn form(&self, parts: &mut Parts) {
        parts.push("subdir", self.subdir.clone().unwrap_or_default());
        parts.push("keep git dir", self.keep_git_dir.to_string());
        parts.push("submodules", self.submodules.to_string());
        parts.push("commit times", self.commit_times.to_string());
    }
}

/// Where a reference points.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// The commit.
    commit: String,
    /// The tag object, if it is an annotated tag.
    tag: Option<String>,
    /// Full name of the reference; none for a commit.
    name: Option<String>,
}

/// Brings the tree into the store as a layer.
pub(crate) fn fetch(
    context: &SourceContext<'_>,
    source: &GitSource,
) -> Result<Fetched, BuildError> {
    context.started();
    let git = Git::new(context, source)?;
    let step = format!("git:{}", public(&source.remote));
    let _lock = context
        .store
        .lock(&step)
        .map_err(|error| BuildError::io("could not lock a git repository", &error))?;
    let found = git.find(source)?;
    check(source, &found)?;
    let mut parts = Parts::new();
    parts.push("op", "git");
    parts.push("remote", public(&source.remote));
    parts.push("commit", found.commit.clone());
    source.form(&mut parts);
    if source.keep_git_dir {
        // It is written there.
        parts.push("reference", source.reference.clone().unwrap_or_default());
    }
    let key = parts.digest();
    if let Some(record) = context
        .known(&step)?
        .iter()
        .find(|record| record.key == key)
    {
        return context.reuse(record);
    }
    let started = Instant::now();
    let draft = context
        .store
        .draft()
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let repository = git.repository(source, &found)?;
    let time = git.time(&repository, &found)?;
    git.check_out(source, &found, &repository, draft.upper(), time)?;
    let layer = draft
        .commit(&[], &CommitOptions::default())
        .map_err(|error| BuildError::io("could not store a checkout", &error))?;
    let detail = serde_json::json!({ "commit": found.commit, "time": time });
    context.remember(&step, &parts, &layer, detail, started)
}

fn check(source: &GitSource, found: &Found) -> Result<(), BuildError> {
    let Some(wanted) = &source.checksum else {
        return Ok(());
    };
    let is = |object: &String| object.starts_with(wanted.as_str());
    if wanted.len() >= 7 && (is(&found.commit) || found.tag.as_ref().is_some_and(is)) {
        return Ok(());
    }
    Err(BuildError::user(format!(
        "failed to load cache key: expected checksum to match {wanted}, got {}",
        found.commit
    ))
    .with_help("the reference points to another commit now: check why before you change it"))
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The program, and what this fetch needs around it.
struct Git<'a> {
    context: &'a SourceContext<'a>,
    program: PathBuf,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    remote: &'a str,
    /// Serves the keys of `--ssh` as long as we work.
    _agent: Option<AgentSocket>,
    scratch: rbuild_cache::Scratch,
}

impl<'a> Git<'a> {
    fn new(context: &'a SourceContext<'a>, source: &'a GitSource) -> Result<Git<'a>, BuildError> {
        let Some(program) = context.remote.git.program.clone() else {
            return Err(BuildError::new(
                crate::BuildErrorKind::Host,
                format!(
                    "could not fetch `{}`: there is no `git` program in PATH",
                    public(&source.remote)
                ),
            )
            .with_help("install git, or clone the repository beforehand and use the directory"));
        };
        if source.remote.starts_with('-') {
            return Err(BuildError::user(format!(
                "`{}` is not the address of a git repository",
                source.remote
            )));
        }
        let scratch = context
            .store
            .scratch()
            .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
        let mut environment = context.remote.git.environment.clone();
        let mut set = |name: &str, value: std::ffi::OsString| {
            environment.retain(|(known, _)| known != name);
            environment.push((name.into(), value));
        };
        // Nobody is there to answer.
        set("GIT_TERMINAL_PROMPT", "0".into());
        set("LC_ALL", "C".into());
        let mut agent = None;
        match context.ssh.get("default") {
            Some(SshSource::Agent(socket)) => set("SSH_AUTH_SOCK", socket.into()),
            Some(keys @ SshSource::Keys(_)) => {
                let socket = AgentSocket::start(keys, &scratch.path().join("agent"))?;
                set("SSH_AUTH_SOCK", socket.path().into());
                agent = Some(socket);
            }
            None => {}
        }
        if let Some(header) = authorization(context, &source.remote)? {
            set("GIT_CONFIG_COUNT", "1".into());
            set(
                "GIT_CONFIG_KEY_0",
                format!("http.{}.extraheader", origin(&source.remote)).into(),
            );
            set("GIT_CONFIG_VALUE_0", header.into());
        }
        let mut git = Git {
            context,
            program,
            environment,
            remote: &source.remote,
            _agent: agent,
            scratch,
        };
        if over_ssh(&source.remote) {
            git.keep_ssh_quiet();
        }
        Ok(git)
    }

    /// Makes `ssh` fail where it would ask at the terminal, unless the user has a command of his own.
    fn keep_ssh_quiet(&mut self) {
        let own = ["GIT_SSH_COMMAND", "GIT_SSH"];
        let set = self
            .environment
            .iter()
            .any(|(name, _)| own.iter().any(|own| name == own));
        let configured = ["config", "--get", "core.sshCommand"];
        if !set && self.run(self.scratch.path(), &configured).is_err() {
            self.environment
                .push(("GIT_SSH_COMMAND".into(), "ssh -o BatchMode=yes".into()));
        }
    }

    /// Runs git in a directory.
    fn run(&self, directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, CommandError> {
        self.run_with(directory, arguments, &[])
    }

    fn run_with(
        &self,
        directory: &Path,
        arguments: &[&str],
        variables: &[(&str, &Path)],
    ) -> Result<Vec<u8>, CommandError> {
        let vertex = self.context.vertex;
        let tell = |bytes: &[u8]| {
            self.context.events.event(Event::Output {
                vertex,
                stream: Stream::Stderr,
                bytes: bytes.to_vec(),
            });
        };
        let mut environment = self.environment.clone();
        for (name, value) in variables {
            environment.push(((*name).into(), value.as_os_str().to_owned()));
        }
        let program = Program {
            path: &self.program,
            environment,
            cancel: self.context.cancel,
            on_stderr: &tell,
        };
        // Hooks of templates have no say, and neither has what a repository calls its owner. We fetch from
        // directories, but no repository makes us do so: what lies in one may be links to anything.
        let mut all = vec!["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"];
        all.extend(["-c", "protocol.file.allow=user"]);
        all.extend_from_slice(arguments);
        let shown: Vec<String> = arguments.iter().map(|argument| public(argument)).collect();
        program.run(&all, directory, &format!("git {}", shown.join(" ")))
    }

    /// Says in the build's terms what went wrong.
    fn failed(&self, doing: &str, error: &CommandError) -> BuildError {
        match error {
            CommandError::Cancelled => BuildError::cancelled(),
            error => BuildError::io(
                format!(
                    "failed to load cache key: {doing} `{}` failed",
                    public(self.remote)
                ),
                error,
            )
            .with_help("git runs with your own settings and never asks: try the same by hand"),
        }
    }

    /// Asks the server where the reference points.
    fn find(&self, source: &GitSource) -> Result<Found, BuildError> {
        if let Some(commit) = source.reference.as_ref().filter(|text| is_commit(text)) {
            return Ok(Found {
                commit: commit.to_ascii_lowercase(),
                tag: None,
                name: None,
            });
        }
        let wanted = source.reference.as_deref().unwrap_or("HEAD");
        let missing = || {
            BuildError::user(format!(
                "failed to load cache key: repository does not contain ref {wanted}, output: \"\""
            ))
            .with_help(
                "give a branch, a tag, or a commit in full; `git ls-remote` lists what there is",
            )
        };
        // What git would take for an option or a pattern is no name of a reference.
        if wanted.starts_with('-') || wanted.contains(['*', '?', '[']) {
            return Err(missing());
        }
        let peeled = format!("{wanted}^{{}}");
        let arguments = ["ls-remote", "--", self.remote, wanted, &peeled];
        let output = self
            .run(self.scratch.path(), &arguments)
            .map_err(|error| self.failed("listing the references of", &error))?;
        choose(&String::from_utf8_lossy(&output), wanted).ok_or_else(missing)
    }

    /// The bare repository that the store keeps for the address, with the commit in it.
    fn repository(&self, source: &GitSource, found: &Found) -> Result<PathBuf, BuildError> {
        let id = format!("git repository {}", public(self.remote));
        let kept = self
            .context
            .lease
            .protect_cache_mount(&id)
            .and_then(|()| self.context.store.cache_mount(&id))
            .map_err(|error| BuildError::io("could not prepare a git repository", &error))?;
        match self.bring(&kept.path, source, found) {
            Ok(()) => {}
            Err(CommandError::Cancelled) => return Err(BuildError::cancelled()),
            // What a killed process left there may be in the way: once more from nothing.
            Err(error) => {
                tracing::debug!(%error, "fetching into a new repository");
                empty(&kept.path)?;
                self.bring(&kept.path, source, found)
                    .map_err(|error| self.no_commit(found, &error))?;
            }
        }
        Ok(kept.path)
    }

    fn no_commit(&self, found: &Found, error: &CommandError) -> BuildError {
        let failed = self.failed("fetching", error);
        if found.name.is_some() || failed.kind == crate::BuildErrorKind::Cancelled {
            return failed;
        }
        let mut missing = BuildError::user(format!(
            "failed to load cache key: repository does not contain ref {}, output: \"\"",
            found.commit
        ))
        .with_help("the server does not have this commit, or does not give it away");
        missing.causes.clone_from(&failed.causes);
        missing
    }

    fn bring(&self, path: &Path, source: &GitSource, found: &Found) -> Result<(), CommandError> {
        if !path.join("HEAD").exists() {
            let format = if found.commit.len() == 64 {
                "--object-format=sha256"
            } else {
                "--object-format=sha1"
            };
            self.run(
                path,
                &[
                    "-c",
                    "init.defaultBranch=main",
                    "init",
                    "-q",
                    "--bare",
                    format,
                    ".",
                ],
            )?;
        }
        let known = format!("{}^{{tree}}", found.commit);
        let name = match &found.name {
            Some(name) if name.starts_with("refs/") => name.clone(),
            _ => format!("refs/rbuild/{}", found.commit),
        };
        let object = found.tag.as_ref().unwrap_or(&found.commit);
        if self.run(path, &["cat-file", "-e", &known]).is_err() {
            let fetch = |what: &str| {
                self.run(
                    path,
                    &[
                        "fetch",
                        "-q",
                        "--depth=1",
                        "--no-tags",
                        "--no-write-fetch-head",
                        "--force",
                        "--",
                        self.remote,
                        what,
                    ],
                )
            };
            let by_object = fetch(&format!("+{object}:{name}"));
            if let Err(error) = by_object {
                // Old servers give away only what a reference points to.
                match (&found.name, error) {
                    (_, CommandError::Cancelled) => return Err(CommandError::Cancelled),
                    (Some(_), _) => {
                        let wanted = source.reference.as_deref().unwrap_or("HEAD");
                        let from = found.name.as_deref().unwrap_or(wanted);
                        fetch(&format!("+{from}:{name}"))?;
                    }
                    (None, _) => {
                        self.run(
                            path,
                            &[
                                "fetch",
                                "-q",
                                "--no-write-fetch-head",
                                "--force",
                                "--",
                                self.remote,
                                "+refs/heads/*:refs/heads/*",
                                "+refs/tags/*:refs/tags/*",
                            ],
                        )?;
                    }
                }
            }
            // The reference may have moved since it was looked up.
            self.run(path, &["cat-file", "-e", &known])?;
        }
        self.run(path, &["update-ref", &name, object]).map(drop)
    }

    /// Time of the commit in seconds since 1970.
    fn time(&self, repository: &Path, found: &Found) -> Result<i64, BuildError> {
        let output = self
            .run(
                repository,
                &["show", "-s", "--format=%ct", &found.commit, "--"],
            )
            .map_err(|error| self.failed("reading a commit of", &error))?;
        let text = String::from_utf8_lossy(&output);
        text.trim().parse().map_err(|_| {
            BuildError::user(format!("git gave no time for the commit {}", found.commit))
        })
    }
}

fn empty(path: &Path) -> Result<(), BuildError> {
    let failed = |error: std::io::Error| {
        BuildError::io("could not empty the copy of a git repository", &error)
    };
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        if is_directory {
            std::fs::remove_dir_all(entry.path()).map_err(failed)?;
        } else {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Finds what a name stands for in the output of `ls-remote`: branches before tags, as `git
/// checkout`.
fn choose(listing: &str, wanted: &str) -> Option<Found> {
    let lines: Vec<(&str, &str)> = listing
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(object, _)| is_commit(object))
        .collect();
    let object = |name: &str| {
        let line = lines.iter().find(|(_, known)| *known == name);
        line.map(|(object, _)| (*object).to_owned())
    };
    let candidates = [
        wanted.to_owned(),
        format!("refs/heads/{wanted}"),
        format!("refs/tags/{wanted}"),
        format!("refs/{wanted}"),
    ];
    for name in candidates {
        let Some(plain) = object(&name) else { continue };
        return Some(match object(&format!("{name}^{{}}")) {
            Some(commit) => Found {
                commit,
                tag: Some(plain),
                name: Some(name),
            },
            None => Found {
                commit: plain,
                tag: None,
                name: Some(name),
            },
        });
    }
    None
}

/// Whether a repository is reached by SSH: `ssh://…` or `user@host:path`.
fn over_ssh(remote: &str) -> bool {
    remote.starts_with("ssh://") || !remote.contains("://")
}

/// `scheme://host/` of an address.
fn origin(remote: &str) -> String {
    let remote = public(remote);
    let Some((scheme, rest)) = remote.split_once("://") else {
        return remote;
    };
    format!("{scheme}://{}/", rest.split('/').next().unwrap_or(rest))
}

/// The header that the secrets `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN` (also with `.HOST` behind)
/// stand for, as in `BuildKit`.
fn authorization(context: &SourceContext<'_>, remote: &str) -> Result<Option<String>, BuildError> {
    use base64::Engine as _;
    if !remote.starts_with("https://") && !remote.starts_with("http://") {
        return Ok(None);
    }
    let origin = origin(remote);
    let host = origin
        .split_once("://")
        .map_or("", |(_, host)| host.trim_end_matches('/'));
    let secret = |name: &str| -> Result<Option<String>, BuildError> {
        for id in [format!("{name}.{host}"), name.to_owned()] {
            if let Some(source) = context.secrets.get(&id) {
                let value = crate::exec::read_secret(&id, source)?;
                let text = String::from_utf8_lossy(&value).trim().to_owned();
                return Ok(Some(text));
            }
        }
        Ok(None)
    };
    if let Some(header) = secret("GIT_AUTH_HEADER")? {
        return Ok(Some(format!("Authorization: {header}")));
    }
    Ok(secret("GIT_AUTH_TOKEN")?.map(|token| {
        let pair = format!("x-access-token:{token}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Authorization: basic {encoded}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn branches_come_before_tags_and_tags_are_peeled() {
        let listing = format!("{A}\trefs/heads/x\n{B}\trefs/tags/x\n");
        let found = choose(&listing, "x").unwrap();
        assert_eq!(
            (found.commit.as_str(), found.name.as_deref()),
            (A, Some("refs/heads/x"))
        );
        let listing = format!("{A}\trefs/tags/v\n{B}\trefs/tags/v^{{}}\n");
        let found = choose(&listing, "v").unwrap();
        assert_eq!((found.commit.as_str(), found.tag.as_deref()), (B, Some(A)));
        // `ls-remote x` also lists what only ends in it.
        assert_eq!(choose(&format!("{A}\trefs/heads/a/x\n"), "x"), None);
        assert_eq!(choose(&format!("{A}\tHEAD\n"), "HEAD").unwrap().commit, A);
    }

    #[test]
    fn a_checksum_may_be_the_beginning_of_a_commit() {
        let found = Found {
            commit: A.to_owned(),
            tag: Some(B.to_owned()),
            name: None,
        };
        let with = |checksum: &str| GitSource {
            checksum: Some(checksum.to_owned()),
            ..GitSource::default()
        };
        assert!(check(&with(&A[..12]), &found).is_ok());
        assert!(check(&with(B), &found).is_ok());
        assert!(check(&with("ccccccccccccc"), &found).is_err());
        assert!(check(&with("a"), &found).is_err());
        assert_eq!(origin("https://u:p@h:1/a/b.git"), "https://h:1/");
    }
}
