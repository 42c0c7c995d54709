//! Runs `Exec` operations: a command in the sandbox over the layers of a stage.
//!
//! Language reference, sections 4.1 and 13.

mod circumstances;
mod depth;
mod diagnose;
mod mask;
mod mounts;
mod output;
mod plain;
mod scaffolds;
mod secret;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::{
    CommitOptions, DiskTrouble, Follow, Layer, Lease, RootView, Scratch, Store, overlay_lowers,
};
use rbuild_parser::{NetworkMode, SecurityMode};
use rbuild_runtime::{
    CapabilitySet, DeviceSet, ExitStatus, Frame, Isolation, KernelSettings, Limits, Network,
    OfHost, Process, RootFs, Runtime, Sandbox, SandboxError, Seccomp, Security, Stdio, UpperDir,
    User, has_private_network, isolation,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cancel::Cancel;
use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::file::{PathMaker, commit_options, upper_build_error};
use crate::ops::ExecOp;
use crate::remote_cache::MountSources;
use crate::report::{Recorder, log_path};
use crate::request::{SecretSource, SshSource};
use crate::source::AgentSocket;
use crate::users::{ResolvedUser, UserError, lookup_user};

pub use depth::shorten_roots;
pub(crate) use diagnose::is_static_program;
pub use plain::{PlainStep, overlay_view, why_roots_are_copied};
pub(crate) use scaffolds::Scaffolds;
pub(crate) use secret::read_secret;

/// What executing needs besides the operation.
pub(crate) struct ExecContext<'a> {
    /// The store.
    pub store: &'a Store,
    /// Keeps what the build uses from being pruned meanwhile.
    pub lease: &'a Lease,
    /// Starts sandboxes.
    pub runtime: &'a Runtime,
    /// `--secret`, by id.
    pub secrets: &'a BTreeMap<String, SecretSource>,
    /// `--ssh`, by id.
    pub ssh: &'a BTreeMap<String, SshSource>,
    /// Limits of all its processes together.
    pub limits: &'a Limits,
    /// Receives output.
    pub events: &'a dyn EventSink,
    /// Stops the command.
    pub cancel: &'a Cancel,
    /// Where cache mounts live that are thrown away with the build; none for those of the store.
    pub own_mounts: Option<&'a Scratch>,
    /// Mount points that steps have in common, if there are others.
    pub scaffolds: Option<&'a Scaffolds>,
    /// What new cache mounts are filled from, if from anywhere.
    pub mounts: Option<&'a MountSources>,
    /// The vertex, for events.
    pub vertex: VertexId,
    /// Another command is likely to run after this one.
    pub followed: bool,
    /// Where the log goes and what a failed step leaves; none when nothing is built.
    pub recorder: Option<&'a Recorder>,
}

/// Runs the command over `root` (bottom first) and commits what it changed as a layer.
///
/// `inputs` are the unpacked layers of every input of the vertex, in order. When the command fails,
/// what it wrote is kept in the directory of the build.
pub(crate) fn execute(
    context: &ExecContext<'_>,
    operation: &ExecOp,
    root: &[Layer],
    inputs: &[Vec<Layer>],
) -> Result<Layer, BuildError> {
    let name = process_name(operation);
    // It gets ready while the step is prepared. What is wrong with it is told when it is needed.
    let _ = context.runtime.warm_up(expected(context, operation));
    let draft = context
        .store
        .draft_on(root)
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let view = RootView::new(root);
    let user = lookup_user(&view, &operation.user).map_err(|error| user_error(&name, &error))?;
    prepare_root(draft.upper(), root, operation)?;
    let view = RootView::new(root).with_upper(draft.upper());
    let lowers = overlay_lowers(root);
    let mut ready = prepare(context, operation, &user, &view, lowers, &draft, inputs)?;
    let plain = lay_out(context, &mut ready)?;
    let ended = run(context, &ready, &draft);
    if let Some(plain) = plain {
        plain.finish(draft.upper())?;
    }
    let kept = ready.finish(context.store);
    let error = match ended {
        Ok(ended) if ended.status == ExitStatus::Code(0) && !context.cancel.is_cancelled() => {
            let options = CommitOptions {
                owner: Some((user.uid, user.gid)),
                ..commit_options(context.cancel, operation.times)
            };
            return draft
                .commit(root, &options)
                .map_err(|error| BuildError::io("could not store the new layer", &error));
        }
        Ok(_) if context.cancel.is_cancelled() => return Err(BuildError::cancelled()),
        Ok(ended) => circumstances::Failed {
            operation,
            user: &user,
            env: &kept,
            // What was there before the command ran is remembered by the other view.
            view: &RootView::new(root).with_upper(draft.upper()),
        }
        .status(&name, &ended),
        Err(Ended::Error(error)) => return Err(error),
        Err(Ended::NotStarted(error)) => circumstances::Failed {
            operation,
            user: &user,
            env: &kept,
            view: &view,
        }
        .not_started(&name, &error),
    };
    Err(keep(context, draft, error))
}

