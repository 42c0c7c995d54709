//! Looking into a step of a past build: a command in the state before it, after it, or in what it
//! left when it failed, with the step's environment, mounts, user and network.
//!
//! What is done there is thrown away. Layers are those of the cache, so a step can be looked into
//! until they are pruned; what a failed step left stays until the next build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbuild_cache::{
    BuildDirectory, DiffId, Draft, FileKind, Follow, Layer, Lease, RootView, Store,
};
use rbuild_parser::{NetworkMode, SecurityMode};
use rbuild_runtime::{Mount, MountSource, Runtime, Sandbox};

use crate::cancel::Cancel;
use crate::error::{BuildError, chain};
use crate::event::{Event, EventSink, VertexId};
use crate::exec::{self, ExecContext, PlainStep, Ready};
use crate::ops::{ExecMountKind, ExecOp, Setting};
use crate::recipe::{self, Recipe, Work};
use crate::report::{BuildReport, StepReport, StepState};
use crate::request::{NameResolution, SecretSource, SshSource};
use crate::users::lookup_user;

/// Where the tools are mounted that a root file system without a shell is given.
const TOOLS: &str = "/.rbuild";

/// Shells that are looked for, the most comfortable one first.
const SHELLS: [&str; 6] = [
    "/bin/bash",
    "/usr/bin/bash",
    "/bin/ash",
    "/bin/sh",
    "/usr/bin/sh",
    "/busybox/sh",
];

/// Which state of a step is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before it.
    Before,
    /// After it; of a failed step, what it left.
    After,
}

/// What to look at, and how.
pub struct DebugRequest<'a> {
    /// The build.
    pub report: &'a BuildReport,
    /// One of its steps.
    pub step: &'a StepReport,
    /// When.
    pub moment: Moment,
    /// What to run; a shell when empty.
    pub command: Vec<String>,
    /// Gives it a terminal.
    pub terminal: bool,
    /// A static busybox of this machine, for roots without a shell.
    pub busybox: Option<&'a Path>,
    /// Takes the busybox even if there is a shell.
    pub prefer_busybox: bool,
    /// `--secret`, by id.
    pub secrets: &'a BTreeMap<String, SecretSource>,
    /// `--ssh`, by id.
    pub ssh: &'a BTreeMap<String, SshSource>,
}

/// A command ready to be started in the state of a step; dropping it removes what it wrote.
pub struct Look {
    /// Taken out of the root before what it lies in is removed.
    _plain: Option<PlainStep>,
    ready: Ready,
    /// What is missing compared with the step.
    pub notes: Vec<String>,
    /// The words of the step's own command, if it has one.
    pub command: Option<String>,
    _draft: Draft,
    _lease: Lease,
    _build: BuildDirectory,
}

impl Look {
    /// What to start.
    pub fn sandbox(&self) -> &Sandbox {
        &self.ready.sandbox
    }
}

