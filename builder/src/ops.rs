//! The op graph: what a build consists of, as plain data.
//!
//! The vocabulary is that of BuildKit's LLB. A vertex's inputs always have smaller numbers than the
//! vertex itself, so a cycle cannot be built. What an operation *is* lives in [`Op`]; what it is
//! called and where it came from lives in [`VertexMeta`] and never takes part in its identity.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Digest;
use rbuild_parser::{Instruction, LineRange, NetworkMode, SecurityMode, Sharing};
use serde::{Deserialize, Serialize};

use crate::event::VertexId;
use crate::image::BaseImage;
use crate::key::Parts;
use crate::request::NameResolution;
use crate::request::Rights;
use crate::source::git::GitSource;
use crate::source::http::HttpSource;

/// One operation.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// The layers of an image from outside.
    Image(Arc<BaseImage>),
    /// A directory on this machine; the index counts the build's local sources.
    Local(usize),
    /// A file at a web address.
    Http(HttpSource),
    /// A tree of a git repository.
    Git(GitSource),
    /// Runs a command on a root file system.
    Exec(Box<ExecOp>),
    /// Changes files without running anything.
    File(FileOp),
    /// Stacks the layers of its inputs, first input lowest (`COPY --link`).
    Merge,
}

/// A command, with everything that can change its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecOp {
    /// Argument vector after shell wrapping.
    pub args: Vec<String>,
    /// Environment in order; `HOME` and secret variables are added when it runs.
    pub env: Vec<(String, String)>,
    /// Which of `env` are build arguments; only for telling misses, no part of the key.
    pub arguments: Vec<String>,
    /// Proxy variables: set for the command, no part of its key.
    #[serde(skip)]
    pub proxy: Vec<(String, String)>,
    /// Working directory inside the root.
    pub cwd: String,
    /// `name|uid[:group|gid]`, empty for root.
    pub user: String,
    /// Mounts in order; the root file system is input 0 and not listed.
    pub mounts: Vec<ExecMount>,
    /// Network mode.
    #[serde(with = "NetworkModeName")]
    pub network: NetworkMode,
    /// Sandboxed or not.
    #[serde(with = "SecurityModeName")]
    pub security: SecurityMode,
    /// Host name inside the sandbox.
    pub hostname: String,
    /// More lines of `/etc/hosts`, name and address; only the names are part of the key.
    pub hosts: Vec<(String, String)>,
    /// How names of hosts are found; no part of the key.
    #[serde(default)]
    pub names: NameResolution,
    /// Size of `/dev/shm` in bytes, if it is not the usual one.
    pub shm_size: Option<u64>,
    /// Resource limits: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Rights, if they are not the usual ones.
    #[serde(default)]
    pub rights: Option<Rights>,
    /// Read-only script under `/dev/pipes` (a heredoc body that begins with `#!`).
    pub script: Option<(String, String)>,
    /// Time of everything in the new layer, in seconds since 1970; as it was written if none.
    #[serde(default)]
    pub times: Option<i64>,
}

/// How network modes are written into recipes.
#[derive(Serialize, Deserialize)]
#[serde(remote = "NetworkMode", rename_all = "lowercase")]
enum NetworkModeName {
    Default,
    None,
    Host,
}

/// How security modes are written into recipes.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SecurityMode", rename_all = "lowercase")]
enum SecurityModeName {
    Sandbox,
    Insecure,
}

/// How sharing modes are written into recipes.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Sharing", rename_all = "lowercase")]
enum SharingName {
    Shared,
    Private,
    Locked,
}

/// What a command of a stage would run with, at the place of an instruction that runs none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// `name|uid[:group|gid]`, empty for root.
    pub user: String,
}

/// One `--mount` of a RUN, resolved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecMount {
    /// Absolute target path.
    pub target: String,
    /// Read-only or not.
    pub readonly: bool,
    /// What is mounted.
    pub kind: ExecMountKind,
}

/// Kinds of `--mount`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ExecMountKind {
    /// A path of another file system; writes are thrown away.
    Bind {
        /// Index into the vertex's inputs; `None` is an empty directory.
        input: Option<usize>,
        /// Path inside it.
        source: String,
    },
    /// A directory that persists between builds on this store.
    Cache {
        /// Its id, already put into its name space.
        id: String,
        /// What to fill a new one from: index into the inputs and path.
        seed: Option<(usize, String)>,
        /// How concurrent users share it.
        #[serde(with = "SharingName")]
        sharing: Sharing,
        /// Mode of a new directory.
        mode: u32,
        /// Owner of a new directory.
        uid: u32,
        /// Group of a new directory.
        gid: u32,
    },
    /// A file or directory of this machine (`--volume`).
    Host {
        /// Its path.
        source: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
    },
    /// A secret as a file, a variable, or both.
    Secret {
        /// Its id on the command line.
        id: String,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
        /// Variable to put the value in.
        env: Option<String>,
        /// Whether there is a file at all.
        file: bool,
        /// Fail when it was not given.
        required: bool,
    },
    /// A forwarded agent socket (only its variable exists when nothing is forwarded).
    Ssh {
        /// Its id on the command line; empty for `default`.
        id: String,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
        /// Fail when it was not given.
        required: bool,
    },
}

