//! One pattern of an ignore file, compiled.

use super::glob::{self, Class, Token};

/// A pattern without its `!`.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// The whole path.
    Exact(String),
    /// `dir/**`: what begins so.
    Prefix(String),
    /// `**/name`: the path, or what ends so.
    Suffix(String),
    Glob(Glob),
}

/// A pattern with wildcards.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    steps: Vec<Step>,
    /// Literal text that every match begins and ends with: most paths are turned away by it.
    prefix: String,
    suffix: String,
    /// Number of slashes in every match, when it is fixed.
    slashes: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
    Class(Class),
    /// `**/`, or `**` before other text: nothing, or anything up to a slash. Followed by `Inside`.
    Directories,
    /// Second half of `Directories`.
    Inside,
    /// `**` at the end.
    Rest,
}

impl Pattern {
    /// Compiles a cleaned pattern. The error is `BuildKit`'s text.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let tokens = glob::parse(text)?;
        let special = |token: &Token| !matches!(token, Token::Literal(_));
        let plain = |tokens: &[Token]| !tokens.iter().any(special);
        let list = tokens.list.as_slice();
        if plain(list) {
            return Ok(Self::Exact(literals(list)));
        }
        if !tokens.escaped {
            if let [Token::Star, Token::Star, rest @ ..] = list
                && plain(rest)
            {
                return Ok(Self::Suffix(literals(rest)));
            }
            if let [rest @ .., Token::Star, Token::Star] = list
                && plain(rest)
            {
                return Ok(Self::Prefix(literals(rest)));
            }
        }
        Ok(Self::Glob(Glob::compile(list)))
    }

    /// Tells whether the pattern matches a path that has this many slashes.
    pub(super) fn matches(&self, path: &str, slashes: usize) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Self::Glob(glob) => glob.matches(path, slashes),
        }
    }

    /// Tells whether something below a directory can match.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        let below = |literal: &str| match literal.strip_prefix(directory) {
            Some(rest) => rest.starts_with('/'),
            None => false,
        };
        match self {
            Self::Exact(text) => below(text),
            Self::Suffix(_) => true,
            Self::Prefix(prefix) | Self::Glob(Glob { prefix, .. }) => {
                below(prefix)
                    || directory.starts_with(prefix.as_str())
                    || prefix.strip_suffix('/') == Some(directory)
            }
        }
    }
}

fn literals(tokens: &[Token]) -> String {
    tokens
        .iter()
        .map_while(|token| match token {
            Token::Literal(c) => Some(*c),
            _ => None,
        })
        .collect()
}

/// States of the automaton, as many as fit into one word.
const SMALL: usize = 128;

