//! Printing of a tree.

use crate::parse::MAX_LINE;
use crate::{Dockerfile, Instruction};

/// Prints a tree so that parsing the text gives the same tree, but for the places.
///
/// Layout is not kept: one instruction stands on one line, and comments that describe nothing are
/// gone. Use [`format`](crate::format) to keep them.
pub fn print(dockerfile: &Dockerfile) -> String {
    let mut text = String::new();
    let mut directive = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("# {name}={value}\n"));
        }
    };
    if let Some(syntax) = &dockerfile.syntax {
        directive("syntax", &syntax.value);
    }
    if let Some(check) = &dockerfile.check {
        directive("check", &check.value);
    }
    if dockerfile.escape != '\\' {
        directive("escape", &dockerfile.escape.to_string());
    }
    for (index, instruction) in dockerfile.instructions().enumerate() {
        if index == 0 && !instruction.comments.is_empty() {
            // A blank line ends the section of directives: the comment must not become one.
            text.push('\n');
        }
        push_instruction(&mut text, instruction, dockerfile.escape);
    }
    text
}

fn push_instruction(text: &mut String, instruction: &Instruction, escape: char) {
    for comment in &instruction.comments {
        let blank = if comment.value.len() + 2 > MAX_LINE {
            ""
        } else {
            " "
        };
        text.push_str(&format!("#{blank}{}\n", comment.value));
    }
    push_line(text, instruction.text.trim_start(), escape);
    for heredoc in &instruction.heredocs {
        text.push_str(&heredoc.raw);
        text.push_str(&heredoc.name);
        text.push('\n');
    }
}

/// Writes a logical line, over several physical ones when it is too long for one.
fn push_line(text: &mut String, line: &str, escape: char) {
    let mut rest = line;
    while rest.len() > MAX_LINE {
        let cut = cut(rest, escape);
        text.push_str(&rest[..cut]);
        text.push(escape);
        text.push('\n');
        rest = &rest[cut..];
    }
    text.push_str(rest);
    // Only the end of the file can leave a line that looks like one with a continuation.
    let used = line.trim_end_matches([' ', '\t']);
    if used.ends_with(escape) && !used[..used.len() - 1].ends_with(escape) {
        text.push(escape);
    }
    text.push('\n');
}

/// Finds where a long line can be cut: not behind an escape character, and so that the next line is
/// neither blank nor a comment.
fn cut(line: &str, escape: char) -> usize {
    let fits = |position: usize| {
        line.is_char_boundary(position)
            && !line[..position].ends_with(escape)
            && line[position..]
                .trim_start()
                .chars()
                .next()
                .is_some_and(|c| c != '#')
    };
    let limit = MAX_LINE - 1;
    (1..=limit)
        .rev()
        .find(|position| fits(*position))
        .unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let parsed = parse(source.as_bytes());
        assert_eq!(parsed.diagnostics, []);
        assert_eq!(print(&parsed.dockerfile), expected);
    }

    #[test]
    fn trees_are_printed_line_by_line() {
        check(
            "#escape=`\n# a\n\nfrom x as y\nRUN a `\n  b <<-E\n\tc\n\tE\n",
            "# escape=`\n\n# a\nfrom x as y\nRUN a   b <<-E\n\tc\nE\n",
        );
        check("\n# escape=`\nFROM x", "\n# escape=`\nFROM x\n");
        check("FROM x\nRUN a\\ \\", "FROM x\nRUN a\\ \\\n");
    }

    #[test]
    fn long_lines_are_cut_where_they_can_be() {
        let long = format!(
            "FROM x\nRUN {}\\\n{}#\n",
            "a ".repeat(30_000),
            "b ".repeat(30_000)
        );
        let parsed = parse(long.as_bytes());
        let printed = print(&parsed.dockerfile);
        assert!(printed.lines().all(|line| line.len() <= MAX_LINE));
        let again = parse(printed.as_bytes());
        assert_eq!(again.diagnostics, []);
        let text =
            |parsed: &crate::Parsed| parsed.dockerfile.stages[0].instructions[0].text.clone();
        assert_eq!(text(&again), text(&parsed));
    }
}
