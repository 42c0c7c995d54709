//! From the mounts of a RUN to the mounts of a sandbox.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rbuild_cache::{
    FileKind, Follow, Layer, RootView, ScaffoldTarget, Scratch, StoreLock, TargetKind, scaffold,
};
use rbuild_parser::Sharing;
use rbuild_runtime::{
    Isolation, Mount, MountSource, Network, Rlimit, RlimitKind, TmpfsOptions, UpperDir, isolation,
};

use super::mask::Secrets;
use super::{ExecContext, Prepared, in_kernel_tree, read_secret, sub_directory};
use crate::error::BuildError;
use crate::etc::{hosts_file, resolv_conf};
use crate::event::Event;
use crate::file::{fill_directory, set_directory};
use crate::ops::{ExecMount, ExecMountKind, ExecOp};
use crate::source::AgentSocket;
use crate::tree::SourceTree;
use crate::turn::turn;

/// Everything that is mounted, with its targets made sure of. `sealed`: the directories of the root, if there is
/// nothing in it but these layers.
pub(super) fn prepare(
    context: &ExecContext<'_>,
    operation: &ExecOp,
    view: &RootView,
    inputs: &[Vec<Layer>],
    sealed: Option<&[PathBuf]>,
    scratch: &Scratch,
) -> Result<Prepared, BuildError> {
    let mut prepared = Prepared {
        mounts: Vec::new(),
        scaffold: PathBuf::new(),
        shared: None,
        env: Vec::new(),
        locks: lock_caches(context, operation)?,
        agents: Vec::new(),
        secrets: Secrets::default(),
    };
    let mut targets = Vec::new();
    add_system_files(operation, &mut prepared.mounts, &mut targets);
    for (index, mount) in operation.mounts.iter().enumerate() {
        let place = Place {
            context,
            inputs,
            scratch,
            index,
        };
        place.add(mount, &mut prepared, &mut targets)?;
    }
    let layers = Layers {
        context,
        view,
        sealed,
        scratch,
    };
    layers.resolve_targets(&targets, &mut prepared)?;
    Ok(prepared)
}

fn lock_name(id: &str) -> String {
    format!("cache mount {id}")
}

/// Says whether a cache mount is for one step at a time: by its sharing mode, or because it is moved
/// to its place.
fn is_alone(sharing: Sharing) -> bool {
    sharing == Sharing::Locked || sharing == Sharing::Shared && isolation() == Isolation::Chroot
}

/// Takes the locks of all cache mounts that want to be alone, in one order for all builds: two
/// steps with the same two mounts would otherwise wait for each other.
fn lock_caches(
    context: &ExecContext<'_>,
    operation: &ExecOp,
) -> Result<Vec<StoreLock>, BuildError> {
    let locked = operation
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            ExecMountKind::Cache { id, sharing, .. } if is_alone(*sharing) => Some(lock_name(id)),
            _ => None,
        });
    let names: BTreeSet<String> = locked.collect();
    let wait = |name: &String| {
        turn(context.store, context.cancel, name, || {
            context.events.event(Event::Waiting {
                vertex: context.vertex,
                what: "waiting for another step that has the cache mount".to_owned(),
            });
        })
    };
    names.iter().map(wait).collect()
}

/// Hosts, name servers, and the script of a heredoc.
fn add_system_files(operation: &ExecOp, mounts: &mut Vec<Mount>, targets: &mut Vec<TargetKind>) {
    let names = &operation.names;
    let host_network = super::network(operation.network) == Network::Host;
    let file = |target: &str, content: Vec<u8>, mode: u32| Mount {
        target: PathBuf::from(target),
        source: MountSource::File {
            content,
            mode,
            uid: 0,
            gid: 0,
        },
        readonly: true,
    };
    if !names.own_hosts {
        let hosts = hosts_file(&operation.hostname, &operation.hosts);
        mounts.push(file("/etc/hosts", hosts, 0o644));
        targets.push(TargetKind::File);
    }
    if !names.own_resolv_conf {
        let servers = resolv_conf(host_network, names);
        mounts.push(file("/etc/resolv.conf", servers, 0o644));
        targets.push(TargetKind::File);
    }
    if let Some((name, content)) = &operation.script {
        let target = format!("/dev/pipes/{name}");
        mounts.push(file(&target, content.clone().into_bytes(), 0o755));
        targets.push(TargetKind::File);
    }
}

