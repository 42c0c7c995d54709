//! Why something could not be done with a container.

use std::io;
use std::path::PathBuf;

/// An error of the containers' directory or of a monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// There is none with this name or beginning of an ID.
    #[error("No such container: {0}")]
    NotFound(String),
    /// Several IDs begin like this.
    #[error("the ID {query:?} is not unique: {matches} containers begin with it")]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// How many containers.
        matches: usize,
    },
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to \
         remove (or rename) that container to be able to reuse that name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// It is not a name.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    /// It runs already.
    #[error("container {0} is running already")]
    Running(String),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Another one that it has a link to does not run.
    #[error("Cannot link to a non running container: /{other} AS /{name}/{alias}")]
    LinkedNotRunning {
        /// The other one.
        other: String,
        /// The container.
        name: String,
        /// What it calls the other one.
        alias: String,
    },
    /// A file of a container cannot be read or written.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The monitor answered something else, or nothing.
    #[error("could not {action}")]
    Monitor {
        /// What was asked for.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ContainerError {
    /// Names a failed action on a path.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> ContainerError {
        let path = path.into();
        move |source| ContainerError::Io {
            action,
            path,
            source,
        }
    }
}
