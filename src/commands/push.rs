//! `rbuild push`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rbuild_builder::image::{PushNews, location_of, prepare_push, push_image};
use rbuild_cache::{ImageRecord, Store};
use rbuild_parser::ImageReference;
use rbuild_registry::{Client, PushOutcome};

use super::lookup::{self, Found, short_id};
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::registries::{RegistryArgs, add_credential, client, registry_failure};
use crate::ui;
use crate::ui::counter::Counter;

/// Upload images to a registry
///
/// The name says which: `registry.example/team/app:1.2`. Layers that were built here are compressed
/// first, once; layers that the registry has are not sent again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild push registry.example/team/app:1.2
  rbuild push -a registry.example/team/app")]
pub(crate) struct PushArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Where to push it under another name
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// Push all tags of the repository that are in the store
    #[arg(short, long)]
    all_tags: bool,
    /// Print nothing but the name
    #[arg(short, long)]
    quiet: bool,
    /// Push only this platform, of an image for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Who to log in as, for this command only
    #[arg(long, value_name = "USER:PASSWORD", help_heading = "Registries")]
    creds: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Pushes images.
pub(crate) fn run(settings: &Settings, args: &PushArgs) -> Result<(), Failure> {
    let parse = |text: &str| {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        ImageReference::parse(text)
            .map_err(|reason| Failure::new(format!("invalid image name {text:?}: {reason}")))
    };
    let destination = args.destination.as_deref().map(parse).transpose()?;
    let store = super::open_store(settings)?;
    let images = if args.all_tags {
        let name = parse(&args.image)?;
        if name.tag().is_some() || name.digest().is_some() {
            return Err(
                Failure::new("tag can't be used with --all-tags/-a").with_status(status::USAGE)
            );
        }
        lookup::all_tags(&store, &name)?
    } else {
        let found = lookup::find(&store, &args.image)?.ok_or_else(|| missing(&args.image))?;
        let name = match (&destination, &found.name) {
            (Some(name), _) | (None, Some(name)) => name.clone().with_default_tag(),
            (None, None) => {
                return Err(Failure::new(format!(
                    "`{}` is no name: say where to push it",
                    args.image
                ))
                .hint(format!("rbuild push {} NAME[:TAG]", args.image)));
            }
        };
        vec![(name, found)]
    };
    let Some((first, _)) = images.first() else {
        return Err(missing(&args.image));
    };
    let client = client(settings, &args.registries, |options| {
        add_credential(options, first.domain(), args.creds.as_deref())
    })?;
    if !args.quiet {
        let repository = format!("{}/{}", first.domain(), first.path());
        ui::println(&format!("The push refers to repository [{repository}]"))?;
    }
    for (name, found) in &images {
        push_one(settings, &store, &client, name, found, args)?;
    }
    Ok(())
}

fn missing(image: &str) -> Failure {
    Failure::new(format!(
        "An image does not exist locally with the tag: {image}"
    ))
    .hint("`rbuild images` lists what is there")
}

/// Pushes one image and tells about it in Docker's words.
fn push_one(
    settings: &Settings,
    store: &Store,
    client: &Client,
    name: &ImageReference,
    found: &Found,
    args: &PushArgs,
) -> Result<(), Failure> {
    let platform = match &args.platform {
        Some(text) => Some(super::pull::platform(settings, Some(text))?),
        None => None,
    };
    let prepared = prepare_push(store, &found.entry.record, platform.as_ref())?;
    let counter = Counter::new(settings, !args.quiet);
    let sent = RefCell::new(BTreeMap::new());
    let outgoing = &prepared.outgoing;
    let layers = outgoing.blobs.iter().filter(|blob| blob.layer);
    let total = layers.map(|blob| blob.descriptor.size).sum();
    let place = location_of(name)?;
    push_image(client, store, outgoing, &[place], &mut |blob, news| {
        let digest = &blob.descriptor.digest;
        match news {
            PushNews::Bytes(bytes) if blob.layer => {
                let mut sent = sent.borrow_mut();
                sent.insert(*digest, *bytes);
                counter.show("pushing", sent.values().sum(), total);
            }
            PushNews::Done(outcome) if blob.layer && !args.quiet => {
                let word = match outcome {
                    PushOutcome::Exists => "Layer already exists",
                    PushOutcome::Mounted => "Mounted",
                    PushOutcome::Uploaded => "Pushed",
                };
                counter.line(&format!("{}: {word}", short_id(digest)));
            }
            _ => {}
        }
    })
    .map_err(|error| registry_failure(&error))?;
    counter.clear();
    let pushed = name.familiar();
    events::note(settings, || Event::image("push", &pushed, &pushed));
    let top = &prepared.top;
    if platform.is_none() && !prepared.partial && top.digest != found.entry.record.manifest {
        for (_, bytes) in &outgoing.documents {
            store.put_blob(bytes)?;
        }
        let record = ImageRecord {
            manifest: top.digest,
            manifest_media_type: top.media_type.clone(),
            manifest_size: top.size,
            ..found.entry.record.clone()
        };
        rename(store, found, &record)?;
    }
    if args.quiet {
        return ui::println(&name.canonical());
    }
    if prepared.partial {
        ui::warn(
            &settings.palette,
            "not all platforms of the image are in the store: pushed the one that is",
        );
    }
    let version = name.tag().or(name.digest()).unwrap_or_default();
    ui::println(&format!(
        "{version}: digest: {} size: {}",
        top.digest, top.size
    ))
}

/// From now on the image is known by the manifest that the registry has.
fn rename(store: &Store, found: &Found, record: &ImageRecord) -> Result<(), Failure> {
    if found.entry.names.is_empty() {
        store.put_image(record)?;
    }
    for name in &found.entry.names {
        store.tag(name, record)?;
    }
    store.remove_image(&found.entry.record.manifest)?;
    Ok(())
}
