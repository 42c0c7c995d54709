//! Finds the context, the Dockerfile and the ignore file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rbuild_builder::request::{ContextSource, DockerfileSource, SecretSource, SshSource};
use rbuild_builder::{ContextAddress, ContextTree, OpenedContext};
use rbuild_parser::{SourceKind, context_kind};

use crate::cli;
use crate::failure::{Failure, io_text, status};

/// Names of the Dockerfile when none is given, in the order in which they are looked for.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
/// Names of the ignore file of a context.
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];
/// Bytes by which an archive is told from a Dockerfile.
const ARCHIVE_START: u64 = 512;
/// Largest Dockerfile or ignore file.
pub(super) const LARGEST_FILE: u64 = 16 << 20;

/// Where to look, as it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    /// `PATH`.
    pub(super) context: Option<&'a str>,
    /// `-f`.
    pub(super) file: Option<&'a str>,
    /// `--ignorefile`.
    pub(super) ignore_file: Option<&'a Path>,
    /// Keep `.git` of a context from git.
    pub(super) keep_git_dir: bool,
    /// Give files of a context from git the time of their commit.
    pub(super) commit_times: bool,
}

/// Brings contexts into the store that are no directories of this machine.
pub(super) trait Opener {
    /// Does it, showing the progress. The maps are those of `--secret` and `--ssh`.
    fn open(
        &mut self,
        address: ContextAddress<'_>,
        secrets: &BTreeMap<String, SecretSource>,
        ssh: &BTreeMap<String, SshSource>,
    ) -> Result<OpenedContext, Failure>;
}

/// An opener and what it may use.
pub(super) struct Access<'a> {
    pub(super) opener: &'a mut dyn Opener,
    pub(super) secrets: &'a BTreeMap<String, SecretSource>,
    pub(super) ssh: &'a BTreeMap<String, SshSource>,
}

impl Access<'_> {
    fn open(&mut self, address: ContextAddress<'_>) -> Result<OpenedContext, Failure> {
        self.opener.open(address, self.secrets, self.ssh)
    }
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The Dockerfile, read.
    pub(super) dockerfile: DockerfileSource,
    /// Where it lies; none if it came from standard input.
    pub(super) path: Option<PathBuf>,
    /// The context, not read.
    pub(super) context: ContextSource,
}

/// Reads the Dockerfile and finds out about the context.
pub(super) fn load(
    sought: Sought<'_>,
    stdin: &mut dyn Read,
    access: &mut Access<'_>,
) -> Result<Found, Failure> {
    let Some(context) = sought.context else {
        return Err(
            Failure::new("the directory of the build context is missing")
                .hint("write `rbuild [OPTIONS] PATH`, for example `rbuild -t app .`")
                .with_status(status::USAGE),
        );
    };
    if context == "-" {
        return from_stdin(sought, stdin, access);
    }
    if let Some(address) = address(sought, context)? {
        let opened = access.open(address)?;
        return of_opened(sought, opened, context, stdin);
    }
    let directory = directory(context)?;
    let (dockerfile, path) = match sought.file {
        Some("-") => (read_stdin(stdin)?, None),
        Some(file) => {
            let path = lower_case_fallback(Path::new(file));
            (read_dockerfile(&path, file)?, Some(path))
        }
        None => default_dockerfile(&directory)?,
    };
    let ignore = ignore_file(&directory, path.as_deref(), sought.ignore_file)?;
    Ok(Found {
        dockerfile,
        path,
        context: ContextSource::Directory {
            path: directory,
            ignore,
        },
    })
}

/// `-f DIR/Dockerfile` also finds `DIR/dockerfile`, as the default name does.
fn lower_case_fallback(file: &Path) -> PathBuf {
    if file.file_name().is_some_and(|name| name == DOCKERFILES[0]) && !file.exists() {
        let lower = file.with_file_name(DOCKERFILES[1]);
        if lower.exists() {
            return lower;
        }
    }
    file.to_path_buf()
}

/// Where a context is that is no directory of this machine; nothing if it is one.
fn address<'a>(sought: Sought<'_>, context: &str) -> Result<Option<ContextAddress<'a>>, Failure> {
    if Path::new(context).is_dir() {
        return Ok(None);
    }
    match context_kind(context) {
        SourceKind::Path => Ok(None),
        SourceKind::Http => Ok(Some(ContextAddress::Http(context.to_owned()))),
        SourceKind::Git(url) => Ok(Some(ContextAddress::Git {
            url,
            keep_git_dir: sought.keep_git_dir,
            commit_times: sought.commit_times,
        })),
        SourceKind::InvalidGit(reason) => Err(Failure::new(format!(
            "unable to prepare context: {context}: {reason}"
        ))),
    }
}

