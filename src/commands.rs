//! The commands: each file translates its flags into calls of the libraries and shows the result.

pub(crate) mod build;
mod cache_filter;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod containers;
pub(crate) mod context;
pub(crate) mod debug;
pub(crate) mod diff;
pub(crate) mod disk;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod filter;
pub(crate) mod fmt;
pub(crate) mod fsck;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod imagetools;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod layers;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod lookup;
pub(crate) mod manifest;
pub(crate) mod networks;
mod past;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod repro;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod timeline;
pub(crate) mod version;
pub(crate) mod volumes;
pub(crate) mod watch;

use rbuild_cache::{Store, StoreOptions};

use crate::cli::{
    BuilderCommand, Command, ContainerCommand, ImageCommand, ImagetoolsCommand, ManifestCommand,
    NetworkCommand, SystemCommand, VolumeCommand,
};
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;

/// Carries out a command.
///
/// `build` and `run` come here while the process has one thread only: they start the sandbox's
/// helper first.
pub(crate) fn dispatch(settings: &Settings, command: Command) -> Result<u8, Failure> {
    let done = |result: Result<(), Failure>| result.map(|()| 0);
    match command {
        Command::Build(args) | Command::Image(ImageCommand::Build(args)) => {
            build::run(settings, &args)
        }
        Command::Check(args) => check::run(settings, &args),
        Command::Repro(args) => repro::run(settings, *args),
        Command::Fmt(args) => fmt::run(settings, &args),
        Command::Run(args) | Command::Container(ContainerCommand::Run(args)) => {
            run::run(settings, &args)
        }
        Command::Container(command) => container(settings, command),
        Command::Volume(command) => volume(settings, &command),
        Command::Network(command) => network(settings, &command),
        Command::Create(args) => done(containers::create::run(settings, &args)),
        Command::Start(args) => containers::start::run(settings, &args),
        Command::Stop(args) => containers::stop::run(settings, &args),
        Command::Restart(args) => containers::stop::restart(settings, &args),
        Command::Kill(args) => containers::kill::run(settings, &args),
        Command::Rm(args) => containers::remove::run(settings, &args),
        Command::Ps(args) => done(containers::ps::run(settings, &args)),
        Command::Logs(args) => done(containers::logs::run(settings, &args)),
        Command::Exec(args) => containers::exec::run(settings, &args),
        Command::Wait(args) => containers::wait::run(settings, &args),
        Command::Attach(args) => containers::start::attach(settings, &args),
        Command::Stats(args) => done(containers::stats::run(settings, &args)),
        Command::Pause(args) => containers::pause::pause(settings, &args),
        Command::Unpause(args) => containers::pause::unpause(settings, &args),
        Command::Top(args) => done(containers::top::run(settings, &args)),
        Command::Rename(args) => done(containers::rename::run(settings, &args)),
        Command::Cp(args) => done(containers::copy::run(settings, &args)),
        Command::Update(args) => containers::update::run(settings, &args),
        Command::Commit(args) => done(containers::commit::run(settings, &args)),
        Command::Events(args) | Command::System(SystemCommand::Events(args)) => {
            done(events::run(settings, &args))
        }
        Command::Export(args) => done(containers::export::run(settings, &args)),
        Command::Port(args) => done(containers::port::run(settings, &args)),
        Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => {
            done(images::run(settings, &args))
        }
        Command::Inspect(args) => inspect::run(settings, &args),
        Command::Image(ImageCommand::Inspect(args)) => inspect::images(settings, &args),
        Command::History(args) | Command::Image(ImageCommand::History(args)) => {
            done(history::run(settings, &args))
        }
        Command::Explain(args) => done(explain::run(settings, &args)),
        Command::Debug(args) => debug::run(settings, &args),
        Command::Graph(args) => graph::run(settings, &args),
        Command::Timeline(args) => done(timeline::run(settings, &args)),
        Command::Layers(args) => done(layers::run(settings, &args)),
        Command::Diff(args) => diff::run(settings, &args),
        Command::Context(args) => context::run(settings, &args),
        Command::Watch(args) => watch::run(settings, &args),
        Command::Completions(args) => done(completions::completions(&args)),
        Command::Man(args) => done(completions::man(&args)),
        Command::Tag(args) | Command::Image(ImageCommand::Tag(args)) => {
            done(tag::run(settings, &args))
        }
        Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => rmi::run(settings, &args),
        Command::Save(args) | Command::Image(ImageCommand::Save(args)) => {
            done(save::run(settings, &args))
        }
        Command::Load(args) | Command::Image(ImageCommand::Load(args)) => {
            done(load::run(settings, &args))
        }
        Command::Import(args) | Command::Image(ImageCommand::Import(args)) => {
            done(import::run(settings, &args))
        }
        Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => {
            done(pull::run(settings, &args))
        }
        Command::Push(args) | Command::Image(ImageCommand::Push(args)) => {
            done(push::run(settings, &args))
        }
        Command::Imagetools(ImagetoolsCommand::Inspect(args)) => {
            done(imagetools::inspect(settings, &args, false))
        }
        Command::Manifest(ManifestCommand::Inspect(args)) => {
            done(manifest::inspect(settings, &args))
        }
        Command::Manifest(ManifestCommand::Create(args)) => done(manifest::create(settings, &args)),
        Command::Manifest(ManifestCommand::Annotate(args)) => {
            done(manifest::annotate(settings, &args))
        }
        Command::Manifest(ManifestCommand::Push(args)) => done(manifest::push(settings, &args)),
        Command::Manifest(ManifestCommand::Rm(args)) => done(manifest::rm(settings, &args)),
        Command::Search(args) => done(search::run(settings, &args)),
        Command::Imagetools(ImagetoolsCommand::Create(args)) => {
            done(imagetools::create(settings, &args))
        }
        Command::Login(args) => done(login::run(settings, &args)),
        Command::Logout(args) => done(logout::run(settings, &args)),
        Command::Image(ImageCommand::Prune(args)) => done(prune::images(settings, &args)),
        Command::Prune(args) | Command::Builder(BuilderCommand::Prune(args)) => {
            done(prune::cache(settings, &args))
        }
        Command::System(SystemCommand::Prune(args)) => done(prune::system(settings, &args)),
        Command::System(SystemCommand::Df(args)) => done(system::df(settings, &args)),
        Command::Builder(BuilderCommand::Du(args)) | Command::Du(args) => {
            done(du::run(settings, &args))
        }
        Command::System(SystemCommand::Info(args)) | Command::Info(args) => {
            done(info::run(settings, &args))
        }
        Command::Doctor(args) => doctor::run(settings, &args),
        Command::Fsck(args) => fsck::run(settings, &args),
        Command::Version(args) => done(version::run(&args)),
        Command::OciRuntime(args) => Ok(crate::oci::main(args.arguments.into_iter())),
        Command::Missing(command) => Err(command.failure()),
    }
}

