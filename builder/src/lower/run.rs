//! RUN → an `Exec` vertex with its mounts.
//!
//! Language reference, sections 4.1, 7.2 and 13.

use rbuild_parser::{
    Instruction, Linter, MountError, MountKind, MountSpec, NetworkMode, Run, RunScript,
    SecurityMode, Variables, expand, expand_mount,
};

use super::config::shell;
use super::{
    LocalSource, Lowering, StageContext, StageState, clean_path, error_at, finish_expansion,
};
use crate::error::BuildError;
use crate::event::VertexId;
use crate::ops::{ExecMount, ExecMountKind, ExecOp, Op, VertexMeta};
use crate::request::{HostVolume, NetworkDefault};
use crate::scope::VariableList;

/// Host name inside RUN, as `BuildKit`'s, unless `BUILDKIT_SANDBOX_HOSTNAME` is given.
const HOSTNAME: &str = "buildkitsandbox";

impl<'a> Lowering<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one instruction's surroundings"
    )]
    pub(super) fn lower_run(
        &mut self,
        context: &mut StageContext<'_, 'a>,
        state: &mut StageState,
        states: &[Option<StageState>],
        instruction: &Instruction,
        run: &Run,
        trigger: bool,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        if let Some(device) = run.devices.first() {
            let message =
                "device feature is only supported in Dockerfile frontend 1.14.0-labs or later";
            return Err(error_at(
                self.file,
                instruction,
                device.span,
                message.to_owned(),
            ));
        }
        let (args, script) = command(state, run)?;
        let (network, security) = self.modes(run)?;
        // An empty root is a stack of no layers: the program may come from a mount.
        let root = state.root.unwrap_or_else(|| {
            let meta = VertexMeta::internal("FROM scratch".to_owned());
            self.graph.add(Op::Merge, Vec::new(), meta)
        });
        let mut inputs: Vec<VertexId> = vec![root];
        let mut mounts: Vec<ExecMount> = self.request.volumes.iter().map(host_mount).collect();
        let mut agents = 0;
        for raw in &run.mounts {
            let spec = self.mount_spec(state, instruction, raw, linter)?;
            let mut mount = self
                .mount(context, state, states, &spec, &mut inputs)
                .map_err(|error| {
                    error.at(&self.file.location(instruction.lines, Some(raw.span)))
                })?;
            if matches!(mount.kind, ExecMountKind::Ssh { .. }) {
                if spec.target.is_none() {
                    mount.target = format!("/run/buildkit/ssh_agent.{agents}");
                }
                agents += 1;
            }
            mounts.push(mount);
        }
        // The value of a secret is not known here, and its variable is no place to show it.
        let mut shown = state.variables.clone();
        for mount in &mounts {
            if let ExecMountKind::Secret {
                env: Some(name), ..
            } = &mount.kind
            {
                shown.set(name, "****");
            }
        }
        let history = history(&args, &state.declared, &state.variables);
        let exec = ExecOp {
            args,
            env: state
                .variables
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            arguments: state.declared.clone(),
            proxy: context.proxy.clone(),
            cwd: clean_path(state.workdir()),
            user: state.config.config.user.clone(),
            mounts,
            network,
            security,
            hostname: self
                .request
                .build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .map_or(HOSTNAME, String::as_str)
                .to_owned(),
            hosts: self.request.extra_hosts.clone(),
            names: self.request.names.clone(),
            shm_size: self.request.shm_size,
            ulimits: self.request.ulimits.clone(),
            rights: self.request.rights.clone(),
            script,
            times: self.file_times(context),
        };
        let meta = self.meta(context, instruction, trigger, &shown);
        let vertex = self.graph.add(Op::Exec(Box::new(exec)), inputs, meta);
        state.root = Some(vertex);
        state.commit(history, Some(vertex));
        Ok(())
    }

    fn modes(&self, run: &Run) -> Result<(NetworkMode, SecurityMode), BuildError> {
        let written = run.network.as_ref().map(|network| network.value);
        let network = match (written, self.request.network) {
            (None | Some(NetworkMode::Default), NetworkDefault::None) => NetworkMode::None,
            (None | Some(NetworkMode::Default), NetworkDefault::Host) => NetworkMode::Host,
            (None, NetworkDefault::Default) => NetworkMode::Default,
            (Some(mode), _) => mode,
        };
        if network == NetworkMode::Host && !self.entitled.network_host {
            return Err(
                BuildError::user("failed to load LLB: network.host is not allowed").with_help(
                    "add `--allow network.host` to let this Dockerfile use the host's network",
                ),
            );
        }
        let security = run.security.as_ref().map(|s| s.value).unwrap_or_default();
        if security == SecurityMode::Insecure && !self.entitled.insecure {
            return Err(
                BuildError::user("failed to load LLB: security.insecure is not allowed").with_help(
                    "add `--allow security.insecure` to let this Dockerfile leave the sandbox",
                ),
            );
        }
        Ok((network, security))
    }

    fn mount_spec(
        &self,
        state: &StageState,
        instruction: &Instruction,
        raw: &rbuild_parser::Word,
        linter: &mut Linter,
    ) -> Result<MountSpec, BuildError> {
        let mut undefined = Vec::new();
        let result = expand_mount(&raw.value, &mut |word| {
            expand(word, self.escape, &state.variables).map(|expansion| {
                undefined.extend(expansion.undefined);
                expansion.value
            })
        });
        let unset = Ok(((), undefined));
        finish_expansion(unset, state, instruction, linter)?;
        result.map_err(|error: MountError| {
            error_at(self.file, instruction, raw.span, error.to_string())
        })
    }

    fn mount(
        &mut self,
        context: &StageContext<'_, 'a>,
        state: &StageState,
        states: &[Option<StageState>],
        spec: &MountSpec,
        inputs: &mut Vec<VertexId>,
    ) -> Result<ExecMount, BuildError> {
        let target = mount_target(spec, state.workdir())?;
        let source = clean_path(&format!("/{}", spec.source.as_deref().unwrap_or("")));
        let kind = match spec.kind {
            MountKind::Bind => {
                let tree = match &spec.from {
                    Some(from) => self.source_vertex(context, states, from)?,
                    None => Some(self.local(&LocalSource::Context)),
                };
                let input = tree.map(|tree| self.mount_input(context, tree, &source, inputs));
                ExecMountKind::Bind { input, source }
            }
            MountKind::Cache => self.cache_mount(context, states, spec, &source, inputs)?,
            MountKind::Tmpfs => ExecMountKind::Tmpfs { size: spec.size },
            MountKind::Secret => {
                let id = secret_id(spec);
                ExecMountKind::Secret {
                    id,
                    mode: spec.mode.unwrap_or(0o400),
                    uid: spec.uid.unwrap_or(0),
                    gid: spec.gid.unwrap_or(0),
                    env: spec.env.clone(),
                    file: spec.env.is_none() || spec.target.is_some(),
                    required: spec.required,
                }
            }
            MountKind::Ssh => ExecMountKind::Ssh {
                id: spec.id.clone().unwrap_or_default(),
                mode: spec.mode.unwrap_or(0o600),
                uid: spec.uid.unwrap_or(0),
                gid: spec.gid.unwrap_or(0),
                required: spec.required,
            },
        };
        Ok(ExecMount {
            target,
            readonly: spec.readonly,
            kind,
        })
    }

    fn cache_mount(
        &mut self,
        context: &StageContext<'_, 'a>,
        states: &[Option<StageState>],
        spec: &MountSpec,
        source: &str,
        inputs: &mut Vec<VertexId>,
    ) -> Result<ExecMountKind, BuildError> {
        let seed = match &spec.from {
            Some(from) => self.source_vertex(context, states, from)?.map(|tree| {
                let input = self.mount_input(context, tree, source, inputs);
                (input, source.to_owned())
            }),
            None => None,
        };
        let space = self
            .request
            .build_args
            .get("BUILDKIT_CACHE_MOUNT_NS")
            .map_or("", String::as_str);
        let written = spec.id.clone().filter(|id| !id.is_empty());
        let id = written.unwrap_or_else(|| {
            let target = spec.target.as_deref().unwrap_or_default();
            if target.starts_with('/') {
                clean_path(target)
            } else {
                target.to_owned()
            }
        });
        let mode = spec.mode.unwrap_or(0o755);
        let (uid, gid) = (spec.uid.unwrap_or(0), spec.gid.unwrap_or(0));
        Ok(ExecMountKind::Cache {
            // A cache with another owner, mode or seed is another cache.
            id: format!("{space}/{id} {uid}:{gid} {mode:o} {:?} {source}", spec.from),
            seed,
            sharing: spec.sharing,
            mode,
            uid,
            gid,
        })
    }

    /// A tree to mount from: files of a directory on this machine are first copied into the store,
    /// so that ignore rules hold and the directory cannot change under the command.
    fn mount_input(
        &mut self,
        context: &StageContext<'_, 'a>,
        tree: VertexId,
        source: &str,
        inputs: &mut Vec<VertexId>,
    ) -> usize {
        let tree = match self.graph.vertex(tree).op {
            Op::Local(_) => {
                let name = format!("[internal] load {source} for bind mount");
                self.copy_tree(tree, source, &name, context)
            }
            _ => tree,
        };
        inputs.push(tree);
        inputs.len() - 1
    }
}

