//! `rbuild cp`.
//!
//! Both sides are trees that are looked at from their root, so that no link leads out of a container. What
//! is copied goes through one tar stream, and what is made is made below an open directory.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rbuild_builder::output::write_tree;
use rbuild_cache::{
    ExtractOptions, Follow, Lease, Limits, RootView, ViewEntry, detect_and_decompress,
    extract_keeping_kinds,
};
use rbuild_runtime::container::Files;

use super::containers;
use super::monitor::shorten;
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui::{self, units};

/// Copy files between a container and this machine
///
/// `-` is a tar on standard input or output. A directory is copied into a target that is there, and
/// becomes the target otherwise; with `/.` at its end only what is in it is copied. The container may run
/// or not; what is mounted in it is seen.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild cp [OPTIONS] CONTAINER:PATH PATH|-\n       \
                      rbuild cp [OPTIONS] PATH|- CONTAINER:PATH",
    after_help = "Examples:
  rbuild cp web:/etc/nginx/nginx.conf .
  rbuild cp site/. web:/srv
  rbuild cp web:/var/log - | tar -t

Owners: in a container those of the source, by number; on this machine the caller, with `-a` those of the \
source."
)]
pub(crate) struct CopyArgs {
    /// What is copied
    source: OsString,
    /// Where it goes
    target: OsString,
    /// Keep owners on this machine, too
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link at SOURCE leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not tell how much was copied
    #[arg(short, long)]
    quiet: bool,
}

/// One end of a copy, as it was written.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Stream,
    Host(PathBuf),
    Container { query: String, path: PathBuf },
}

impl Place {
    /// A colon makes it a container, unless what stands before it begins a path.
    fn parse(argument: &OsStr) -> Place {
        if argument == "-" {
            return Place::Stream;
        }
        let text = argument.to_string_lossy();
        match text.split_once(':') {
            Some((query, path)) if !query.is_empty() && !query.starts_with(['/', '.']) => {
                Place::Container {
                    query: query.to_owned(),
                    path: Path::new("/").join(path),
                }
            }
            _ => Place::Host(PathBuf::from(argument)),
        }
    }
}

/// Copies.
pub(crate) fn run(settings: &Settings, args: &CopyArgs) -> Result<(), Failure> {
    match (Place::parse(&args.source), Place::parse(&args.target)) {
        (Place::Container { .. }, Place::Container { .. }) => {
            Err(Failure::new("copying between containers is not supported")
                .hint("`rbuild cp A:PATH - | rbuild cp - B:DIR` does it"))
        }
        (Place::Container { query, path }, to) => {
            let (files, _lease) = files_of(settings, &query)?;
            let inside = Side::of_container(&files, &query);
            let source = inside.source(&path, args.follow_link)?;
            match to {
                Place::Host(target) => {
                    let outside = Side::of_host();
                    let target = outside.target(&absolute(&target)?, &source)?;
                    copy(settings, args, (&inside, &source), (&outside, &target))
                }
                _ => to_stdout(&inside, &source),
            }
        }
        (from, Place::Container { query, path }) => {
            let (files, _lease) = files_of(settings, &query)?;
            let inside = Side::of_container(&files, &query);
            match from {
                Place::Host(source) => {
                    let outside = Side::of_host();
                    let source = outside.source(&absolute(&source)?, args.follow_link)?;
                    let target = inside.target(&path, &source)?;
                    copy(settings, args, (&outside, &source), (&inside, &target))
                }
                _ => from_stdin(settings, &inside, &path),
            }
        }
        _ => Err(Failure::new("must specify at least one container source")
            .hint("a path in a container is written CONTAINER:PATH")),
    }
}

/// The files of a container, and what keeps its layers as long as they are looked at.
fn files_of(settings: &Settings, query: &str) -> Result<(Files, Option<Lease>), Failure> {
    let mut container = containers(settings)?.find(query)?;
    let lease = shorten(&settings.store_root()?, &mut container.config.sandbox)?;
    Ok((container.files()?, lease))
}