/// Writes a text to a file, or to standard output.
pub(crate) fn write_or_print(file: Option<&std::path::Path>, text: &str) -> Result<(), Failure> {
    match file {
        None => ui::print(text),
        Some(path) => std::fs::write(path, text).map_err(|error| {
            Failure::from(error).within(format!("could not write `{}`", path.display()))
        }),
    }
}

/// Carries out `rbuild container …`: the same commands under their long names.
fn container(settings: &Settings, command: ContainerCommand) -> Result<u8, Failure> {
    let command = match command {
        ContainerCommand::Run(args) => Command::Run(args),
        ContainerCommand::Create(args) => Command::Create(args),
        ContainerCommand::Start(args) => Command::Start(args),
        ContainerCommand::Stop(args) => Command::Stop(args),
        ContainerCommand::Restart(args) => Command::Restart(args),
        ContainerCommand::Kill(args) => Command::Kill(args),
        ContainerCommand::Rm(args) => Command::Rm(args),
        ContainerCommand::Ls(args) => Command::Ps(args),
        ContainerCommand::Logs(args) => Command::Logs(args),
        ContainerCommand::Exec(args) => Command::Exec(args),
        ContainerCommand::Wait(args) => Command::Wait(args),
        ContainerCommand::Attach(args) => Command::Attach(args),
        ContainerCommand::Top(args) => Command::Top(args),
        ContainerCommand::Stats(args) => Command::Stats(args),
        ContainerCommand::Pause(args) => Command::Pause(args),
        ContainerCommand::Unpause(args) => Command::Unpause(args),
        ContainerCommand::Rename(args) => Command::Rename(args),
        ContainerCommand::Cp(args) => Command::Cp(args),
        ContainerCommand::Update(args) => Command::Update(args),
        ContainerCommand::Commit(args) => Command::Commit(args),
        ContainerCommand::Export(args) => Command::Export(args),
        ContainerCommand::Diff(args) => Command::Diff(args),
        ContainerCommand::Port(args) => Command::Port(args),
        ContainerCommand::Inspect(args) => return inspect::containers(settings, &args),
        ContainerCommand::Prune(args) => {
            return containers::remove::prune(settings, &args).map(|()| 0);
        }
    };
    dispatch(settings, command)
}

/// Carries out `rbuild network …`.
fn network(settings: &Settings, command: &NetworkCommand) -> Result<u8, Failure> {
    match command {
        NetworkCommand::Create(args) => networks::create(settings, args).map(|()| 0),
        NetworkCommand::Connect(args) => networks::connect(settings, args).map(|()| 0),
        NetworkCommand::Disconnect(args) => networks::disconnect(settings, args).map(|()| 0),
        NetworkCommand::Inspect(args) => networks::inspect(settings, args),
        NetworkCommand::Ls(args) => networks::list(settings, args).map(|()| 0),
        NetworkCommand::Rm(args) => networks::remove(settings, args),
        NetworkCommand::Prune(args) => networks::prune(settings, args).map(|()| 0),
    }
}

/// Carries out `rbuild volume …`.
fn volume(settings: &Settings, command: &VolumeCommand) -> Result<u8, Failure> {
    match command {
        VolumeCommand::Create(args) => volumes::create(settings, args).map(|()| 0),
        VolumeCommand::Inspect(args) => volumes::inspect(settings, args),
        VolumeCommand::Ls(args) => volumes::list(settings, args).map(|()| 0),
        VolumeCommand::Rm(args) => volumes::remove(settings, args),
        VolumeCommand::Prune(args) => volumes::prune(settings, args).map(|()| 0),
    }
}

/// Opens the store and tells what was found damaged.
pub(crate) fn open_store(settings: &Settings) -> Result<Store, Failure> {
    let root = settings.store_root()?;
    let store = Store::open(&root, &StoreOptions::default()).map_err(|error| {
        let failure = Failure::from(error);
        failure.within(format!("could not open the store `{}`", root.display()))
    })?;
    for warning in store.warnings() {
        ui::warn(&settings.palette, &warning);
    }
    Ok(store)
}