/// Prepares a look into a step.
///
/// # Errors
///
/// The build or its layers are not kept any more, there is no shell, or a mount cannot be made.
pub fn open(
    store: &Store,
    runtime: &Runtime,
    events: &dyn EventSink,
    cancel: &Cancel,
    request: &DebugRequest<'_>,
) -> Result<Look, BuildError> {
    let (build, recipe) = find(store, request)?;
    let lease = store
        .lease()
        .map_err(|error| BuildError::io("could not begin to use the store", &error))?;
    let layers = |ids: &[DiffId]| layers(store, &lease, ids);
    let mut root = layers(&recipe.below)?;
    let failed = request.step.state == StepState::Failed && request.moment == Moment::After;
    let upper = build.failed_upper().filter(|_| failed);
    if failed && upper.is_none() {
        return Err(
            BuildError::user("what the failed step left is not kept any more").with_help(
                "run the build again, or look at the state before the step with `--before`",
            ),
        );
    }
    if request.moment == Moment::After && !failed {
        let layer = recipe.layer.as_ref().ok_or_else(|| not_run(request.step))?;
        root.extend(layers(std::slice::from_ref(layer))?);
    }
    let view = match &upper {
        Some(upper) => RootView::new(&root).with_upper(upper),
        None => RootView::new(&root),
    };
    let draft = store
        .draft_on(&root)
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let mut operation = operation(&recipe.work);
    let command = operation.args.pop();
    let mut notes = Vec::new();
    drop_missing_secrets(&mut operation, request, &mut notes);
    let shell = shell(&view, request)?;
    operation.args.clone_from(&shell.args);
    let mut inputs = vec![Vec::new()];
    for input in recipe.inputs.iter().skip(1) {
        inputs.push(layers(input)?);
    }
    let user = lookup_user(&view, &operation.user).map_err(|error| {
        let mut failed = BuildError::user("could not find the step's user");
        failed.causes = chain(&error);
        failed
    })?;
    // A failed step has these already.
    if upper.is_none() {
        exec::prepare_root(draft.upper(), &root, &operation)?;
    }
    let mut lowers: Vec<PathBuf> = upper.into_iter().collect();
    lowers.extend(rbuild_cache::overlay_lowers(&root));
    let context = ExecContext {
        store,
        lease: &lease,
        runtime,
        secrets: request.secrets,
        ssh: request.ssh,
        limits: &rbuild_runtime::Limits::default(),
        events,
        cancel,
        own_mounts: None,
        scaffolds: None,
        mounts: None,
        vertex: VertexId(request.step.vertex),
        followed: false,
        recorder: None,
    };
    let mut ready = exec::prepare(&context, &operation, &user, &view, lowers, &draft, &inputs)?;
    ready.sandbox.process.terminal = request.terminal;
    if let Some(busybox) = shell.tools {
        bring_tools(&mut ready, &draft, busybox)?;
        notes.push(format!(
            "the image has no shell of its own: this is {} from this machine, mounted at {TOOLS}",
            busybox.display()
        ));
    }
    let plain = exec::lay_out(&context, &mut ready)?;
    Ok(Look {
        _plain: plain,
        ready,
        notes,
        command,
        _draft: draft,
        _lease: lease,
        _build: build,
    })
}

/// Finds what is kept of a step.
fn find(store: &Store, request: &DebugRequest<'_>) -> Result<(BuildDirectory, Recipe), BuildError> {
    let gone = || {
        BuildError::user("the build is not kept any more")
            .with_help("run it again; `rbuild history builds` lists what is kept")
    };
    let name = request.report.id.as_deref().ok_or_else(gone)?;
    let build = store
        .open_build(name)
        .map_err(|error| BuildError::io("could not open the build", &error))?
        .ok_or_else(gone)?;
    let recipes = recipe::read(build.path())
        .map_err(|error| BuildError::io("could not read the steps of the build", &error))?
        .ok_or_else(gone)?;
    let recipe = recipes
        .get(request.step.vertex)
        .ok_or_else(|| not_run(request.step))?;
    Ok((build, recipe))
}

fn not_run(step: &StepReport) -> BuildError {
    BuildError::user(format!("the step did not run: {}", step.name))
        .with_help("`rbuild debug --list` shows which did")
}

/// The layers, which must be in the store, and stay there.
fn layers(store: &Store, lease: &Lease, ids: &[DiffId]) -> Result<Vec<Layer>, BuildError> {
    let mut layers = Vec::with_capacity(ids.len());
    for diff_id in ids {
        let layer = lease
            .protect_layer(diff_id)
            .and_then(|()| store.layer(diff_id))
            .map_err(|error| BuildError::io("could not open a layer", &error))?;
        layers.push(layer.ok_or_else(|| {
            BuildError::user(format!("layer {diff_id} of the step is not in the store")).with_help(
                "it was pruned, or never unpacked here: run the build again with `--no-cache`",
            )
        })?);
    }
    Ok(layers)
}

/// The step's command, or one with the settings of its place.
fn operation(work: &Work) -> ExecOp {
    match work {
        Work::Command(operation) => ExecOp::clone(operation),
        Work::Files(Setting { env, cwd, user }) => ExecOp {
            args: Vec::new(),
            env: env.clone(),
            arguments: Vec::new(),
            proxy: Vec::new(),
            cwd: cwd.clone(),
            user: user.clone(),
            mounts: Vec::new(),
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            hostname: "buildkitsandbox".to_owned(),
            hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            rights: None,
            names: NameResolution::default(),
            times: None,
            script: None,
        },
    }
}

