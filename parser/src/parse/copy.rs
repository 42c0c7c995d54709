//! `COPY` and `ADD`

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

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
    let bodies = Bodies::new(&command.heredocs);
    let sources = words
        .into_iter()
        .map(|word| {
            if plain {
                bodies.source(word)
            } else {
                CopySource::Path(word)
            }
        })
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

/// The bodies of an instruction by name. Of two with the same name the last one gives the content of
/// both.
struct Bodies<'a> {
    by_name: HashMap<&'a str, Body<'a>>,
}

struct Body<'a> {
    heredoc: &'a Heredoc,
    /// Without leading tabs, made when first asked for.
    stripped: OnceCell<Arc<str>>,
}

impl<'a> Bodies<'a> {
    fn new(heredocs: &'a [Heredoc]) -> Self {
        let by_name = heredocs.iter().map(|heredoc| {
            let stripped = OnceCell::new();
            (heredoc.name.as_str(), Body { heredoc, stripped })
        });
        Self {
            by_name: by_name.collect(),
        }
    }

    /// Makes a source of a word.
    fn source(&self, word: Word) -> CopySource {
        let Ok(Some(found)) = heredoc::parse_word(&word.value) else {
            return CopySource::Path(word);
        };
        let body = self.by_name.get(found.name.as_str());
        let raw: Arc<str> = body.map_or_else(|| "".into(), |body| Arc::clone(&body.heredoc.raw));
        let content = match body {
            Some(body) if found.strip_tabs => {
                let stripped = body
                    .stripped
                    .get_or_init(|| heredoc::strip_tabs(&body.heredoc.raw).into());
                Arc::clone(stripped)
            }
            _ => Arc::clone(&raw),
        };
        CopySource::Heredoc(Heredoc {
            name: found.name,
            content,
            raw,
            expand: found.expand,
            strip_tabs: found.strip_tabs,
            descriptor: found.descriptor,
            span: word.span,
            body_span: body.map_or(word.span, |body| body.heredoc.body_span),
        })
    }
}