/// Where mount targets have to be.
struct Layers<'a> {
    context: &'a ExecContext<'a>,
    view: &'a RootView,
    sealed: Option<&'a [PathBuf]>,
    scratch: &'a Scratch,
}

impl Layers<'_> {
    /// Makes the missing targets in the scaffold layer and takes over their resolved paths.
    fn resolve_targets(
        &self,
        kinds: &[TargetKind],
        prepared: &mut Prepared,
    ) -> Result<(), BuildError> {
        let mut wanted = Vec::new();
        let mut places = Vec::new();
        for (index, (mount, kind)) in prepared.mounts.iter().zip(kinds).enumerate() {
            if !in_kernel_tree(&mount.target.to_string_lossy()) {
                if matches!(kind, TargetKind::Directory) {
                    refuse_file(self.view, &mount.target)?;
                }
                wanted.push(ScaffoldTarget {
                    path: mount.target.clone(),
                    kind: *kind,
                });
                places.push(index);
            }
        }
        let failed = |error| BuildError::io("could not prepare the mount targets", &error);
        if let (Some(scaffolds), Some(lowers)) = (self.context.scaffolds, self.sealed) {
            let shared = scaffolds.of(self.context.store, self.view, lowers, &wanted);
            if let Some(shared) = shared? {
                shared.path().clone_into(&mut prepared.scaffold);
                prepared.shared = Some(shared);
                return Ok(());
            }
        }
        prepared.scaffold = sub_directory(self.scratch, "scaffold")?;
        let resolved = scaffold(self.view, &wanted, &prepared.scaffold).map_err(failed)?;
        for (index, path) in places.into_iter().zip(resolved) {
            prepared.mounts[index].target = path;
        }
        Ok(())
    }
}

/// A directory cannot be mounted on a file.
fn refuse_file(view: &RootView, target: &Path) -> Result<(), BuildError> {
    // What is wrong on the way there is told when the target is made.
    let Ok(Some(entry)) = view.lookup(target, Follow::Last) else {
        return Ok(());
    };
    if entry.metadata.kind == FileKind::Directory {
        return Ok(());
    }
    let target = target.display();
    Err(BuildError::user(format!(
        "cannot mount on {target}: it is a file in the image"
    ))
    .with_help("choose another target, or remove the file in an earlier step"))
}

/// What a volume of this machine is mounted on: a file on a file, a directory on a directory.
fn host_kind(source: &Path) -> Result<TargetKind, BuildError> {
    let metadata = std::fs::metadata(source).map_err(|error| {
        BuildError::io(
            format!("could not mount `{}` of this machine", source.display()),
            &error,
        )
    })?;
    Ok(if metadata.is_dir() {
        TargetKind::Directory
    } else {
        TargetKind::File
    })
}

struct Place<'a> {
    context: &'a ExecContext<'a>,
    inputs: &'a [Vec<Layer>],
    scratch: &'a Scratch,
    index: usize,
}

