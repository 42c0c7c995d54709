//! Ignore files (`.dockerignore`) and `COPY` wildcards.
//!
//! Patterns are tried in order and the last decision wins. A pattern matches a path when it matches
//! the path or one of its parent directories. A `!` pattern only matters where something matched
//! before it, and the reverse. This is what the reference implementation does while it walks a
//! context; its results for one path out of the blue can differ where a pattern is repeated.

mod glob;
mod pattern;

pub use glob::glob_match;

use pattern::Pattern;

use crate::text::clean_path;

/// Longest line of an ignore file.
const MAX_LINE: usize = 65_535;

/// Most patterns in one ignore file.
const MAX_PATTERNS: usize = 100_000;

/// Patterns that exclude everything.
const EVERYTHING: [&str; 3] = ["*", "**", "**/*"];

/// The patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct IgnoreMatcher {
    rules: Vec<Rule>,
    has_negation: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    negated: bool,
    /// The pattern after cleaning, without `!`.
    cleaned: String,
    /// The pattern as written.
    written: String,
    line: u32,
}

/// What is known about a path during a walk; made by [`IgnoreMatcher::enter`].
///
/// The default is the state of the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchState {
    /// Whether the path is ignored.
    pub ignored: bool,
    /// Whether something below an ignored directory can be taken back by a `!` pattern. When it is
    /// false, an ignored directory need not be read.
    pub may_reinclude_below: bool,
    path: String,
    slashes: usize,
    /// Which patterns matched the path or a parent of it.
    matched: Bits,
}

/// The pattern that decided over a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreReason {
    /// Position in the list of patterns, counted from 0.
    pub index: usize,
    /// The pattern as written.
    pub pattern: String,
    /// Line of the ignore file, counted from 1; 0 for patterns that come from no file.
    pub line: u32,
}

impl IgnoreMatcher {
    /// Reads an ignore file. The error is `BuildKit`'s text.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let mut matcher = Self::default();
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            if line.len() > MAX_LINE {
                return Err("bufio.Scanner: token too long".to_owned());
            }
            let line = String::from_utf8_lossy(line);
            if line.starts_with('#') {
                continue;
            }
            let written = line.trim();
            let (negated, body) = match written.strip_prefix('!') {
                Some(body) => ("!", body.trim()),
                None => ("", written),
            };
            let mut cleaned = if body.is_empty() {
                String::new()
            } else {
                clean_path(body)
            };
            if cleaned.len() > 1 && cleaned.starts_with('/') {
                cleaned.remove(0);
            }
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            matcher.add(&format!("{negated}{cleaned}"), written, number)?;
        }
        Ok(matcher)
    }

    /// Takes patterns as given with `--exclude`. The error is `BuildKit`'s text.
    pub fn from_patterns(patterns: &[String]) -> Result<Self, String> {
        let mut matcher = Self::default();
        for pattern in patterns {
            matcher.add(pattern, pattern, 0)?;
        }
        Ok(matcher)
    }

    fn add(&mut self, pattern: &str, written: &str, line: u32) -> Result<(), String> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean_path(pattern);
        let (negated, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err("illegal exclusion pattern: \"!\"".to_owned()),
            Some(body) => (true, body),
            None => (false, cleaned.as_str()),
        };
        if self.rules.len() >= MAX_PATTERNS {
            return Err(format!("more than {MAX_PATTERNS} patterns"));
        }
        self.has_negation |= negated;
        self.rules.push(Rule {
            pattern: Pattern::compile(body)?,
            negated,
            cleaned: body.to_owned(),
            written: written.to_owned(),
            line,
        });
        Ok(())
    }

    /// Tells whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Tells whether there is a `!` pattern.
    pub fn has_negation(&self) -> bool {
        self.has_negation
    }

    /// Tells whether a path is ignored. The path is relative and `/`-separated.
    ///
    /// The root, `.`, counts as ignored when one pattern excludes everything and none takes anything
    /// back.
    pub fn ignored(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        if path.is_empty() || path == "." {
            return !self.has_negation && self.everything().is_some();
        }
        self.state(path).ignored
    }

    fn everything(&self) -> Option<usize> {
        self.rules
            .iter()
            .position(|rule| !rule.negated && EVERYTHING.contains(&rule.cleaned.as_str()))
    }

    fn state(&self, path: &str) -> MatchState {
        let parts = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        parts.fold(self.root(), |parent, name| self.enter(&parent, name))
    }

    /// Returns the state of the root of a walk.
    pub fn root(&self) -> MatchState {
        MatchState::default()
    }

    /// Returns the state of `name` in the directory with the state `parent`.
    pub fn enter(&self, parent: &MatchState, name: &str) -> MatchState {
        let is_top = parent.path.is_empty();
        let mut path = String::with_capacity(parent.path.len() + 1 + name.len());
        path.push_str(&parent.path);
        if !is_top {
            path.push('/');
        }
        path.push_str(name);
        let slashes = if is_top { 0 } else { parent.slashes + 1 };
        if parent.ignored && !parent.may_reinclude_below {
            let matched = parent.matched.clone();
            return MatchState {
                ignored: true,
                may_reinclude_below: false,
                path,
                slashes,
                matched,
            };
        }
        let mut matched = parent.matched.clone();
        let mut ignored = false;
        for (index, rule) in self.rules.iter().enumerate() {
            if !matched.has(index) {
                // A pattern that could not change anything is not tried.
                if rule.negated != ignored || !rule.pattern.matches(&path, slashes) {
                    continue;
                }
                matched.set(index);
            }
            ignored = !rule.negated;
        }
        let may_reinclude_below = ignored
            && self.has_negation
            && self
                .rules
                .iter()
                .any(|rule| rule.negated && rule.pattern.may_match_below(&path));
        MatchState {
            ignored,
            may_reinclude_below,
            path,
            slashes,
            matched,
        }
    }

    /// Returns the pattern that made a path ignored, `None` when it is not ignored.
    pub fn reason(&self, path: &str) -> Option<IgnoreReason> {
        if !self.ignored(path) {
            return None;
        }
        let path = path.trim_matches('/');
        let index = if path.is_empty() || path == "." {
            self.everything()
        } else {
            let matched = self.state(path).matched;
            self.rules
                .iter()
                .enumerate()
                .rev()
                .find(|(index, rule)| !rule.negated && matched.has(*index))
                .map(|(index, _)| index)
        }?;
        let rule = &self.rules[index];
        Some(IgnoreReason {
            index,
            pattern: rule.written.clone(),
            line: rule.line,
        })
    }
}

