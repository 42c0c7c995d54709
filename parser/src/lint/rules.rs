//! The rules, and constructors for the findings that need more than the tree.
//!
//! What [`parse`](crate::parse) finds itself, in `Parsed::lint`: `NoEmptyContinuation`,
//! `StageNameCasing`, `FromAsCasing`, `InvalidDefinitionDescription`, `MaintainerDeprecated`,
//! `ReservedStageName`, `DuplicateStageName`, `ConsistentInstructionCasing`, and the rules of our own
//! that begin with `rbuild/`. All others are made by the caller through the functions here, while it
//! goes through the stages that it builds, since they depend on values or on what is built.

use super::{LintFinding, Rule};
use crate::expand::{Variables, expand};
use crate::text::quote;
use crate::{
    CommandForm, Instruction, InstructionKind, LineRange, Platform, PortSpec, Span, Stage,
    closest_same_case,
};

macro_rules! rules {
    ($($(#[$meta:meta])* $id:ident = $name:literal, $description:literal, $page:literal, $experimental:literal;)*) => {
        $($(#[$meta])* pub static $id: Rule = Rule {
            name: $name,
            description: $description,
            url: $page,
            experimental: $experimental,
        };)*

        /// All rules: those of `BuildKit` in its order, then our own.
        pub static RULES: &[&Rule] = &[$(&$id),*];
    };
}

rules! {
    /// `StageNameCasing`
    STAGE_NAME_CASING = "StageNameCasing",
        "Stage names should be lowercase",
        "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/", false;
    /// `FromAsCasing`
    FROM_AS_CASING = "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
        "https://docs.docker.com/go/dockerfile/rule/from-as-casing/", false;
    /// `NoEmptyContinuation`
    NO_EMPTY_CONTINUATION = "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
        "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/", false;
    /// `ConsistentInstructionCasing`
    CONSISTENT_INSTRUCTION_CASING = "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/", false;
    /// `DuplicateStageName`
    DUPLICATE_STAGE_NAME = "DuplicateStageName",
        "Stage names should be unique",
        "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/", false;
    /// `ReservedStageName`
    RESERVED_STAGE_NAME = "ReservedStageName",
        "Reserved words should not be used as stage names",
        "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/", false;
    /// `JSONArgsRecommended`
    JSON_ARGS_RECOMMENDED = "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/", false;
    /// `MaintainerDeprecated`
    MAINTAINER_DEPRECATED = "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/", false;
    /// `UndefinedArgInFrom`
    UNDEFINED_ARG_IN_FROM = "UndefinedArgInFrom",
        "FROM command must use declared ARGs",
        "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/", false;
    /// `WorkdirRelativePath`
    WORKDIR_RELATIVE_PATH = "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
        "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/", false;
    /// `UndefinedVar`
    UNDEFINED_VAR = "UndefinedVar",
        "Variables should be defined before their use",
        "https://docs.docker.com/go/dockerfile/rule/undefined-var/", false;
    /// `MultipleInstructionsDisallowed`
    MULTIPLE_INSTRUCTIONS_DISALLOWED = "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/", false;
    /// `LegacyKeyValueFormat`
    LEGACY_KEY_VALUE_FORMAT = "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
        "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/", false;
    /// `InvalidBaseImagePlatform`
    INVALID_BASE_IMAGE_PLATFORM = "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform", "", false;
    /// `RedundantTargetPlatform`
    REDUNDANT_TARGET_PLATFORM = "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/", false;
    /// `SecretsUsedInArgOrEnv`
    SECRETS_USED_IN_ARG_OR_ENV = "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
        "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/", false;
    /// `InvalidDefaultArgInFrom`
    INVALID_DEFAULT_ARG_IN_FROM = "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
        "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/", false;
    /// `FromPlatformFlagConstDisallowed`
    FROM_PLATFORM_FLAG_CONST_DISALLOWED = "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
        "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/", false;
    /// `CopyIgnoredFile`
    COPY_IGNORED_FILE = "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
        "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/", false;
    /// `InvalidDefinitionDescription`
    INVALID_DEFINITION_DESCRIPTION = "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/", true;
    /// `ExposeProtoCasing`
    EXPOSE_PROTO_CASING = "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
        "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/", false;
    /// `ExposeInvalidFormat`
    EXPOSE_INVALID_FORMAT = "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
        "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/", false;
    /// `rbuild/CopyDestination`
    COPY_DESTINATION = "rbuild/CopyDestination",
        "A destination for several sources should end with a slash, or each file replaces the one before", "", false;
    /// `rbuild/UnknownOwner`
    UNKNOWN_OWNER = "rbuild/UnknownOwner",
        "Owners should exist in the stage that files are copied to", "", false;
    /// `rbuild/WildcardWithoutMatch`
    WILDCARD_WITHOUT_MATCH = "rbuild/WildcardWithoutMatch",
        "Wildcards should match at least one file", "", false;
    /// `rbuild/StageNameReference`
    STAGE_NAME_REFERENCE = "rbuild/StageNameReference",
        "FROM compares stage names with regard to case", "", false;
    /// `rbuild/IgnoredFlag`
    IGNORED_FLAG = "rbuild/IgnoredFlag",
        "A flag that the instruction does not have should not be given", "", false;
    /// `rbuild/DuplicateMountTarget`
    DUPLICATE_MOUNT_TARGET = "rbuild/DuplicateMountTarget",
        "Mounts of one instruction should have different targets", "", false;
    /// `rbuild/DuplicateHeredocName`
    DUPLICATE_HEREDOC_NAME = "rbuild/DuplicateHeredocName",
        "Heredocs of one COPY or ADD should have different names", "", false;
    /// `rbuild/InvalidTrigger`
    INVALID_TRIGGER = "rbuild/InvalidTrigger",
        "An ONBUILD trigger should be a valid instruction", "", false;
    /// `rbuild/InvalidUtf8`
    INVALID_UTF8 = "rbuild/InvalidUtf8",
        "Instructions should be UTF-8 text: other bytes are replaced", "", false;
    /// `rbuild/UnknownCheckRule`
    UNKNOWN_CHECK_RULE = "rbuild/UnknownCheckRule",
        "Names of rules in check directives should exist", "", false;
}

impl Rule {
    /// Tells whether the rule is our own. Such findings never fail a build that `BuildKit` accepts.
    pub fn is_own(&self) -> bool {
        self.name.starts_with("rbuild/")
    }
}

/// Makes a finding about a whole instruction.
pub(super) fn finding(
    rule: &'static Rule,
    instruction: &Instruction,
    message: impl Into<String>,
) -> LintFinding {
    at(rule, instruction.lines, instruction.span, message)
}

pub(super) fn at(
    rule: &'static Rule,
    lines: LineRange,
    span: Span,
    message: impl Into<String>,
) -> LintFinding {
    LintFinding {
        rule,
        message: message.into(),
        lines,
        span,
        help: None,
    }
}

/// `UndefinedVar`: an unset variable is used. `known` are the names that could have been meant.
pub fn undefined_var(
    instruction: &Instruction,
    name: &str,
    known: &mut dyn Iterator<Item = &str>,
) -> LintFinding {
    let suggestion = suggestion(name, known, "$");
    let message = format!("Usage of undefined variable '${name}'{suggestion}");
    finding(&UNDEFINED_VAR, instruction, message).narrowed(variable_span(instruction, name))
}

fn suggestion(name: &str, known: &mut dyn Iterator<Item = &str>, sign: &str) -> String {
    let known: Vec<String> = known.map(str::to_owned).collect();
    closest_same_case(name, known.iter().map(String::as_str))
        .map(|name| format!(" (did you mean {sign}{name}?)"))
        .unwrap_or_default()
}

/// Finds the first use of a variable in an instruction that stands on one line.
fn variable_span(instruction: &Instruction, name: &str) -> Option<Span> {
    if instruction.lines.first != instruction.lines.last {
        return None;
    }
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let positions = instruction
        .text
        .match_indices('$')
        .filter_map(|(position, _)| {
            let rest = &instruction.text[position + 1..];
            let (braced, rest) = rest.strip_prefix('{').map_or((0, rest), |rest| (1, rest));
            let after = rest.strip_prefix(name)?;
            ends(after).then_some((position, position + 1 + braced + name.len()))
        });
    let (start, end) = positions.into_iter().next()?;
    // The text of such an instruction is one piece of the source.
    let base = instruction.keyword.span.start;
    let keyword = instruction.text.find(&instruction.keyword.value)?;
    Some(Span::new(base + start - keyword, base + end - keyword))
}

/// `UndefinedArgInFrom`: a `FROM` uses a variable that no `ARG` declares.
pub fn undefined_arg_in_from(
    instruction: &Instruction,
    name: &str,
    known: &mut dyn Iterator<Item = &str>,
) -> LintFinding {
    let suggestion = suggestion(name, known, "");
    let message = format!("FROM argument '{name}' is not declared{suggestion}");
    let mut finding = finding(&UNDEFINED_ARG_IN_FROM, instruction, message)
        .narrowed(variable_span(instruction, name));
    finding.help = Some(format!(
        "declare it before the first FROM: `ARG {name}=<default>`"
    ));
    finding
}

/// `InvalidDefaultArgInFrom`: the base is empty or invalid with default values only. `image` is the
/// unexpanded name.
pub fn invalid_default_arg_in_from(instruction: &Instruction, image: &str) -> LintFinding {
    let message =
        format!("Default value for ARG {image} results in empty or invalid base image name");
    finding(&INVALID_DEFAULT_ARG_IN_FROM, instruction, message)
}

/// `WorkdirRelativePath`: the first `WORKDIR` of a chain of stages is relative.
pub fn workdir_relative_path(instruction: &Instruction, path: &str) -> LintFinding {
    let path = quote(path);
    let message =
        format!("Relative workdir {path} can have unexpected results if the base image changes");
    finding(&WORKDIR_RELATIVE_PATH, instruction, message)
}

/// Words that a secret is called by.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that tell that it is none.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// `SecretsUsedInArgOrEnv`: the name of an `ARG` or `ENV` sounds like a secret.
pub fn secrets_used(instruction: &Instruction, name: &str) -> Option<LintFinding> {
    let has = |words: &[&str]| {
        name.split('_')
            .any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
    };
    if !has(&SECRET_WORDS) || has(&PUBLIC_WORDS) {
        return None;
    }
    let kind = instruction.kind.name();
    let message = format!(
        "Do not use ARG or ENV instructions for sensitive data ({kind} {})",
        quote(name)
    );
    let mut finding = finding(&SECRETS_USED_IN_ARG_OR_ENV, instruction, message);
    finding.help =
        Some("give it to the RUN that needs it: `RUN --mount=type=secret,id=…`".to_owned());
    Some(finding)
}

/// `ExposeProtoCasing` and `ExposeInvalidFormat` for one expanded word of `EXPOSE`.
pub fn expose(instruction: &Instruction, port: &PortSpec, word: &str) -> Vec<LintFinding> {
    let mut findings = Vec::new();
    if port.protocol_not_lowercase {
        let message =
            format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
        findings.push(finding(&EXPOSE_PROTO_CASING, instruction, message));
    }
    if port.had_host_part {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
        );
        findings.push(finding(&EXPOSE_INVALID_FORMAT, instruction, message));
    }
    findings
}

/// `CopyIgnoredFile`: a source is excluded by the ignore file.
pub fn copy_ignored_file(instruction: &Instruction, path: &str) -> LintFinding {
    let verb = if matches!(instruction.kind, InstructionKind::Add(_)) {
        "Add"
    } else {
        "Copy"
    };
    let path = quote(path);
    let message = format!("Attempting to {verb} file {path} that is excluded by .dockerignore");
    finding(&COPY_IGNORED_FILE, instruction, message)
}

/// `JSONArgsRecommended`: a `CMD` or `ENTRYPOINT` in shell form while no `SHELL` was set, neither in
/// the stage nor in what it is based on.
pub fn json_args_recommended(instruction: &Instruction, shell_set: bool) -> Option<LintFinding> {
    let (InstructionKind::Cmd(form) | InstructionKind::Entrypoint(form)) = &instruction.kind else {
        return None;
    };
    if shell_set || matches!(form, CommandForm::Exec(_)) {
        return None;
    }
    let name = &instruction.keyword.value;
    let message = format!(
        "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
    );
    Some(finding(&JSON_ARGS_RECOMMENDED, instruction, message))
}

/// `MultipleInstructionsDisallowed`: `earlier` has no effect because a `CMD`, `ENTRYPOINT` or
/// `HEALTHCHECK` comes again in the stage. `name` is the word of the later one as written.
pub fn multiple_instructions(earlier: &Instruction, name: &str) -> LintFinding {
    let message = format!(
        "Multiple {name} instructions should not be used in the same stage because only the last one \
         will be used"
    );
    finding(&MULTIPLE_INSTRUCTIONS_DISALLOWED, earlier, message)
}

/// Gives one variable a value that nothing else has, and takes note of what is asked for.
struct Probe {
    asked: std::cell::RefCell<Vec<String>>,
}

const PROBE: &str = "\u{1}";

impl Variables for Probe {
    fn get(&self, name: &str) -> Option<&str> {
        self.asked.borrow_mut().push(name.to_owned());
        (name == "TARGETPLATFORM").then_some(PROBE)
    }
}

/// Expands a stage's `--platform`; returns the value and the variables asked for.
fn probe(stage: &Stage) -> Option<(String, Vec<String>, &str)> {
    let platform = stage.base().platform.as_ref()?;
    let probe = Probe {
        asked: std::cell::RefCell::default(),
    };
    // The escape character hardly matters in a platform.
    let value = expand(&platform.value, '\\', &probe).ok()?.value;
    Some((value, probe.asked.into_inner(), &platform.value))
}

/// `RedundantTargetPlatform`: `FROM --platform=$TARGETPLATFORM`.
pub fn redundant_target_platform(stage: &Stage) -> Option<LintFinding> {
    let (value, asked, written) = probe(stage)?;
    if value != PROBE || asked != ["TARGETPLATFORM"] {
        return None;
    }
    let message = format!(
        "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
    );
    Some(finding(&REDUNDANT_TARGET_PLATFORM, &stage.from, message))
}

/// `FromPlatformFlagConstDisallowed`: `--platform` is a constant, and the stage is not named after it.
pub fn from_platform_const(stage: &Stage) -> Option<LintFinding> {
    let (value, asked, _) = probe(stage)?;
    let platform = Platform::parse(&value).ok().filter(|_| asked.is_empty())?;
    let name = stage.name.as_deref().unwrap_or_default();
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return None;
    }
    let value = quote(&value);
    let message = format!("FROM --platform flag should not use constant value {value}");
    Some(finding(
        &FROM_PLATFORM_FLAG_CONST_DISALLOWED,
        &stage.from,
        message,
    ))
}