/// What the sandbox of an operation is like, as far as half of it can be made ahead.
fn expected(context: &ExecContext<'_>, operation: &ExecOp) -> Option<Frame> {
    let (network, security) = (network(operation.network), security(operation));
    Frame::ahead(&network, &security, context.limits, shm_size(operation))
}

fn shm_size(operation: &ExecOp) -> u64 {
    operation.shm_size.unwrap_or(Sandbox::DEFAULT_SHM_SIZE)
}

/// Makes a copy of the root, where overlay cannot be mounted.
pub(crate) fn lay_out(
    context: &ExecContext<'_>,
    ready: &mut Ready,
) -> Result<Option<PlainStep>, BuildError> {
    if isolation() != Isolation::Chroot {
        if why_roots_are_copied(context.store)?.is_none() {
            return Ok(None);
        }
        return PlainStep::without_overlay(&mut ready.sandbox, &ready.scratch).map(Some);
    }
    let plain = PlainStep::prepare(&mut ready.sandbox, &ready.scratch)?;
    if plain.missing_devices {
        let text = "devices cannot be made here: `/dev` of the step is empty";
        warn(context, text);
    }
    Ok(Some(plain))
}

fn warn(context: &ExecContext<'_>, message: &str) {
    context.events.event(Event::Warning(Warning {
        rule: None,
        message: message.to_owned(),
        line: None,
        url: None,
        help: None,
    }));
}

/// Keeps what a failed step left, and tells where its output is and how to look into it.
fn keep(
    context: &ExecContext<'_>,
    draft: rbuild_cache::Draft,
    mut error: BuildError,
) -> BuildError {
    let Some(build) = context.recorder.and_then(Recorder::build) else {
        return error;
    };
    let log = log_path(build.path(), context.vertex);
    if log.exists() {
        error.notes.push(format!("full log: {}", log.display()));
    }
    // What filled the disk must not stay on it.
    let told = error
        .help
        .iter()
        .any(|help| help.starts_with(diagnose::DISK_FULL));
    let full = context.store.is_nearly_full();
    if full && !told {
        error.disk = Some(DiskTrouble::Full);
    }
    if error.kind == BuildErrorKind::Run && !full && !told {
        match draft.keep(build) {
            Ok(()) => error
                .help
                .push("`rbuild debug` opens a shell in what the step left".to_owned()),
            // The shell is a help, not what was asked for.
            Err(error) => tracing::debug!(%error, "what the failed step left was not kept"),
        }
    }
    error
}

/// A command that can be started, with all that must live as long as it runs.
pub(crate) struct Ready {
    /// What to start.
    pub(crate) sandbox: Sandbox,
    /// Values that must not be seen in the output.
    secrets: mask::Secrets,
    _locks: Vec<rbuild_cache::StoreLock>,
    _agents: Vec<AgentSocket>,
    _scaffold: Option<Arc<scaffolds::Shared>>,
    scratch: Scratch,
}

impl Ready {
    /// A directory that lives as long as the command.
    pub(crate) fn scratch_directory(&self, name: &str) -> Result<PathBuf, BuildError> {
        sub_directory(&self.scratch, name)
    }

    /// Lets go of what only the running command needed; returns its environment.
    fn finish(self, store: &Store) -> Vec<OsString> {
        store.remove_beside(self.scratch);
        self.sandbox.process.env
    }
}

