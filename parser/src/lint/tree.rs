//! The checks that need the tree only.

use std::collections::HashSet;

use super::rules::{self, at, finding};
use super::{CheckConfig, LintFinding, RULES};
use crate::{
    CopyAdd, CopySource, Dockerfile, Instruction, InstructionKind, LineRange, Run, Span, Stage,
    closest, parse_mount, parse_trigger,
};

/// Names that mean something else in `FROM` and `--from`.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// Runs all checks; the findings come in the order in which `BuildKit` reports them, our own last.
pub(super) fn check(
    dockerfile: &Dockerfile,
    blank_lines: &[(LineRange, Span)],
    source: &[u8],
) -> Vec<LintFinding> {
    let mut findings: Vec<LintFinding> = blank_lines
        .iter()
        .map(|(lines, span)| {
            let rule = &rules::NO_EMPTY_CONTINUATION;
            at(rule, *lines, *span, "Empty continuation line").helped("remove the blank line")
        })
        .collect();
    for instruction in dockerfile.instructions() {
        instruction_checks(instruction, &mut findings);
    }
    stage_names(&dockerfile.stages, &mut findings);
    casing(&dockerfile.stages, &mut findings);
    own_checks(dockerfile, &mut findings);
    findings.extend(
        dockerfile
            .instructions()
            .filter_map(|instruction| invalid_utf8(instruction, source)),
    );
    findings
}

fn instruction_checks(instruction: &Instruction, findings: &mut Vec<LintFinding>) {
    match &instruction.kind {
        InstructionKind::From(from) => {
            if let Some(alias) = &from.alias
                && alias.value != alias.value.to_lowercase()
            {
                let message = format!("Stage name '{}' should be lowercase", alias.value);
                findings.push(
                    finding(&rules::STAGE_NAME_CASING, instruction, message)
                        .narrowed(Some(alias.span)),
                );
            }
            findings.extend(from_as_casing(instruction, from));
        }
        InstructionKind::Maintainer(name) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            let help = format!(
                "write `LABEL org.opencontainers.image.authors=\"{}\"`",
                name.value
            );
            findings
                .push(finding(&rules::MAINTAINER_DEPRECATED, instruction, message).helped(&help));
        }
        _ => {}
    }
    findings.extend(rules::invalid_definition_description(instruction));
}

fn from_as_casing(instruction: &Instruction, from: &crate::From) -> Option<LintFinding> {
    let keyword = from.as_keyword.as_ref()?;
    let written = &instruction.keyword.value;
    let expected = if *written == written.to_lowercase() {
        "as"
    } else if *written == written.to_uppercase() {
        "AS"
    } else {
        // Mixed case is reported for the instruction itself.
        return None;
    };
    if keyword.value == expected {
        return None;
    }
    let message = format!(
        "'{}' and '{written}' keywords' casing do not match",
        keyword.value
    );
    Some(
        finding(&rules::FROM_AS_CASING, instruction, message)
            .narrowed(Some(keyword.span))
            .helped(&format!("write `{expected}`")),
    )
}

fn stage_names(stages: &[Stage], findings: &mut Vec<LintFinding>) {
    let mut names = HashSet::new();
    for stage in stages {
        let Some(name) = stage.name.as_deref() else {
            continue;
        };
        let span = stage.base().alias.as_ref().map(|alias| alias.span);
        if RESERVED.contains(&name) {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{name}\"");
            findings
                .push(finding(&rules::RESERVED_STAGE_NAME, &stage.from, message).narrowed(span));
        }
        if !names.insert(name) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            findings
                .push(finding(&rules::DUPLICATE_STAGE_NAME, &stage.from, message).narrowed(span));
        }
    }
}

/// Iterates over the instructions whose case is compared: all but the global `ARG`s.
pub(crate) fn cased(stages: &[Stage]) -> impl Iterator<Item = &Instruction> {
    stages
        .iter()
        .flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions))
}

