//! `RUN`

use crate::mount::{check_device, check_mount};
use crate::{InstructionKind, NetworkMode, Run, SecurityMode, Spanned, Word};

use super::command::{Command, FlagType, quoted};
use super::fault::Fault;
use super::instruction::form;

pub(crate) fn run(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let form = form(command)?;
    let flags = command.check_flags(&[
        ("device", FlagType::List),
        ("mount", FlagType::List),
        ("network", FlagType::Text),
        ("security", FlagType::Text),
    ])?;
    let devices = flags.list("device");
    check_all(&devices, check_device)?;
    let mounts = flags.list("mount");
    check_all(&mounts, check_mount)?;
    Ok(InstructionKind::Run(Run {
        command: form,
        heredocs: command.heredocs.clone(),
        mounts,
        network: flags.text("network").map(network).transpose()?,
        security: flags.text("security").map(security).transpose()?,
        devices,
    }))
}

fn check_all(words: &[Word], check: fn(&str) -> Result<(), String>) -> Result<(), Fault> {
    for word in words {
        check(&word.value).map_err(|message| Fault::instruction(message).at(word.span))?;
    }
    Ok(())
}

fn network(word: Word) -> Result<Spanned<NetworkMode>, Fault> {
    let mode = match word.value.as_str() {
        "default" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => {
            let message = format!("invalid network mode {}", quoted(other));
            return Err(Fault::instruction(message)
                .at(word.span)
                .help("the modes are `default`, `none` and `host`"));
        }
    };
    Ok(word.map(|_| mode))
}

fn security(word: Word) -> Result<Spanned<SecurityMode>, Fault> {
    let mode = match word.value.as_str() {
        "sandbox" => SecurityMode::Sandbox,
        "insecure" => SecurityMode::Insecure,
        other => {
            let message = format!("security {} is not valid", quoted(other));
            return Err(Fault::instruction(message)
                .at(word.span)
                .help("the modes are `sandbox` and `insecure`"));
        }
    };
    Ok(word.map(|_| mode))
}
