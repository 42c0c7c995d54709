//! The tree of commands.

pub(crate) mod quick;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rbuild_parser::closest;

use crate::commands::containers::{
    commit, copy, create, exec, export, kill, logs, pause, port, ps, remove, rename, start, stats,
    stop, top, update, wait,
};
use crate::commands::{
    build, check, completions, context, debug, diff, doctor, du, events, explain, fmt, fsck, graph,
    history, images, imagetools, import, info, inspect, layers, load, login, logout, manifest,
    networks, prune, pull, push, repro, rmi, run, save, search, system, tag, timeline, version,
    volumes, watch,
};
use crate::env::{VARIABLES, Variable};
use crate::failure::Failure;

/// Build container images from Dockerfiles
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    bin_name = "rbuild",
    version,
    disable_help_subcommand = false,
    arg_required_else_help = false,
    args_override_self = true,
    max_term_width = 100,
    help_template = HELP
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalArgs {
    /// Directory of the store
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        help_heading = "Global options"
    )]
    pub(crate) root: Option<PathBuf>,
    /// Tell more: hints of warnings, causes, developer log
    #[arg(short = 'D', long, global = true, help_heading = "Global options")]
    pub(crate) debug: bool,
}

/// The whole tree of commands, with the environment variables in the overview.
pub(crate) fn command() -> clap::Command {
    let widest = VARIABLES
        .iter()
        .map(|variable| variable.name.len())
        .max()
        .unwrap_or(0);
    let lines: Vec<String> = VARIABLES
        .iter()
        .map(|Variable { name, help }| format!("  {name:widest$}  {help}"))
        .collect();
    let environment = format!("Environment:\n{}\n{EXAMPLES}", lines.join("\n"));
    <Cli as clap::CommandFactory>::command()
        .after_help(environment)
        .mut_subcommands(compact)
}

/// Puts the paragraphs behind the first one between name and usage, and has one form of help only:
/// the long one that clap makes of them is three times as long and says nothing more.
fn compact(command: clap::Command) -> clap::Command {
    let paragraphs = command
        .get_long_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let command = command
        .long_about(None)
        .help_template(COMMAND_HELP)
        .mut_subcommands(compact);
    match paragraphs.split_once("\n\n") {
        Some((_, rest)) => command.before_help(rest.to_owned()),
        None => command,
    }
}

/// The command that a word was perhaps meant to be.
pub(crate) fn similar_command(word: &str) -> Option<String> {
    let tree = command();
    let names = tree.get_subcommands().map(clap::Command::get_name);
    closest(word, names).map(str::to_owned)
}

/// What `rbuild` alone prints.
pub(crate) const SHORT_HELP: &str = "\
rbuild builds container images from Dockerfiles.

  rbuild -t NAME[:TAG] PATH      build PATH/Dockerfile and store the image
  rbuild run NAME[:TAG] [CMD]    run it
  rbuild images                  list images

See `rbuild --help` for all commands and `rbuild build --help` for the options of a build.
";

const HELP: &str = "\
{about}

Usage: rbuild [build] [OPTIONS] PATH
       rbuild COMMAND [OPTIONS] …

Build and run:
  build      Build an image (the word may be left out)
  check      Check a Dockerfile without building it
  fmt        Format Dockerfiles
  repro      Build twice and tell what differs
  watch      Build again, and run again, whenever a file changes
  run        Run a command in a new container

Containers:
  create     Make a container without starting it
  start      Start containers
  stop       Stop containers (and `restart`)
  kill       Kill containers, or send them another signal
  rm         Remove containers
  ps         List containers
  logs       Show what a container has written
  exec       Run a command in a container that runs
  attach     Show what a running container writes
  top        Show the processes of a container
  stats      Show what containers use
  pause      Have all processes of containers stand still
  unpause    Let them go on
  wait       Wait until containers have ended
  rename     Give a container another name
  cp         Copy files between a container and this machine
  export     Write the file system of a container as a tar
  commit     Make an image of what a container changed
  update     Change limits of containers, and when they are started again
  port       Show where the ports of a container are reached
  restart    Stop containers and start them again
  container  All of these, and prune
  volume     Make, list and remove volumes
  network    Make, list and remove networks, put containers into them

