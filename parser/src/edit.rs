//! Changes to a source text.

use crate::Span;

/// Replacement of a part of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) span: Span,
    pub(crate) text: String,
}

impl Edit {
    pub(crate) fn new(start: usize, end: usize, text: impl Into<String>) -> Self {
        Self {
            span: Span::new(start, end),
            text: text.into(),
        }
    }
}

/// Applies edits. Of two that overlap only the first one counts.
pub(crate) fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut result = String::with_capacity(source.len());
    let mut position = 0;
    for edit in edits {
        let Some(kept) = source.get(position..edit.span.start) else {
            continue;
        };
        if edit.span.end > source.len() {
            continue;
        }
        result.push_str(kept);
        result.push_str(&edit.text);
        position = edit.span.end;
    }
    result.push_str(source.get(position..).unwrap_or_default());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_applied_in_order_and_do_not_overlap() {
        let edits = vec![
            Edit::new(4, 5, ""),
            Edit::new(0, 2, "X"),
            Edit::new(1, 3, "no"),
        ];
        assert_eq!(apply("abcdef", edits), "Xcdf");
        assert_eq!(apply("ab", vec![Edit::new(2, 2, "c")]), "abc");
    }
}