impl Place<'_> {
    fn add(
        &self,
        mount: &ExecMount,
        prepared: &mut Prepared,
        targets: &mut Vec<TargetKind>,
    ) -> Result<(), BuildError> {
        let mut push = |source: MountSource, readonly: bool, kind: TargetKind| {
            prepared.mounts.push(Mount {
                target: PathBuf::from(&mount.target),
                source,
                readonly,
            });
            targets.push(kind);
        };
        match &mount.kind {
            ExecMountKind::Bind { input, source } => {
                let (source, kind) = self.bind(*input, source, mount.readonly)?;
                push(source, mount.readonly, kind);
            }
            ExecMountKind::Host { source } => {
                let kind = host_kind(source)?;
                let source = MountSource::Bind {
                    source: source.clone(),
                    subpath: None,
                };
                push(source, mount.readonly, kind);
            }
            ExecMountKind::Cache { .. } => {
                let (path, lock) = self.cache(&mount.kind)?;
                push(
                    MountSource::Bind {
                        source: path,
                        subpath: None,
                    },
                    mount.readonly,
                    TargetKind::Directory,
                );
                prepared.locks.extend(lock);
            }
            ExecMountKind::Tmpfs { size } => {
                let source = MountSource::Tmpfs {
                    size: *size,
                    mode: None,
                    options: TmpfsOptions::default(),
                };
                push(source, mount.readonly, TargetKind::Directory);
            }
            ExecMountKind::Secret {
                id,
                mode,
                uid,
                gid,
                env,
                file,
                required,
            } => {
                let Some(content) = self.secret(id, *required)? else {
                    return Ok(());
                };
                prepared.secrets.add(&content);
                if let Some(name) = env {
                    let value = String::from_utf8_lossy(&content).into_owned();
                    prepared.env.push((name.clone(), value));
                }
                if *file {
                    let source = MountSource::File {
                        content,
                        mode: *mode,
                        uid: *uid,
                        gid: *gid,
                    };
                    push(source, true, TargetKind::File);
                }
            }
            ExecMountKind::Ssh {
                id,
                mode,
                uid,
                gid,
                required,
            } => {
                // The variable is there also when nothing is forwarded (M29).
                let variable = ("SSH_AUTH_SOCK".to_owned(), mount.target.clone());
                prepared.env.push(variable);
                if let Some(agent) = self.agent(id, *required)? {
                    set_directory(agent.path(), *mode, *uid, *gid).map_err(|error| {
                        BuildError::io("could not give the SSH agent's socket away", &error)
                    })?;
                    let source = MountSource::Bind {
                        source: agent.path().to_path_buf(),
                        subpath: None,
                    };
                    push(source, false, TargetKind::File);
                    prepared.agents.push(agent);
                }
            }
        }
        Ok(())
    }

    fn bind(
        &self,
        input: Option<usize>,
        source: &str,
        readonly: bool,
    ) -> Result<(MountSource, TargetKind), BuildError> {
        let layers = input
            .and_then(|index| self.inputs.get(index))
            .map_or(&[][..], Vec::as_slice);
        let entry = RootView::new(layers)
            .lookup(source, Follow::Last)
            .map_err(|error| BuildError::io("could not look up the source of a mount", &error))?;
        let kind = match entry {
            Some(entry) if entry.metadata.kind != FileKind::Directory => TargetKind::File,
            _ => TargetKind::Directory,
        };
        let mut lowers: Vec<PathBuf> = layers
            .iter()
            .rev()
            .flat_map(Layer::directories)
            .map(Path::to_path_buf)
            .collect();
        if lowers.is_empty() {
            lowers.push(sub_directory(
                self.scratch,
                &format!("empty-{}", self.index),
            )?);
        }
        let upper = if readonly {
            None
        } else {
            Some(UpperDir {
                upper: sub_directory(self.scratch, &format!("upper-{}", self.index))?,
                work: sub_directory(self.scratch, &format!("work-{}", self.index))?,
            })
        };
        let subpath = (source != "/").then(|| PathBuf::from(source));
        Ok((
            MountSource::Overlay {
                lowers,
                upper,
                subpath,
            },
            kind,
        ))
    }

    /// The directory of a cache mount, filled when new, and the lock that its sharing mode asks for.
    fn cache(&self, kind: &ExecMountKind) -> Result<(PathBuf, Option<StoreLock>), BuildError> {
        let ExecMountKind::Cache {
            id,
            seed,
            sharing,
            mode,
            uid,
            gid,
        } = kind
        else {
            return Err(BuildError::user("not a cache mount"));
        };
        let store = self.context.store;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            BuildError::io(format!("could not prepare the cache mount {id:?}"), error)
        };
        let (id, lock) = match sharing {
            // `lock_caches` has locked the locked ones.
            Sharing::Shared | Sharing::Locked => (id.clone(), None),
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let own = if number == 0 {
                        id.clone()
                    } else {
                        format!("{id} #{number}")
                    };
                    let lock = store
                        .try_lock(&lock_name(&own))
                        .map_err(|error| failed(&error))?;
                    if lock.is_some() {
                        break (own, lock);
                    }
                    number += 1;
                }
            }
        };
        // Filling a new directory must be seen whole by whoever shares it.
        let fill = store
            .lock(&format!("fill {}", lock_name(&id)))
            .map_err(|e| failed(&e))?;
        let mount = match self.context.own_mounts {
            Some(own) => store.cache_mount_in(own, &id),
            None => self
                .context
                .lease
                .protect_cache_mount(&id)
                .and_then(|()| store.cache_mount(&id)),
        };
        let mount = mount.map_err(|error| failed(&error))?;
        if mount.created {
            set_directory(&mount.path, *mode, *uid, *gid).map_err(|error| failed(&error))?;
            let fetched = match (self.context.mounts, self.context.own_mounts) {
                (Some(mounts), None) => {
                    let (events, vertex) = (self.context.events, self.context.vertex);
                    mounts.fill(store, events, vertex, &id, &mount.path)
                }
                _ => false,
            };
            if let Some((input, source)) = seed
                && !fetched
                && let Err(error) = self.seed(&mount.path, *input, source)
            {
                // The next build shall fill it again, and not find a part.
                let removed = std::fs::remove_dir_all(&mount.path);
                removed.map_err(|error| failed(&error))?;
                return Err(error);
            }
        }
        drop(fill);
        Ok((mount.path, lock))
    }

    fn seed(&self, directory: &Path, input: usize, source: &str) -> Result<(), BuildError> {
        let layers = self.inputs.get(input).map_or(&[][..], Vec::as_slice);
        let tree = SourceTree::rootfs(RootView::new(layers), "the seed of a cache mount");
        let entry = tree
            .find(Path::new(source))
            .map_err(|error| BuildError::io("could not look up the source of a mount", &error))?;
        if entry.is_some_and(|entry| entry.metadata.kind != FileKind::Directory) {
            return Err(BuildError::user(format!(
                "a cache mount cannot be filled from {source}: it is not a directory"
            )));
        }
        fill_directory(directory, &tree, source, self.context.cancel)
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, BuildError> {
        match self.context.secrets.get(id) {
            Some(source) => read_secret(id, source).map(Some),
            None if required => Err(
                BuildError::user(format!("secret {id}: not found")).with_help(format!(
                    "give it with `--secret id={id},src=FILE` or `--secret id={id},env=NAME`"
                )),
            ),
            None => Ok(None),
        }
    }

    /// The socket of a forwarded agent, if there is one under this id.
    fn agent(&self, id: &str, required: bool) -> Result<Option<AgentSocket>, BuildError> {
        let known = if id.is_empty() { "default" } else { id };
        match self.context.ssh.get(known) {
            Some(source) => {
                let directory = sub_directory(self.scratch, &format!("ssh-{}", self.index))?;
                AgentSocket::start(source, &directory.join("agent")).map(Some)
            }
            None if required => Err(BuildError::user(format!(
                "no SSH key {id:?} forwarded from the client"
            ))
            .with_help(format!(
                "forward an agent with `--ssh {known}`, or a key with `--ssh {known}=FILE`"
            ))),
            None => Ok(None),
        }
    }
}

/// `--ulimit` values as the sandbox takes them.
pub(super) fn rlimits(ulimits: &[(String, u64, u64)]) -> Result<Vec<Rlimit>, BuildError> {
    ulimits
        .iter()
        .map(|(name, soft, hard)| {
            let resource = RlimitKind::from_name(name)
                .ok_or_else(|| BuildError::user(format!("invalid ulimit type: {name}")))?;
            Ok(Rlimit {
                resource,
                soft: *soft,
                hard: *hard,
            })
        })
        .collect()
}
