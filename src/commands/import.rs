//! `rbuild import`.

use std::fs::File;
use std::io::Read;

use rbuild_builder::image::import_rootfs;
use rbuild_parser::Platform;

use super::tag::parse_name;
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;

/// Make an image of a root file system
///
/// The tar, compressed or not, becomes the only layer of the image. Prints the image ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tar -C rootfs -c . | rbuild import - base
  rbuild import -c 'CMD [\"sh\"]' rootfs.tar.gz base:1")]
pub(crate) struct ImportArgs {
    /// The archive; `-` reads standard input
    #[arg(value_name = "FILE|-")]
    source: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Apply a Dockerfile instruction to the config, such as `CMD ["sh"]`
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Remark for the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform that the files are for; this host's by default
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

/// Imports a root file system.
pub(crate) fn run(settings: &Settings, args: &ImportArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(parse_name).transpose()?;
    let platform = match &args.platform {
        Some(platform) => Platform::parse(platform).map_err(Failure::new)?,
        None => Platform::host(),
    };
    let mut reader: Box<dyn Read> =
        match args.source.as_str() {
            "-" if settings.stdin_terminal => {
                return Err(
                    Failure::new("requested import from stdin, but stdin is a terminal")
                        .hint("name an archive, or redirect standard input"),
                );
            }
            "-" => Box::new(std::io::stdin().lock()),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                return Err(Failure::unsupported("importing from a URL")
                    .hint("download the archive and import the file"));
            }
            path => Box::new(File::open(path).map_err(|error| {
                Failure::new(format!("could not open `{path}`")).because(&error)
            })?),
        };
    let store = super::open_store(settings)?;
    let message = args.message.as_deref();
    let record = import_rootfs(&store, &mut reader, &args.change, message, &platform)?;
    match &name {
        Some(name) => {
            store.tag(&name.canonical(), &record)?;
        }
        None => store.put_image(&record)?,
    }
    ui::println(&record.config.to_string())
}
