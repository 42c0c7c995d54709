//! Runs `Exec` operations: a command in the sandbox over the layers of a stage.
//!
//! Language reference, sections 4.1 and 13.

mod mask;
mod mounts;
mod output;
mod secret;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rbuild_cache::{Follow, Layer, Lease, RootView, Scratch, Store};
use rbuild_parser::{NetworkMode, SecurityMode};
use rbuild_runtime::{
    ExitStatus, Limits, Network, Process, RootFs, Runtime, Sandbox, SandboxError, Security, Stdio,
    UpperDir, User, has_private_network,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cancel::Cancel;
use crate::error::{BuildError, BuildErrorKind, chain};
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::file::{PathMaker, commit_options, upper_build_error};
use crate::ops::ExecOp;
use crate::request::BuildRequest;
use crate::source::AgentSocket;
use crate::users::{ResolvedUser, UserError, lookup_user};

pub(crate) use secret::read_secret;

/// What executing needs besides the operation.
pub(crate) struct ExecContext<'a> {
    /// The store.
    pub store: &'a Store,
    /// Keeps what the build uses from being pruned meanwhile.
    pub lease: &'a Lease,
    /// Starts sandboxes.
    pub runtime: &'a Runtime,
    /// Secrets, hosts, limits.
    pub request: &'a BuildRequest,
    /// Receives output.
    pub events: &'a dyn EventSink,
    /// Stops the command.
    pub cancel: &'a Cancel,
    /// The vertex, for events.
    pub vertex: VertexId,
}

/// Runs the command over `root` (bottom first) and commits what it changed as a layer.
///
/// `inputs` are the unpacked layers of every input of the vertex, in order.
pub(crate) fn execute(
    context: &ExecContext<'_>,
    operation: &ExecOp,
    root: &[Layer],
    inputs: &[Vec<Layer>],
) -> Result<Layer, BuildError> {
    let name = process_name(operation);
    let draft = context
        .store
        .draft_on(root)
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let view = RootView::new(root);
    let user = lookup_user(&view, &operation.user).map_err(|error| user_error(&name, &error))?;
    prepare_root(draft.upper(), root, operation)?;
    let scratch = context
        .store
        .scratch()
        .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
    let view = RootView::new(root).with_upper(draft.upper());
    let prepared = mounts::prepare(context, operation, &view, inputs, &scratch)?;
    let sandbox = Sandbox {
        root: root_fs(root, &prepared.scaffold, &draft),
        process: process(operation, &user, &prepared.env),
        mounts: prepared.mounts,
        hostname: operation.hostname.clone(),
        network: network(operation.network),
        security: security(operation.security),
        shm_size: operation.shm_size.unwrap_or(Sandbox::DEFAULT_SHM_SIZE),
        rlimits: mounts::rlimits(&operation.ulimits)?,
        limits: Limits::default(),
        init: false,
    };
    let status = run(context, &sandbox, &name, &prepared.secrets)?;
    drop(prepared.locks);
    drop(prepared.agents);
    drop(scratch);
    check_status(context, &name, status)?;
    draft
        .commit(root, &commit_options(context.cancel))
        .map_err(|error| BuildError::io("could not store the new layer", &error))
}

/// Mount points that every container runtime leaves in the first layer, and the working directory.
fn prepare_root(upper: &Path, root: &[Layer], operation: &ExecOp) -> Result<(), BuildError> {
    let mut maker = PathMaker::open(upper, RootView::new(root).with_upper(upper))
        .map_err(|error| upper_build_error(&error))?;
    for path in ["/dev", "/proc", "/sys"] {
        // What is there but is no directory is refused by the sandbox with a clear message.
        let present = maker
            .view()
            .lookup(path, Follow::None)
            .is_ok_and(|entry| entry.is_some());
        if !present {
            maker
                .make(path)
                .map_err(|error| upper_build_error(&error))?;
        }
    }
    if !in_kernel_tree(&operation.cwd) {
        maker
            .make(&operation.cwd)
            .map_err(|error| upper_build_error(&error))?;
    }
    maker.finish().map_err(|error| upper_build_error(&error))
}

/// Paths that the sandbox itself provides.
fn in_kernel_tree(path: &str) -> bool {
    ["/dev", "/proc", "/sys"]
        .iter()
        .any(|top| Path::new(path).starts_with(top))
}

fn root_fs(root: &[Layer], scaffold: &Path, draft: &rbuild_cache::Draft) -> RootFs {
    let mut lowers: Vec<PathBuf> = vec![scaffold.to_path_buf()];
    lowers.extend(root.iter().rev().map(|layer| layer.path().to_path_buf()));
    RootFs {
        lowers,
        upper: Some(UpperDir {
            upper: draft.upper().to_path_buf(),
            work: draft.work().to_path_buf(),
        }),
        readonly: false,
    }
}

