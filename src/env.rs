//! Every environment variable that the command reads, declared and read in one place.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// An environment variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does; one sentence for the manual.
    pub(crate) help: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal, $help:literal;)*) => {
        $(const $constant: Variable = Variable { name: $name, help: $help };)*
        /// All variables, in the order of the manual.
        pub(crate) const VARIABLES: &[Variable] = &[$($constant),*];
    };
}

variables! {
    ROOT = "RBUILD_ROOT", "Directory of the store, unless `--root` is given.";
    LOG = "RBUILD_LOG", "Filter of the developer log on standard error, such as `debug`.";
    XDG_DATA_HOME = "XDG_DATA_HOME", "The store is `rbuild` in it, for users other than root.";
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR", "Runtime state is `rbuild` in it, for users other than root.";
    HOME = "HOME", "Stands in for `XDG_DATA_HOME` with `.local/share`.";
    PROGRESS = "BUILDKIT_PROGRESS", "Default of `--progress`.";
    COLORS = "BUILDKIT_COLORS", "Colours of the progress, such as `run=green:error=red`.";
    LOG_LINES = "BUILDKIT_TTY_LOG_LINES", "Output lines shown for each running step; 6 by default.";
    NO_COLOR = "NO_COLOR", "No colours, if set to anything but the empty string.";
    TERM = "TERM", "No colours and no live view if it is `dumb`.";
    SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH", "Passed to builds as a build argument.";
    DEFAULT_PLATFORM = "DOCKER_DEFAULT_PLATFORM", "Default of `--platform`.";
}

/// The values of the variables when the command started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) root: Option<PathBuf>,
    pub(crate) log: Option<String>,
    pub(crate) data_home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
    pub(crate) progress: Option<String>,
    pub(crate) colors: Option<String>,
    pub(crate) log_lines: Option<usize>,
    pub(crate) no_color: bool,
    pub(crate) dumb_terminal: bool,
    pub(crate) source_date_epoch: Option<String>,
    pub(crate) default_platform: Option<String>,
}

impl Environment {
    /// Reads all of them. An empty variable counts as not set.
    pub(crate) fn read() -> Environment {
        Environment {
            root: path(ROOT),
            log: text(LOG),
            data_home: path(XDG_DATA_HOME).filter(|path| path.is_absolute()),
            runtime_dir: path(XDG_RUNTIME_DIR).filter(|path| path.is_absolute()),
            home: path(HOME).filter(|path| path.is_absolute()),
            progress: text(PROGRESS),
            colors: text(COLORS),
            log_lines: text(LOG_LINES).and_then(|lines| lines.parse().ok()),
            no_color: raw(NO_COLOR).is_some(),
            dumb_terminal: text(TERM).as_deref() == Some("dumb"),
            source_date_epoch: text(SOURCE_DATE_EPOCH),
            default_platform: text(DEFAULT_PLATFORM),
        }
    }
}

fn raw(variable: Variable) -> Option<OsString> {
    std::env::var_os(variable.name).filter(|value| !value.is_empty())
}

fn text(variable: Variable) -> Option<String> {
    raw(variable).and_then(|value| value.into_string().ok())
}

fn path(variable: Variable) -> Option<PathBuf> {
    raw(variable).map(PathBuf::from)
}

/// A variable whose name the user gave, as in `--build-arg NAME` or `--secret env=NAME`.
pub(crate) fn by_name(name: impl AsRef<OsStr>) -> Option<OsString> {
    let name = name.as_ref();
    // Names that cannot be in an environment would make the look-up panic.
    let impossible = name.is_empty()
        || name
            .as_encoded_bytes()
            .iter()
            .any(|b| matches!(b, b'=' | 0));
    if impossible {
        None
    } else {
        std::env::var_os(name)
    }
}