/// Secrets and agents are not kept: what was not given again is left out, and said.
fn drop_missing_secrets(
    operation: &mut ExecOp,
    request: &DebugRequest<'_>,
    notes: &mut Vec<String>,
) {
    for mount in &mut operation.mounts {
        match &mut mount.kind {
            ExecMountKind::Secret { id, required, .. } => {
                *required = false;
                if !request.secrets.contains_key(id) {
                    notes.push(format!(
                        "the secret {id} is not there: give it with `--secret id={id},…`"
                    ));
                }
            }
            ExecMountKind::Ssh { id, required, .. } => {
                *required = false;
                let id = if id.is_empty() { "default" } else { id };
                if !request.ssh.contains_key(id) {
                    notes.push(format!("no SSH agent is there: give it with `--ssh {id}`"));
                }
            }
            _ => {}
        }
    }
}

/// A shell, and the busybox that is to be mounted for it.
struct Shell<'a> {
    args: Vec<String>,
    tools: Option<&'a Path>,
}

fn shell<'a>(view: &RootView, request: &DebugRequest<'a>) -> Result<Shell<'a>, BuildError> {
    let own = SHELLS.iter().find(|path| {
        let found = view.lookup(path, Follow::Last);
        matches!(found, Ok(Some(entry)) if entry.metadata.kind == FileKind::File
            && entry.metadata.mode & 0o111 != 0)
    });
    let tools = match own {
        Some(_) if !request.prefer_busybox => None,
        _ => request.busybox,
    };
    let args = match (own, tools) {
        _ if !request.command.is_empty() => request.command.clone(),
        (_, Some(_)) => vec![format!("{TOOLS}/bin/busybox"), "sh".to_owned()],
        (Some(shell), None) if !request.prefer_busybox => vec![(*shell).to_owned()],
        _ => {
            return Err(BuildError::user(
                "there is no shell in the image, and no static busybox here",
            )
            .with_help(
                "install busybox-static on this machine, name one with `--busybox FILE`, or name a \
                     command that the image has behind `--`",
            ));
        }
    };
    Ok(Shell { args, tools })
}

/// Mounts a directory with the busybox under the names of its tools, and puts it last into `PATH`.
fn bring_tools(ready: &mut Ready, draft: &Draft, busybox: &Path) -> Result<(), BuildError> {
    let directory = ready.scratch_directory("tools")?;
    let failed = |error: std::io::Error| BuildError::io("could not bring a shell", &error);
    let bin = directory.join("bin");
    std::fs::create_dir(&bin).map_err(failed)?;
    std::fs::copy(busybox, bin.join("busybox")).map_err(failed)?;
    for name in TOOL_NAMES {
        std::os::unix::fs::symlink("busybox", bin.join(name)).map_err(failed)?;
    }
    // The mount's target; the layer is thrown away.
    std::fs::create_dir(draft.upper().join(&TOOLS[1..])).map_err(failed)?;
    ready.sandbox.mounts.push(Mount {
        target: PathBuf::from(TOOLS),
        source: MountSource::Bind {
            source: directory,
            subpath: None,
        },
        readonly: true,
    });
    let tools = format!("{TOOLS}/bin");
    let env = &mut ready.sandbox.process.env;
    let path = env.iter_mut().find(|variable| {
        let bytes = variable.as_encoded_bytes();
        bytes.starts_with(b"PATH=")
    });
    match path {
        Some(path) => path.push(format!(":{tools}")),
        None => env.push(format!("PATH={tools}").into()),
    }
    Ok(())
}

/// What of busybox is worth having when looking around.
const TOOL_NAMES: [&str; 84] = [
    "ash",
    "awk",
    "base64",
    "basename",
    "bunzip2",
    "bzcat",
    "cat",
    "chmod",
    "chown",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "install",
    "ip",
    "kill",
    "less",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mknod",
    "more",
    "mount",
    "mv",
    "nc",
    "nslookup",
    "od",
    "ping",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reset",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "tail",
    "tar",
    "tee",
    "test",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "uname",
    "uniq",
    "vi",
    "wc",
    "wget",
    "which",
    "xargs",
    "zcat",
];

/// Whether a file that begins so is a program for this machine that needs no loader.
pub fn is_static_program(head: &[u8]) -> bool {
    exec::is_static_program(head)
}

/// Tells of waiting and nothing else: for whoever shows no steps.
pub fn quiet(event: Event) {
    if let Event::Waiting { what, .. } = event {
        tracing::info!("{what}");
    }
}
