//! How a command fails: an exit status, one message, its causes, and the way out.

use std::error::Error;
use std::io;

use rbuild_cache::DiskTrouble;

/// Exit statuses; each means one thing.
pub(crate) mod status {
    /// A command or build failed.
    pub(crate) const ERROR: u8 = 1;
    /// The command line is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// Two builds of the same thing gave different results.
    pub(crate) const NOT_REPRODUCIBLE: u8 = 3;
    /// `rbuild run` could not start the container.
    pub(crate) const ENGINE: u8 = 125;
    /// The container's command was found but cannot be executed.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// The container's command was not found.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// Ended by Ctrl-C: 128 and the number of the signal.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Exit status.
    pub(crate) status: u8,
    /// What went wrong, without final period; none if everything has been said already.
    pub(crate) message: Option<String>,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) hints: Vec<String>,
    /// It is a disk that is in the way.
    pub(crate) disk: Option<DiskTrouble>,
}

impl Failure {
    /// A failure with this message and exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure {
            status: status::ERROR,
            message: Some(message.into()),
            causes: Vec::new(),
            hints: Vec::new(),
            disk: None,
        }
    }

    /// An exit status without a message.
    pub(crate) fn silent(status: u8) -> Failure {
        Failure {
            status,
            message: None,
            causes: Vec::new(),
            hints: Vec::new(),
            disk: None,
        }
    }

    /// A feature that is known but not there.
    pub(crate) fn unsupported(what: &str) -> Failure {
        Failure::new(format!("{what} is not supported yet"))
    }

    /// Adds a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Adds an error and its sources as causes.
    #[must_use]
    pub(crate) fn because(mut self, error: &(dyn Error + 'static)) -> Failure {
        self.causes.extend(chain(error));
        self.disk = self.disk.or(DiskTrouble::of(error));
        self
    }

    /// Changes the exit status.
    #[must_use]
    pub(crate) fn with_status(mut self, status: u8) -> Failure {
        self.status = status;
        self
    }

    /// Puts a message before this one, which becomes its first cause.
    #[must_use]
    pub(crate) fn within(mut self, message: impl Into<String>) -> Failure {
        // What has no message shall stay without a word.
        if let Some(inner) = self.message.take() {
            self.causes.insert(0, inner);
            self.message = Some(message.into());
        }
        self
    }
}

/// An error and its sources, outermost first; a text that repeats the one above it is left out.
fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let text = describe(error);
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    texts
}

/// The text of an error; system errors in the words of `strerror`, as all our texts in lower case.
fn describe(error: &(dyn Error + 'static)) -> String {
    plain_words(&error.to_string())
}

/// Says why an operation failed, as programs in Go do: `no such file or directory`.
pub(crate) fn io_text(error: &io::Error) -> String {
    plain_words(&error.to_string())
}

/// Makes a system error that Rust has printed read like one of our texts: without `(os error N)`
/// and its capital.
pub(crate) fn plain_words(text: &str) -> String {
    let system = text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once(" (os error "))
        .filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    let Some((system, _)) = system else {
        return text.to_owned();
    };
    let mut letters = system.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}

/// Any error becomes a failure; a reader that went away ends the command without a word.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut broken_pipe = false;
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(inner) = next {
            if let Some(inner) = inner.downcast_ref::<io::Error>() {
                broken_pipe |= inner.kind() == io::ErrorKind::BrokenPipe;
            }
            next = inner.source();
        }
        if broken_pipe {
            // What a program ends with when the signal is not ignored: 128 + SIGPIPE.
            return Failure::silent(141);
        }
        let mut texts = chain(&error).into_iter();
        Failure {
            status: status::ERROR,
            message: texts.next(),
            causes: texts.collect(),
            hints: Vec::new(),
            disk: DiskTrouble::of(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not read `x`")]
    struct Outer(#[source] io::Error);

    #[test]
    fn errors_become_a_message_and_causes() {
        let failure = Failure::from(Outer(io::Error::from_raw_os_error(2)));
        assert_eq!(failure.message.as_deref(), Some("could not read `x`"));
        assert_eq!(failure.causes, ["no such file or directory"]);
        let failure = failure.within("could not start");
        assert_eq!(failure.message.as_deref(), Some("could not start"));
        assert_eq!(
            failure.causes,
            ["could not read `x`", "no such file or directory"]
        );
    }

    #[test]
    fn system_errors_read_as_from_programs_in_c() {
        assert_eq!(
            io_text(&io::Error::from_raw_os_error(13)),
            "permission denied"
        );
        assert_eq!(plain_words("Is it (os error x)"), "Is it (os error x)");
    }

    #[test]
    fn a_closed_pipe_is_no_news() {
        let failure = Failure::from(Outer(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(failure, Failure::silent(141));
    }
}
