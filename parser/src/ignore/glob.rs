//! Patterns for one path component, as Go's `filepath.Match` reads them. Ignore patterns use the same
//! syntax and give `**` a meaning of its own.

/// What a pattern that cannot be read is called.
pub(super) const BAD_PATTERN: &str = "syntax error in pattern";

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `[…]`
    Class(Class),
}

/// A set of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Tells whether a character is in the set. A `/` may be.
    pub(super) fn contains(&self, c: char) -> bool {
        self.ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c))
            != self.negated
    }
}

/// A pattern taken apart.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) list: Vec<Token>,
    /// Whether something was escaped.
    pub(super) escaped: bool,
}

/// Takes a pattern apart.
pub(super) fn parse(pattern: &str) -> Result<Tokens, String> {
    let mut tokens = Tokens {
        list: Vec::with_capacity(pattern.len()),
        escaped: false,
    };
    let mut rest = pattern;
    while let Some(c) = next(&mut rest) {
        tokens.list.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '[' => Token::Class(class(&mut rest)?),
            '\\' => {
                tokens.escaped = true;
                Token::Literal(next(&mut rest).ok_or(BAD_PATTERN)?)
            }
            literal => Token::Literal(literal),
        });
    }
    Ok(tokens)
}

fn next(rest: &mut &str) -> Option<char> {
    let mut chars = rest.chars();
    let c = chars.next();
    *rest = chars.as_str();
    c
}

/// Reads a class up to its closing bracket. It cannot be empty; `!` does not negate.
fn class(rest: &mut &str) -> Result<Class, String> {
    let negated = rest.starts_with('^');
    if negated {
        next(rest);
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.starts_with(']') {
            next(rest);
            return Ok(Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if rest.starts_with('-') {
            next(rest);
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut &str) -> Result<char, String> {
    let c = match next(rest) {
        None | Some('-' | ']') => return Err(BAD_PATTERN.to_owned()),
        Some('\\') => next(rest).ok_or(BAD_PATTERN)?,
        Some(c) => c,
    };
    // The class must still be closed.
    if rest.is_empty() {
        Err(BAD_PATTERN.to_owned())
    } else {
        Ok(c)
    }
}

/// Matches one path component as Go's `filepath.Match` does: `*` and `?` stop at `/`.
///
/// The error is `syntax error in pattern`.
pub fn glob_match(pattern: &str, name: &str) -> Result<bool, String> {
    let tokens = parse(pattern)?.list;
    let name: Vec<char> = name.chars().collect();
    let (mut token, mut position) = (0, 0);
    // Where to go on when what follows the last star does not fit: only the last one has to be
    // tried again, which keeps this quadratic at worst.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let c = name.get(position).copied();
        let fits = match tokens.get(token) {
            None => c.is_none(),
            Some(Token::Star) => {
                retry = Some((token + 1, position));
                token += 1;
                continue;
            }
            Some(Token::Literal(literal)) => c == Some(*literal),
            Some(Token::Any) => c.is_some_and(|c| c != '/'),
            Some(Token::Class(class)) => c.is_some_and(|c| class.contains(c)),
        };
        if fits {
            if token == tokens.len() {
                return Ok(true);
            }
            token += 1;
            position += 1;
            continue;
        }
        match retry {
            Some((after_star, from)) if name.get(from).is_some_and(|c| *c != '/') => {
                retry = Some((after_star, from + 1));
                token = after_star;
                position = from + 1;
            }
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("[!a]", "b", false),
            ("[!a]", "!", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("**", "ab", true),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("*", "", true),
            ("*", ".hid", true),
        ] {
            assert_eq!(glob_match(pattern, name), Ok(expected), "{pattern} {name}");
        }
    }

    #[test]
    fn bad_patterns() {
        for pattern in [
            "[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "a\\", "[a-b-c]", "[a\\",
        ] {
            for name in ["a", "x", "", "[ab]"] {
                assert_eq!(
                    glob_match(pattern, name),
                    Err(BAD_PATTERN.to_owned()),
                    "{pattern}"
                );
            }
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let name = "a".repeat(5_000);
        let pattern = format!("{}b", "a*".repeat(500));
        assert_eq!(glob_match(&pattern, &name), Ok(false));
    }
}