/// Makes a path absolute without losing what its end says.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let current = std::env::current_dir()?;
    Ok(current.join(path))
}

/// A tree that is copied from or to.
struct Side<'a> {
    view: RootView,
    /// The container, or this machine.
    container: Option<(&'a Files, &'a str)>,
}

/// What is copied.
struct Source {
    entry: ViewEntry,
    /// How it is called where it comes to lie in a directory; empty for what is in it alone.
    name: OsString,
}

/// Where it goes.
struct Target {
    /// A directory that is there, without links in its path.
    directory: PathBuf,
    /// The name in it; empty for what is in the source alone.
    name: OsString,
    /// As it was written.
    shown: String,
}

/// What the end of a path says beside its name.
fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn ends_with_dot(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

impl<'a> Side<'a> {
    fn of_host() -> Side<'a> {
        Side {
            view: RootView::of_directory(Path::new("/")),
            container: None,
        }
    }

    fn of_container(files: &'a Files, query: &'a str) -> Side<'a> {
        Side {
            view: RootView::of_directory(&files.path()),
            container: Some((files, query)),
        }
    }

    fn missing(&self, path: &Path) -> Failure {
        let path = path.display();
        Failure::new(match self.container {
            Some((_, query)) => format!("Could not find the file {path} in container {query}"),
            None => format!("lstat {path}: no such file or directory"),
        })
    }

    fn shown(&self, path: &Path) -> String {
        match self.container {
            Some((_, query)) => format!("{query}:{}", path.display()),
            None => path.display().to_string(),
        }
    }

    fn source(&self, path: &Path, follow: bool) -> Result<Source, Failure> {
        let contents = ends_with_dot(path);
        let follow = if follow || contents || ends_with_slash(path) {
            Follow::Last
        } else {
            Follow::None
        };
        let entry = self.view.lookup(path, follow)?;
        let entry = entry.ok_or_else(|| self.missing(path))?;
        if !entry.is_directory() && (contents || ends_with_slash(path)) {
            return Err(Failure::new(format!(
                "not a directory: {}",
                self.shown(path)
            )));
        }
        let name = if contents {
            OsString::new()
        } else {
            // Of `..` and `/` what they lead to.
            path.file_name().unwrap_or(entry.name()).to_owned()
        };
        Ok(Source { entry, name })
    }

    fn target(&self, path: &Path, source: &Source) -> Result<Target, Failure> {
        let shown = self.shown(path);
        let directory = source.entry.is_directory();
        let found = self.view.lookup(path, Follow::Last)?;
        if let Some(found) = &found {
            if found.is_directory() {
                return Ok(Target {
                    directory: found.path.clone(),
                    name: source.name.clone(),
                    shown,
                });
            }
            if directory {
                return Err(Failure::new(format!(
                    "cannot copy directory: {shown} is there and is none"
                )));
            }
            if ends_with_slash(path) || ends_with_dot(path) {
                return Err(Failure::new(format!("not a directory: {shown}")));
            }
            return Ok(Target {
                directory: found.path.parent().unwrap_or(Path::new("/")).to_path_buf(),
                name: found.name().to_owned(),
                shown,
            });
        }
        if !directory && (ends_with_slash(path) || ends_with_dot(path)) {
            return Err(Failure::new(format!("no such directory: {shown}")));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(self.missing(path));
        };
        let above = self.view.lookup(parent, Follow::Last)?;
        let above = above.filter(ViewEntry::is_directory);
        let above = above.ok_or_else(|| match self.container {
            Some(_) => self.missing(parent),
            None => Failure::new(format!(
                "invalid output path: directory \"{}\" does not exist",
                parent.display()
            )),
        })?;
        Ok(Target {
            directory: above.path,
            name: name.to_owned(),
            shown,
        })
    }

    /// Unpacks a tar in a directory of this side.
    fn unpack(
        &self,
        archive: &mut dyn Read,
        directory: &Path,
        chown: Option<(u32, u32)>,
    ) -> Result<(), Failure> {
        let root = self.container.map(|(files, _)| files.path());
        let options = ExtractOptions {
            view: None,
            // On this machine nothing may leave the target either.
            upper: root.as_deref().unwrap_or(directory),
            into: match root {
                Some(_) => directory,
                None => Path::new("/"),
            },
            chown,
            limits: Limits {
                entries: 0,
                unpacked_bytes: 0,
                ..Limits::default()
            },
        };
        extract_keeping_kinds(archive, &options)?;
        // So that who writes the archive can write its end.
        io::copy(archive, &mut io::sink())?;
        Ok(())
    }
}