/// `rbuild -`: standard input is an archive of the context, or the Dockerfile alone.
fn from_stdin(
    sought: Sought<'_>,
    stdin: &mut dyn Read,
    access: &mut Access<'_>,
) -> Result<Found, Failure> {
    if sought.file == Some("-") {
        return Err(Failure::new(
            "invalid argument: can't use stdin for both build context and dockerfile",
        )
        .with_status(status::USAGE));
    }
    let mut start = Vec::new();
    let mut stdin = stdin;
    (&mut stdin)
        .take(ARCHIVE_START)
        .read_to_end(&mut start)
        .map_err(|error| stdin_failed(&error))?;
    let archive = is_archive(&start);
    let mut whole = start.as_slice().chain(stdin);
    let opened = if archive {
        access.open(ContextAddress::Stream(&mut whole))?
    } else {
        OpenedContext::Dockerfile(read_limited(whole).map_err(|error| stdin_failed(&error))?)
    };
    of_opened(sought, opened, "standard input", &mut io::empty())
}

/// The Dockerfile of a context that was fetched: in it, from standard input, or all there is.
fn of_opened(
    sought: Sought<'_>,
    opened: OpenedContext,
    from: &str,
    stdin: &mut dyn Read,
) -> Result<Found, Failure> {
    let tree = match opened {
        OpenedContext::Tree(tree) => tree,
        OpenedContext::Dockerfile(text) => {
            if let Some(file) = sought.file {
                return Err(Failure::new(format!(
                    "ambiguous Dockerfile source: {from} is a Dockerfile, and `-f {file}` names another"
                )));
            }
            return Ok(Found {
                dockerfile: DockerfileSource {
                    name: DOCKERFILES[0].to_owned(),
                    text,
                },
                path: None,
                context: ContextSource::Empty,
            });
        }
    };
    let dockerfile = match sought.file {
        Some("-") => read_stdin(stdin)?,
        Some(file) => fetched_dockerfile(&tree, &[file], from)?,
        None => fetched_dockerfile(&tree, &DOCKERFILES, from)?,
    };
    Ok(Found {
        dockerfile,
        path: None,
        context: ContextSource::Fetched(tree.source),
    })
}

/// The first of some files that a fetched context has.
fn fetched_dockerfile(
    tree: &ContextTree,
    names: &[&str],
    from: &str,
) -> Result<DockerfileSource, Failure> {
    for name in names {
        let text = tree.read(name, LARGEST_FILE).map_err(|error| Failure {
            causes: error.causes.clone(),
            ..Failure::new(format!(
                "failed to solve: failed to read dockerfile: {error}"
            ))
        })?;
        if let Some(text) = text {
            return Ok(DockerfileSource {
                name: (*name).to_owned(),
                text,
            });
        }
    }
    Err(Failure::new(format!(
        "failed to solve: failed to read dockerfile: open {}: no such file or directory",
        names[0]
    ))
    .hint(format!(
        "`-f` names a file of the context that was loaded from {from}"
    )))
}

fn stdin_failed(error: &io::Error) -> Failure {
    Failure::new("could not read standard input").because(error)
}

/// The directory of the context.
fn directory(context: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(context);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(path.to_path_buf()),
        Ok(_) => Err(Failure::new(format!(
            "unable to prepare context: context must be a directory: {context}"
        ))
        .hint(format!("if it is a Dockerfile, write `-f {context} .`"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let failure = Failure::new(format!(
                "unable to prepare context: path {context:?} not found"
            ));
            Err(match cli::similar_command(context) {
                Some(command) => failure.hint(format!("did you mean the command `{command}`?")),
                None => failure,
            })
        }
        Err(error) => {
            Err(Failure::new(format!("unable to prepare context: {context}")).because(&error))
        }
    }
}

/// The name of the Dockerfile of a directory, if it has one.
pub(in crate::commands) fn default_name(directory: &Path) -> Option<&'static str> {
    DOCKERFILES
        .into_iter()
        .find(|name| directory.join(name).symlink_metadata().is_ok())
}

/// The Dockerfile of a context when none is given, with the path it was found at.
fn default_dockerfile(directory: &Path) -> Result<(DockerfileSource, Option<PathBuf>), Failure> {
    if let Some(name) = default_name(directory) {
        let path = directory.join(name);
        return Ok((read_dockerfile(&path, name)?, Some(path)));
    }
    let failure = Failure::new(format!(
        "failed to solve: failed to read dockerfile: open {}: no such file or directory",
        DOCKERFILES[0]
    ));
    let others = similar_names(directory);
    Err(match others.as_slice() {
        [] => failure.hint(format!(
            "`{}` has no Dockerfile; name one with `-f FILE`",
            directory.display()
        )),
        names => failure.hint(format!(
            "name a Dockerfile with `-f`; there is {}",
            names.join(", ")
        )),
    })
}