Look into builds:
  explain    Tell why the steps of a build ran or did not run
  debug      Open a shell in the state of a build's step
  timeline   Show where the time of a build went, and what to move to gain most
  graph      Show the stages and steps of a Dockerfile and what depends on what
  context    Show what of the build context a build sees, uses and ignores

Images:
  images     List images
  inspect    Show all about images
  history    Show how an image came about; `history builds` shows the past builds
  layers     Show what each layer of an image added, and what was in vain
  diff       Show how two images differ, or what a container changed
  tag        Give an image another name
  rmi        Remove images
  save       Write images to a tar archive
  load       Read images from a tar archive
  import     Make an image of a root file system
  pull       Download images from a registry
  push       Upload images to a registry
  image      All of these under their long names: ls, inspect, history, tag, rm, …

Registries:
  login      Log in to a registry
  logout     Log out of a registry
  imagetools Look at images in registries, put several under one name
  manifest   Show manifests of a registry, make and push lists of them
  search     Search a registry for images

Store and system:
  prune      Remove build cache that nobody needs
  system     Show disk usage (`system df`), remove unused data
  du         Show what takes space in the store
  events     Show what happens to containers, images, volumes and networks
  fsck       Check the store
  doctor     Tell what this host allows, and what to change to get more
  info       Show what this host allows
  version    Show the version
  oci-runtime Run containers of podman and containerd in rbuild's sandbox
  completions Print a script that completes commands and options in a shell
  man        Print the manual page of a command, or write all of them
  help       Show help for a command

{options}{after-help}";

const COMMAND_HELP: &str = "\
{about}

{before-help}{usage-heading} {usage}

{all-args}{after-help}";

const EXAMPLES: &str = "
Examples:
  rbuild -t app .
  rbuild -t app --target test --build-arg VERSION=1.2 .
  rbuild -o type=oci,dest=app.tar .
  rbuild run --rm app";

/// A command; its help is the documentation of its arguments.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum Command {
    Build(Box<build::BuildArgs>),
    Check(check::CheckArgs),
    Repro(Box<repro::ReproArgs>),
    Fmt(fmt::FmtArgs),
    Run(Box<run::RunArgs>),
    Create(Box<create::CreateArgs>),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(stop::StopArgs),
    Kill(kill::KillArgs),
    Rm(remove::RmArgs),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Wait(wait::WaitArgs),
    Attach(start::AttachArgs),
    Top(top::TopArgs),
    Stats(stats::StatsArgs),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Rename(rename::RenameArgs),
    Cp(copy::CopyArgs),
    Export(export::ExportArgs),
    Update(update::UpdateArgs),
    Commit(commit::CommitArgs),
    Events(events::EventsArgs),
    Port(port::PortArgs),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    Images(images::ImagesArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Explain(explain::ExplainArgs),
    Debug(debug::DebugArgs),
    Graph(graph::GraphArgs),
    Timeline(timeline::TimelineArgs),
    Context(context::ContextArgs),
    Watch(Box<watch::WatchArgs>),
    Layers(layers::LayersArgs),
    Diff(diff::DiffArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
    Tag(tag::TagArgs),
    Rmi(rmi::RmiArgs),
    Save(save::SaveArgs),
    Load(load::LoadArgs),
    Import(import::ImportArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Search(search::SearchArgs),
    /// Look at images in registries, and put them together
    #[command(subcommand)]
    Imagetools(ImagetoolsCommand),
    /// Look at manifests in registries, and put lists of them together
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    Prune(prune::CachePruneArgs),
    /// Manage the build cache
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Show and free disk space
    #[command(subcommand)]
    System(SystemCommand),
    Du(du::DuArgs),
    Fsck(fsck::FsckArgs),
    Doctor(doctor::DoctorArgs),
    Info(info::InfoArgs),
    Version(version::VersionArgs),
    /// Run containers of podman and containerd in rbuild's sandbox, behind runc's command line
    #[command(
        name = "oci-runtime",
        disable_help_flag = true,
        after_help = "Examples:\n  podman --runtime /usr/local/bin/rbuild-oci run --rm IMAGE"
    )]
    OciRuntime(Anything),
    /// Commands that other tools have and this one does not have yet
    #[command(flatten)]
    Missing(MissingCommand),
}

