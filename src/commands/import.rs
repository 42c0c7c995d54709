//! `rbuild import`.

use std::fs::File;
use std::io::{Read, Seek as _, Write as _};
use std::path::Path;

use rbuild_builder::image::import_rootfs;
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::{Client, WebRequest, WebSink};

use super::tag::parse_name;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::remote::remote;
use crate::ui;

/// Make an image of a root file system
///
/// The tar, compressed or not, becomes the only layer of the image. Prints the image ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tar -C rootfs -c . | rbuild import - base
  rbuild import -c 'CMD [\"sh\"]' rootfs.tar.gz base:1")]
pub(crate) struct ImportArgs {
    /// The archive, or its address on the web; `-` reads standard input
    #[arg(value_name = "FILE|URL|-")]
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
    let store = super::open_store(settings)?;
    let scratch = store.scratch()?;
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
                Box::new(download(settings, url, &scratch.path().join("archive"))?)
            }
            path => Box::new(File::open(path).map_err(|error| {
                Failure::new(format!("could not open `{path}`")).because(&error)
            })?),
        };
    let message = args.message.as_deref();
    let record = import_rootfs(&store, &mut reader, &args.change, message, &platform)?;
    scratch.close()?;
    match &name {
        Some(name) => {
            store.tag(&name.canonical(), &record)?;
        }
        None => store.put_image(&record)?,
    }
    let id = record.config.to_string();
    events::note(settings, || {
        let name = name.as_ref().map(ImageReference::familiar);
        Event::image("import", &id, &name.unwrap_or_default())
    });
    ui::println(&id)
}

/// Downloads an archive into a file of the store, which a transfer that begins anew can empty.
fn download(settings: &Settings, url: &str, place: &Path) -> Result<File, Failure> {
    struct Place(File);
    impl WebSink for Place {
        fn restart(&mut self) -> std::io::Result<()> {
            self.0.set_len(0)?;
            self.0.rewind()
        }

        fn take(&mut self, bytes: &[u8], _total: Option<u64>) -> std::io::Result<()> {
            self.0.write_all(bytes)
        }
    }
    let remote = remote(settings, None);
    let mut options = File::options();
    let file = options.create_new(true).read(true).write(true).open(place);
    let mut file = Place(file.map_err(|error| {
        Failure::new("could not create the file of a download").because(&error)
    })?);
    let request = WebRequest {
        url: url.to_owned(),
        limit: remote.download_limit,
        ..WebRequest::default()
    };
    Client::new(remote.web).web_get(&request, &mut file)?;
    file.0.rewind()?;
    Ok(file.0)
}
