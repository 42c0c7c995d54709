//! Texts that differ only by dates, sizes of directories and the like.

/// Whether `text` contains `pattern`, in which `*` stands for characters other than white space.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let pieces: Vec<_> = pieces.collect();
    text.match_indices(first).any(|(at, _)| {
        let mut rest = &text[at + first.len()..];
        pieces.iter().all(|piece| {
            let word_end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            match rest.find(piece).filter(|at| *at <= word_end) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            }
        })
    })
}

/// A string as Python's `repr` writes it.
pub(super) fn python_repr(text: &str) -> String {
    use std::fmt::Write;
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut repr = String::from(quote);
    for character in text.chars() {
        let _ = match character {
            '\n' => write!(repr, "\\n"),
            '\r' => write!(repr, "\\r"),
            '\t' => write!(repr, "\\t"),
            '\\' => write!(repr, "\\\\"),
            c if c == quote => write!(repr, "\\{c}"),
            c if c.is_control() || c == '\u{a0}' || c == '\u{ad}' => {
                write!(repr, "\\x{:02x}", c as u32)
            }
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}' => {
                write!(repr, "\\u{:04x}", character as u32)
            }
            c => write!(repr, "{c}"),
        };
    }
    repr.push(quote);
    repr
}

/// Log lines with runs of white space as one blank, and what depends on clock and file system in
/// the output of `ls -l` (dates, link counts, sizes of directories, totals) as `*`.
pub(super) fn normal_log<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines
        .map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let listed = words.iter().position(|word| is_mode(word));
            if let Some(at) = listed
                && words.len() > at + 6
            {
                words[at + 1] = "*";
                if is_directory(words[at]) {
                    words[at + 4] = "*";
                }
                let date_words = if words[at + 5] == "<date>" { 1 } else { 3 };
                words.splice(at + 5..at + 5 + date_words, ["*"]);
            }
            if let ["total", size] = words.as_mut_slice() {
                *size = "*";
            }
            words.join(" ")
        })
        .collect()
}

/// Whether a word is the mode column of `ls -l`; text without a line end may stand before it.
fn is_mode(word: &str) -> bool {
    let Some(mode) = word
        .len()
        .checked_sub(10)
        .and_then(|start| word.get(start..))
    else {
        return false;
    };
    mode.starts_with(['-', 'd', 'l', 'b', 'c', 'p', 's'])
        && mode[1..].bytes().all(|b| b"rwxstST-".contains(&b))
        && mode[1..].starts_with(['r', '-'])
}

fn is_directory(word: &str) -> bool {
    word.len()
        .checked_sub(10)
        .and_then(|start| word.get(start..))
        .is_some_and(|m| m.starts_with('d'))
}

/// Whether two logs have the same text and `got` ends its lines at least where `want` does.
///
/// `got` may have more line ends: output without one at its end runs into the next step's in the
/// recorded logs, but not on a terminal.
pub(super) fn same_lines(want: &[String], got: &[String]) -> bool {
    fn ends(lines: &[String]) -> Vec<usize> {
        let lengths = lines.iter().map(String::len);
        lengths
            .scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            })
            .collect()
    }
    let got_ends = ends(got);
    want.concat() == got.concat() && ends(want).iter().all(|end| got_ends.contains(end))
}

#[test]
fn patterns_stand_for_one_word_at_most() {
    assert!(matches(
        "ref *: \"/x\"",
        "checksum of ref abc::d: \"/x\": not found"
    ));
    assert!(!matches("ref *: \"/x\"", "checksum of ref a b: \"/x\""));
    assert!(!matches("gone", "here"));
}

#[test]
fn representation_is_that_of_python() {
    assert_eq!(python_repr("a'b\n"), r#""a'b\n""#);
    assert_eq!(python_repr("a'\"\u{1}\\"), r#"'a\'"\x01\\'"#);
}

#[test]
fn listings_are_compared_without_dates_and_directory_sizes() {
    let normal = |text: &str| normal_log(text.lines());
    assert_eq!(
        normal("Alrwxrwxrwx    1 root root 5 <date> /lnk -> /real"),
        normal("Alrwxrwxrwx 1 root   root 5 Nov 21 10:00 /lnk -> /real")
    );
    assert_eq!(
        normal("drwxr-xr-x 2 root root 4096 <date> x"),
        normal("drwxr-xr-x 3 root root 60 Jan  1  2024 x")
    );
    assert_ne!(
        normal("-rw-r--r-- 1 root root 1 <date> x"),
        normal("-rw-r--r-- 1 root root 2 Jan  1  2024 x")
    );
}

#[test]
fn line_ends_of_the_record_must_be_there() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(same_lines(&lines("Ab"), &lines("A\nb")));
    assert!(!same_lines(&lines("A\nb"), &lines("Ab")));
    assert!(!same_lines(&lines("A\nb"), &lines("A\nc")));
}
