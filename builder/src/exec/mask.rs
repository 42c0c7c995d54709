//! Hides the values of secrets in what a command puts out.
//!
//! A log is kept longer, and read by more people, than anybody remembers; `BuildKit` shows what the
//! command shows. What is hidden is the value itself and, of one with several lines, each line.

/// What stands in the place of a value.
const HIDDEN: &[u8] = b"****";

/// Shorter values are found everywhere by chance, and hiding them would hide nothing.
const SHORTEST: usize = 4;

/// The values to be hidden in the output of one command.
#[derive(Debug, Default, Clone)]
pub(crate) struct Secrets {
    /// Longest first, so that a value is not hidden in part by another.
    values: Vec<Vec<u8>>,
}

impl Secrets {
    /// Adds a value.
    pub(super) fn add(&mut self, value: &[u8]) {
        let whole = value.trim_ascii();
        let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        for part in std::iter::once(whole).chain(lines) {
            if part.len() >= SHORTEST && !self.values.iter().any(|known| known == part) {
                self.values.push(part.to_vec());
            }
        }
        self.values
            .sort_by_key(|value| std::cmp::Reverse(value.len()));
    }
}

/// Hides values in one stream; a value may come in several pieces.
#[derive(Debug)]
pub(super) struct Mask<'a> {
    secrets: &'a Secrets,
    /// What may be the beginning of a value.
    held: Vec<u8>,
}

impl<'a> Mask<'a> {
    pub(super) fn new(secrets: &'a Secrets) -> Mask<'a> {
        Mask {
            secrets,
            held: Vec::new(),
        }
    }

    /// Takes output and returns what can be shown by now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.values.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.show(false)
    }

    /// Returns what was held back; the stream has ended.
    pub(super) fn end(&mut self) -> Vec<u8> {
        self.show(true)
    }

    fn show(&mut self, ended: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut shown = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            let values = &self.secrets.values;
            // A longer value that may yet come is waited for before a shorter one is hidden.
            let unfinished = |value: &&Vec<u8>| value.len() > rest.len() && value.starts_with(rest);
            if !ended && values.iter().any(|value| unfinished(&value)) {
                self.held = rest.to_vec();
                return shown;
            }
            if let Some(value) = values.iter().find(|value| rest.starts_with(value)) {
                shown.extend_from_slice(HIDDEN);
                at += value.len();
                continue;
            }
            shown.push(rest[0]);
            at += 1;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        for value in values {
            secrets.add(value.as_bytes());
        }
        secrets
    }

    fn masked(values: &[&str], pieces: &[&str]) -> String {
        let secrets = secrets(values);
        let mut mask = Mask::new(&secrets);
        let mut shown = Vec::new();
        for piece in pieces {
            shown.extend(mask.pass(piece.as_bytes()));
        }
        shown.extend(mask.end());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn values_are_hidden_also_when_they_come_in_pieces() {
        assert_eq!(masked(&["hunter2\n"], &["a hunter2 b"]), "a **** b");
        assert_eq!(
            masked(&["hunter2"], &["hun", "ter", "2hunter"]),
            "****hunter"
        );
        assert_eq!(masked(&["hunter2"], &["hunhunter2"]), "hun****");
    }

    #[test]
    fn the_longest_value_counts_and_lines_count_too() {
        assert_eq!(
            masked(&["pass", "password"], &["passwo", "rd pass"]),
            "**** ****"
        );
        assert_eq!(masked(&["-- key --\nabcdef\n"], &["abcdef"]), "****");
    }

    #[test]
    fn short_values_and_no_values_change_nothing() {
        assert_eq!(masked(&["ab"], &["ab"]), "ab");
        assert_eq!(masked(&[], &["text"]), "text");
    }

    #[test]
    fn what_cannot_be_a_value_is_shown_at_once() {
        let secrets = secrets(&["hunter2"]);
        let mut mask = Mask::new(&secrets);
        assert_eq!(mask.pass(b"prompt: "), b"prompt: ");
        assert_eq!(mask.pass(b"hunt"), b"");
        assert_eq!(mask.pass(b"ing"), b"hunting");
    }
}
