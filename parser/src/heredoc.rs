//! Here-documents.

use crate::Heredoc;

/// Tells whether a command line is exactly one heredoc word.
pub(crate) fn is_single(line: &str) -> bool {
    line.starts_with("<<")
}

/// Puts the bodies and delimiters back behind the line they belong to.
pub(crate) fn with_bodies(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.raw);
        text.push_str(&heredoc.name);
    }
    text
}
