//! Differences between two versions of a file, as `diff -u` shows them.

use similar::TextDiff;

use super::control::visible_lines;
use super::style::{Palette, paint};

/// Lines around a change.
const CONTEXT: usize = 3;

/// Shows what turns `old` into `new`, as a patch for `file`; for a terminal (`shown` with colours)
/// with control characters made visible.
pub(crate) fn unified(file: &str, old: &str, new: &str, shown: Option<&Palette>) -> String {
    let diff = TextDiff::from_lines(old, new);
    let patch = diff
        .unified_diff()
        .context_radius(CONTEXT)
        .header(file, file)
        .to_string();
    let Some(palette) = shown else {
        return patch;
    };
    patch
        .split_inclusive('\n')
        .map(|line| {
            let (text, end) = line
                .strip_suffix('\n')
                .map_or((line, ""), |text| (text, "\n"));
            let style = match text.as_bytes().first() {
                Some(b'-') => palette.error,
                Some(b'+') => palette.run,
                Some(b'@') => palette.dim,
                _ => return visible_lines(line),
            };
            paint(style, &visible_lines(text)) + end
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_patch() {
        let old = "from a\nRUN b\n";
        assert_eq!(
            unified("Dockerfile", old, "FROM a\nRUN b\n", None),
            "--- Dockerfile\n+++ Dockerfile\n@@ -1,2 +1,2 @@\n-from a\n+FROM a\n RUN b\n"
        );
        assert_eq!(unified("Dockerfile", old, old, None), "");
        let coloured = unified(
            "x",
            "from \u{1b}a",
            "FROM \u{1b}a\n",
            Some(&Palette::coloured(None).0),
        );
        assert!(
            coloured.contains("\u{1b}[31m-from \\u{1b}a\u{1b}[0m\n"),
            "{coloured:?}"
        );
        assert!(
            coloured.contains("\u{1b}[34m+FROM \\u{1b}a\u{1b}[0m\n"),
            "{coloured:?}"
        );
    }
}