/// Tells whether most instructions are in lower case; mixed case does not count.
pub(crate) fn majority_is_lower(stages: &[Stage]) -> bool {
    let (mut lower, mut upper) = (0_usize, 0_usize);
    for instruction in cased(stages) {
        let word = &instruction.keyword.value;
        if *word == word.to_lowercase() {
            lower += 1;
        } else if *word == word.to_uppercase() {
            upper += 1;
        }
    }
    lower > upper
}

fn casing(stages: &[Stage], findings: &mut Vec<LintFinding>) {
    let lower = majority_is_lower(stages);
    let name = if lower { "lowercase" } else { "uppercase" };
    for instruction in cased(stages) {
        let word = &instruction.keyword.value;
        let expected = if lower {
            word.to_lowercase()
        } else {
            word.to_uppercase()
        };
        if *word != expected {
            let message =
                format!("Command '{word}' should match the case of the command majority ({name})");
            findings.push(
                finding(&rules::CONSISTENT_INSTRUCTION_CASING, instruction, message)
                    .narrowed(Some(instruction.keyword.span))
                    .helped(&format!("write `{expected}`")),
            );
        }
    }
}

/// Checks that `BuildKit` does not have: what it does silently and nobody wants.
fn own_checks(dockerfile: &Dockerfile, findings: &mut Vec<LintFinding>) {
    let mut names: HashSet<&str> = HashSet::new();
    for stage in &dockerfile.stages {
        findings.extend(stage_reference(stage, &names));
        names.extend(stage.name.as_deref());
    }
    for instruction in dockerfile.instructions() {
        match &instruction.kind {
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
                findings.extend(copy_destination(instruction, copy));
                findings.extend(heredoc_names(instruction, copy));
            }
            InstructionKind::Run(run) => findings.extend(mount_targets(instruction, run)),
            InstructionKind::Onbuild(trigger) => {
                if let Err(error) = parse_trigger(&trigger.value, '\\') {
                    let message =
                        format!("The trigger fails in every child image: {}", error.message);
                    findings.push(
                        finding(&rules::INVALID_TRIGGER, instruction, message)
                            .narrowed(Some(trigger.span)),
                    );
                }
            }
            _ => {}
        }
        findings.extend(ignored_flag(instruction));
        check_comments(instruction, findings);
    }
    if let Some(check) = &dockerfile.check
        && let Ok(config) = CheckConfig::parse(&check.value)
    {
        let line = dockerfile
            .directives
            .iter()
            .find(|known| known.value.span == check.span);
        let lines = line.map(|known| LineRange::new(known.line, known.line));
        unknown_rules(&config, lines.unwrap_or_default(), check.span, findings);
    }
}

/// `FROM FOO` does not find the stage `foo`, but `COPY --from=FOO` does.
fn stage_reference(stage: &Stage, names: &HashSet<&str>) -> Option<LintFinding> {
    let image = &stage.base().image;
    let lower = image.value.to_lowercase();
    if lower == image.value || !names.contains(lower.as_str()) {
        return None;
    }
    let message = format!(
        "FROM {} does not name the stage {lower} but an image",
        image.value
    );
    Some(
        finding(&rules::STAGE_NAME_REFERENCE, &stage.from, message)
            .narrowed(Some(image.span))
            .helped(&format!("write `FROM {lower}`")),
    )
}

/// Several files copied to one name overwrite each other. Directories are merged, so that only
/// sources that are surely files count: heredocs.
fn copy_destination(instruction: &Instruction, copy: &CopyAdd) -> Option<LintFinding> {
    let text = &copy.destination.value;
    let is_directory =
        text.ends_with('/') || text.ends_with("/.") || matches!(text.as_str(), "." | "..");
    let files = copy
        .sources
        .iter()
        .filter(|source| matches!(source, CopySource::Heredoc(_)))
        .count();
    if is_directory || copy.parents || copy.sources.len() < 2 || files < 2 || text.contains('$') {
        return None;
    }
    let message = format!("All sources are written to the one file {text} if it is no directory");
    Some(
        finding(&rules::COPY_DESTINATION, instruction, message)
            .narrowed(Some(copy.destination.span))
            .helped(&format!("write `{text}/` for a directory")),
    )
}

