//! `rbuild create`, and the first half of `rbuild run`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use rbuild_builder::image::ContainerConfig;
use rbuild_cache::Store;
use rbuild_runtime::Network;
use rbuild_runtime::container::{Config, Container, ContainerError, Containers};

use crate::commands::lookup::Found;
use crate::commands::run::{self, RunArgs};
use crate::commands::volumes;
use crate::config::Settings;
use crate::container::details::{Asked, Details};
use crate::container::{self, Options, environment, signals};
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::ui;

/// Seconds that a container has to end when it is asked to.
const STOP_TIMEOUT: i64 = 10;

/// Make a container without starting it
///
/// `rbuild start` starts it. The options are those of `rbuild run`.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "rbuild create [OPTIONS] IMAGE [COMMAND] [ARG…]",
    after_help = "Examples:
  rbuild create --name web app"
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    run: RunArgs,
}

/// Makes a container and prints its ID.
pub(crate) fn run(settings: &Settings, args: &CreateArgs) -> Result<(), Failure> {
    let args = &args.run;
    let made = make_from(settings, args).map_err(|failure| match failure.status {
        status::ERROR | status::USAGE => failure.with_status(status::ENGINE),
        _ => failure,
    })?;
    ui::println(&made.config.id)
}

fn make_from(settings: &Settings, args: &RunArgs) -> Result<Container, Failure> {
    args.refused.check()?;
    let (image, _) = args.image();
    let mut options = args.options()?;
    let store = crate::commands::open_store(settings)?;
    volumes::take_over(settings, args, &mut options)?;
    let found = run::find_or_pull(settings, args, &store, &image)?;
    make(settings, args, &store, &found, options)
}

/// Makes a container of an image.
pub(crate) fn make(
    settings: &Settings,
    args: &RunArgs,
    store: &Store,
    found: &Found,
    mut options: Options,
) -> Result<Container, Failure> {
    container::fall_back(settings, &mut options)?;
    let cid_file = args.cidfile.as_deref().map(new_file).transpose()?;
    let containers = super::containers(settings)?;
    sweep(&containers, store)?;
    let new = containers.begin()?;
    let id = new.id().to_owned();
    if args.replace {
        replace(settings, &containers, args)?;
    }
    let name = containers.take_name(&new, args.name.as_deref())?;
    if let Some(other) = options.networks.other(settings)? {
        let theirs = other.config.sandbox.hostname;
        options.hostname = options.hostname.or(Some(theirs));
    }
    if options.hostname.is_none() && options.network != Network::Host {
        options.hostname = Some(id[..12].to_owned());
    }
    let made = container::prepare_in(store, found, &options, new.directory())?;
    let image = made.config;
    let mut labels = image.labels.clone();
    labels.extend(given_labels(args)?);
    let health = args.life.health_config(&image)?;
    let check = args.life.health(health.as_ref(), &image, &made.sandbox)?;
    let log = args.life.log(&labels, &made.sandbox)?;
    let restart = args.life.restart(args.rm)?;
    let stop_signal = args.stop_signal.as_deref();
    let stop_signal = stop_signal.or(image.stop_signal.as_deref());
    let settings_of_it = effective(&image, &options, args, &labels);
    let mut exposed = image.exposed_ports.clone();
    exposed.extend(options.networks.expose.iter().cloned());
    let networking = options
        .networks
        .networking(settings, &options.network, &exposed)?;
    let details = Details {
        image: args.image().0,
        image_id: found.entry.record.config.to_string(),
        platform: made.platform,
        labels,
        user: args.user.clone().unwrap_or(image.user.clone()),
        network: options.networks.mode.clone(),
        exposed,
        publish_all: options.networks.publish_all,
        names: options.networks.names.clone(),
        extra_hosts: options.networks.extra_hosts.clone(),
        mounts: made.points,
        config: settings_of_it,
        binds: args.volume.clone(),
        volumes_from: args.volumes_from.clone(),
        health,
        asked: asked(args, stop_signal),
    };
    let config = Config {
        id: id.clone(),
        name,
        created: Timestamp::now().to_string(),
        sandbox: made.sandbox,
        networking,
        interactive: args.interactive,
        auto_remove: args.rm,
        stop_signal: stop_signal.map_or(Ok(15), signals::number)?,
        stop_timeout: args.stop_timeout.unwrap_or(STOP_TIMEOUT),
        restart,
        health: check,
        log,
        details: serde_json::to_value(details)?,
    };
    // From here on its layers stay, also if this process is killed before the next line.
    let layers = [found.entry.record.layers.as_slice(), &made.layers].concat();
    store.pin(&owner(&id), &layers)?;
    new.finish(&config)?;
    drop(made.held);
    if let (Some(mut file), Some(path)) = (cid_file, &args.cidfile) {
        file.write_all(id.as_bytes()).map_err(|error| {
            Failure::new(format!("could not write `{}`", path.display())).because(&error)
        })?;
    }
    let container = containers.find(&id)?;
    events::note(settings, || Event::container("create", &container));
    Ok(container)
}