/// Changes to a root file system, in order. Input 0 is the root unless `detached`.
#[derive(Debug, Clone)]
pub(crate) struct FileOp {
    /// What is done.
    pub actions: Vec<FileAction>,
    /// Work on an empty root (`COPY --link`): then there is no root input.
    pub detached: bool,
    /// Time of everything in the new layer, in seconds since 1970; as it was written if none.
    pub times: Option<i64>,
}

/// One change.
#[derive(Debug, Clone)]
pub(crate) enum FileAction {
    /// Makes a directory and its parents (`WORKDIR`).
    MakeDirectory {
        /// Absolute path.
        path: String,
        /// `user[:group]` that owns what is made; empty for root.
        owner: String,
        /// Fixed time in seconds since 1970 of what is made.
        epoch: Option<i64>,
    },
    /// Copies from another tree.
    Copy(Box<CopyAction>),
}

/// COPY and ADD after expansion.
#[derive(Debug, Clone)]
pub(crate) struct CopyAction {
    /// What to copy, in order.
    pub sources: Vec<CopySource>,
    /// Absolute destination, keeping a trailing `/` or `/.`.
    pub destination: String,
    /// `user[:group]`.
    pub chown: Option<String>,
    /// Octal or symbolic mode.
    pub chmod: Option<String>,
    /// Keep the path of each source below the destination.
    pub parents: bool,
    /// Patterns left out, relative to each source directory.
    pub exclude: Vec<String>,
}

/// One source of a copy.
#[derive(Debug, Clone)]
pub(crate) enum CopySource {
    /// A path (wildcards allowed) in an input.
    Path {
        /// Index into the vertex's inputs; `None` is the empty tree (`scratch`).
        input: Option<usize>,
        /// The path as written, expanded.
        path: String,
        /// Unpack it if it is an archive.
        unpack: bool,
    },
    /// A heredoc.
    Inline {
        /// File name.
        name: String,
        /// Content.
        content: String,
    },
}

/// What a vertex is called and where it stands; no part of its identity.
#[derive(Debug, Clone)]
pub(crate) struct VertexMeta {
    /// Progress name.
    pub name: String,
    /// Lines of the instruction, if it is one.
    pub lines: Option<LineRange>,
    /// The instruction itself, for findings that need its files.
    pub instruction: Option<Arc<Instruction>>,
    /// Stable identity of the step across builds, for explaining misses.
    pub step: String,
    /// Run even when a result is known (`--no-cache`).
    pub ignore_cache: bool,
    /// Not shown unless it does something worth showing.
    pub internal: bool,
    /// The stage it belongs to; none for what several may share.
    pub stage: Option<String>,
    /// What a command would run with here.
    pub setting: Option<Arc<Setting>>,
}

/// A node of the graph.
#[derive(Debug, Clone)]
pub(crate) struct Vertex {
    /// The operation.
    pub op: Op,
    /// Vertices whose results it uses.
    pub inputs: Vec<VertexId>,
    /// Name and place.
    pub meta: VertexMeta,
}

/// All vertices of a build; index = [`VertexId`].
#[derive(Debug, Default)]
pub(crate) struct OpGraph {
    vertices: Vec<Vertex>,
    by_identity: HashMap<Digest, VertexId>,
}

impl OpGraph {
    /// An empty graph.
    pub(crate) fn new() -> OpGraph {
        OpGraph::default()
    }

    /// Adds a vertex, or returns the one that does the same to the same inputs.
    pub(crate) fn add(&mut self, op: Op, inputs: Vec<VertexId>, meta: VertexMeta) -> VertexId {
        let mut parts = op.parts();
        for input in &inputs {
            parts.push("input", input.0.to_string());
        }
        let identity = parts.digest();
        if let Some(&known) = self.by_identity.get(&identity) {
            self.vertices[known.0 as usize].meta.ignore_cache |= meta.ignore_cache;
            return known;
        }
        let id = VertexId(u32::try_from(self.vertices.len()).unwrap_or(u32::MAX));
        debug_assert!(
            inputs.iter().all(|input| *input < id),
            "inputs come before their vertex"
        );
        self.vertices.push(Vertex { op, inputs, meta });
        self.by_identity.insert(identity, id);
        id
    }

    /// The vertex with this number.
    pub(crate) fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }

    /// All vertices in order.
    pub(crate) fn vertices(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.vertices
            .iter()
            .enumerate()
            .map(|(index, vertex)| (VertexId(index as u32), vertex))
    }

    /// The steps and sources whose results a vertex uses, through what only joins or copies for it.
    pub(crate) fn told_inputs(&self, id: VertexId) -> Vec<u32> {
        let mut told = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = self.vertex(id).inputs.clone();
        while let Some(input) = open.pop() {
            if !seen.insert(input) {
                continue;
            }
            let vertex = self.vertex(input);
            let source = matches!(vertex.op, Op::Image(_) | Op::Http(_) | Op::Git(_));
            if source || !vertex.meta.internal {
                told.insert(input.0);
            } else {
                open.extend(&vertex.inputs);
            }
        }
        told.into_iter().collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.vertices.len()
    }
}

