//! Work without root: most commands then run in a user namespace of their own.

use rbuild_runtime::{enter_user_namespace, needs_user_namespace};

use crate::cli::{BuilderCommand, Command, ImageCommand, ImagetoolsCommand, SystemCommand};
use crate::failure::{Failure, status};

/// Enters a user namespace if this user is not root and the command handles files of many owners.
///
/// Must come before the first thread.
pub(crate) fn enter(command: &Command) -> Result<(), Failure> {
    if !handles_owners(command) || !needs_user_namespace() {
        return Ok(());
    }
    enter_user_namespace().map_err(|error| {
        let failure = Failure::from(error).within("could not work as this user");
        match command {
            Command::Run(_) | Command::Debug(_) => failure.with_status(status::ENGINE),
            _ => failure,
        }
    })
}

/// Says whether a command makes, reads or removes layers, whose files have many owners.
fn handles_owners(command: &Command) -> bool {
    match command {
        Command::Build(_)
        | Command::Repro(_)
        | Command::Run(_)
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
        | Command::Prune(_)
        | Command::Fsck(_)
        | Command::Builder(BuilderCommand::Prune(_))
        | Command::System(SystemCommand::Prune(_))
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
        | Command::Tag(_)
        | Command::Image(_)
        | Command::Builder(_)
        | Command::System(_)
        | Command::Du(_)
        | Command::Imagetools(_)
        | Command::Manifest(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Search(_)
        | Command::Info(_)
        | Command::Version(_)
        | Command::Missing(_) => false,
    }
}