/// Files of a directory that look like Dockerfiles.
fn similar_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let lower = name.to_lowercase();
            (lower.contains("dockerfile") || lower.contains("containerfile"))
                && !lower.ends_with("ignore")
        })
        .map(|name| format!("`{}`", directory.join(name).display()))
        .collect();
    names.sort();
    names.truncate(5);
    names
}

fn read_dockerfile(path: &Path, name: &str) -> Result<DockerfileSource, Failure> {
    let text = File::open(path)
        .map_err(|error| ("open", error))
        .and_then(|file| read_limited(file).map_err(|error| ("read", error)));
    match text {
        Ok(text) => Ok(DockerfileSource {
            name: name.to_owned(),
            text,
        }),
        Err((verb, error)) => {
            let reason = io_text(&error);
            Err(Failure::new(format!(
                "failed to solve: failed to read dockerfile: {verb} {name}: {reason}"
            ))
            .hint("`-f` is relative to the working directory, not to the context"))
            .map_err(|failure| match error.kind() {
                io::ErrorKind::NotFound => failure,
                _ => Failure {
                    hints: Vec::new(),
                    ..failure
                },
            })
        }
    }
}

/// Reads a Dockerfile from standard input; what is an archive instead is refused.
fn read_stdin(stdin: &mut dyn Read) -> Result<DockerfileSource, Failure> {
    let text = read_limited(stdin).map_err(|error| stdin_failed(&error))?;
    if is_archive(&text) {
        return Err(
            Failure::new("standard input is an archive, and `-f -` wants a Dockerfile")
                .hint("an archive of the whole context is built with `rbuild -`"),
        );
    }
    Ok(DockerfileSource {
        name: "Dockerfile".to_owned(),
        text,
    })
}

/// Says whether bytes begin as a tar, plain or compressed, does.
fn is_archive(bytes: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    compressed.iter().any(|magic| bytes.starts_with(magic))
        || bytes.get(257..262) == Some(b"ustar".as_slice())
}

/// Reads a Dockerfile or ignore file, whose size has a limit.
pub(in crate::commands) fn read_limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!(
            "larger than {} MiB",
            LARGEST_FILE >> 20
        )));
    }
    Ok(bytes)
}

