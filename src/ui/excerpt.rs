//! The lines of a Dockerfile around an error, as BuildKit quotes them.

use std::fmt::Write as _;

use super::control::visible;

/// Above and below the quoted lines.
const RULE: &str = "--------------------";

/// Quotes lines `first` to `last` (from 1) of `source` with some lines around them.
///
/// One line is shown with two neighbours on each side, several with one. Returns nothing when the
/// file does not have the lines.
pub(crate) fn excerpt(file: &str, source: &[u8], first: u32, last: u32) -> Option<String> {
    let text = String::from_utf8_lossy(source);
    let lines: Vec<&str> = text.split('\n').collect();
    let first = usize::try_from(first)
        .ok()
        .filter(|first| (1..=lines.len()).contains(first))?;
    let last = usize::try_from(last).ok()?.clamp(first, lines.len());
    let around = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(around).max(1);
    let to = (last + around).min(lines.len());
    let mut quoted = format!("{}:{first}\n{RULE}\n", visible(file));
    for number in from..=to {
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        let line = visible(lines[number - 1].trim_end_matches('\r'));
        let _ = writeln!(quoted, "{number:>4} | {mark} {line}");
    }
    let _ = writeln!(quoted, "{RULE}");
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &[u8] = b"FROM a\nRUN one\nRUN two \\\n  more\nRUN \x1b[31mthree\nRUN four\n";

    #[test]
    fn one_line_has_two_neighbours_on_each_side() {
        assert_eq!(
            excerpt("Dockerfile", SOURCE, 5, 5).unwrap(),
            "Dockerfile:5\n\
             --------------------\n   \
                3 |     RUN two \\\n   \
                4 |       more\n   \
                5 | >>> RUN \\u{1b}[31mthree\n   \
                6 |     RUN four\n   \
                7 |     \n\
             --------------------\n"
        );
    }

    #[test]
    fn several_lines_have_one_neighbour() {
        assert_eq!(
            excerpt("d/app.Dockerfile", SOURCE, 3, 4).unwrap(),
            "d/app.Dockerfile:3\n\
             --------------------\n   \
                2 |     RUN one\n   \
                3 | >>> RUN two \\\n   \
                4 | >>>   more\n   \
                5 |     RUN \\u{1b}[31mthree\n\
             --------------------\n"
        );
    }

    #[test]
    fn the_ends_of_the_file_are_respected() {
        assert_eq!(
            excerpt("Dockerfile", b"FROM a", 1, 1).unwrap(),
            "Dockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"
        );
        assert!(excerpt("Dockerfile", b"FROM a", 0, 0).is_none());
        assert!(excerpt("Dockerfile", b"FROM a", 2, 2).is_none());
        assert!(excerpt("Dockerfile", b"FROM a", 1, 99).is_some());
    }
}
