//! The text that a build prints when standard error is no terminal.
