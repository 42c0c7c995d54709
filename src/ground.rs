//! Where commands stand: the rung of the ladder of isolation that this host allows, or that was asked
//! for.

use rbuild_runtime::container::{Container, ContainerError};
use rbuild_runtime::{Ground, Isolation, settle, settle_beside};

use crate::cli::{
    BuilderCommand, Command, ContainerCommand, ImageCommand, ImagetoolsCommand, SystemCommand,
};
use crate::config::Settings;
use crate::env::Variable;
use crate::failure::{Failure, status};

/// Settles on a rung if the command handles files of many owners.
///
/// Must come before the first thread: most rungs are in a user namespace.
pub(crate) fn enter(settings: &Settings, command: &Command) -> Result<Option<Ground>, Failure> {
    if !handles_owners(command) {
        return Ok(None);
    }
    let wanted = wanted(settings, command)?;
    if wanted.is_none()
        && let Some(pid) = companion(settings, command)?
        && let Some(ground) = settle_beside(pid)?
    {
        return Ok(Some(ground));
    }
    settle(wanted).map(Some).map_err(|error| {
        let failure = Failure::from(error).within(match wanted {
            Some(rung) => format!("the isolation `{rung}` is not possible here"),
            None => "could not work as this user".to_owned(),
        });
        let failure = failure.hint("`rbuild doctor` tells what this host allows");
        match command {
            Command::Run(_) | Command::Debug(_) => failure.with_status(status::ENGINE),
            _ => failure,
        }
    })
}

/// Why roots are copied instead of mounted here, if they are: overlay does not write where the store is.
pub(crate) fn overlay_refusal(settings: &Settings) -> Result<Option<String>, Failure> {
    let root = settings.store_root()?;
    // A store that is not there yet will be on the file system of what is.
    let place = root.ancestors().find(|path| path.exists());
    let Some(place) = place else { return Ok(None) };
    let failed = |error| Failure::new("could not look at the store's file system").because(&error);
    rbuild_runtime::overlay_refusal(place).map_err(failed)
}

/// The rung that the user asks for.
fn wanted(settings: &Settings, command: &Command) -> Result<Option<Isolation>, Failure> {
    let flag = match command {
        Command::Build(args) | Command::Image(ImageCommand::Build(args)) => &args.isolation,
        Command::Run(args) | Command::Container(ContainerCommand::Run(args)) => &args.isolation,
        Command::Repro(args) => &args.build.isolation,
        _ => &None,
    };
    if let Some(word) = flag {
        return parse(word).map_err(|failure| failure.within("invalid --isolation"));
    }
    match &settings.environment.isolation {
        Some((Variable { name, .. }, word)) => {
            parse(word).map_err(|failure| failure.within(format!("{name}: invalid isolation")))
        }
        None => Ok(None),
    }
}

/// The first process of the container whose network the command is to share with another one, if it runs.
fn companion(settings: &Settings, command: &Command) -> Result<Option<u32>, Failure> {
    let containers = crate::commands::containers::containers(settings)?;
    let find = |query: &str| -> Result<Option<Container>, Failure> {
        match containers.find(query) {
            // Told later, by who has to do with it.
            Err(ContainerError::NotFound(_)) => Ok(None),
            found => Ok(Some(found?)),
        }
    };
    let mut named: Vec<String> = Vec::new();
    match command {
        Command::Run(args) | Command::Container(ContainerCommand::Run(args)) => {
            named.extend(args.network.container().map(str::to_owned));
        }
        Command::Start(args) | Command::Container(ContainerCommand::Start(args)) => {
            for query in args.containers() {
                let container = find(query)?;
                named.extend(container.and_then(|found| found.config.networking.container));
            }
        }
        _ => {}
    }
    let Some(first) = named.first() else {
        return Ok(None);
    };
    let other = find(first)?
        .map(|container| container.state())
        .transpose()?;
    Ok(other.map(|state| state.pid).filter(|pid| *pid != 0))
}

/// Finds a rung by our name or by the word that buildah has for it.
fn parse(word: &str) -> Result<Option<Isolation>, Failure> {
    match word {
        // The best sandbox there is, which is what buildah means by a runtime.
        "default" | "oci" => Ok(None),
        word => Isolation::from_name(word).map(Some).ok_or_else(|| {
            let known = Isolation::LADDER.map(Isolation::name).join(", ");
            Failure::new(format!("{word:?} is not known"))
                .hint(format!("known: default, {known}"))
                .with_status(status::USAGE)
        }),
    }
}

/// Says whether a command makes, reads or removes layers, whose files have many owners.
fn handles_owners(command: &Command) -> bool {
    match command {
        Command::Build(_)
        | Command::Repro(_)
        | Command::Run(_)
        | Command::Create(_)
        | Command::Start(_)
        | Command::Restart(_)
        | Command::Rm(_)
        | Command::Exec(_)
        | Command::Container(_)
        | Command::Volume(_)
        | Command::Cp(_)
        | Command::Export(_)
        | Command::Commit(_)
        | Command::Update(_)
        | Command::Debug(_)
        | Command::Layers(_)
        | Command::Diff(_)
        | Command::Rmi(_)
        | Command::Save(_)
        | Command::Load(_)
        | Command::Import(_)
        | Command::Pull(_)
        | Command::Push(_)
        | Command::Imagetools(ImagetoolsCommand::Create(_))
        | Command::Doctor(_)
        | Command::Info(_)
        | Command::Prune(_)
        | Command::Fsck(_)
        | Command::Builder(BuilderCommand::Prune(_))
        | Command::System(
            SystemCommand::Prune(_) | SystemCommand::Info(_) | SystemCommand::Df(_),
        )
        | Command::Image(
            ImageCommand::Build(_)
            | ImageCommand::Rm(_)
            | ImageCommand::Prune(_)
            | ImageCommand::Save(_)
            | ImageCommand::Load(_)
            | ImageCommand::Import(_)
            | ImageCommand::Pull(_)
            | ImageCommand::Push(_),
        ) => true,
        Command::Check(_)
        | Command::Stop(_)
        | Command::Kill(_)
        | Command::Ps(_)
        | Command::Logs(_)
        | Command::Wait(_)
        | Command::Attach(_)
        | Command::Top(_)
        | Command::Stats(_)
        | Command::Pause(_)
        | Command::Unpause(_)
        | Command::Rename(_)
        | Command::Events(_)
        | Command::Port(_)
        | Command::Network(_)
        | Command::Fmt(_)
        | Command::Images(_)
        | Command::Inspect(_)
        | Command::History(_)
        | Command::Explain(_)
        | Command::Graph(_)
        | Command::Timeline(_)
        | Command::Context(_)
        | Command::Watch(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Search(_)
        | Command::Tag(_)
        | Command::Image(_)
        | Command::Builder(_)
        | Command::System(_)
        | Command::Du(_)
        | Command::Imagetools(_)
        | Command::Manifest(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Version(_)
        | Command::OciRuntime(_)
        | Command::Missing(_) => false,
    }
}
