//! `rbuild imagetools` and `rbuild manifest`.

use rbuild_builder::image::{Combined, DescriptorPlatform, remote_document};
use rbuild_parser::ImageReference;

use crate::config::Settings;
use crate::failure::Failure;
use crate::registries::{RegistryArgs, client, registry_failure};
use crate::ui;

/// Show what a name in a registry points to
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild imagetools inspect alpine:3.20
  rbuild imagetools inspect --raw alpine:3.20 | jq '.manifests[].platform'")]
pub(crate) struct InspectArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(super) image: String,
    /// Print the manifest or index byte for byte
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    pub(super) registries: RegistryArgs,
}

/// Put images of registries together under one name
///
/// The platforms of all sources become one index. What the registry of the new name lacks is copied.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild imagetools create -t r.example/app:1 r.example/app:1-amd64 r.example/app:1-arm64")]
pub(crate) struct CreateArgs {
    /// Names of images and indexes
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// The new name
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// Add to what has the name now
    #[arg(long)]
    append: bool,
    /// Print the index instead of pushing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

pub(super) fn parse(text: &str) -> Result<ImageReference, Failure> {
    ImageReference::parse(text)
        .map(ImageReference::with_default_tag)
        .map_err(|reason| Failure::new(format!("invalid image name {text:?}: {reason}")))
}

/// Shows an image of a registry.
pub(crate) fn inspect(
    settings: &Settings,
    args: &InspectArgs,
    always_raw: bool,
) -> Result<(), Failure> {
    let name = parse(&args.image)?;
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let found = remote_document(&client, &name).map_err(|error| registry_failure(&error))?;
    if args.raw || always_raw {
        return ui::print(&String::from_utf8_lossy(&found.bytes));
    }
    let canonical = name.canonical();
    let top = &found.descriptor;
    let mut text = format!(
        "Name:      {canonical}\nMediaType: {}\nDigest:    {}\n",
        top.media_type, top.digest
    );
    if let Some(entries) = &found.entries {
        let repository = format!("{}/{}", name.domain(), name.path());
        text.push_str("\nManifests:\n");
        for entry in entries {
            let platform = entry.platform.as_ref().map(DescriptorPlatform::text);
            text.push_str(&format!(
                "  Name:      {repository}@{}\n  MediaType: {}\n  Platform:  {}\n\n",
                entry.digest,
                entry.media_type,
                platform.unwrap_or_default()
            ));
        }
    }
    ui::print(&text)
}

/// Makes an index.
pub(crate) fn create(settings: &Settings, args: &CreateArgs) -> Result<(), Failure> {
    let names = args
        .tag
        .iter()
        .map(|tag| parse(tag))
        .collect::<Result<Vec<_>, _>>()?;
    if names.is_empty() && !args.dry_run {
        return Err(Failure::new("can't push without tags")
            .hint("name the result with `-t NAME`, or look at it with `--dry-run`"));
    }
    let mut sources = Vec::new();
    if args.append {
        let first = names
            .first()
            .ok_or_else(|| Failure::new("`--append` needs `-t`"))?;
        sources.push(first.clone());
    }
    for source in &args.sources {
        sources.push(parse(source)?);
    }
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let store = super::open_store(settings)?;
    let failed = |error| registry_failure(&error);
    let combined = Combined::new(&store, &client, &sources).map_err(failed)?;
    if args.dry_run {
        return ui::print(&String::from_utf8_lossy(&combined.bytes));
    }
    combined.push(&store, &client, &names).map_err(failed)?;
    for name in &names {
        ui::println(&format!("{}@{}", name.canonical(), combined.top.digest))?;
    }
    Ok(())
}
