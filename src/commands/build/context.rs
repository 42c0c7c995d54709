//! Finds the context, the Dockerfile and the ignore file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rbuild_builder::request::{ContextSource, DockerfileSource};
use rbuild_parser::{SourceKind, source_kind};

use crate::cli;
use crate::failure::{Failure, io_text, status};

/// Names of the Dockerfile when none is given, in the order in which they are looked for.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
/// Names of the ignore file of a context.
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];
/// Largest Dockerfile or ignore file.
const LARGEST_FILE: u64 = 16 << 20;

/// Where to look, as it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    /// `PATH`.
    pub(super) context: Option<&'a str>,
    /// `-f`.
    pub(super) file: Option<&'a str>,
    /// `--ignorefile`.
    pub(super) ignore_file: Option<&'a Path>,
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
pub(super) fn load(sought: Sought<'_>, stdin: &mut dyn Read) -> Result<Found, Failure> {
    let Some(context) = sought.context else {
        return Err(
            Failure::new("the directory of the build context is missing")
                .hint("write `rbuild [OPTIONS] PATH`, for example `rbuild -t app .`")
                .with_status(status::USAGE),
        );
    };
    if context == "-" {
        return from_stdin(sought, stdin);
    }
    let directory = directory(context)?;
    let (dockerfile, path) = match sought.file {
        Some("-") => (read_stdin(stdin, "the Dockerfile")?, None),
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

/// `rbuild -`: standard input is the Dockerfile, and there are no files to copy.
fn from_stdin(sought: Sought<'_>, stdin: &mut dyn Read) -> Result<Found, Failure> {
    match sought.file {
        Some("-") => {
            return Err(Failure::new(
                "invalid argument: can't use stdin for both build context and dockerfile",
            )
            .with_status(status::USAGE));
        }
        Some(_) => {
            return Err(Failure::unsupported(
                "a tar archive on standard input as context",
            ));
        }
        None => {}
    }
    let dockerfile = read_stdin(stdin, "the Dockerfile")?;
    Ok(Found {
        dockerfile,
        path: None,
        context: ContextSource::Empty,
    })
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
        Err(_) if is_remote(context) => Err(Failure::unsupported(
            "a context that is not a directory of this machine",
        )
        .hint("fetch it first, then build its directory")),
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

fn is_remote(context: &str) -> bool {
    [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ]
    .iter()
    .any(|prefix| context.starts_with(prefix))
        || !matches!(source_kind(context), SourceKind::Path)
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
fn read_stdin(stdin: &mut dyn Read, what: &str) -> Result<DockerfileSource, Failure> {
    let text = read_limited(stdin).map_err(|error| {
        Failure::new(format!("could not read {what} from standard input")).because(&error)
    })?;
    if is_archive(&text) {
        return Err(
            Failure::unsupported("a tar archive on standard input as context")
                .hint("unpack it and build the directory"),
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
        }
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
        let found = load(sought(context, file), &mut io::empty()).unwrap();
        let lies_there = std::fs::read(found.path.unwrap()).unwrap();
        assert_eq!(lies_there, found.dockerfile.text);
        match found.context {
            ContextSource::Directory { path, ignore } => {
                assert_eq!(path, directory);
                (found.dockerfile, ignore.map(|(name, _)| name))
            }
            ContextSource::Empty => panic!("the context is a directory"),
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
        load(sought(context, file), &mut &*stdin).unwrap_err()
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
        for url in [
            "https://example.org/x.git",
            "git@example.org:x",
            "https://example.org/x.tar",
        ] {
            let failure = error(url, None, b"");
            assert!(
                failure.message.unwrap().ends_with("is not supported yet"),
                "{url}"
            );
        }
    }

    #[test]
    fn standard_input_is_a_dockerfile_and_no_archive() {
        let found = load(sought("-", None), &mut b"FROM scratch".as_slice()).unwrap();
        assert_eq!(found.dockerfile.text, b"FROM scratch");
        assert!(matches!(found.context, ContextSource::Empty));
        assert_eq!(found.path, None);
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for archive in [tar.as_slice(), b"\x1f\x8b\x08"] {
            assert!(
                error("-", None, archive)
                    .message
                    .unwrap()
                    .ends_with("is not supported yet")
            );
        }
        assert_eq!(error("-", Some("-"), b"").status, status::USAGE);
    }
}
