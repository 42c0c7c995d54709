//! Fixes for findings of the build checks, where a fix does not need a decision.

use std::collections::HashSet;

use crate::edit::{Edit, apply};
use crate::lint::{majority_is_lower, rules};
use crate::parse::{LineKind, PhysicalLine, parse_with_lines};
use crate::text::is_blank;
use crate::{CommandForm, Instruction, InstructionKind, KeyValues, LintFinding, Stage, expand};

/// Applies the fixes that findings allow; returns the text and the names of the rules applied, one
/// for each fix.
///
/// Fixed are: `ConsistentInstructionCasing`, `FromAsCasing`, `StageNameCasing`,
/// `NoEmptyContinuation`, `LegacyKeyValueFormat`, `ExposeProtoCasing`, and `JSONArgsRecommended` for
/// commands that are plain words. The findings must come from this very source.
pub fn fix(source: &str, findings: &[LintFinding]) -> (String, Vec<String>) {
    let (parsed, lines) = parse_with_lines(source.as_bytes());
    let miscased = findings
        .iter()
        .filter(|finding| finding.rule == &rules::CONSISTENT_INSTRUCTION_CASING);
    let stages = parsed.dockerfile.stages.iter();
    let fixer = Fixer {
        stages: stages
            .map(|stage| (stage.from.lines.first, has_cmd(stage)))
            .collect(),
        instructions: parsed.dockerfile.instructions().collect(),
        miscased: miscased.map(|finding| finding.lines.first).collect(),
        source,
        lines: &lines,
        escape: parsed.dockerfile.escape,
        lower: majority_is_lower(&parsed.dockerfile.stages),
    };
    // Two findings can ask for the same edit: the second one overlaps the first and is left out.
    let mut edits = Vec::new();
    let mut applied = Vec::new();
    for finding in findings {
        if let Some(more) = fixer.fix(finding)
            && !more.is_empty()
        {
            edits.extend(more);
            applied.push(finding.rule.name.to_owned());
        }
    }
    (apply(source, edits), applied)
}

struct Fixer<'a> {
    source: &'a str,
    lines: &'a [PhysicalLine],
    escape: char,
    /// Whether instruction words are mostly in lower case.
    /// In the order of the file.
    instructions: Vec<&'a Instruction>,
    /// First line of each stage, and whether it has a `CMD`.
    stages: Vec<(u32, bool)>,
    /// First lines of the instructions whose word is in the wrong case.
    miscased: HashSet<u32>,
    lower: bool,
}

