//! Where a piece of the tree stands in the source.

/// A half-open range of byte offsets into the source that was parsed.
///
/// An instruction that is continued over several physical lines still has one contiguous span: it
/// then covers the continuation characters and comments in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// Makes a span from `start` to `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Returns the smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Returns the number of bytes covered.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Tells whether no byte is covered.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A range of physical lines, counted from 1, both ends included.
///
/// `first == 0` means that the place is not known, as for an error about the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LineRange {
    /// First line.
    pub first: u32,
    /// Last line.
    pub last: u32,
}

impl LineRange {
    /// Makes a range of lines from `first` to `last`.
    pub fn new(first: u32, last: u32) -> Self {
        Self { first, last }
    }
}

/// A value and the place in the source that it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Puts a value and its place together.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// Changes the value and keeps the place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: change(self.value),
            span: self.span,
        }
    }
}

/// A word as it is written: quotes, escapes and variables are still in it.
pub type Word = Spanned<String>;