/// `InvalidBaseImagePlatform`: the base image is for another platform than the build.
pub fn invalid_base_image_platform(
    instruction: &Instruction,
    image: &str,
    pulled: &Platform,
    expected: &Platform,
) -> LintFinding {
    let (pulled, expected) = (quote(&pulled.to_string()), quote(&expected.to_string()));
    let message = format!(
        "Base image {image} was pulled with platform {pulled}, expected {expected} for current build"
    );
    finding(&INVALID_BASE_IMAGE_PLATFORM, instruction, message)
}

/// `LegacyKeyValueFormat`: `ENV name value`.
pub fn legacy_key_value(instruction: &Instruction) -> Option<LintFinding> {
    let (InstructionKind::Env(values) | InstructionKind::Label(values)) = &instruction.kind else {
        return None;
    };
    if !values.legacy {
        return None;
    }
    let name = &instruction.keyword.value;
    let message = format!(
        "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
    );
    Some(finding(&LEGACY_KEY_VALUE_FORMAT, instruction, message))
}

/// `InvalidDefinitionDescription`: a description comment does not begin with the name.
///
/// [`parse`](crate::parse) has made this finding already.
pub fn invalid_definition_description(instruction: &Instruction) -> Option<LintFinding> {
    let names: Vec<String> = match &instruction.kind {
        InstructionKind::From(from) => from
            .alias
            .iter()
            .map(|alias| alias.value.to_lowercase())
            .collect(),
        InstructionKind::Arg(items) => items.iter().map(|item| item.name.value.clone()).collect(),
        _ => return None,
    };
    let comment = instruction.comments.last()?;
    let first_word = comment.value.split(' ').next().unwrap_or_default();
    if names.is_empty() || names.iter().any(|name| name == first_word) {
        return None;
    }
    let example = if names.len() == 1 {
        names[0].as_str()
    } else {
        "<arg_key>"
    };
    let kind = instruction.kind.name();
    let message =
        format!("Comment for {kind} should follow the format: `# {example} <description>`");
    Some(finding(
        &INVALID_DEFINITION_DESCRIPTION,
        instruction,
        message,
    ))
}

