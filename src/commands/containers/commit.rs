//! `rbuild commit`.

use rbuild_builder::image::{Commit, commit_container};
use rbuild_cache::{CommitOptions, ImageRecord, Layer, Store};
use rbuild_runtime::container::{Container, Order, Status};

use super::{containers, order};
use crate::commands::{lookup, open_store, tag};
use crate::config::Settings;
use crate::container::details::Details;
use crate::container::{protect, unpack};
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::truth::Truth as _;
use crate::ui;

/// Make an image of what a container changed
///
/// Without what is mounted in it. Its settings become those of the image. Prints the image's ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild commit web web:changed
  rbuild commit -c 'CMD [\"serve\"]' -m 'configured by hand' web web:changed")]
pub(crate) struct CommitArgs {
    /// Name or ID of the container
    container: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// Apply a Dockerfile instruction to the settings, such as `CMD ["sh"]`
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Remark for the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let it stand still meanwhile [default: true]
    #[arg(short, long, truth = "BOOL")]
    pause: Option<bool>,
    /// Do not let it stand still meanwhile
    #[arg(long, conflicts_with = "pause")]
    no_pause: bool,
}

/// Makes the image.
pub(crate) fn run(settings: &Settings, args: &CommitArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(tag::parse_name).transpose()?;
    let container = containers(settings)?.find(&args.container)?;
    let store = open_store(settings)?;
    let details = Details::of(&container);
    let found = lookup::require(&store, &details.image_id)
        .map_err(|failure| failure.within("the image of the container has been removed"))?;
    let _lease = protect(&store, &found)?;
    let (_, layers) = unpack(&store, &found)?;
    let pauses = !args.no_pause && args.pause != Some(false);
    let layer = {
        let _still = pauses.then(|| Still::new(&container)).transpose()?;
        changed(&store, &container, &layers)?
    };
    let words = container.config.sandbox.process.args.iter();
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let record = commit_container(
        &store,
        Commit {
            base: &found.entry.record,
            layer: &layer,
            config: details.config,
            changes: &args.change,
            author: args.author.as_deref(),
            message: args.message.as_deref(),
            created_by: words.join(" "),
        },
    )?;
    name_it(&store, name.as_ref(), &record)?;
    let id = record.config.to_string();
    events::note(settings, || {
        Event::container("commit", &container)
            .with("comment", args.message.as_deref().unwrap_or_default())
            .with("imageID", &id)
    });
    ui::println(&id)
}

fn name_it(
    store: &Store,
    name: Option<&rbuild_parser::ImageReference>,
    record: &ImageRecord,
) -> Result<(), Failure> {
    if let Some(name) = name {
        store.tag(&name.canonical(), record)?;
    }
    Ok(())
}

/// A container that stands still, unless it did before or does not run.
struct Still<'a>(Option<&'a Container>);

impl Still<'_> {
    fn new(container: &Container) -> Result<Still<'_>, Failure> {
        if container.state()?.status != Status::Running {
            return Ok(Still(None));
        }
        match order(container, &Order::Pause) {
            Ok(_) => Ok(Still(Some(container))),
            // It has ended meanwhile.
            Err(_) if !container.state()?.status.has_processes() => Ok(Still(None)),
            Err(failure) => Err(failure),
        }
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Some(container) = self.0 {
            // One that was killed meanwhile has nothing to go on with.
            let _ = order(container, &Order::Unpause);
        }
    }
}

/// What the container changed, as a layer over those of its image.
fn changed(store: &Store, container: &Container, layers: &[Layer]) -> Result<Layer, Failure> {
    let draft = store.draft_on(layers)?;
    if let Some(upper) = &container.config.sandbox.root.upper {
        draft.copy_from(&upper.upper)?;
    }
    Ok(draft.commit(layers, &CommitOptions::default())?)
}