/// Removes the container that has the name, if there is one.
fn replace(settings: &Settings, containers: &Containers, args: &RunArgs) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        return Ok(());
    };
    match containers.find(name) {
        // Not one whose ID happens to begin like this.
        Ok(other) if other.config.name == *name => super::remove::by_force(settings, &other),
        Ok(_) | Err(ContainerError::NotFound(_) | ContainerError::Ambiguous { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Options that are only shown.
fn asked(args: &RunArgs, stop_signal: Option<&str>) -> Asked {
    let annotations = args.annotation.iter();
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let id_file = args.cidfile.as_ref();
    Asked {
        cap_add: args.rights.cap_add.clone(),
        cap_drop: args.rights.cap_drop.clone(),
        security_opt: args.rights.security_opt.clone(),
        group_add: args.group_add.clone(),
        devices: args.device.clone(),
        tmpfs: args.tmpfs.clone(),
        ulimits: args.ulimit.clone(),
        id_file: id_file.map_or_else(String::new, |path| path.display().to_string()),
        annotations: annotations.map(pair).collect(),
        stop_signal: stop_signal.unwrap_or_default().to_owned(),
    }
}

/// The settings of the image, changed as asked for: what `commit` gives to a new image.
fn effective(
    image: &ContainerConfig,
    options: &Options,
    args: &RunArgs,
    labels: &BTreeMap<String, String>,
) -> ContainerConfig {
    let mut config = image.clone();
    let words = |words: &[OsString]| -> Option<Vec<String>> {
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        Some(words.collect::<Vec<_>>()).filter(|words| !words.is_empty())
    };
    if let Some(entrypoint) = &options.entrypoint {
        config.entrypoint = Some(vec![entrypoint.clone()]).filter(|words| !words[0].is_empty());
        config.cmd = None;
    }
    if !options.command.is_empty() {
        config.cmd = words(&options.command);
    }
    config.env = environment::changed(&image.env, &options.environment);
    config.labels.clone_from(labels);
    if let Some(user) = &args.user {
        config.user.clone_from(user);
    }
    if let Some(workdir) = &options.workdir {
        config.working_dir.clone_from(workdir);
    }
    if let Some(signal) = &args.stop_signal {
        config.stop_signal = Some(signal.clone());
    }
    config
}

/// Removes what killed commands have left, and lets go of its layers.
pub(super) fn sweep(containers: &Containers, store: &Store) -> Result<(), Failure> {
    for id in containers.sweep()? {
        store.pin(&owner(&id), &[])?;
    }
    Ok(())
}

/// Who keeps the layers of a container.
pub(super) fn owner(id: &str) -> String {
    format!("container {id}")
}

fn new_file(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| {
        let failure = Failure::new(format!("could not make the file `{}`", path.display()));
        let failure = failure.because(&error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return failure.hint("it belongs to another container: remove it, or name another one");
        }
        failure
    })
}

/// `--label` and `--label-file`.
fn given_labels(args: &RunArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    let mut add = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        labels.insert(name.to_owned(), value.to_owned());
    };
    for path in &args.label_file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("could not read `{}`", path.display())).because(&error)
        })?;
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .for_each(&mut add);
    }
    args.label.iter().for_each(|label| add(label));
    Ok(labels)
}