impl Glob {
    fn compile(tokens: &[Token]) -> Self {
        let mut steps = Vec::with_capacity(tokens.len());
        let mut rest = tokens;
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            match token {
                Token::Literal(c) => steps.push(Step::Literal(*c)),
                Token::Any => steps.push(Step::Any),
                Token::Class(class) => steps.push(Step::Class(class.clone())),
                Token::Star if rest.first() == Some(&Token::Star) => {
                    rest = &rest[1..];
                    if rest.first() == Some(&Token::Literal('/')) {
                        rest = &rest[1..];
                    }
                    if rest.is_empty() {
                        steps.push(Step::Rest);
                    } else {
                        steps.extend([Step::Directories, Step::Inside]);
                    }
                }
                Token::Star => steps.push(Step::Star),
            }
        }
        let literal = |step: &Step| match step {
            Step::Literal(c) => Some(*c),
            _ => None,
        };
        let prefix: String = steps.iter().map_while(literal).collect();
        let mut suffix: Vec<char> = steps.iter().rev().map_while(literal).collect();
        suffix.reverse();
        let fixed = steps.iter().all(|step| match step {
            Step::Literal(_) | Step::Any | Step::Star => true,
            Step::Class(class) => !class.contains('/'),
            Step::Directories | Step::Inside | Step::Rest => false,
        });
        let count = steps
            .iter()
            .filter(|step| **step == Step::Literal('/'))
            .count();
        Self {
            prefix,
            suffix: suffix.into_iter().collect(),
            slashes: fixed.then_some(count),
            steps,
        }
    }

    fn matches(&self, path: &str, slashes: usize) -> bool {
        if self.slashes.is_some_and(|wanted| wanted != slashes)
            || !path.starts_with(self.prefix.as_str())
            || !path.ends_with(self.suffix.as_str())
        {
            return false;
        }
        if self.slashes.is_some() {
            self.match_components(path)
        } else if self.steps.len() < SMALL {
            self.run(path, &mut 0_u128, &mut 0_u128)
        } else {
            let states = || vec![false; self.steps.len() + 1];
            self.run(path, &mut states(), &mut states())
        }
    }

    /// Matches a pattern in which nothing crosses a slash.
    ///
    /// When something does not fit, only the last star can help: those of earlier components cannot
    /// reach over the slash behind them.
    fn match_components(&self, path: &str) -> bool {
        let (mut step, mut rest) = (0, path);
        let mut retry: Option<(usize, &str)> = None;
        loop {
            let mut after = rest.chars();
            let c = after.next();
            let fits = match self.steps.get(step) {
                Some(Step::Star) => {
                    step += 1;
                    retry = Some((step, rest));
                    continue;
                }
                Some(Step::Literal(literal)) => c == Some(*literal),
                Some(Step::Any) => c.is_some_and(|c| c != '/'),
                Some(Step::Class(class)) => c.is_some_and(|c| class.contains(c)),
                None if c.is_none() => return true,
                // The others cross slashes and do not come here.
                Some(Step::Directories | Step::Inside | Step::Rest) | None => false,
            };
            if fits {
                step += 1;
                rest = after.as_str();
                continue;
            }
            let Some((after_star, from)) = retry else {
                return false;
            };
            let mut skipped = from.chars();
            if skipped.next().is_none_or(|c| c == '/') {
                return false;
            }
            step = after_star;
            rest = skipped.as_str();
            retry = Some((step, rest));
        }
    }

    /// Runs all ways through the pattern at once, so that the time is bounded by path times pattern.
    fn run<S: States>(&self, path: &str, now: &mut S, next: &mut S) -> bool {
        self.enter(now, 0);
        for c in path.chars() {
            next.clear();
            let mut any = false;
            now.for_each(self.steps.len(), |state| {
                let Some(step) = self.steps.get(state) else {
                    return;
                };
                let to = match step {
                    Step::Literal(literal) if *literal == c => state + 1,
                    Step::Any if c != '/' => state + 1,
                    Step::Class(class) if class.contains(c) => state + 1,
                    Step::Star if c != '/' => state,
                    Step::Rest => state,
                    Step::Inside => {
                        if c == '/' {
                            self.enter(next, state + 1);
                        }
                        state
                    }
                    _ => return,
                };
                any = true;
                self.enter(next, to);
            });
            if !any {
                return false;
            }
            std::mem::swap(now, next);
        }
        now.has(self.steps.len())
    }

    /// Enters a state and those that can be reached from it without a character.
    fn enter<S: States>(&self, states: &mut S, state: usize) {
        let mut state = state;
        loop {
            states.set(state);
            match self.steps.get(state) {
                Some(Step::Star | Step::Rest) => state += 1,
                Some(Step::Directories) => {
                    states.set(state + 1);
                    state += 2;
                }
                _ => return,
            }
        }
    }
}

/// A set of states.
trait States {
    fn clear(&mut self);
    fn set(&mut self, state: usize);
    fn has(&self, state: usize) -> bool;
    fn for_each(&self, last: usize, visit: impl FnMut(usize));
}

impl States for u128 {
    fn clear(&mut self) {
        *self = 0;
    }

    fn set(&mut self, state: usize) {
        *self |= 1 << state;
    }

    fn has(&self, state: usize) -> bool {
        *self & (1 << state) != 0
    }

    fn for_each(&self, _last: usize, mut visit: impl FnMut(usize)) {
        let mut left = *self;
        while left != 0 {
            visit(left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
}

impl States for Vec<bool> {
    fn clear(&mut self) {
        self.fill(false);
    }

    fn set(&mut self, state: usize) {
        if let Some(place) = self.get_mut(state) {
            *place = true;
        }
    }

    fn has(&self, state: usize) -> bool {
        self.get(state).copied().unwrap_or(false)
    }

    fn for_each(&self, last: usize, mut visit: impl FnMut(usize)) {
        for state in 0..=last {
            if self.has(state) {
                visit(state);
            }
        }
    }
}
