//! The instructions, one by one: arguments to the typed form.
//!
//! The checks of one instruction come in the order in which the reference implementation makes them,
//! because the first one that fails is the error that is reported.

use crate::json::Json;
use crate::words::split_words;
use crate::{
    ArgItem, CommandForm, From, InstructionKind, KeyValues, Spanned, Word, parse_duration,
};

use super::command::{Command, FlagType, quoted, unknown_instruction};
use super::fault::{Fault, Phase};
use super::{copy, run};

/// Text of the error for JSON with other elements than strings.
const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// Reads a line as an instruction.
pub(crate) fn build(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    match command.name().as_str() {
        "FROM" => from(command),
        "ARG" => arg(command),
        "ENV" => Ok(InstructionKind::Env(key_values(command, "ENV")?)),
        "LABEL" => Ok(InstructionKind::Label(key_values(command, "LABEL")?)),
        "RUN" => run::run(command),
        "COPY" => Ok(InstructionKind::Copy(copy::copy(command)?)),
        "ADD" => Ok(InstructionKind::Add(copy::add(command)?)),
        "CMD" => Ok(InstructionKind::Cmd(flagless_form(command)?)),
        "ENTRYPOINT" => Ok(InstructionKind::Entrypoint(flagless_form(command)?)),
        "SHELL" => shell(command),
        "WORKDIR" => Ok(InstructionKind::Workdir(single(command, "WORKDIR")?)),
        "USER" => Ok(InstructionKind::User(single(command, "USER")?)),
        "EXPOSE" => expose(command),
        "VOLUME" => volume(command),
        "STOPSIGNAL" => {
            // Its flags are not looked at.
            let word = command
                .whole()
                .ok_or_else(|| exactly_one(command, "STOPSIGNAL"))?;
            Ok(InstructionKind::StopSignal(word))
        }
        "HEALTHCHECK" => healthcheck(command),
        "ONBUILD" => onbuild(command),
        "MAINTAINER" => Ok(InstructionKind::Maintainer(single(command, "MAINTAINER")?)),
        _ => {
            let keyword = &command.line.text()[command.keyword.clone()];
            Err(unknown_instruction(keyword).at(command.keyword_span()))
        }
    }
}

fn at_least_one(command: &Command<'_>, name: &str) -> Fault {
    Fault::instruction(format!("{name} requires at least one argument"))
        .at(command.arguments_span())
}

fn exactly_one(command: &Command<'_>, name: &str) -> Fault {
    Fault::instruction(format!("{name} requires exactly one argument")).at(command.arguments_span())
}

/// The whole rest of the line as one argument.
fn single(command: &Command<'_>, name: &str) -> Result<Word, Fault> {
    let word = command.whole().ok_or_else(|| exactly_one(command, name))?;
    command.check_flags(&[])?;
    Ok(word)
}

/// Shell or JSON form.
pub(crate) fn form(command: &Command<'_>) -> Result<CommandForm, Fault> {
    match command.json() {
        Json::Strings(strings) => Ok(CommandForm::Exec(
            strings.into_iter().map(|(value, _)| value).collect(),
        )),
        Json::NotStrings => Err(not_strings(command)),
        Json::Not => Ok(CommandForm::Shell(command.text().to_owned())),
    }
}

pub(crate) fn not_strings(command: &Command<'_>) -> Fault {
    Fault::shape(NOT_STRINGS)
        .at(command.arguments_span())
        .help("put every element in double quotes")
}

fn flagless_form(command: &Command<'_>) -> Result<CommandForm, Fault> {
    let form = form(command)?;
    command.check_flags(&[])?;
    Ok(form)
}

fn shell(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let form = flagless_form(command)?;
    match form {
        CommandForm::Exec(words) if !words.is_empty() => Ok(InstructionKind::Shell(words)),
        CommandForm::Shell(text) if !text.is_empty() => {
            let message = "SHELL requires the arguments to be in JSON form";
            let words: Vec<String> = text
                .split_whitespace()
                .map(|word| serde_json::json!(word).to_string())
                .collect();
            Err(Fault::instruction(message)
                .at(command.arguments_span())
                .help(format!("write `SHELL [{}]`", words.join(", "))))
        }
        CommandForm::Exec(_) | CommandForm::Shell(_) => Err(at_least_one(command, "SHELL")),
    }
}