fn heredoc_names(instruction: &Instruction, copy: &CopyAdd) -> Vec<LintFinding> {
    let mut seen = HashSet::new();
    let mut findings = Vec::new();
    for source in &copy.sources {
        if let CopySource::Heredoc(heredoc) = source
            && !seen.insert(&heredoc.name)
        {
            let message = format!(
                "Two heredocs are named {}: the content of the last one is used for both",
                heredoc.name
            );
            findings.push(
                finding(&rules::DUPLICATE_HEREDOC_NAME, instruction, message)
                    .narrowed(Some(heredoc.span)),
            );
        }
    }
    findings
}

fn mount_targets(instruction: &Instruction, run: &Run) -> Vec<LintFinding> {
    let mut seen = HashSet::new();
    let mut findings = Vec::new();
    for word in run.mounts.iter().filter(|word| !word.value.contains('$')) {
        let Ok(mount) = parse_mount(&word.value) else {
            continue;
        };
        let Some(target) = mount.target else { continue };
        if !seen.insert(target.clone()) {
            let message = format!("Two mounts have the target {target}: only the last one is seen");
            findings.push(
                finding(&rules::DUPLICATE_MOUNT_TARGET, instruction, message)
                    .narrowed(Some(word.span)),
            );
        }
    }
    findings
}

/// `ARG`, `STOPSIGNAL` and `HEALTHCHECK NONE` take any flag and do nothing with it.
fn ignored_flag(instruction: &Instruction) -> Option<LintFinding> {
    let ignoring = matches!(
        instruction.kind,
        InstructionKind::Arg(_)
            | InstructionKind::StopSignal(_)
            | InstructionKind::Healthcheck(crate::Healthcheck::None)
    );
    let flag = instruction.flags.first().filter(|_| ignoring)?;
    let message = format!("The flag --{} has no effect here", flag.value.name);
    Some(finding(&rules::IGNORED_FLAG, instruction, message).narrowed(Some(flag.span)))
}

/// What is not UTF-8 does not reach the image as it is written.
fn invalid_utf8(instruction: &Instruction, source: &[u8]) -> Option<LintFinding> {
    let Span { start, end } = instruction.span;
    let text = source.get(start..end)?;
    let error = std::str::from_utf8(text).err()?;
    let place = start + error.valid_up_to();
    let length = error
        .error_len()
        .unwrap_or(text.len() - error.valid_up_to());
    let message = format!(
        "The byte 0x{:02x} is not UTF-8 text: U+FFFD is put in its place",
        source[place]
    );
    Some(
        finding(&rules::INVALID_UTF8, instruction, message)
            .narrowed(Some(Span::new(place, place + length)))
            .helped("save the file as UTF-8"),
    )
}

fn check_comments(instruction: &Instruction, findings: &mut Vec<LintFinding>) {
    for comment in &instruction.comments {
        if let Some(Ok(config)) = CheckConfig::from_comment(&comment.value) {
            unknown_rules(&config, instruction.lines, comment.span, findings);
        }
    }
}

fn unknown_rules(
    config: &CheckConfig,
    lines: LineRange,
    span: Span,
    findings: &mut Vec<LintFinding>,
) {
    for name in config.skip.iter().chain(&config.experimental) {
        if name.is_empty() || RULES.iter().any(|rule| rule.name == name) {
            continue;
        }
        let message = format!("There is no rule named {name}");
        let mut finding = at(&rules::UNKNOWN_CHECK_RULE, lines, span, message);
        finding.help = closest(name, RULES.iter().map(|rule| rule.name))
            .map(|known| format!("did you mean `{known}`?"));
        findings.push(finding);
    }
}