/// Everything of an operation but its start: user, environment, mounts, root file system.
///
/// `lowers` are the directories of the root, topmost first, without those for mount targets.
pub(crate) fn prepare(
    context: &ExecContext<'_>,
    operation: &ExecOp,
    user: &ResolvedUser,
    view: &RootView,
    lowers: Vec<PathBuf>,
    draft: &rbuild_cache::Draft,
    inputs: &[Vec<Layer>],
) -> Result<Ready, BuildError> {
    let scratch = context
        .store
        .scratch()
        .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
    // It has been made just now, and directories alone were made in it since.
    let sealed = draft.is_empty().then_some(lowers.as_slice());
    let prepared = mounts::prepare(context, operation, view, inputs, sealed, &scratch)?;
    let mut sandbox = Sandbox {
        root: RootFs {
            lowers: std::iter::once(prepared.scaffold).chain(lowers).collect(),
            upper: Some(UpperDir {
                upper: draft.upper().to_path_buf(),
                work: draft.work().to_path_buf(),
            }),
            readonly: false,
            plain: None,
        },
        process: process(operation, user, &prepared.env),
        mounts: prepared.mounts,
        hostname: operation.hostname.clone(),
        domain_name: None,
        network: network(operation.network),
        security: security(operation),
        shm_size: shm_size(operation),
        rlimits: mounts::rlimits(&operation.ulimits)?,
        limits: context.limits.clone(),
        kernel: KernelSettings::default(),
        of_host: OfHost::default(),
        init: false,
    };
    shorten_roots(context.store, context.lease, &mut sandbox)
        .map_err(|error| BuildError::io("could not stack the layers of the root", &error))?;
    Ok(Ready {
        sandbox,
        secrets: prepared.secrets,
        _locks: prepared.locks,
        _agents: prepared.agents,
        _scaffold: prepared.shared,
        scratch,
    })
}

/// Mount points that every container runtime leaves in the first layer, and the working directory.
pub(crate) fn prepare_root(
    upper: &Path,
    root: &[Layer],
    operation: &ExecOp,
) -> Result<(), BuildError> {
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

fn security(operation: &ExecOp) -> Security {
    let privileged = operation.security == SecurityMode::Insecure;
    let mut security = Security {
        privileged,
        devices: if privileged {
            DeviceSet::OfSteps
        } else {
            DeviceSet::Usual
        },
        ..Security::default()
    };
    if let Some(rights) = &operation.rights {
        security.capabilities = CapabilitySet(rights.capabilities);
        security.no_new_privileges = rights.no_new_privileges;
        security.masked_paths = rights.masked_paths;
        match &rights.seccomp {
            Some(profile) => security.seccomp = Seccomp::Profile(profile.clone()),
            None if rights.unconfined => security.seccomp = Seccomp::Unconfined,
            None => {}
        }
    }
    security
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
        formatter.write_str(&rbuild_parser::quote(self.0))
    }
}

fn user_error(name: &str, error: &UserError) -> BuildError {
    BuildError::user(format!("{name}: {error}"))
}

/// How a command ended that was started.
pub(crate) struct Exited {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// A process of it was killed for want of memory.
    pub(crate) out_of_memory: bool,
    /// The end of its output.
    pub(crate) tail: Vec<u8>,
}

/// Why a command did not come to its end by itself.
enum Ended {
    /// It could not be started.
    NotStarted(SandboxError),
    /// Something else went wrong.
    Error(BuildError),
}

impl From<BuildError> for Ended {
    fn from(error: BuildError) -> Ended {
        Ended::Error(error)
    }
}

fn run(
    context: &ExecContext<'_>,
    ready: &Ready,
    draft: &rbuild_cache::Draft,
) -> Result<Exited, Ended> {
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
    let mut running = match context
        .runtime
        .spawn_followed(&ready.sandbox, stdio, context.followed)
    {
        Ok(running) => running,
        Err(error @ SandboxError::Exec { .. }) => return Err(Ended::NotStarted(error)),
        Err(error) => return Err(spawn_error(&error).into()),
    };
    running.keep_remains();
    for warning in running.warnings() {
        warn(context, warning);
    }
    let tail = output::pump(context, stdout, stderr, &running, &ready.secrets)?;
    let status = running
        .wait()
        .map_err(|error| BuildError::io("could not wait for the command", &error))?;
    match running.take_remains() {
        Some(remains) if draft.is_empty() => context.store.drop_beside(remains),
        // What was made will be a layer below the next step. The kernel warns of an overlay over what
        // another one still has as its upper directory.
        remains => drop(remains),
    }
    if let (Some(recorder), Some(cpu)) = (context.recorder, running.cpu_time()) {
        let cpu = u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX);
        recorder.step(context.vertex, |step| step.cpu_ms = Some(cpu));
    }
    let out_of_memory = running.was_out_of_memory();
    Ok(Exited {
        status,
        out_of_memory,
        tail,
    })
}

fn spawn_error(error: &SandboxError) -> BuildError {
    let message = match error {
        SandboxError::NotPermitted { .. } => "RUN is not possible on this host",
        _ => "could not start the command",
    };
    BuildError::new(BuildErrorKind::Host, message).because(error)
}

/// Scratch space and locks that live as long as the command.
pub(crate) struct Prepared {
    pub(crate) mounts: Vec<rbuild_runtime::Mount>,
    pub(crate) scaffold: PathBuf,
    /// The same, where steps share it.
    pub(crate) shared: Option<Arc<scaffolds::Shared>>,
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
