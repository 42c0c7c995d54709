//! `rbuild export`, and the files of a container without what is mounted in it.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rbuild_builder::output::{OutFile, write_tree};
use rbuild_builder::overlay_view;
use rbuild_cache::{Follow, RootView};
use rbuild_runtime::container::Container;

use super::containers;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;

/// Write the file system of a container as a tar
///
/// Without what is mounted in it. `rbuild import` makes an image of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild export -o web.tar web
  rbuild export web | rbuild import - web:flat")]
pub(crate) struct ExportArgs {
    /// Name or ID
    container: String,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The root of a container as it is now, running or not, without mounts.
pub(super) fn merged(container: &Container) -> RootView {
    let root = &container.config.sandbox.root;
    overlay_view(
        &root.lowers,
        root.upper.as_ref().map(|upper| upper.upper.as_path()),
    )
}

/// Writes the tar.
pub(crate) fn run(settings: &Settings, args: &ExportArgs) -> Result<(), Failure> {
    if args.output.is_none() && settings.stdout_terminal {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let container = containers(settings)?.find(&args.container)?;
    events::note(settings, || Event::container("export", &container));
    let Some(path) = &args.output else {
        let mut stdout = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        write(&container, &mut stdout)?;
        return Ok(stdout.flush()?);
    };
    let failed = |error: std::io::Error| {
        Failure::new(format!("could not write `{}`", path.display())).because(&error)
    };
    let mut out = BufWriter::with_capacity(1 << 16, OutFile::create(path).map_err(failed)?);
    write(&container, &mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.commit().map_err(failed)
}

fn write(container: &Container, out: &mut dyn Write) -> Result<(), Failure> {
    let view = merged(container);
    let root = view.lookup("/", Follow::None)?;
    let root = root.ok_or_else(|| Failure::new("the container has no files"))?;
    write_tree(&view, &root, Path::new(""), out)?;
    Ok(())
}
