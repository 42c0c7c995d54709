//! `COPY` and `ADD`

use crate::json::Json;
use crate::{CopyAdd, CopySource, Heredoc, Word, heredoc};

use super::command::{Command, FlagType, Flags};
use super::fault::Fault;
use super::instruction::list;

pub(crate) fn copy(command: &Command<'_>) -> Result<CopyAdd, Fault> {
    let words = sources_and_destination(command, "COPY")?;
    let flags = command.check_flags(&[
        ("chown", FlagType::Text),
        ("from", FlagType::Text),
        ("chmod", FlagType::Text),
        ("link", FlagType::Bool),
        ("exclude", FlagType::List),
        ("parents", FlagType::Bool),
    ])?;
    build(command, "COPY", words, &flags)
}

pub(crate) fn add(command: &Command<'_>) -> Result<CopyAdd, Fault> {
    let words = sources_and_destination(command, "ADD")?;
    let flags = command.check_flags(&[
        ("chown", FlagType::Text),
        ("chmod", FlagType::Text),
        ("link", FlagType::Bool),
        ("keep-git-dir", FlagType::Bool),
        ("checksum", FlagType::Text),
        ("unpack", FlagType::Bool),
        ("exclude", FlagType::List),
    ])?;
    build(command, "ADD", words, &flags)
}

fn sources_and_destination(command: &Command<'_>, name: &str) -> Result<(Vec<Word>, Word), Fault> {
    let mut words = list(command)?;
    match words.pop() {
        Some(destination) if !words.is_empty() => Ok((words, destination)),
        _ => {
            let message = format!(
                "{name} requires at least two arguments, but only one was provided. Destination \
                 could not be determined"
            );
            Err(Fault::instruction(message)
                .at(command.arguments_span())
                .help(format!("write `{name} <source> <destination>`")))
        }
    }
}

fn build(
    command: &Command<'_>,
    name: &str,
    (words, destination): (Vec<Word>, Word),
    flags: &Flags<'_>,
) -> Result<CopyAdd, Fault> {
    let plain = !matches!(command.json(), Json::Strings(_));
    if plain && heredoc::is_single(&destination.value) {
        let message = format!("{name} cannot accept a heredoc as a destination");
        return Err(Fault::instruction(message)
            .at(destination.span)
            .help(format!(
                "write `{name} {} <destination>`",
                destination.value
            )));
    }
    let sources = words
        .into_iter()
        .map(|word| source(word, plain, &command.heredocs))
        .collect();
    Ok(CopyAdd {
        sources,
        destination,
        from: flags.filled("from"),
        chown: flags.filled("chown"),
        chmod: flags.filled("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        parents: flags.boolean("parents").unwrap_or(false),
        exclude: flags.list("exclude"),
        checksum: flags.filled("checksum"),
        keep_git_dir: flags.boolean("keep-git-dir"),
        unpack: flags.boolean("unpack"),
    })
}

/// Makes a source of a word. Heredocs are found by name, so that of two with the same name the last
/// one gives the content of both.
fn source(word: Word, plain: bool, heredocs: &[Heredoc]) -> CopySource {
    if !plain {
        return CopySource::Path(word);
    }
    let Ok(Some(found)) = heredoc::parse_word(&word.value) else {
        return CopySource::Path(word);
    };
    let body = heredocs
        .iter()
        .rev()
        .find(|heredoc| heredoc.name == found.name);
    let raw = body.map(|heredoc| heredoc.raw.clone()).unwrap_or_default();
    let content = if found.strip_tabs {
        heredoc::strip_tabs(&raw)
    } else {
        raw.clone()
    };
    CopySource::Heredoc(Heredoc {
        name: found.name,
        content,
        raw,
        expand: found.expand,
        strip_tabs: found.strip_tabs,
        descriptor: found.descriptor,
        span: word.span,
        body_span: body.map_or(word.span, |heredoc| heredoc.body_span),
    })
}
