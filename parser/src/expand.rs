//! Expansion of variables in words, with an explicit environment.

/// The variables that an expansion may see.
pub trait Variables {
    /// Returns the value, `None` when the variable is unset.
    fn get(&self, name: &str) -> Option<&str>;
}

/// Result of an expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The word after expansion and quote removal.
    pub value: String,
    /// Names that were met unset, in order, once per occurrence.
    pub undefined: Vec<String>,
}

/// An expansion that failed: `failed to process "<word>": <reason>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word that was being expanded.
    pub word: String,
    /// What is wrong with it.
    pub reason: String,
    /// Names that were met unset up to the failure.
    pub undefined: Vec<String>,
}

fn not_yet(word: &str) -> ExpandError {
    let reason = "words cannot be expanded yet".to_owned();
    ExpandError {
        word: word.to_owned(),
        reason,
        undefined: Vec::new(),
    }
}

/// Expands one word to one word.
pub fn expand(
    word: &str,
    _escape: char,
    _variables: &dyn Variables,
) -> Result<Expansion, ExpandError> {
    Err(not_yet(word))
}

/// Expands a word and splits the result on white space; returns the words and the unset names.
pub fn expand_words(
    word: &str,
    _escape: char,
    _variables: &dyn Variables,
) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    Err(not_yet(word))
}

/// Expands the body of a heredoc: quotes are ordinary characters, the escape character is `\`.
pub fn expand_heredoc(body: &str, _variables: &dyn Variables) -> Result<Expansion, ExpandError> {
    Err(not_yet(body))
}