/// A set of pattern numbers; the first 64 need no memory of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bits {
    first: u64,
    more: Vec<u64>,
}

impl Bits {
    fn has(&self, index: usize) -> bool {
        let word = match index / 64 {
            0 => self.first,
            n => self.more.get(n - 1).copied().unwrap_or(0),
        };
        word & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: usize) {
        let word = match index / 64 {
            0 => &mut self.first,
            n => {
                if self.more.len() < n {
                    self.more.resize(n, 0);
                }
                &mut self.more[n - 1]
            }
        };
        *word |= 1 << (index % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, ignored: &[&str], kept: &[&str]) {
        let matcher = IgnoreMatcher::parse(file.as_bytes()).unwrap();
        for path in ignored {
            assert!(matcher.ignored(path), "{file:?} should ignore {path}");
        }
        for path in kept {
            assert!(!matcher.ignored(path), "{file:?} should keep {path}");
        }
    }

    #[test]
    fn plain_patterns_match_paths_and_what_is_below() {
        check("# c\n\na\n", &["a", "a/b/c"], &["s/a", "ab", "# c"]);
        check(
            "/a\n./b\ns/../c\nd/\n",
            &["a", "b", "c", "d", "d/e"],
            &["s"],
        );
        check("../a\n.\n/\n", &[], &["a", "b"]);
        check(" # x\n#c\n  a  \r\n", &["# x", "a"], &["#c"]);
        check("\u{feff}a\n", &["a"], &[]);
    }

    #[test]
    fn wildcards_stay_in_their_component() {
        check("*.md", &["a.md", "x.md/y"], &["s/a.md"]);
        check("**/*.md", &["a.md", "s/a.md", "s/t/.md"], &["a.mdx"]);
        check("s/*/a", &["s/t/a", "s/t/a/b"], &["s/a", "s/t/u/a"]);
        check("?.txt", &["x.txt"], &["xx.txt", ".txt"]);
        check("[ab]*", &["a", "bc"], &["c", "s/a"]);
        check("[!a]", &["!", "a"], &["b"]);
        check("[^a]", &["b"], &["a"]);
        check("\\*.txt", &["*.txt"], &["a.txt"]);
        check("{a,b}", &["{a,b}"], &["a", "b"]);
        check("a.b+", &["a.b+"], &["axb+", "a.bb"]);
    }

    #[test]
    fn double_stars_cross_directories() {
        check("**", &["a", "a/b"], &[]);
        check("s/**", &["s/a", "s/a/b"], &["s", "sa"]);
        check("**/x", &["x", "a/x", "a/b/x", "a/x/y"], &["ax", "xa"]);
        check("**x", &["x", "ax", "a/bx"], &["xa"]);
        check("a**/b", &["ab", "axx/y/b", "ax/b"], &["axb"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb"]);
        check("a/**/b/**", &["a/b/c", "a/x/b/c/d"], &["a/x/b"]);
        check("f?o/**", &["foo/a"], &["foo"]);
        check("**/a*/**/b", &["ax/b", "z/ax/y/b"], &["a", "ax/y"]);
    }

    #[test]
    fn the_last_decision_wins() {
        check("*.md\n!README.md", &["a.md"], &["README.md"]);
        check("!README.md\n*.md", &["README.md"], &[]);
        check("s\n!s/t/c.go", &["s", "s/a", "s/t", "s/t/a"], &["s/t/c.go"]);
        check(
            "*\n!s\ns/t\n!s/t/a",
            &["x", "s/t", "s/t/b"],
            &["s", "s/a", "s/t/a"],
        );
        check("s/t\n!s/q", &["s/t/a"], &["s/a", "s/q"]);
        check("*.md\n! README.md", &["a.md"], &["README.md"]);
    }

    #[test]
    fn the_root_is_ignored_when_everything_is() {
        check("**", &[".", "/"], &[]);
        check("*\n!a", &[], &["."]);
        check("a", &[], &["."]);
    }

    #[test]
    fn errors_are_those_of_the_reference() {
        let error = |file: &str| IgnoreMatcher::parse(file.as_bytes()).unwrap_err();
        assert_eq!(error("!\n"), "illegal exclusion pattern: \"!\"");
        assert_eq!(error("! \n"), "illegal exclusion pattern: \"!\"");
        assert_eq!(error("[a\n"), "syntax error in pattern");
        assert_eq!(error("a\\"), "syntax error in pattern");
        assert_eq!(
            error(&"x".repeat(MAX_LINE + 1)),
            "bufio.Scanner: token too long"
        );
    }

    #[test]
    fn walks_know_when_to_stop() {
        let matcher = IgnoreMatcher::parse(b"s\nt\nu\n!s/t/c.go\n!**/keep\n").unwrap();
        let s = matcher.enter(&matcher.root(), "s");
        assert!(s.ignored && s.may_reinclude_below);
        let matcher = IgnoreMatcher::parse(b"*\n!s/t/c*.go\n!v/**\n").unwrap();
        let below = |path: &str| matcher.state(path).may_reinclude_below;
        assert!(below("s") && below("s/t") && below("s/t/cx") && below("v"));
        assert!(!below("t") && !below("s/u") && !below("sx"));
    }

    #[test]
    fn a_reason_names_the_line() {
        let matcher = IgnoreMatcher::parse(b"# c\n*.md\n./s/\n!s/x\n").unwrap();
        let reason = matcher.reason("s/a").unwrap();
        assert_eq!(
            (reason.index, reason.pattern.as_str(), reason.line),
            (1, "./s/", 3)
        );
        assert_eq!(matcher.reason("s/x"), None);
        assert_eq!(matcher.reason("b"), None);
    }

    #[test]
    fn more_than_64_patterns_are_kept_apart() {
        let rules: Vec<String> = (0..200).map(|n| format!("d{n}\n!d{n}/keep")).collect();
        let file = rules.join("\n");
        let matcher = IgnoreMatcher::parse(file.as_bytes()).unwrap();
        assert!(matcher.ignored("d150/x"));
        assert!(!matcher.ignored("d150/keep"));
        assert!(!matcher.ignored("d200"));
    }

    #[test]
    fn long_patterns_match_too() {
        let long = format!("{}*b", "a*".repeat(200));
        let matcher = IgnoreMatcher::from_patterns(&[long]).unwrap();
        assert!(matcher.ignored(&format!("{}b", "a".repeat(300))));
        assert!(!matcher.ignored(&format!("{}b", "a".repeat(100))));
    }
}