/// Name and content of a script file.
type ScriptFile = (String, String);

/// The argument vector, and the script file if the body is one.
fn command(state: &StageState, run: &Run) -> Result<(Vec<String>, Option<ScriptFile>), BuildError> {
    let wrapped = |text: String| {
        let mut args = shell(state);
        args.push(text);
        args
    };
    match run.script() {
        RunScript::Exec(args) if args.is_empty() => Err(BuildError::user(
            "failed to marshal LLB definition: arguments are required",
        )
        .with_help("`RUN []` has no command: give at least the program")),
        RunScript::Exec(args) => Ok((args, None)),
        RunScript::Shell(text) => Ok((wrapped(text), None)),
        RunScript::File { name, content } => {
            Ok((wrapped(format!("/dev/pipes/{name}")), Some((name, content))))
        }
    }
}

fn history(args: &[String], declared: &[String], variables: &VariableList) -> String {
    let mut text = String::from("RUN ");
    if !declared.is_empty() {
        text.push_str(&format!("|{} ", declared.len()));
        for name in declared {
            text.push_str(&format!(
                "{name}={} ",
                variables.get(name).unwrap_or_default()
            ));
        }
    }
    text.push_str(&args.join(" "));
    text.push_str(" # buildkit");
    text
}

fn mount_target(spec: &MountSpec, workdir: &str) -> Result<String, BuildError> {
    let written = match (&spec.target, spec.kind) {
        (Some(target), _) => target.clone(),
        (None, MountKind::Secret) => {
            let id = secret_id(spec);
            format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(&id))
        }
        (None, MountKind::Ssh) => "/run/buildkit/ssh_agent".to_owned(),
        (None, _) => String::new(),
    };
    let target = if written.starts_with('/') {
        clean_path(&written)
    } else if written.is_empty() {
        "/".to_owned()
    } else {
        clean_path(&format!("{workdir}/{written}"))
    };
    if target == "/" {
        let error = BuildError::user("invalid mount target \"/\"");
        return Err(if spec.target.is_none() {
            error.with_help("the mount has no target: add `target=/some/path`")
        } else {
            error.with_help("a mount cannot take the place of the root: choose a path below /")
        });
    }
    Ok(target)
}

/// A volume of this machine; the instruction's own mounts come after it.
fn host_mount(volume: &HostVolume) -> ExecMount {
    ExecMount {
        target: clean_path(&volume.target),
        readonly: volume.readonly,
        kind: ExecMountKind::Host {
            source: volume.source.clone(),
        },
    }
}

/// The id of a secret: `id`, its alias `source`, or the base name of the target.
fn secret_id(spec: &MountSpec) -> String {
    spec.id
        .clone()
        .or_else(|| spec.source.clone())
        .unwrap_or_else(|| {
            let target = spec.target.as_deref().unwrap_or_default();
            target.rsplit('/').next().unwrap_or(target).to_owned()
        })
}
