//! `rbuild pull`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rbuild_builder::image::{PullNews, location_of, pull_all_platforms, pull_image};
use rbuild_cache::{Digest, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::Client;

use super::lookup::short_id;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::registries::{RegistryArgs, add_credential, client, registry_failure};
use crate::ui;
use crate::ui::counter::Counter;

/// Download images from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild pull alpine:3.20
  rbuild pull --platform linux/arm64 alpine")]
pub(crate) struct PullArgs {
    /// Names of images
    #[arg(value_name = "NAME[:TAG|@DIGEST]", required = true)]
    images: Vec<String>,
    /// Download all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
    /// Platform to download, of images for several [default: this host's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Download all platforms, so that the image can be pushed on and saved whole
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Who to log in as, for this command only
    #[arg(long, value_name = "USER:PASSWORD", help_heading = "Registries")]
    creds: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Pulls images.
pub(crate) fn run(settings: &Settings, args: &PullArgs) -> Result<(), Failure> {
    let platform = platform(settings, args.platform.as_deref())?;
    let mut names = Vec::with_capacity(args.images.len());
    for text in &args.images {
        let name = ImageReference::parse(text)
            .map_err(|reason| Failure::new(format!("invalid image name {text:?}: {reason}")))?;
        if args.all_tags && (name.tag().is_some() || name.digest().is_some()) {
            return Err(
                Failure::new("tag can't be used with --all-tags/-a").with_status(status::USAGE)
            );
        }
        names.push(name);
    }
    let store = super::open_store(settings)?;
    for name in names {
        let client = client(settings, &args.registries, |options| {
            add_credential(options, name.domain(), args.creds.as_deref())
        })?;
        let mut pulled = vec![name.clone().with_default_tag()];
        if args.all_tags {
            let place = location_of(&name)?;
            let tags = client
                .tags(&place)
                .map_err(|error| registry_failure(&error.into()))?;
            pulled = tags
                .iter()
                .filter_map(|tag| {
                    let text = format!("{}/{}:{tag}", name.domain(), name.path());
                    ImageReference::parse(&text).ok()
                })
                .collect();
        }
        for name in &pulled {
            pull_one(settings, &store, &client, name, &platform, args)?;
        }
    }
    Ok(())
}

/// Pulls the image of a container that is about to run; standard output is the container's.
pub(super) fn for_run(
    settings: &Settings,
    store: &Store,
    image: &str,
    wanted: Option<&Platform>,
    quiet: bool,
) -> Result<(), Failure> {
    let name = ImageReference::parse(image)
        .map_err(|reason| Failure::new(format!("invalid image name {image:?}: {reason}")))?
        .with_default_tag();
    let client = client(settings, &RegistryArgs::default(), |_| Ok(()))?;
    let counter = Counter::new(settings, !quiet);
    let lines = Lines {
        name: &name,
        quiet: true,
        counter: &counter,
        bytes: Mutex::default(),
    };
    let platform = wanted.cloned().unwrap_or_else(Platform::host);
    let (found, changed) = pull_image(store, &client, &name, &platform, &|news| lines.tell(news))
        .map_err(|error| registry_failure(&error))?;
    counter.clear();
    note(settings, &name);
    if !quiet && changed {
        let text = format!(
            "Digest: {}\nStatus: Downloaded newer image for",
            found.top.digest
        );
        ui::message(&format!("{text} {}\n", name.familiar()));
    }
    Ok(())
}

/// As Docker, which knows what was pulled by the name that was asked for.
fn note(settings: &Settings, name: &ImageReference) {
    let name = name.familiar();
    events::note(settings, || Event::image("pull", &name, &name));
}

/// The platform of a flag, of the environment, or of this host.
pub(super) fn platform(settings: &Settings, given: Option<&str>) -> Result<Platform, Failure> {
    let wanted = wanted_platform(settings, given)?;
    Ok(wanted.unwrap_or_else(Platform::host))
}

/// The platform of a flag or of the environment.
pub(super) fn wanted_platform(
    settings: &Settings,
    given: Option<&str>,
) -> Result<Option<Platform>, Failure> {
    let default = settings.environment.default_platform.as_deref();
    match given.or(default) {
        None => Ok(None),
        Some("local") => Ok(Some(Platform::host())),
        Some(text) => Platform::parse(text)
            .map(Some)
            .map_err(|reason| Failure::new(format!("invalid platform {text:?}: {reason}"))),
    }
}

/// Pulls one image and tells about it in Docker's words.
fn pull_one(
    settings: &Settings,
    store: &Store,
    client: &Client,
    name: &ImageReference,
    platform: &Platform,
    args: &PullArgs,
) -> Result<(), Failure> {
    let quiet = args.quiet;
    let counter = Counter::new(settings, !quiet);
    let lines = Lines {
        name,
        quiet,
        counter: &counter,
        bytes: Mutex::default(),
    };
    let pull = if args.all_platforms {
        pull_all_platforms
    } else {
        pull_image
    };
    let (found, changed) = pull(store, client, name, platform, &|news| lines.tell(news))
        .map_err(|error| registry_failure(&error))?;
    counter.clear();
    note(settings, name);
    if !quiet {
        ui::println(&format!("Digest: {}", found.top.digest))?;
        let status = if changed {
            "Downloaded newer image for"
        } else {
            "Image is up to date for"
        };
        ui::println(&format!("Status: {status} {}", name.familiar()))?;
    }
    ui::println(&name.canonical())
}

/// Tells how a pull gets on.
struct Lines<'a> {
    name: &'a ImageReference,
    quiet: bool,
    counter: &'a Counter,
    bytes: Mutex<BTreeMap<Digest, (u64, u64)>>,
}

impl Lines<'_> {
    fn tell(&self, news: &PullNews<'_>) {
        let line = match news {
            PullNews::Found(_) => {
                let version = self.name.digest().or(self.name.tag()).unwrap_or_default();
                Some(format!("{version}: Pulling from {}", self.name.path()))
            }
            PullNews::Exists(layer) => Some(format!("{}: Already exists", short_id(&layer.blob))),
            PullNews::Bytes(layer, bytes) => {
                let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(layer.blob, (*bytes, layer.size));
                let sum = |(done, total), (d, t): &(u64, u64)| (done + d, total + t);
                let (done, total) = all.values().fold((0, 0), sum);
                self.counter.show("pulling", done, total);
                // The last word on a layer comes when it is unpacked.
                (*bytes == layer.size).then(|| format!("{}: Pull complete", short_id(&layer.blob)))
            }
        };
        if let Some(line) = line.filter(|_| !self.quiet) {
            self.counter.line(&line);
        }
    }
}