fn process(operation: &ExecOp, user: &ResolvedUser, extra: &[(String, String)]) -> Process {
    let mut env: Vec<(String, String)> = operation.env.clone();
    for (name, value) in operation.proxy.iter().chain(extra) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), user.home.clone()));
    }
    Process {
        args: operation.args.iter().map(OsString::from).collect(),
        env: env
            .iter()
            .map(|(name, value)| OsString::from(format!("{name}={value}")))
            .collect(),
        cwd: PathBuf::from(&operation.cwd),
        user: User {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        },
        terminal: false,
    }
}

/// The network of a step: its own where this host can give one, else the host's.
fn network(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::Default if has_private_network() => Network::Private,
        NetworkMode::None => Network::None,
        NetworkMode::Default | NetworkMode::Host => Network::Host,
    }
}

fn security(mode: SecurityMode) -> Security {
    Security {
        privileged: mode == SecurityMode::Insecure,
        ..Security::default()
    }
}

fn process_name(operation: &ExecOp) -> String {
    format!(
        "process {:?} did not complete successfully",
        Quoted(&operation.args.join(" "))
    )
}

/// Debug form as Go's `%q`: only quotes and backslashes and control characters escaped.
struct Quoted<'a>(&'a str);

impl std::fmt::Debug for Quoted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&crate::lower::go_quote(self.0))
    }
}

fn user_error(name: &str, error: &UserError) -> BuildError {
    BuildError::user(format!("{name}: {error}"))
}

fn run(
    context: &ExecContext<'_>,
    sandbox: &Sandbox,
    name: &str,
    secrets: &mask::Secrets,
) -> Result<ExitStatus, BuildError> {
    let pipe = || {
        pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| BuildError::io("could not make a pipe", &std::io::Error::from(error)))
    };
    let (stdout, stdout_write) = pipe()?;
    let (stderr, stderr_write) = pipe()?;
    let stdio = Stdio {
        stdin: None,
        stdout: stdout_write,
        stderr: stderr_write,
    };
    let mut running = match context.runtime.spawn(sandbox, stdio) {
        Ok(running) => running,
        Err(error) => return Err(spawn_error(name, &error)),
    };
    for warning in running.warnings() {
        context.events.event(Event::Warning(Warning {
            rule: None,
            message: warning.clone(),
            line: None,
            url: None,
            help: None,
        }));
    }
    output::pump(context, stdout, stderr, &running, secrets)?;
    running
        .wait()
        .map_err(|error| BuildError::io("could not wait for the command", &error))
}

fn spawn_error(name: &str, error: &SandboxError) -> BuildError {
    match error {
        SandboxError::Exec { .. } => {
            let mut failed = BuildError::new(BuildErrorKind::Run, format!("{name}: exit code: 1"));
            failed.causes = chain(error);
            failed.with_help("the program of an exec form must exist in the image; a shell form needs the shell itself")
        }
        SandboxError::NotPermitted { .. } => {
            let mut failed =
                BuildError::new(BuildErrorKind::Host, "RUN is not possible on this host");
            failed.causes = chain(error);
            failed
        }
        error => {
            let mut failed = BuildError::new(BuildErrorKind::Host, "could not start the command");
            failed.causes = chain(error);
            failed
        }
    }
}

fn check_status(
    context: &ExecContext<'_>,
    name: &str,
    status: ExitStatus,
) -> Result<(), BuildError> {
    if context.cancel.is_cancelled() {
        return Err(BuildError::new(
            BuildErrorKind::Cancelled,
            "the build was cancelled",
        ));
    }
    let (code, help) = match status {
        ExitStatus::Code(0) => return Ok(()),
        ExitStatus::Code(code) => (i32::from(code), exit_help(code)),
        ExitStatus::Signal(signal, oom) => {
            let help = if oom {
                Some("the command was killed because it used more memory than it may".to_owned())
            } else {
                Some(format!("the command was killed by signal {signal}"))
            };
            (128 + signal, help)
        }
    };
    let mut error = BuildError::new(BuildErrorKind::Run, format!("{name}: exit code: {code}"));
    error.help.extend(help);
    Err(error)
}

fn exit_help(code: u8) -> Option<String> {
    let text = match code {
        126 => "exit code 126: the command was found but could not be executed",
        127 => "exit code 127: the command was not found in the image; check its PATH and packages",
        137 => "exit code 137: a process was killed (SIGKILL), often for lack of memory",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Scratch space and locks that live as long as the command.
pub(crate) struct Prepared {
    pub(crate) mounts: Vec<rbuild_runtime::Mount>,
    pub(crate) scaffold: PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) locks: Vec<rbuild_cache::StoreLock>,
    /// Sockets that must answer while the command runs.
    pub(crate) agents: Vec<AgentSocket>,
    /// Values that must not be seen in the output.
    pub(crate) secrets: mask::Secrets,
}

/// A named sub-directory of a scratch directory.
pub(crate) fn sub_directory(scratch: &Scratch, name: &str) -> Result<PathBuf, BuildError> {
    let path = scratch.path().join(name);
    std::fs::create_dir(&path).map_err(|error| {
        BuildError::io(format!("could not create `{}`", path.display()), &error)
    })?;
    Ok(path)
}
