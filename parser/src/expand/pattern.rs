//! The patterns of `${name#pattern}` and its kin: `*` is any run of characters, `?` is any one, `\`
//! makes `*`, `?` and `\` literal. Neither crosses a line end. Brackets are literal.
//!
//! A pattern is a list of chunks with stars between them. Because a star does not cross a line end,
//! taking for each chunk but the last the first place where it fits never loses a match, so that a
//! search needs no backtracking.

/// Character comparisons that one operation may make.
const MAX_STEPS: usize = 16 * 1024 * 1024;

/// One character of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
}

/// Removes the shortest or longest prefix of `value` that matches.
pub(super) fn trim_prefix(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let tokens = parse(pattern)?;
    let chars: Vec<char> = value.chars().collect();
    let end = Matcher::new(&tokens, &chars, longest).match_at(0)?;
    Ok(chars[end.unwrap_or(0)..].iter().collect())
}

/// Removes the shortest or longest suffix of `value` that matches.
///
/// Pattern and value are turned round, so that it is the search for a prefix.
pub(super) fn trim_suffix(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let mut tokens = parse(&reversed(pattern))?;
    // Reading the reversed text gave the tokens in the order that is needed; adjacent escapes were
    // kept in pairs.
    tokens.shrink_to_fit();
    let chars: Vec<char> = value.chars().rev().collect();
    let end = Matcher::new(&tokens, &chars, longest).match_at(0)?;
    Ok(chars[end.unwrap_or(0)..].iter().rev().collect())
}

/// Replaces the first or every match.
///
/// When every match is replaced, the replacement is a template of the reference implementation's
/// regular expressions: `$0` is the match, any other `$name` is empty, `$$` is a dollar sign.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
) -> Result<String, String> {
    let tokens = parse(pattern)?;
    let chars: Vec<char> = value.chars().collect();
    let mut matcher = Matcher::new(&tokens, &chars, true);
    let mut result = String::new();
    let mut copied = 0;
    let mut search = 0;
    let mut last_end = None;
    while search <= chars.len()
        && let Some((start, end)) = matcher.find_from(search)?
    {
        // An empty match that touches the one before it does not count.
        if end > start || last_end != Some(end) {
            result.extend(&chars[copied..start]);
            if !all {
                result.push_str(replacement);
                result.extend(&chars[end..]);
                return Ok(result);
            }
            push_template(&mut result, replacement, &chars[start..end]);
            copied = end;
            if result.len() > super::MAX_EXPANDED {
                return Err("the expanded value is larger than 1 MiB".to_owned());
            }
        }
        last_end = Some(end);
        search = if end > search { end } else { search + 1 };
    }
    result.extend(&chars[copied..]);
    Ok(result)
}

fn push_template(result: &mut String, template: &str, matched: &[char]) {
    let mut rest = template;
    while let Some(position) = rest.find('$') {
        result.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let braced = rest.strip_prefix('{');
        let body = braced.unwrap_or(rest);
        let length = body
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(body.len());
        let (name, after) = body.split_at(length);
        let after = if braced.is_some() {
            after.strip_prefix('}')
        } else {
            Some(after)
        };
        match after {
            Some(after) if !name.is_empty() => {
                if name.bytes().all(|digit| digit == b'0') && name.len() == 1 {
                    result.extend(matched);
                }
                rest = after;
            }
            _ => result.push('$'),
        }
    }
    result.push_str(rest);
}

fn parse(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            // These only had to be escaped because of the braces and slashes around the pattern.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
            '\\' => match chars.next() {
                Some(literal @ ('*' | '?' | '\\')) => Token::Literal(literal),
                other => {
                    let other = other.unwrap_or(char::REPLACEMENT_CHARACTER);
                    return Err(format!(
                        "invalid pattern ({pattern}) in substitution: invalid escape '\\{other}'"
                    ));
                }
            },
            literal => Token::Literal(literal),
        });
    }
    Ok(tokens)
}

/// Turns a pattern round but keeps each escape before its character.
fn reversed(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let mut unit = String::from(c);
        if c == '\\' {
            unit.extend(chars.next());
        }
        units.push(unit);
    }
    units.reverse();
    units.concat()
}

struct Matcher<'a> {
    /// The chunks between stars; the first and last may be empty.
    chunks: Vec<&'a [Token]>,
    chars: &'a [char],
    longest: bool,
    steps: usize,
}

impl<'a> Matcher<'a> {
    fn new(tokens: &'a [Token], chars: &'a [char], longest: bool) -> Self {
        let chunks = tokens.split(|token| *token == Token::Star).collect();
        Self {
            chunks,
            chars,
            longest,
            steps: 0,
        }
    }

