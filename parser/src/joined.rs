//! A logical line: the text of an instruction with its continuation lines joined, and the map from
//! that text back to the source.

use std::ops::Range;

use crate::{Span, Spanned};

/// Text that was put together from pieces of the source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    text: String,
    segments: Vec<Segment>,
}

/// A piece of the text; it reaches to the next piece.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Where the piece begins in the joined text.
    joined: usize,
    /// Where it begins in the source.
    source: usize,
    /// Bytes of text for one byte of source: 1, or 3 where invalid UTF-8 was replaced.
    scale: usize,
}

impl Joined {
    /// Appends bytes that begin at `source`. Every byte that is not valid UTF-8 becomes one U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8], mut source: usize) {
        if self.segments.is_empty() && bytes.is_empty() {
            self.segments.push(Segment {
                joined: 0,
                source,
                scale: 1,
            });
        }
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                self.start_segment(source, 1);
                self.text.push_str(chunk.valid());
                source += chunk.valid().len();
            }
            if !chunk.invalid().is_empty() {
                self.start_segment(source, 3);
                for _ in chunk.invalid() {
                    self.text.push(char::REPLACEMENT_CHARACTER);
                }
                source += chunk.invalid().len();
            }
        }
    }

    /// Begins a segment unless the last one can simply go on.
    fn start_segment(&mut self, source: usize, scale: usize) {
        if let Some(last) = self.segments.last() {
            let reached = last.source + (self.text.len() - last.joined) / last.scale;
            if last.scale == scale && reached == source {
                return;
            }
        }
        self.segments.push(Segment {
            joined: self.text.len(),
            source,
            scale,
        });
    }

    /// Returns the joined text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Gives up the map and returns the text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Returns the place in the source of a range of the text.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let start = self.to_source(range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        // The end is found from the last byte covered, so that a span that ends at a continuation
        // does not reach into the next line.
        Span::new(start, self.to_source(range.end - 1) + 1)
    }

    /// Returns a part of the text with its place.
    pub(crate) fn spanned(&self, range: Range<usize>) -> Spanned<String> {
        Spanned::new(self.text[range.clone()].to_owned(), self.span(range))
    }

    fn to_source(&self, offset: usize) -> usize {
        let after = self
            .segments
            .partition_point(|segment| segment.joined <= offset);
        match after
            .checked_sub(1)
            .and_then(|index| self.segments.get(index))
        {
            Some(segment) => segment.source + (offset - segment.joined) / segment.scale,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_across_pieces() {
        let mut joined = Joined::default();
        joined.push(b"RUN a", 10);
        joined.push(b" b", 20);
        assert_eq!(joined.text(), "RUN a b");
        assert_eq!(joined.span(4..5), Span::new(14, 15));
        assert_eq!(joined.span(4..7), Span::new(14, 22));
        assert_eq!(joined.span(7..7), Span::new(22, 22));
    }

    #[test]
    fn invalid_bytes_keep_the_map_right() {
        let mut joined = Joined::default();
        joined.push(b"a\xff\xfeb", 100);
        assert_eq!(joined.text(), "a\u{fffd}\u{fffd}b");
        assert_eq!(joined.span(7..8), Span::new(103, 104));
        assert_eq!(joined.span(1..7), Span::new(101, 103));
    }
}