impl Fixer<'_> {
    fn fix(&self, finding: &LintFinding) -> Option<Vec<Edit>> {
        let line = finding.lines.first;
        let after = self
            .instructions
            .partition_point(|instruction| instruction.lines.first <= line);
        let instruction = *self.instructions.get(after.checked_sub(1)?)?;
        if line > instruction.lines.last {
            return None;
        }
        match finding.rule.name {
            "ConsistentInstructionCasing" => Some(self.casing(instruction)),
            "FromAsCasing" => {
                if self.miscased.contains(&line) {
                    return Some(self.casing(instruction));
                }
                let word = &instruction.keyword.value;
                self.as_casing(instruction, *word == word.to_lowercase())
                    .map(|edit| vec![edit])
            }
            "StageNameCasing" => {
                let InstructionKind::From(from) = &instruction.kind else {
                    return None;
                };
                let alias = from.alias.as_ref()?;
                let edit = Edit {
                    span: alias.span,
                    text: alias.value.to_lowercase(),
                };
                self.is_verbatim(alias.span, &alias.value)
                    .then(|| vec![edit])
            }
            "NoEmptyContinuation" => Some(self.blank_lines(instruction)),
            "LegacyKeyValueFormat" => self.legacy(instruction).map(|edit| vec![edit]),
            "ExposeProtoCasing" => Some(self.protocols(instruction)),
            "JSONArgsRecommended" => self.json(instruction).map(|edit| vec![edit]),
            _ => None,
        }
    }

    /// Tells whether a piece of the source is one piece of text: not broken by a continuation.
    fn is_verbatim(&self, span: crate::Span, text: &str) -> bool {
        self.source.get(span.start..span.end) == Some(text)
    }

    /// The instruction word in the case of the majority, and `AS` with it.
    fn casing(&self, instruction: &Instruction) -> Vec<Edit> {
        let keyword = &instruction.keyword;
        let mut edits = Vec::new();
        if self.is_verbatim(keyword.span, &keyword.value) {
            let text = cased(&keyword.value, self.lower);
            edits.push(Edit {
                span: keyword.span,
                text,
            });
            edits.extend(self.as_casing(instruction, self.lower));
        }
        edits
    }

    fn as_casing(&self, instruction: &Instruction, lower: bool) -> Option<Edit> {
        let InstructionKind::From(from) = &instruction.kind else {
            return None;
        };
        let word = from.as_keyword.as_ref()?;
        let text = cased(&word.value, lower);
        let differs = self.is_verbatim(word.span, &word.value) && text != word.value;
        differs.then_some(Edit {
            span: word.span,
            text,
        })
    }

    fn blank_lines(&self, instruction: &Instruction) -> Vec<Edit> {
        let first = instruction.lines.first as usize - 1;
        let last = (instruction.lines.last as usize).min(self.lines.len());
        self.lines[first..last]
            .iter()
            .filter(|line| line.kind == LineKind::InnerBlank)
            .map(|line| Edit::new(line.start, line.end, ""))
            .collect()
    }

    /// `ENV a b c` becomes `ENV a="b c"`, with the same value after expansion.
    fn legacy(&self, instruction: &Instruction) -> Option<Edit> {
        let (InstructionKind::Env(values) | InstructionKind::Label(values)) = &instruction.kind
        else {
            return None;
        };
        let KeyValues {
            pairs,
            legacy: true,
        } = values
        else {
            return None;
        };
        let (name, value) = pairs.first()?;
        if !is_one_line(instruction) {
            return None;
        }
        let escape = self.escape;
        let quoted = quoted_value(&value.value, escape)?;
        let span = name.span.to(value.span);
        Some(Edit {
            span,
            text: format!("{}={quoted}", name.value),
        })
    }

    fn protocols(&self, instruction: &Instruction) -> Vec<Edit> {
        let InstructionKind::Expose(words) = &instruction.kind else {
            return Vec::new();
        };
        words
            .iter()
            .filter(|word| !word.value.contains('$') && self.is_verbatim(word.span, &word.value))
            .filter_map(|word| {
                let (port, protocol) = word.value.split_once('/')?;
                let lower = protocol.to_lowercase();
                let text = format!("{port}/{lower}");
                (lower != protocol).then_some(Edit {
                    span: word.span,
                    text,
                })
            })
            .collect()
    }

    /// A command of plain words becomes an argument vector.
    fn json(&self, instruction: &Instruction) -> Option<Edit> {
        let (InstructionKind::Cmd(form) | InstructionKind::Entrypoint(form)) = &instruction.kind
        else {
            return None;
        };
        let CommandForm::Shell(text) = form else {
            return None;
        };
        if !is_one_line(instruction) || self.takes_arguments(instruction) {
            return None;
        }
        let words = plain_words(text)?;
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let line = &self.source[instruction.keyword.span.end..instruction.span.end];
        let start = instruction.span.end - line.trim_start_matches(is_blank).len();
        let end = start + self.source[start..instruction.span.end].trim_end().len();
        Some(Edit::new(start, end, format!("[{}]", quoted.join(", "))))
    }

    /// Tells whether an `ENTRYPOINT` would get arguments that it does not get in shell form.
    fn takes_arguments(&self, instruction: &Instruction) -> bool {
        let line = instruction.lines.first;
        let after = self.stages.partition_point(|(first, _)| *first <= line);
        let has_cmd = after
            .checked_sub(1)
            .is_some_and(|index| self.stages[index].1);
        matches!(instruction.kind, InstructionKind::Entrypoint(_)) && has_cmd
    }
}

fn has_cmd(stage: &Stage) -> bool {
    let mut kinds = stage.instructions.iter().map(|other| &other.kind);
    kinds.any(|kind| matches!(kind, InstructionKind::Cmd(_)))
}

fn cased(word: &str, lower: bool) -> String {
    if lower {
        word.to_lowercase()
    } else {
        word.to_uppercase()
    }
}

fn is_one_line(instruction: &Instruction) -> bool {
    instruction.lines.first == instruction.lines.last
}

