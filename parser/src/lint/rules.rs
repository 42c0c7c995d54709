//! The rules, and constructors for findings that need more than the tree.

use super::{LintFinding, Rule};
use crate::{Instruction, InstructionKind, Platform, PortSpec, Stage};

const fn buildkit(name: &'static str, description: &'static str, url: &'static str) -> Rule {
    Rule {
        name,
        description,
        url,
        experimental: false,
    }
}

/// Variables should be defined before their use.
pub static UNDEFINED_VAR: Rule = buildkit(
    "UndefinedVar",
    "Variables should be defined before their use",
    "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
);

/// All rules.
pub static RULES: &[&Rule] = &[&UNDEFINED_VAR];

fn finding(rule: &'static Rule, instruction: &Instruction, message: String) -> LintFinding {
    LintFinding {
        rule,
        message,
        lines: instruction.lines,
        span: instruction.span,
        help: None,
    }
}

/// `UndefinedVar`: an unset variable is used. `known` are the names that could have been meant.
pub fn undefined_var(
    instruction: &Instruction,
    name: &str,
    known: &mut dyn Iterator<Item = &str>,
) -> LintFinding {
    let _ = known.count();
    finding(
        &UNDEFINED_VAR,
        instruction,
        format!("Usage of undefined variable '${name}'"),
    )
}

/// `UndefinedArgInFrom`: a `FROM` uses a variable that no `ARG` declares.
pub fn undefined_arg_in_from(
    instruction: &Instruction,
    name: &str,
    known: &mut dyn Iterator<Item = &str>,
) -> LintFinding {
    undefined_var(instruction, name, known)
}

/// `InvalidDefaultArgInFrom`: the base is empty or invalid with default values only.
pub fn invalid_default_arg_in_from(instruction: &Instruction, image: &str) -> LintFinding {
    finding(&UNDEFINED_VAR, instruction, image.to_owned())
}

/// `WorkdirRelativePath`: the first `WORKDIR` of a chain of stages is relative.
pub fn workdir_relative_path(instruction: &Instruction, path: &str) -> LintFinding {
    finding(&UNDEFINED_VAR, instruction, path.to_owned())
}

/// `SecretsUsedInArgOrEnv`: the name of an `ARG` or `ENV` sounds like a secret.
pub fn secrets_used(_instruction: &Instruction, _name: &str) -> Option<LintFinding> {
    None
}

/// `ExposeProtoCasing` and `ExposeInvalidFormat` for one expanded word of `EXPOSE`.
pub fn expose(_instruction: &Instruction, _port: &PortSpec, _word: &str) -> Vec<LintFinding> {
    Vec::new()
}

/// `CopyIgnoredFile`: a source is excluded by the ignore file.
pub fn copy_ignored_file(instruction: &Instruction, path: &str) -> LintFinding {
    finding(&UNDEFINED_VAR, instruction, path.to_owned())
}

/// `JSONArgsRecommended`: a `CMD` or `ENTRYPOINT` in shell form while no `SHELL` was set.
pub fn json_args_recommended(instruction: &Instruction, shell_set: bool) -> Option<LintFinding> {
    let _ = (
        matches!(instruction.kind, InstructionKind::Cmd(_)),
        shell_set,
    );
    None
}

/// `MultipleInstructionsDisallowed`: `earlier` has no effect because `name` comes again.
pub fn multiple_instructions(earlier: &Instruction, name: &str) -> LintFinding {
    finding(&UNDEFINED_VAR, earlier, name.to_owned())
}

/// `RedundantTargetPlatform`: `FROM --platform=$TARGETPLATFORM`.
pub fn redundant_target_platform(_stage: &Stage) -> Option<LintFinding> {
    None
}

/// `FromPlatformFlagConstDisallowed`: `--platform` is a constant.
pub fn from_platform_const(_stage: &Stage) -> Option<LintFinding> {
    None
}

/// `InvalidBaseImagePlatform`: the base image is for another platform.
pub fn invalid_base_image_platform(
    instruction: &Instruction,
    image: &str,
    expected: &Platform,
    actual: &Platform,
) -> LintFinding {
    finding(
        &UNDEFINED_VAR,
        instruction,
        format!("{image} {expected} {actual}"),
    )
}

/// `LegacyKeyValueFormat`: `ENV name value`.
pub fn legacy_key_value(_instruction: &Instruction) -> Option<LintFinding> {
    None
}

/// `InvalidDefinitionDescription`: a description comment does not begin with the name.
pub fn invalid_definition_description(_instruction: &Instruction) -> Option<LintFinding> {
    None
}
