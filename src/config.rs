//! Flags and environment made into settings, once.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_runtime::Ground;

use crate::cli::GlobalArgs;
use crate::env::Environment;
use crate::failure::Failure;
use crate::ui::style::Palette;

/// Lines of output shown for each running step.
const LOG_LINES: usize = 6;

/// What all commands share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The environment as it was read.
    pub(crate) environment: Environment,
    /// `--root`.
    root: Option<PathBuf>,
    /// `--debug`.
    pub(crate) debug: bool,
    /// The user is root, in whichever user namespace.
    is_root: bool,
    /// Standard output is a terminal.
    pub(crate) stdout_terminal: bool,
    /// Standard error is a terminal.
    pub(crate) stderr_terminal: bool,
    /// Standard input is a terminal.
    pub(crate) stdin_terminal: bool,
    /// Where commands run, if this one needs to know.
    pub(crate) ground: Option<Arc<Ground>>,
    /// Colours for standard error.
    pub(crate) palette: Palette,
}

impl Settings {
    /// Puts flags and environment together.
    pub(crate) fn new(global: &GlobalArgs, environment: Environment) -> Settings {
        let stderr_terminal = std::io::stderr().is_terminal();
        let coloured = stderr_terminal && !environment.no_color && !environment.dumb_terminal;
        let palette = if coloured {
            Palette::coloured(environment.colors.as_deref()).0
        } else {
            Palette::default()
        };
        Settings {
            root: global.root.clone(),
            debug: global.debug,
            is_root: rustix::process::geteuid().is_root(),
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal,
            stdin_terminal: std::io::stdin().is_terminal(),
            ground: None,
            palette,
            environment,
        }
    }

    /// Directory of the store: `--root`, `RBUILD_ROOT`, then the user's own place.
    pub(crate) fn store_root(&self) -> Result<PathBuf, Failure> {
        let environment = &self.environment;
        let given = self.root.clone().or_else(|| environment.root.clone());
        if let Some(root) = given {
            return std::path::absolute(&root).map_err(|error| {
                Failure::new(format!("could not use the store `{}`", root.display()))
                    .because(&error)
            });
        }
        if self.is_root {
            return Ok(PathBuf::from("/var/lib/rbuild"));
        }
        let data = environment.data_home.clone().or_else(|| {
            environment
                .home
                .as_ref()
                .map(|home| home.join(".local/share"))
        });
        data.map(|data| data.join("rbuild")).ok_or_else(|| {
            Failure::new("no place for the store: neither `XDG_DATA_HOME` nor `HOME` is set")
                .hint("name a directory with `--root DIR` or `RBUILD_ROOT`")
        })
    }

    /// Directory of the state that sandboxes share while they run.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        if self.is_root {
            return Ok(PathBuf::from("/run/rbuild"));
        }
        match &self.environment.runtime_dir {
            Some(dir) => Ok(dir.join("rbuild")),
            None => Ok(self.store_root()?.join("run")),
        }
    }

    /// How many output lines a running step shows.
    pub(crate) fn log_lines(&self) -> usize {
        self.environment.log_lines.unwrap_or(LOG_LINES)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(root: Option<&str>, environment: Environment, is_root: bool) -> Settings {
        let global = GlobalArgs {
            root: root.map(PathBuf::from),
            debug: false,
        };
        Settings {
            is_root,
            ..Settings::new(&global, environment)
        }
    }

    #[test]
    fn the_store_has_an_order_of_places() {
        let environment = Environment {
            root: Some("/env".into()),
            data_home: Some("/data".into()),
            home: Some("/home/u".into()),
            ..Environment::default()
        };
        let place = |root, environment: &Environment, is_root| {
            settings(root, environment.clone(), is_root)
                .store_root()
                .unwrap()
        };
        assert_eq!(place(Some("/flag"), &environment, true), Path::new("/flag"));
        assert_eq!(place(None, &environment, true), Path::new("/env"));
        let environment = Environment {
            root: None,
            ..environment
        };
        assert_eq!(
            place(None, &environment, true),
            Path::new("/var/lib/rbuild")
        );
        assert_eq!(place(None, &environment, false), Path::new("/data/rbuild"));
        let environment = Environment {
            data_home: None,
            ..environment
        };
        assert_eq!(
            place(None, &environment, false),
            Path::new("/home/u/.local/share/rbuild")
        );
        assert!(
            settings(None, Environment::default(), false)
                .store_root()
                .is_err()
        );
        assert!(place(Some("relative"), &environment, false).is_absolute());
    }
}
