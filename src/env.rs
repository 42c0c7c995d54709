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
    MAX_USED_SPACE = "RBUILD_MAX_USED_SPACE", "Builds remove old build cache when the store takes more, such as `50GB`, `30%` of the disk, or `0` for no bound; 60% by default.";
    MIN_FREE_SPACE = "RBUILD_MIN_FREE_SPACE", "Builds remove old build cache when less is free on its disk; 5% by default.";
    RESERVED_SPACE = "RBUILD_RESERVED_SPACE", "Build cache that builds keep in spite of these two; 10% by default.";
    KEEP_DURATION = "RBUILD_KEEP_DURATION", "Builds remove build cache that was not used for longer, such as `720h`, or `0` for no bound; 60 days by default.";
    LOG = "RBUILD_LOG", "Filter of the developer log on standard error, such as `debug`.";
    XDG_DATA_HOME = "XDG_DATA_HOME", "The store is `rbuild` in it, for users other than root.";
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR", "Runtime state is `rbuild` in it, for users other than root.";
    XDG_CONFIG_HOME = "XDG_CONFIG_HOME", "Settings of registries are in `containers` and `docker` in it.";
    HOME = "HOME", "Stands in for `XDG_DATA_HOME` with `.local/share`.";
    ISOLATION = "RBUILD_ISOLATION", "Default of `--isolation`, for all commands.";
    BUILDAH_ISOLATION = "BUILDAH_ISOLATION", "The same for who comes from buildah.";
    PROGRESS = "BUILDKIT_PROGRESS", "Default of `--progress`.";
    COLORS = "BUILDKIT_COLORS", "Colours of the progress, such as `run=green:error=red`.";
    LOG_LINES = "BUILDKIT_TTY_LOG_LINES", "Output lines shown for each running step; 6 by default.";
    NO_COLOR = "NO_COLOR", "No colours, if set to anything but the empty string.";
    TERM = "TERM", "No colours and no live view if it is `dumb`.";
    SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH", "Passed to builds as a build argument.";
    DEFAULT_PLATFORM = "DOCKER_DEFAULT_PLATFORM", "Default of `--platform`.";
    DOCKER_CONFIG = "DOCKER_CONFIG", "Directory of Docker's `config.json` with credentials.";
    REGISTRY_AUTH_FILE = "REGISTRY_AUTH_FILE", "File with credentials, instead of all others.";
    REGISTRIES_CONF = "CONTAINERS_REGISTRIES_CONF", "Podman's `registries.conf`, instead of the usual one.";
    HTTP_PROXY = "HTTP_PROXY", "Proxy for `http` addresses; also in lower case.";
    HTTPS_PROXY = "HTTPS_PROXY", "Proxy for `https` addresses; also in lower case.";
    NO_PROXY = "NO_PROXY", "Hosts that are reached without a proxy; also in lower case.";
    CERTIFICATES = "SSL_CERT_FILE", "Certificate authorities that are trusted instead of the system's.";
    SSH_AGENT = "SSH_AUTH_SOCK", "Socket of the agent that `--ssh` forwards.";
    PATH = "PATH", "Where the `git` program, and a busybox for `debug`, are looked for.";
    TMPDIR = "TMPDIR", "Where `watch` keeps a small file; `/tmp` by default.";
}

/// The values of the variables when the command started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) root: Option<PathBuf>,
    pub(crate) max_used_space: Option<String>,
    pub(crate) min_free_space: Option<String>,
    pub(crate) reserved_space: Option<String>,
    pub(crate) keep_duration: Option<String>,
    pub(crate) log: Option<String>,
    pub(crate) data_home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
    /// The variable and its value.
    pub(crate) isolation: Option<(Variable, String)>,
    pub(crate) progress: Option<String>,
    pub(crate) colors: Option<String>,
    pub(crate) log_lines: Option<usize>,
    pub(crate) no_color: bool,
    pub(crate) dumb_terminal: bool,
    pub(crate) source_date_epoch: Option<String>,
    pub(crate) default_platform: Option<String>,
    pub(crate) xdg_config_home: Option<PathBuf>,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) registry_auth_file: Option<PathBuf>,
    pub(crate) registries_conf: Option<PathBuf>,
    pub(crate) http_proxy: Option<String>,
    pub(crate) https_proxy: Option<String>,
    pub(crate) no_proxy: Option<String>,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) ssh_agent: Option<PathBuf>,
    pub(crate) path: Option<OsString>,
    pub(crate) temporary: Option<PathBuf>,
}

impl Environment {
    /// Reads all of them. An empty variable counts as not set.
    pub(crate) fn read() -> Environment {
        Environment {
            root: path(ROOT),
            max_used_space: text(MAX_USED_SPACE),
            min_free_space: text(MIN_FREE_SPACE),
            reserved_space: text(RESERVED_SPACE),
            keep_duration: text(KEEP_DURATION),
            log: text(LOG),
            data_home: path(XDG_DATA_HOME).filter(|path| path.is_absolute()),
            runtime_dir: path(XDG_RUNTIME_DIR).filter(|path| path.is_absolute()),
            home: path(HOME).filter(|path| path.is_absolute()),
            isolation: [ISOLATION, BUILDAH_ISOLATION]
                .into_iter()
                .find_map(|variable| Some((variable, text(variable)?))),
            progress: text(PROGRESS),
            colors: text(COLORS),
            log_lines: text(LOG_LINES).and_then(|lines| lines.parse().ok()),
            no_color: raw(NO_COLOR).is_some(),
            dumb_terminal: text(TERM).as_deref() == Some("dumb"),
            source_date_epoch: text(SOURCE_DATE_EPOCH),
            default_platform: text(DEFAULT_PLATFORM),
            xdg_config_home: path(XDG_CONFIG_HOME).filter(|path| path.is_absolute()),
            docker_config: path(DOCKER_CONFIG),
            registry_auth_file: path(REGISTRY_AUTH_FILE),
            registries_conf: path(REGISTRIES_CONF),
            http_proxy: any_case(HTTP_PROXY),
            https_proxy: any_case(HTTPS_PROXY),
            no_proxy: any_case(NO_PROXY),
            certificates: path(CERTIFICATES),
            ssh_agent: path(SSH_AGENT),
            path: raw(PATH),
            temporary: path(TMPDIR),
        }
    }

    /// Directory of the user's settings.
    pub(crate) fn config_home(&self) -> Option<PathBuf> {
        let given = self.xdg_config_home.clone();
        given.or_else(|| Some(self.home.as_ref()?.join(".config")))
    }
}

fn raw(variable: Variable) -> Option<OsString> {
    std::env::var_os(variable.name).filter(|value| !value.is_empty())
}

fn text(variable: Variable) -> Option<String> {
    raw(variable).and_then(|value| value.into_string().ok())
}

/// Proxies are known by both spellings.
fn any_case(variable: Variable) -> Option<String> {
    text(variable).or_else(|| {
        let value = by_name(variable.name.to_ascii_lowercase())?;
        value.into_string().ok().filter(|value| !value.is_empty())
    })
}

/// The environment for `git`: the user's own, so that his settings, credentials and proxies hold,
/// without what would point it to another repository or hand it an agent that was not asked for.
pub(crate) fn for_git() -> Vec<(OsString, OsString)> {
    const LEFT_OUT: [&str; 11] = [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
        "GIT_SHALLOW_FILE",
        "GIT_CEILING_DIRECTORIES",
        "SSH_AUTH_SOCK",
    ];
    std::env::vars_os()
        .filter(|(name, _)| !LEFT_OUT.iter().any(|left_out| name == left_out))
        .collect()
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