    /// Finds the leftmost match that begins at or behind `from`.
    fn find_from(&mut self, from: usize) -> Result<Option<(usize, usize)>, String> {
        let mut start = from;
        while start <= self.chars.len() {
            if !self.fits(0, start)? {
                start += 1;
                continue;
            }
            if let Some(end) = self.match_at(start)? {
                return Ok(Some((start, end)));
            }
            if self.chunks.len() == 1 {
                start += 1;
                continue;
            }
            // What a star cannot reach from here it cannot reach from further right on the same
            // line either.
            let reached = start + self.chunks.first().map_or(0, |chunk| chunk.len());
            start = (self.line_end(reached) + 1)
                .saturating_sub(self.chunks[0].len())
                .max(start + 1);
        }
        Ok(None)
    }

    /// Returns the end of the match that begins at `start`.
    fn match_at(&mut self, start: usize) -> Result<Option<usize>, String> {
        if !self.fits(0, start)? {
            return Ok(None);
        }
        let mut position = start + self.chunks[0].len();
        let last = self.chunks.len() - 1;
        for index in 1..=last {
            let line_end = self.line_end(position);
            let found = if index == last && self.longest {
                self.last_fit(index, position, line_end)?
            } else {
                self.first_fit(index, position, line_end)?
            };
            match found {
                Some(place) => position = place + self.chunks[index].len(),
                None => return Ok(None),
            }
        }
        Ok(Some(position))
    }

    fn first_fit(&mut self, chunk: usize, from: usize, to: usize) -> Result<Option<usize>, String> {
        for place in from..=to {
            if self.fits(chunk, place)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn last_fit(&mut self, chunk: usize, from: usize, to: usize) -> Result<Option<usize>, String> {
        for place in (from..=to).rev() {
            if self.fits(chunk, place)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Tells whether a chunk matches at a place.
    fn fits(&mut self, chunk: usize, place: usize) -> Result<bool, String> {
        let chunk = self.chunks[chunk];
        if self.chars.len() - place < chunk.len() {
            return Ok(false);
        }
        let mismatch = chunk
            .iter()
            .zip(&self.chars[place..])
            .position(|(token, c)| match token {
                Token::Literal(literal) => literal != c,
                Token::Any | Token::Star => *c == '\n',
            });
        self.steps += mismatch.unwrap_or(chunk.len()) + 1;
        if self.steps > MAX_STEPS {
            return Err("the pattern is too expensive for the value".to_owned());
        }
        Ok(mismatch.is_none())
    }

    fn line_end(&self, from: usize) -> usize {
        self.chars[from..]
            .iter()
            .position(|c| *c == '\n')
            .map_or(self.chars.len(), |n| from + n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(trim_prefix("a*b", "axbxb", false).unwrap(), "xb");
        assert_eq!(trim_prefix("a*b", "axbxb", true).unwrap(), "");
        assert_eq!(trim_prefix("*", "abc", false).unwrap(), "abc");
        assert_eq!(trim_prefix("*", "ab\nc", true).unwrap(), "\nc");
        assert_eq!(trim_prefix("a*?c*", "abcdc", false).unwrap(), "dc");
        assert_eq!(trim_prefix("", "abc", true).unwrap(), "abc");
    }

    #[test]
    fn suffixes() {
        assert_eq!(trim_suffix(".*", "a.b.c", false).unwrap(), "a.b");
        assert_eq!(trim_suffix(".*", "a.b.c", true).unwrap(), "a");
        assert_eq!(trim_suffix(r"\*x", "a*x", true).unwrap(), "a");
        assert_eq!(
            trim_suffix(r"x\f", "a", true).unwrap_err(),
            r"invalid pattern (\fx) in substitution: invalid escape '\f'"
        );
    }

    #[test]
    fn every_match_is_replaced_as_a_regular_expression_would() {
        assert_eq!(replace("", "ab", "-", true).unwrap(), "-a-b-");
        assert_eq!(replace("*", "ab", "-", true).unwrap(), "-");
        assert_eq!(replace("a*b", "xaab\nb", "-", true).unwrap(), "x-\nb");
        assert_eq!(replace("b", "abc", "[$0$1$x$$]", true).unwrap(), "a[b$]c");
        assert_eq!(replace("b", "abc", "[$0]", false).unwrap(), "a[$0]c");
        assert_eq!(replace("z*y", "z1\nz2y", "-", true).unwrap(), "z1\n-");
        assert_eq!(replace("z\n*y", "z\nay", "-", true).unwrap(), "-");
    }

    #[test]
    fn a_hopeless_search_gives_up() {
        let value = "a".repeat(100_000);
        let pattern = format!("{}b", "?".repeat(50_000));
        assert!(replace(&pattern, &value, "", true).is_err());
        // The same size without the wildcard in the way is fine.
        assert!(replace("a*b", &value, "", true).is_ok());
    }
}