/// `rbuild container …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum ContainerCommand {
    Run(Box<run::RunArgs>),
    Create(Box<create::CreateArgs>),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(stop::StopArgs),
    Kill(kill::KillArgs),
    #[command(alias = "remove")]
    Rm(remove::RmArgs),
    #[command(alias = "list", alias = "ps")]
    Ls(ps::PsArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Wait(wait::WaitArgs),
    Attach(start::AttachArgs),
    Top(top::TopArgs),
    Stats(stats::StatsArgs),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Rename(rename::RenameArgs),
    Cp(copy::CopyArgs),
    Export(export::ExportArgs),
    Update(update::UpdateArgs),
    Commit(commit::CommitArgs),
    Diff(diff::DiffArgs),
    Port(port::PortArgs),
    Inspect(inspect::InspectArgs),
    Prune(remove::ContainerPruneArgs),
}

/// `rbuild network …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum NetworkCommand {
    Create(networks::CreateArgs),
    Connect(networks::ConnectArgs),
    Disconnect(networks::DisconnectArgs),
    Inspect(networks::InspectArgs),
    #[command(alias = "list")]
    Ls(networks::ListArgs),
    #[command(alias = "remove")]
    Rm(networks::RemoveArgs),
    Prune(networks::PruneArgs),
}

/// `rbuild volume …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum VolumeCommand {
    Create(volumes::CreateArgs),
    Inspect(volumes::InspectArgs),
    #[command(alias = "list")]
    Ls(volumes::ListArgs),
    #[command(alias = "remove")]
    Rm(volumes::RemoveArgs),
    Prune(volumes::PruneArgs),
}

/// `rbuild image …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum ImageCommand {
    Build(Box<build::BuildArgs>),
    #[command(alias = "list")]
    Ls(images::ImagesArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Tag(tag::TagArgs),
    #[command(alias = "remove")]
    Rm(rmi::RmiArgs),
    Prune(prune::ImagePruneArgs),
    Save(save::SaveArgs),
    Load(load::LoadArgs),
    Import(import::ImportArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
}

/// `rbuild imagetools …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum ImagetoolsCommand {
    Inspect(imagetools::InspectArgs),
    Create(imagetools::CreateArgs),
}

/// `rbuild manifest …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum ManifestCommand {
    Inspect(imagetools::InspectArgs),
    Create(manifest::CreateArgs),
    Annotate(manifest::AnnotateArgs),
    Push(manifest::PushArgs),
    Rm(manifest::RmArgs),
}

/// `rbuild builder …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum BuilderCommand {
    Du(du::DuArgs),
    Prune(prune::CachePruneArgs),
}

/// `rbuild system …`.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum SystemCommand {
    Df(system::DfArgs),
    Events(events::EventsArgs),
    Info(info::InfoArgs),
    Prune(prune::SystemPruneArgs),
}

/// Arguments of a command that is not there: anything goes.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

macro_rules! missing_commands {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// Commands that other tools have and this one does not have yet.
        #[derive(Debug, Subcommand)]
        pub(crate) enum MissingCommand {
            $(#[command(name = $name, hide = true, disable_help_flag = true)] $variant(Anything),)*
        }

        impl MissingCommand {
            /// The refusal.
            pub(crate) fn failure(&self) -> Failure {
                let name = match self {
                    $(MissingCommand::$variant(_) => $name,)*
                };
                Failure::unsupported(&format!("`rbuild {name}`")).hint(format!(
                    "to build a directory of this name, write `rbuild ./{name}`"
                ))
            }
        }
    };
}

missing_commands! {
    Bake = "bake", Buildx = "buildx",
    Serve = "serve",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        let mut open = vec![command()];
        let mut lacking = Vec::new();
        while let Some(command) = open.pop() {
            let inner = command
                .get_subcommands()
                .filter(|inner| !inner.is_hide_set());
            let inner: Vec<clap::Command> = inner.cloned().collect();
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            if inner.is_empty() && !help.contains("Examples:\n") {
                lacking.push(command.get_name().to_owned());
            }
            open.extend(inner);
        }
        assert!(lacking.is_empty(), "no examples: {lacking:?}");
    }

    #[test]
    fn the_overview_names_every_command() {
        let help = command().render_help().to_string();
        for command in command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let name = command.get_name();
            let listed = help
                .lines()
                .any(|line| line.split_whitespace().next() == Some(name));
            assert!(listed || name == "builder", "{name} is not in the overview");
        }
    }
}