fn copy(
    settings: &Settings,
    args: &CopyArgs,
    (from, source): (&Side<'_>, &Source),
    (to, target): (&Side<'_>, &Target),
) -> Result<(), Failure> {
    let chown = if to.container.is_none() && !args.archive {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Some((uid.as_raw(), gid.as_raw()))
    } else {
        None
    };
    let (reader, writer) = io::pipe()?;
    let (packed, unpacked) = std::thread::scope(|scope| {
        let packing = scope.spawn(|| {
            let mut out = BufWriter::with_capacity(1 << 16, writer);
            let bytes = write_tree(&from.view, &source.entry, Path::new(&target.name), &mut out)?;
            out.flush()?;
            Ok::<_, Failure>(bytes)
        });
        let mut reader = BufReader::with_capacity(1 << 16, reader);
        let unpacked = to.unpack(&mut reader, &target.directory, chown);
        drop(reader);
        let packed = packing.join();
        (packed, unpacked)
    });
    let packed = packed.map_err(|_| Failure::new("the thread that reads the files has ended"))?;
    let bytes = match (packed, unpacked) {
        (Ok(bytes), Ok(())) => bytes,
        // A reader that gave up has the reason.
        (Err(failure), unpacked) => {
            let broken = failure
                .causes
                .iter()
                .any(|cause| cause.contains("roken pipe"));
            return Err(match unpacked {
                Err(reason) if broken => reason,
                _ => failure,
            });
        }
        (Ok(_), Err(failure)) => return Err(failure),
    };
    if !args.quiet && settings.stdout_terminal {
        ui::message(&format!(
            "Successfully copied {} to {}\n",
            units::size(bytes),
            target.shown
        ));
    }
    Ok(())
}

fn to_stdout(from: &Side<'_>, source: &Source) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write_tree(&from.view, &source.entry, Path::new(&source.name), &mut out)?;
    Ok(out.flush()?)
}

fn from_stdin(settings: &Settings, to: &Side<'_>, path: &Path) -> Result<(), Failure> {
    let found = to.view.lookup(path, Follow::Last)?;
    let found = found.ok_or_else(|| to.missing(path))?;
    if !found.is_directory() {
        return Err(Failure::new(format!(
            "destination \"{}\" must be a directory",
            to.shown(path)
        )));
    }
    if settings.stdin_terminal {
        return Err(Failure::new(
            "a tar is wanted on standard input, and that is a terminal",
        ));
    }
    let mut stdin = io::stdin();
    let (_, mut plain) = detect_and_decompress(&mut stdin)
        .map_err(|error| Failure::new("could not read the archive").because(&error))?;
    to.unpack(&mut plain, &found.path, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_behind_a_name_means_a_container() {
        let container = |query: &str, path: &str| Place::Container {
            query: query.to_owned(),
            path: path.into(),
        };
        let host = |path: &str| Place::Host(path.into());
        for (text, want) in [
            ("web:/etc", container("web", "/etc")),
            ("web:etc/.", container("web", "/etc/.")),
            ("web:", container("web", "/")),
            ("/a:b", host("/a:b")),
            ("./a:b", host("./a:b")),
            ("a", host("a")),
            ("-", Place::Stream),
        ] {
            assert_eq!(Place::parse(OsStr::new(text)), want, "{text}");
        }
    }
}