fn from(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let mut words = command.words().into_iter();
    let (image, as_keyword, alias) = match (words.next(), words.next(), words.next(), words.next())
    {
        (Some(image), None, None, None) => (image, None, None),
        (Some(image), Some(keyword), Some(alias), None)
            if keyword.value.eq_ignore_ascii_case("as") =>
        {
            (image, Some(keyword), Some(alias))
        }
        _ => {
            return Err(
                Fault::instruction("FROM requires either one or three arguments")
                    .at(command.arguments_span())
                    .help("write `FROM <image>` or `FROM <image> AS <name>`"),
            );
        }
    };
    if let Some(alias) = &alias
        && !is_stage_name(&alias.value.to_lowercase())
    {
        let name = quoted(&alias.value);
        return Err(Fault::instruction(format!(
            "invalid name for build stage: {name}, name can't start with a number or contain symbols"
        ))
        .at(alias.span)
        .help("begin with a letter and go on with letters, digits, `-`, `_` and `.`"));
    }
    let flags = command.check_flags(&[("platform", FlagType::Text)])?;
    let platform = flags.filled("platform");
    Ok(InstructionKind::From(From {
        platform,
        image,
        alias,
        as_keyword,
    }))
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

fn arg(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    // Its flags are not looked at.
    let words = split_words(command.line.text(), command.rest.clone(), command.escape);
    if words.is_empty() {
        return Err(at_least_one(command, "ARG"));
    }
    let mut items = Vec::with_capacity(words.len());
    for range in words {
        let (name, default) = match split_pair(command, range.clone()) {
            Some((name, default)) => (name, Some(default)),
            None => (command.line.spanned(range), None),
        };
        if name.value.is_empty() {
            return Err(blank_name("ARG").at(default.map_or(name.span, |word| word.span)));
        }
        items.push(ArgItem { name, default });
    }
    Ok(InstructionKind::Arg(items))
}

fn blank_name(instruction: &str) -> Fault {
    Fault::instruction(format!("{instruction} names can not be blank"))
        .help("there must be a name before `=`, with no blank between them")
}

/// Splits a word at its first `=`.
fn split_pair(command: &Command<'_>, range: std::ops::Range<usize>) -> Option<(Word, Word)> {
    let equals = range.start + command.line.text()[range.clone()].find('=')?;
    let name = command.line.spanned(range.start..equals);
    Some((name, command.line.spanned(equals + 1..range.end)))
}

fn key_values(command: &Command<'_>, name: &str) -> Result<KeyValues, Fault> {
    let text = command.line.text();
    let words = split_words(text, command.rest.clone(), command.escape);
    let first_has_value = words
        .first()
        .is_some_and(|range| text[range.clone()].contains('='));
    let pairs = if words.is_empty() {
        Vec::new()
    } else if first_has_value {
        words
            .into_iter()
            .map(|range| pair(command, range, name))
            .collect::<Result<_, _>>()?
    } else {
        vec![legacy_pair(command, name)?]
    };
    command.check_flags(&[])?;
    if pairs.is_empty() {
        return Err(at_least_one(command, name));
    }
    if let Some((_, value)) = pairs.iter().find(|(key, _)| key.value.is_empty()) {
        return Err(blank_name(name).at(value.span));
    }
    Ok(KeyValues {
        pairs,
        legacy: !first_has_value,
    })
}

fn pair(
    command: &Command<'_>,
    range: std::ops::Range<usize>,
    name: &str,
) -> Result<(Word, Word), Fault> {
    split_pair(command, range.clone()).ok_or_else(|| {
        let word = quoted(&command.line.text()[range.clone()]);
        Fault::shape(format!(
            "Syntax error - can't find = in {word}. Must be of the form: name=value"
        ))
        .at(command.line.span(range))
        .help(format!(
            "put a value with blanks in double quotes: `{name} name=\"a b\"`"
        ))
    })
}

/// `ENV name value with blanks`
fn legacy_pair(command: &Command<'_>, name: &str) -> Result<(Word, Word), Fault> {
    let text = command.text();
    let Some(blank) = text.find(crate::text::is_blank) else {
        return Err(Fault::shape(format!("{name} must have two arguments"))
            .at(command.arguments_span())
            .help(format!("write `{name} {text}=<value>`")));
    };
    let value = text[blank..].trim_start_matches(crate::text::is_blank);
    let end = command.rest.end;
    let key = command
        .line
        .spanned(command.rest.start..command.rest.start + blank);
    Ok((key, command.line.spanned(end - value.len()..end)))
}

fn expose(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let words = command.words();
    if words.is_empty() {
        return Err(at_least_one(command, "EXPOSE"));
    }
    command.check_flags(&[])?;
    Ok(InstructionKind::Expose(words))
}

/// The arguments as a list, in JSON form or between blanks.
pub(crate) fn list(command: &Command<'_>) -> Result<Vec<Word>, Fault> {
    match command.json() {
        Json::Strings(strings) => Ok(strings
            .into_iter()
            .map(|(value, range)| Spanned::new(value, command.line.span(range)))
            .collect()),
        Json::NotStrings => Err(not_strings(command)),
        Json::Not => Ok(command.words()),
    }
}

fn volume(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let words = list(command)?;
    if words.is_empty() {
        return Err(at_least_one(command, "VOLUME"));
    }
    command.check_flags(&[])?;
    let words: Vec<Word> = words
        .into_iter()
        .map(|word| word.map(|text| text.trim().to_owned()))
        .collect();
    if let Some(empty) = words.iter().find(|word| word.value.is_empty()) {
        let message = "VOLUME specified can not be an empty string";
        return Err(Fault::instruction(message).at(empty.span));
    }
    Ok(InstructionKind::Volume(words))
}

fn onbuild(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    // The shape of the innermost instruction counts, however many ONBUILDs stand before it.
    let mut inner = command.trigger();
    while inner.name() == "ONBUILD" && !inner.rest.is_empty() {
        inner = inner.trigger();
    }
    if inner.name() != "ONBUILD"
        && let Err(fault) = build(&inner)
        && fault.phase == Phase::Shape
    {
        return Err(fault);
    }
    if command.rest.is_empty() {
        return Err(at_least_one(command, "ONBUILD"));
    }
    command.check_flags(&[])?;
    let trigger = command.trigger();
    let span = trigger.keyword_span();
    match trigger.name().as_str() {
        "ONBUILD" => {
            let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
            return Err(Fault::instruction(message).at(span));
        }
        name @ ("MAINTAINER" | "FROM") => {
            let message = format!("{name} isn't allowed as an ONBUILD trigger");
            return Err(Fault::instruction(message).at(span));
        }
        _ => {}
    }
    // Blanks at the end are kept, as the reference implementation keeps them.
    let start = command.rest.start;
    let text = crate::heredoc::with_bodies(&command.line.text()[start..], &command.heredocs);
    Ok(InstructionKind::Onbuild(Spanned::new(
        text,
        command.arguments_span(),
    )))
}

fn healthcheck(command: &Command<'_>) -> Result<InstructionKind, Fault> {
    let text = command.text();
    let length = text.find(char::is_whitespace).unwrap_or(text.len());
    let rest_start = command.rest.end - text[length..].trim_start().len();
    let test = Command {
        line: command.line,
        escape: command.escape,
        keyword: command.rest.start..command.rest.start + length,
        flags: Vec::new(),
        rest: rest_start..command.rest.end,
        heredocs: Vec::new(),
    };
    let test_form = form(&test)?;
    if text.is_empty() {
        return Err(at_least_one(command, "HEALTHCHECK"));
    }
    let kind = text[..length].to_uppercase();
    if kind == "NONE" {
        let extra = match &test_form {
            CommandForm::Shell(text) => !text.is_empty(),
            CommandForm::Exec(words) => !words.is_empty(),
        };
        if extra {
            let message = "HEALTHCHECK NONE takes no arguments";
            return Err(Fault::instruction(message).at(test.arguments_span()));
        }
        return Ok(InstructionKind::Healthcheck(crate::Healthcheck::None));
    }
    healthcheck_command(command, &test, &kind, test_form)
}

fn healthcheck_command(
    command: &Command<'_>,
    test: &Command<'_>,
    kind: &str,
    form: CommandForm,
) -> Result<InstructionKind, Fault> {
    let flags = command.check_flags(&[
        ("interval", FlagType::Text),
        ("timeout", FlagType::Text),
        ("start-period", FlagType::Text),
        ("start-interval", FlagType::Text),
        ("retries", FlagType::Text),
    ])?;
    if kind != "CMD" {
        let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quoted(kind));
        return Err(Fault::instruction(message).at(test.keyword_span()));
    }
    let empty = match &form {
        CommandForm::Shell(text) => text.is_empty(),
        CommandForm::Exec(words) => words.is_empty(),
    };
    if empty {
        let message = "Missing command after HEALTHCHECK CMD";
        return Err(Fault::instruction(message).at(test.arguments_span()));
    }
    let interval_ns = interval(flags.filled("interval"), "interval")?;
    let timeout_ns = interval(flags.filled("timeout"), "timeout")?;
    let start_period_ns = interval(flags.filled("start-period"), "start-period")?;
    let start_interval_ns = interval(flags.filled("start-interval"), "start-interval")?;
    let retries = flags
        .filled("retries")
        .map(|word| retries(&word))
        .transpose()?;
    Ok(InstructionKind::Healthcheck(crate::Healthcheck::Command {
        test: form,
        interval_ns,
        timeout_ns,
        start_period_ns,
        start_interval_ns,
        retries,
    }))
}

/// Shortest interval of a health check, in nanoseconds; 0 means the default.
const SHORTEST_INTERVAL: i64 = 1_000_000;

fn interval(word: Option<Word>, name: &str) -> Result<Option<i64>, Fault> {
    let Some(word) = word else { return Ok(None) };
    let ns = parse_duration(&word.value).map_err(|message| {
        Fault::instruction(message)
            .at(word.span)
            .help("durations look like `30s`, `1m30s`, `500ms`")
    })?;
    if ns != 0 && ns < SHORTEST_INTERVAL {
        let message = format!("Interval {} cannot be less than 1ms", quoted(name));
        return Err(Fault::instruction(message).at(word.span));
    }
    Ok(Some(ns))
}

fn retries(word: &Word) -> Result<i64, Fault> {
    let number = word.value.parse::<i32>().map_err(|error| {
        let reason = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                "value out of range"
            }
            _ => "invalid syntax",
        };
        let value = quoted(&word.value);
        Fault::instruction(format!("strconv.ParseInt: parsing {value}: {reason}")).at(word.span)
    })?;
    if number < 0 {
        let message = format!("--retries cannot be negative ({number})");
        return Err(Fault::instruction(message).at(word.span));
    }
    Ok(i64::from(number))
}