/// Puts a value into a form that is one word and expands to the same.
fn quoted_value(value: &str, escape: char) -> Option<String> {
    let special = |c: char| c == '"' || c == '\'' || c == escape;
    if !value.contains(char::is_whitespace) {
        return Some(value.to_owned());
    }
    if !value.contains(special) {
        return Some(format!("\"{value}\""));
    }
    // Blanks inside of braces would have to be escaped differently in patterns.
    if value.contains("${") {
        return None;
    }
    let mut result = String::with_capacity(value.len() + 8);
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => result.push(escape),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        result.push(c);
        if c == escape && quote != Some('\'') {
            result.push(chars.next()?);
        }
    }
    // Both must mean the same; without variables is enough, since they stand where they stood.
    let none = std::collections::BTreeMap::new();
    let same = |word: &str| {
        expand(word, escape, &none)
            .ok()
            .map(|expansion| expansion.value)
    };
    (quote.is_none() && same(&result).is_some() && same(&result) == same(value)).then_some(result)
}

/// Words that only the shell knows.
const SHELL_WORDS: [&str; 30] = [
    ".", ":", "alias", "bg", "cd", "command", "eval", "exit", "export", "fg", "for", "getopts",
    "hash", "if", "jobs", "local", "read", "readonly", "return", "set", "shift", "source", "times",
    "trap", "type", "ulimit", "umask", "unalias", "unset", "while",
];

/// Splits a command that means nothing special to the shell; `exec` in front is dropped.
fn plain_words(text: &str) -> Option<Vec<&str>> {
    let plain = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(
                c,
                ' ' | '_' | '.' | '/' | ':' | '=' | '@' | '%' | '+' | ',' | '-'
            )
    };
    if !text.chars().all(plain) {
        return None;
    }
    let mut words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    if words.first() == Some(&"exec") {
        words.remove(0);
    }
    let first = words.first()?;
    let is_program =
        !first.contains('=') && !first.starts_with('-') && !SHELL_WORDS.contains(first);
    is_program.then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let parsed = parse(source.as_bytes());
        assert_eq!(parsed.diagnostics, []);
        let mut findings = parsed.lint.clone();
        for instruction in parsed.dockerfile.instructions() {
            findings.extend(rules::legacy_key_value(instruction));
            findings.extend(rules::json_args_recommended(instruction, false));
            if let InstructionKind::Expose(words) = &instruction.kind {
                for word in words {
                    let spec = crate::parse_port_spec(&word.value).unwrap();
                    findings.extend(rules::expose(instruction, &spec, &word.value));
                }
            }
        }
        assert_eq!(fix(source, &findings).0, expected);
    }

    #[test]
    fn casing() {
        check("from a\nENV a=b\nrun c\n", "from a\nenv a=b\nrun c\n");
        check("FROM a as B\nFrom b As c\n", "FROM a AS b\nFROM b AS c\n");
        check("from a AS b\nrun c\nENV d=e", "from a as b\nrun c\nenv d=e");
    }

    #[test]
    fn blank_lines() {
        check("FROM a\nRUN b \\\n\n\n  c\n", "FROM a\nRUN b \\\n  c\n");
    }

    #[test]
    fn legacy_pairs() {
        check("FROM a\nENV b  c d\n", "FROM a\nENV b=\"c d\"\n");
        check("FROM a\nENV b c\n", "FROM a\nENV b=c\n");
        check(
            "FROM a\nLABEL b \"x  y\" z\n",
            "FROM a\nLABEL b=\"x  y\"\\ z\n",
        );
        check(
            "FROM a\nENV b c\\ d 'e f'\n",
            "FROM a\nENV b=c\\ d\\ 'e f'\n",
        );
        check("FROM a\nENV b ${x:-a b}\n", "FROM a\nENV b=\"${x:-a b}\"\n");
        check(
            "FROM a\nENV b ${x:-'a b'} c\n",
            "FROM a\nENV b ${x:-'a b'} c\n",
        );
    }

    #[test]
    fn commands() {
        check(
            "FROM a\nCMD  top -b \n",
            "FROM a\nCMD  [\"top\", \"-b\"] \n",
        );
        check(
            "FROM a\nENTRYPOINT exec top -b",
            "FROM a\nENTRYPOINT [\"top\", \"-b\"]",
        );
        check("FROM a\nCMD echo $x\n", "FROM a\nCMD echo $x\n");
        check("FROM a\nCMD cd /\n", "FROM a\nCMD cd /\n");
        check(
            "FROM a\nCMD [\"x\"]\nENTRYPOINT top\n",
            "FROM a\nCMD [\"x\"]\nENTRYPOINT top\n",
        );
    }

    #[test]
    fn protocols() {
        check(
            "FROM a\nEXPOSE 80/TCP 53/udp\n",
            "FROM a\nEXPOSE 80/tcp 53/udp\n",
        );
    }
}