/// The ignore file that applies: the one given, the Dockerfile's own, or the context's.
fn ignore_file(
    directory: &Path,
    dockerfile: Option<&Path>,
    given: Option<&Path>,
) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let read = |path: &Path, name: String| {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return Err((name, error)),
        };
        read_limited(file)
            .map(|bytes| (name.clone(), bytes))
            .map_err(|error| (name, error))
    };
    let failed = |(name, error): (String, io::Error)| {
        Failure::new(format!("could not read the ignore file `{name}`")).because(&error)
    };
    if let Some(path) = given {
        return read(path, path.display().to_string())
            .map(Some)
            .map_err(failed);
    }
    let own = dockerfile.map(|path| {
        let mut own = path.as_os_str().to_owned();
        own.push(".dockerignore");
        PathBuf::from(own)
    });
    let own = own.into_iter().map(|path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        (path, name)
    });
    let shared = IGNORE_FILES
        .iter()
        .map(|name| (directory.join(name), (*name).to_owned()));
    for (path, name) in own.chain(shared) {
        match read(&path, name) {
            Ok(found) => return Ok(Some(found)),
            Err((_, error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sought<'a>(context: &'a str, file: Option<&'a str>) -> Sought<'a> {
        Sought {
            context: Some(context),
            file,
            ignore_file: None,
            keep_git_dir: false,
            commit_times: false,
        }
    }

    /// Tells what would have been opened.
    struct Told(Option<String>);

    impl Opener for Told {
        fn open(
            &mut self,
            address: ContextAddress<'_>,
            _: &BTreeMap<String, SecretSource>,
            _: &BTreeMap<String, SshSource>,
        ) -> Result<OpenedContext, Failure> {
            self.0 = Some(match address {
                ContextAddress::Git { url, .. } => format!("git {}", url.remote),
                ContextAddress::Http(url) => format!("web {url}"),
                ContextAddress::Stream(stream) => {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).unwrap();
                    format!("stream of {} bytes", bytes.len())
                }
            });
            Ok(OpenedContext::Dockerfile(b"FROM scratch".to_vec()))
        }
    }

    fn load_from(sought: Sought<'_>, stdin: &[u8]) -> (Result<Found, Failure>, Option<String>) {
        let mut told = Told(None);
        let found = load(
            sought,
            &mut &*stdin,
            &mut Access {
                opener: &mut told,
                secrets: &BTreeMap::new(),
                ssh: &BTreeMap::new(),
            },
        );
        (found, told.0)
    }

    fn files(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        directory
    }

    fn load_in(directory: &Path, file: Option<&str>) -> (DockerfileSource, Option<String>) {
        let context = directory.to_str().unwrap();
        let found = load_from(sought(context, file), b"").0.unwrap();
        let lies_there = std::fs::read(found.path.unwrap()).unwrap();
        assert_eq!(lies_there, found.dockerfile.text);
        match found.context {
            ContextSource::Directory { path, ignore } => {
                assert_eq!(path, directory);
                (found.dockerfile, ignore.map(|(name, _)| name))
            }
            _ => panic!("the context is a directory"),
        }
    }

    #[test]
    fn dockerfile_and_ignore_file_have_an_order() {
        let directory = files(&["Containerfile", "dockerfile", ".dockerignore"]);
        let (dockerfile, ignore) = load_in(directory.path(), None);
        assert_eq!(dockerfile.name, "dockerfile");
        assert_eq!(ignore.as_deref(), Some(".dockerignore"));
        let directory = files(&[
            "Dockerfile",
            "dockerfile",
            ".dockerignore",
            "Dockerfile.dockerignore",
        ]);
        let (dockerfile, ignore) = load_in(directory.path(), None);
        assert_eq!(dockerfile.text, b"Dockerfile");
        assert_eq!(ignore.as_deref(), Some("Dockerfile.dockerignore"));
        let other = files(&["app", "app.dockerignore"]);
        let file = other.path().join("app");
        let (dockerfile, ignore) = load_in(directory.path(), file.to_str());
        assert_eq!(dockerfile.name, file.to_str().unwrap());
        assert_eq!(ignore.as_deref(), Some("app.dockerignore"));
    }

    fn error(context: &str, file: Option<&str>, stdin: &[u8]) -> Failure {
        load_from(sought(context, file), stdin).0.unwrap_err()
    }

    #[test]
    fn what_is_missing_is_said_in_docker_s_words() {
        let directory = files(&["app.Dockerfile"]);
        let context = directory.path().to_str().unwrap();
        let failure = error(context, None, b"");
        assert_eq!(
            failure.message.as_deref(),
            Some(
                "failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory"
            )
        );
        assert!(failure.hints[0].contains("app.Dockerfile"), "{failure:?}");
        let failure = error("/nowhere/at/all", None, b"");
        assert_eq!(
            failure.message.as_deref(),
            Some("unable to prepare context: path \"/nowhere/at/all\" not found")
        );
        let file = directory.path().join("app.Dockerfile");
        let failure = error(file.to_str().unwrap(), None, b"");
        assert!(
            failure
                .message
                .unwrap()
                .contains("context must be a directory")
        );
        let failure = error(context, Some(context), b"");
        assert!(failure.message.unwrap().ends_with("is a directory"));
        let failure = error("https://example.org/x.git?foo=1", None, b"");
        assert!(
            failure
                .message
                .unwrap()
                .ends_with("unexpected query \"foo\"")
        );
    }

    #[test]
    fn addresses_are_opened_and_may_be_a_dockerfile() {
        for (context, want) in [
            ("https://example.org/x.git", "git https://example.org/x.git"),
            ("git@example.org:x", "git git@example.org:x"),
            ("github.com/a/b", "git https://github.com/a/b"),
            ("https://example.org/x.tar", "web https://example.org/x.tar"),
        ] {
            let (found, told) = load_from(sought(context, None), b"");
            assert_eq!(told.as_deref(), Some(want));
            assert!(matches!(found.unwrap().context, ContextSource::Empty));
            let (found, _) = load_from(sought(context, Some("other")), b"");
            assert!(found.unwrap_err().message.unwrap().starts_with("ambiguous"));
        }
    }

    #[test]
    fn standard_input_is_a_dockerfile_or_an_archive() {
        let (found, told) = load_from(sought("-", None), b"FROM scratch");
        let found = found.unwrap();
        assert_eq!(found.dockerfile.text, b"FROM scratch");
        assert!(matches!(found.context, ContextSource::Empty));
        assert_eq!((found.path, told), (None, None));
        let mut tar = vec![0; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        for archive in [tar.as_slice(), b"\x1f\x8b\x08"] {
            let (_, told) = load_from(sought("-", None), archive);
            assert_eq!(told, Some(format!("stream of {} bytes", archive.len())));
            let message = error(".", Some("-"), archive).message.unwrap();
            assert!(message.contains("`-f -` wants a Dockerfile"), "{message}");
        }
        assert_eq!(error("-", Some("-"), b"").status, status::USAGE);
        let message = error("-", Some("x"), b"FROM scratch").message.unwrap();
        assert!(message.starts_with("ambiguous"), "{message}");
    }
}
