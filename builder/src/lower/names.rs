//! Progress names of steps (language reference, section 14).

use rbuild_parser::{Instruction, InstructionKind, Variables};

use super::StageContext;
use crate::plan::{Base, PlannedStage};
use crate::scope::VariableList;

/// How many steps a stage counts: its base image, every instruction that makes a layer, and every
/// trigger of the base, whatever it does (case O02).
pub(super) fn count_steps(stage: &PlannedStage<'_>) -> usize {
    let base = usize::from(!matches!(stage.base, Base::Scratch | Base::Stage(_)));
    let own = stage.instructions().filter(|(instruction, trigger)| {
        *trigger
            || matches!(
                instruction.kind,
                InstructionKind::Run(_)
                    | InstructionKind::Copy(_)
                    | InstructionKind::Add(_)
                    | InstructionKind::Workdir(_)
            )
    });
    base + own.count()
}

/// What stands between the brackets: `stage i/n`.
pub(super) fn prefix(context: &StageContext<'_, '_>, step: usize) -> String {
    let width = context.steps.to_string().len();
    let mut text = String::new();
    if context.multi_platform {
        text.push_str(&format!("{} ", context.plan.platform));
    }
    if !context.single {
        text.push_str(&format!("{} ", context.stage.name));
    }
    text.push_str(&format!("{step:>width$}/{}", context.steps));
    text
}

/// The instruction for people: word in upper case, known variables filled in.
pub(super) fn display(
    instruction: &Instruction,
    trigger: bool,
    variables: &VariableList,
) -> String {
    let text = instruction.text.trim();
    let rest = text[instruction.keyword.value.len().min(text.len())..].trim_start();
    let mut shown = String::new();
    if trigger {
        shown.push_str("ONBUILD ");
    }
    shown.push_str(instruction.kind.name());
    if !rest.is_empty() {
        shown.push(' ');
        shown.push_str(&fill_in(rest, variables));
    }
    if let InstructionKind::Run(run) = &instruction.kind
        && let Some(heredoc) = run.heredocs.first()
    {
        let mut lines = heredoc.content.lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { "..." } else { "" };
        shown.push_str(&format!(" ({first}{more})"));
    }
    shown
}

/// Replaces `$name` and `${name}` of set variables outside single quotes; quotes stay.
fn fill_in(text: &str, variables: &VariableList) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        match c {
            '\'' => quoted = !quoted,
            '\\' if !quoted && rest[1..].starts_with('$') => {
                out.push('$');
                rest = &rest[2..];
                continue;
            }
            '$' if !quoted => {
                if let Some((name, length)) = variable_at(rest) {
                    match variables.get(name) {
                        Some(value) => out.push_str(value),
                        None => out.push_str(&rest[..length]),
                    }
                    rest = &rest[length..];
                    continue;
                }
            }
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Name of the plain variable that `text` begins with, and the length of the reference.
fn variable_at(text: &str) -> Option<(&str, usize)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if let Some(inner) = text.strip_prefix("${") {
        let end = inner.find('}')?;
        let name = &inner[..end];
        return (!name.is_empty() && name.chars().all(is_name)).then_some((name, end + 3));
    }
    let inner = text.strip_prefix('$')?;
    let end = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
    (end > 0).then_some((&inner[..end], end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_variables_are_filled_in_and_quotes_kept() {
        let mut variables = VariableList::new();
        variables.set("x", "1");
        variables.set("y", "2");
        assert_eq!(
            fill_in(r#"echo "$x$y" '$x' \$x"#, &variables),
            r#"echo "12" '$x' $x"#
        );
        assert_eq!(fill_in("${x}a ${n} $", &variables), "1a ${n} $");
    }
}
