//! What is wrong with a Dockerfile, where, and what to do about it. Rendering is the command's work.

use crate::{LineRange, Span};

/// An error in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `BuildKit`'s text for the error, with `dockerfile parse error on line N: ` where it has it.
    pub message: String,
    /// The most precise place that is known.
    pub span: Span,
    /// Lines of the instruction, as `BuildKit` would mark them; `first == 0` when it marks none and
    /// the error is about the file as a whole.
    pub lines: LineRange,
    /// Further places with a text each.
    pub labels: Vec<(Span, String)>,
    /// Ways out, one sentence each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// Makes a diagnostic without labels and help.
    pub fn new(message: impl Into<String>, span: Span, lines: LineRange) -> Self {
        Self {
            message: message.into(),
            span,
            lines,
            labels: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Adds a way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds a second place with its text.
    #[must_use]
    pub fn with_label(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }
}

/// Edit distance from which on a name is not suggested any more.
const SUGGESTION_LIMIT: usize = 3;

/// Finds the candidate that was probably meant: `BuildKit`'s "did you mean" rule.
///
/// The distance is Levenshtein's without regard to case, below 3; of equally near candidates the first
/// one wins. Returns `None` when `name` is one of the candidates, because the error then has another
/// reason.
pub fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    nearest(&name.to_lowercase(), candidates, str::to_lowercase)
}

/// Like [`closest`], but case counts: for flags, variables, mount options and targets.
pub fn closest_same_case<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    nearest(name, candidates, str::to_owned)
}

fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
    fold: impl Fn(&str) -> String,
) -> Option<&'a str> {
    let mut best = None;
    let mut limit = SUGGESTION_LIMIT;
    for candidate in candidates {
        let folded = fold(candidate);
        if folded == name {
            return None;
        }
        if let Some(distance) = distance_below(name, &folded, limit) {
            best = Some(candidate);
            limit = distance;
        }
    }
    best
}

/// Returns the Levenshtein distance when it is below `limit`.
fn distance_below(left: &str, right: &str, limit: usize) -> Option<usize> {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    // Names that differ more in length than the limit cannot be near: this keeps the quadratic
    // table away from long input.
    if left.len().abs_diff(right.len()) >= limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        let mut smallest = row[0];
        for (j, r) in right.iter().enumerate() {
            let cost = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
            smallest = smallest.min(row[j + 1]);
        }
        if smallest >= limit {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance < limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_follow_edit_distance() {
        let names = ["COPY", "ADD", "CMD", "FROM"];
        assert_eq!(closest("CPOY", names.into_iter()), Some("COPY"));
        assert_eq!(closest("foo", names.into_iter()), Some("FROM"));
        assert_eq!(closest("copy", names.into_iter()), None);
        assert_eq!(closest("entrypoint", names.into_iter()), None);
        assert_eq!(closest_same_case("u", ["s", "e"].into_iter()), Some("s"));
        assert_eq!(closest_same_case("copy", names.into_iter()), None);
        assert_eq!(closest_same_case("", ["ab", "a"].into_iter()), Some("a"));
    }
}
