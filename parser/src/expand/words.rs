//! Splitting of an expanded word into words while it is made.

/// One of the words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LexedWord {
    /// The word.
    pub(crate) text: String,
    /// Where its source begins.
    pub(crate) start: usize,
    /// Where its source ends.
    pub(crate) end: usize,
}

/// How a piece of the result counts for the splitting into words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// White space in it splits.
    Open,
    /// It is part of a word, whatever it is.
    Raw,
}

/// Splits the result into words while it is made.
#[derive(Default)]
pub(super) struct Words {
    pub(super) done: Vec<LexedWord>,
    current: String,
    start: Option<usize>,
    end: usize,
    /// Where the quoted or braced part began whose text comes next.
    pub(super) part: Option<usize>,
}

impl Words {
    /// Adds a piece that was made from the source between `start` and `end`.
    pub(super) fn add(&mut self, piece: &str, kind: Kind, start: usize, end: usize) {
        let part = self.part.take();
        if kind == Kind::Raw {
            self.start.get_or_insert(part.unwrap_or(start));
            self.current.push_str(piece);
            self.end = end;
            return;
        }
        // Text that was not expanded has exact places.
        let exact = piece.len() == end - start;
        for (offset, c) in piece.char_indices() {
            if c.is_whitespace() {
                self.finish();
                continue;
            }
            let from = if exact {
                start + offset
            } else {
                part.unwrap_or(start)
            };
            self.start.get_or_insert(from);
            self.current.push(c);
            self.end = if exact {
                start + offset + c.len_utf8()
            } else {
                end
            };
        }
    }

    /// Ends the current word; an empty one is none.
    pub(super) fn finish(&mut self) {
        if !self.current.is_empty() {
            let start = self.start.unwrap_or_default();
            self.done.push(LexedWord {
                text: std::mem::take(&mut self.current),
                start,
                end: self.end,
            });
            self.start = None;
        }
    }
}