/// `rbuild/CopyDestination`: several files are written to one name, each over the one before.
pub fn several_files_to_one(instruction: &Instruction, destination: &str) -> LintFinding {
    let message = format!("Several files are written to {destination}: only the last one is kept");
    finding(&COPY_DESTINATION, instruction, message)
        .helped(&format!("write `{destination}/` for a directory"))
}

/// `rbuild/UnknownOwner`: the stage has no such user or group, so that root is taken.
pub fn unknown_owner(instruction: &Instruction, name: &str) -> LintFinding {
    let message = format!("There is no user or group {name} in the stage: 0 is used");
    finding(&UNKNOWN_OWNER, instruction, message)
}

/// `rbuild/WildcardWithoutMatch`: a wildcard source matches nothing, so that nothing is copied.
pub fn wildcard_without_match(instruction: &Instruction, pattern: &str) -> LintFinding {
    let message = format!("The wildcard {pattern} matches no file: nothing is copied");
    finding(&WILDCARD_WITHOUT_MATCH, instruction, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn names_that_sound_like_secrets() {
        let parsed = parse(b"ARG a\nFROM b\n");
        let instruction = &parsed.dockerfile.global_args[0];
        let found = |name: &str| secrets_used(instruction, name).is_some();
        for name in [
            "TOKEN",
            "my_Secret",
            "AWS_ACCESS_KEY_ID",
            "db_passwd",
            "APIKEY",
        ] {
            assert!(found(name), "{name}");
        }
        // Only whole words count, and some words say that it is none.
        for name in [
            "TOKENIZER",
            "KEYBOARD",
            "public_key",
            "KEY_FILE",
            "AUTH_VERSION",
            "a",
        ] {
            assert!(!found(name), "{name}");
        }
    }
}