impl Op {
    /// The readable parts of the operation's identity, without its inputs.
    pub(crate) fn parts(&self) -> Parts {
        let mut parts = Parts::new();
        match self {
            Op::Image(image) => {
                parts.push("op", "image");
                parts.push("manifest", image.manifest.to_string());
            }
            Op::Local(index) => {
                parts.push("op", "local");
                parts.push("source", index.to_string());
            }
            Op::Http(source) => source.parts(&mut parts),
            Op::Git(source) => source.parts(&mut parts),
            Op::Merge => parts.push("op", "merge"),
            Op::Exec(exec) => exec.parts(&mut parts),
            Op::File(file) => {
                parts.push("op", "file");
                parts.push("detached", file.detached.to_string());
                push_times(&mut parts, file.times);
                for action in &file.actions {
                    action.parts(&mut parts);
                }
            }
        }
        parts
    }
}

impl ExecOp {
    fn parts(&self, parts: &mut Parts) {
        parts.push("op", "exec");
        for argument in &self.args {
            parts.push("command", argument.clone());
        }
        for (name, value) in &self.env {
            parts.push(format!("env {name}"), value.clone());
        }
        parts.push("workdir", self.cwd.clone());
        parts.push("user", self.user.clone());
        parts.push("network", format!("{:?}", self.network).to_lowercase());
        parts.push("security", format!("{:?}", self.security).to_lowercase());
        parts.push("hostname", self.hostname.clone());
        for (name, _) in &self.hosts {
            parts.push("add-host", name.clone());
        }
        if let Some(size) = self.shm_size {
            parts.push("shm-size", size.to_string());
        }
        if let Some(rights) = &self.rights {
            let Rights {
                capabilities,
                unconfined,
                no_new_privileges,
                masked_paths,
                seccomp,
            } = rights;
            let mut text = format!("{capabilities:x} {unconfined} {no_new_privileges}");
            if !masked_paths {
                text.push_str(" systempaths");
            }
            if let Some(seccomp) = seccomp {
                let _ = write!(text, " seccomp {}", Digest::of(&seccomp.to_bytes()));
            }
            parts.push("rights", text);
        }
        for (name, soft, hard) in &self.ulimits {
            parts.push(format!("ulimit {name}"), format!("{soft}:{hard}"));
        }
        if let Some((name, content)) = &self.script {
            parts.push(format!("script {name}"), content.clone());
        }
        push_times(parts, self.times);
        for mount in &self.mounts {
            parts.push(format!("mount {}", mount.target), mount.identity());
        }
    }
}

/// Other times in the layer are another result; ordinary builds have no such part.
fn push_times(parts: &mut Parts, times: Option<i64>) {
    if let Some(times) = times {
        parts.push("file times", times.to_string());
    }
}

impl ExecMount {
    /// What of a mount counts for the key: not a cache's id or sharing, never a secret's content.
    fn identity(&self) -> String {
        let access = if self.readonly { "ro" } else { "rw" };
        match &self.kind {
            ExecMountKind::Bind { input, source } => {
                format!("bind {access} input={input:?} source={source}")
            }
            ExecMountKind::Cache {
                seed,
                mode,
                uid,
                gid,
                ..
            } => {
                format!("cache {access} seed={seed:?} mode={mode:o} owner={uid}:{gid}")
            }
            ExecMountKind::Host { source } => format!("host {access} {}", source.display()),
            ExecMountKind::Tmpfs { size } => format!("tmpfs {access} size={size:?}"),
            ExecMountKind::Secret {
                id,
                mode,
                uid,
                gid,
                env,
                file,
                ..
            } => format!("secret id={id} mode={mode:o} owner={uid}:{gid} env={env:?} file={file}"),
            ExecMountKind::Ssh {
                id, mode, uid, gid, ..
            } => format!("ssh id={id} mode={mode:o} owner={uid}:{gid}"),
        }
    }
}

impl FileAction {
    fn parts(&self, parts: &mut Parts) {
        match self {
            FileAction::MakeDirectory { path, owner, epoch } => {
                parts.push("make directory", path.clone());
                parts.push("owner", owner.clone());
                parts.push(
                    "time",
                    epoch.map_or_else(String::new, |epoch| epoch.to_string()),
                );
            }
            FileAction::Copy(copy) => {
                parts.push("destination", copy.destination.clone());
                parts.push("chown", copy.chown.clone().unwrap_or_default());
                parts.push("chmod", copy.chmod.clone().unwrap_or_default());
                parts.push("parents", copy.parents.to_string());
                for pattern in &copy.exclude {
                    parts.push("exclude", pattern.clone());
                }
                for source in &copy.sources {
                    match source {
                        CopySource::Path {
                            input,
                            path,
                            unpack,
                        } => {
                            let how = if *unpack { " unpack" } else { "" };
                            parts.push("source", format!("{input:?} {path}{how}"));
                        }
                        CopySource::Inline { name, content } => {
                            parts.push(format!("heredoc {name}"), content.clone());
                        }
                    }
                }
            }
        }
    }
}
