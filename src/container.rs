//! From an image and the options of `rbuild run` to a sandbox.

pub(crate) mod capabilities;
pub(crate) mod details;
pub(crate) mod environment;
pub(crate) mod mounts;
pub(crate) mod networking;
mod process;
pub(crate) mod signals;
pub(crate) mod volumes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rbuild_builder::etc::{hosts_file, resolv_conf};
use rbuild_builder::image::{
    BaseImage, BaseLayer, ContainerConfig, ImageConfig, Origin, image_config, manifest_of,
};
use rbuild_builder::{PlainStep, shorten_roots, why_roots_are_copied};
use rbuild_cache::{
    DiffId, Digest, Draft, Layer, Lease, RootView, ScaffoldTarget, Scratch, Store, TargetKind,
    scaffold, writable_over,
};
use rbuild_parser::Platform;
use rbuild_runtime::{
    Isolation, KernelSettings, Limits, Mount, MountSource, Network, OfHost, Rlimit, RootFs,
    Sandbox, Security, UpperDir, isolation,
};

use crate::commands::lookup::Found;
use crate::failure::Failure;
use details::MountPoint;
use mounts::{StoredVolume, Volume, VolumeKind};
use networking::NetworkOptions;
pub(crate) use networking::fall_back;
use process::process;
use volumes::{Base, Held};

/// What a container gets beyond its image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Replaces `ENTRYPOINT` and drops `CMD`; empty means none.
    pub(crate) entrypoint: Option<String>,
    /// Replaces `CMD`.
    pub(crate) command: Vec<OsString>,
    /// Changes of the environment.
    pub(crate) environment: Vec<environment::Change>,
    /// Replaces `WORKDIR`.
    pub(crate) workdir: Option<String>,
    /// Replaces `USER`.
    pub(crate) user: Option<String>,
    /// Mounts, in order.
    pub(crate) volumes: Vec<Volume>,
    /// What it sees of the network.
    pub(crate) network: Network,
    /// Host name; none for one made up.
    pub(crate) hostname: Option<String>,
    /// What else it asks of the network.
    pub(crate) networks: NetworkOptions,
    /// The root file system cannot be written to.
    pub(crate) read_only: bool,
    /// Further groups of its processes, by name or number.
    pub(crate) groups: Vec<String>,
    /// Settings of the kernel.
    pub(crate) kernel: KernelSettings,
    /// A small init is process 1.
    pub(crate) init: bool,
    /// It has a terminal.
    pub(crate) terminal: bool,
    /// Rights.
    pub(crate) security: Security,
    /// Size of `/dev/shm`.
    pub(crate) shm_size: Option<u64>,
    /// Limits of each process.
    pub(crate) rlimits: Vec<Rlimit>,
    /// Limits of all processes together.
    pub(crate) limits: Limits,
    /// What it has in common with the host.
    pub(crate) of_host: OfHost,
}

/// A container ready to start; dropping it removes what it wrote.
pub(crate) struct Prepared {
    /// What to start.
    pub(crate) sandbox: Sandbox,
    /// The copy of its root, where nothing can be mounted.
    _plain: Option<PlainStep>,
    // Kept until the container has ended: its layers, its writable directories, its mount targets.
    _lease: Lease,
    _drafts: Vec<Draft>,
    _scratch: Scratch,
    _held: Held,
}

/// A container that is made, but not listed yet.
pub(crate) struct Made {
    /// What to start.
    pub(crate) sandbox: Sandbox,
    /// Settings of its image.
    pub(crate) config: ContainerConfig,
    /// The image's platform, such as `linux/amd64`.
    pub(crate) platform: String,
    /// What is mounted in it.
    pub(crate) points: Vec<MountPoint>,
    /// Layers of images that are mounted in it.
    pub(crate) layers: Vec<DiffId>,
    /// To be kept until it is listed.
    pub(crate) held: Held,
}

/// Paths that the sandbox itself provides.
const KERNEL_TREES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Prepares a container that is gone when its command ends.
pub(crate) fn prepare(
    store: &Store,
    found: &Found,
    options: &Options,
) -> Result<Prepared, Failure> {
    let lease = protect(store, found)?;
    let scratch = store.scratch()?;
    let mut drafts = Vec::new();
    let mut draft = |layers: &[Layer]| {
        let draft = store.draft_on(layers)?;
        let upper = UpperDir {
            upper: draft.upper().to_path_buf(),
            work: draft.work().to_path_buf(),
        };
        drafts.push(draft);
        Ok(upper)
    };
    let place = Place {
        directory: scratch.path(),
        listed: false,
    };
    let Made {
        mut sandbox, held, ..
    } = make(store, found, options, &place, &mut draft)?;
    shorten_roots(store, &lease, &mut sandbox)?;
    let plain = match isolation() {
        Isolation::Chroot => {
            refuse_binds(options)?;
            Some(PlainStep::prepare(&mut sandbox, &scratch).map_err(Failure::from)?)
        }
        _ if why_roots_are_copied(store)?.is_some() => {
            Some(PlainStep::without_overlay(&mut sandbox, &scratch)?)
        }
        _ => None,
    };
    Ok(Prepared {
        sandbox,
        _plain: plain,
        _lease: lease,
        _drafts: drafts,
        _scratch: scratch,
        _held: held,
    })
}

/// Prepares a container whose files lie in `directory` and outlive this process.
pub(crate) fn prepare_in(
    store: &Store,
    found: &Found,
    options: &Options,
    directory: &Path,
) -> Result<Made, Failure> {
    if isolation() == Isolation::Chroot {
        return Err(Failure::new(
            "this host allows no namespaces, and without them no container can live on its own",
        )
        .hint("`rbuild run --rm` in the foreground works; `rbuild doctor` tells what is missing"));
    }
    if let Some(why) = why_roots_are_copied(store)? {
        return Err(Failure::new(format!(
            "the store cannot hold a container that lives on its own: {why}"
        ))
        .hint(
            "`rbuild run --rm` in the foreground works; so does a store elsewhere (`--root DIR`)",
        ));
    }
    let _lease = protect(store, found)?;
    let mut number = 0;
    let mut draft = |layers: &[Layer]| {
        let place = directory.join(format!("files-{number}"));
        number += 1;
        std::fs::create_dir(&place)?;
        let (upper, work) = writable_over(&place, layers)?;
        Ok(UpperDir { upper, work })
    };
    let place = Place {
        directory,
        listed: true,
    };
    make(store, found, options, &place, &mut draft)
}

/// Where a container's files go.
struct Place<'a> {
    directory: &'a Path,
    /// It outlives this process.
    listed: bool,
}

/// What is started, with its directories for files and mount targets made.
fn make(
    store: &Store,
    found: &Found,
    options: &Options,
    place: &Place<'_>,
    draft: &mut dyn FnMut(&[Layer]) -> Result<UpperDir, Failure>,
) -> Result<Made, Failure> {
    let (config, layers) = unpack(store, found)?;
    let variant = config.variant.as_deref();
    let platform = Platform::new(&config.os, &config.architecture, variant);
    let config = config.config;
    let view = RootView::new(&layers);
    let hostname = hostname(options)?;
    let process = process(&view, options, &config, &hostname)?;
    let scaffold = place.directory.join("scaffold");
    let lowers = lowers(&scaffold, &layers);
    let mut draft = || draft(&layers);
    let mut mounts = system_files(options, &hostname, place.listed);
    let base = Base {
        store,
        view: &view,
        lowers: &lowers,
        listed: place.listed,
        read_only: options.read_only,
    };
    let attached = base.attach(&wanted_mounts(options, &config), &mut draft)?;
    mounts.extend(attached.mounts);
    mounts.extend(options.of_host.ipc.then(shared_memory));
    // What lies inside another mount comes after it; among equals the order given counts.
    mounts.sort_by_key(|(mount, _)| mount.target.components().count());
    prepare_targets(&view, &scaffold, &process.cwd, &mut mounts)?;
    let upper = if options.read_only {
        None
    } else {
        Some(draft()?)
    };
    let sandbox = Sandbox {
        root: RootFs {
            lowers,
            upper,
            readonly: options.read_only,
            plain: None,
        },
        process,
        mounts: mounts.into_iter().map(|(mount, _)| mount).collect(),
        hostname,
        domain_name: options.networks.domain.clone(),
        network: options.network.clone(),
        security: options.security.clone(),
        shm_size: options.shm_size.unwrap_or(Sandbox::DEFAULT_SHM_SIZE),
        rlimits: options.rlimits.clone(),
        limits: options.limits.clone(),
        init: options.init,
        kernel: options.kernel.clone(),
        of_host: options.of_host,
    };
    Ok(Made {
        sandbox,
        config,
        platform: platform.to_string(),
        points: attached.points,
        layers: attached.layers,
        held: attached.held,
    })
}

/// Nothing of this machine can be shown in a container that cannot mount.
fn refuse_binds(options: &Options) -> Result<(), Failure> {
    let bind = options.volumes.iter().find(|volume| match &volume.kind {
        VolumeKind::Bind { .. } | VolumeKind::Device { .. } => true,
        VolumeKind::Stored(stored) => stored.name.is_some(),
        VolumeKind::Tmpfs { .. } | VolumeKind::Image { .. } => false,
    });
    match bind {
        None => Ok(()),
        Some(volume) => Err(Failure::new(format!(
            "`{}` cannot be mounted with the isolation `chroot`",
            volume.target.display()
        ))
        .hint("`rbuild doctor` tells what would allow mounts")),
    }
}

/// Keeps the layers of an image from being pruned.
pub(crate) fn protect(store: &Store, found: &Found) -> Result<Lease, Failure> {
    let lease = store.lease()?;
    let layers = found.entry.record.layers.iter();
    let digests: Vec<Digest> = layers.map(|layer| *layer.digest()).collect();
    lease.protect_all(&digests)?;
    Ok(lease)
}

/// Reads the config and makes sure that all layers are unpacked.
pub(crate) fn unpack(store: &Store, found: &Found) -> Result<(ImageConfig, Vec<Layer>), Failure> {
    let record = &found.entry.record;
    let config = image_config(store, record)?;
    let manifest = manifest_of(store, record)?;
    let layers = config.rootfs.diff_ids.iter().zip(&manifest.layers);
    let image = BaseImage {
        name: record.config.to_string(),
        manifest: manifest.descriptor.digest,
        layers: layers
            .map(|(diff_id, descriptor)| BaseLayer {
                diff_id: *diff_id,
                blob: descriptor.digest,
                size: descriptor.size,
                media_type: descriptor.media_type.clone(),
            })
            .collect(),
        config,
        origin: Origin::Store,
    };
    let layers = image.ensure_layers(store, &|_, _| {})?;
    Ok((image.config, layers))
}

fn hostname(options: &Options) -> Result<String, Failure> {
    if let Some(hostname) = &options.hostname {
        return Ok(hostname.clone());
    }
    if options.network == Network::Host || options.of_host.names {
        return Ok(rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned());
    }
    // As in Docker: the first digits of an ID, which nothing else needs here.
    let mut bytes = [0_u8; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let number = bytes
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Ok(format!("{number:012x}"))
}

/// The files that Docker puts into every container.
///
/// One that is listed gets a line with its own address when it starts.
fn system_files(options: &Options, hostname: &str, listed: bool) -> Vec<(Mount, TargetKind)> {
    let host_network = options.network == Network::Host;
    let extra = &options.networks.extra_hosts;
    let hosts = if host_network {
        let mut hosts = std::fs::read("/etc/hosts").unwrap_or_default();
        for (name, address) in networking::hosts_in_host_network(extra) {
            hosts.extend_from_slice(format!("{address}\t{name}\n").as_bytes());
        }
        hosts
    } else if listed && options.network == Network::Private {
        hosts_file("", extra)
    } else {
        hosts_file(hostname, extra)
    };
    let files = [
        ("/etc/hosts", hosts),
        (
            "/etc/resolv.conf",
            resolv_conf(host_network, &options.networks.names),
        ),
        ("/etc/hostname", format!("{hostname}\n").into_bytes()),
    ];
    files
        .into_iter()
        .map(|(target, content)| {
            let source = MountSource::File {
                content,
                mode: 0o644,
                uid: 0,
                gid: 0,
            };
            (
                Mount {
                    target: target.into(),
                    source,
                    // As in Docker; what is written is gone with the container's end.
                    readonly: options.read_only,
                },
                TargetKind::File,
            )
        })
        .collect()
}

/// The host's `/dev/shm`, over the container's own.
fn shared_memory() -> (Mount, TargetKind) {
    let place = PathBuf::from("/dev/shm");
    let source = MountSource::Bind {
        source: place.clone(),
        subpath: None,
    };
    let mount = Mount {
        target: place,
        source,
        readonly: false,
    };
    (mount, TargetKind::Directory)
}

/// The image's volumes and the mounts asked for, which count first.
fn wanted_mounts(options: &Options, config: &ContainerConfig) -> Vec<Volume> {
    let taken = |target: &str| {
        options
            .volumes
            .iter()
            .any(|volume| volume.target == Path::new(target))
    };
    let of_image = config
        .volumes
        .iter()
        .filter(|target| !taken(target))
        .map(|target| Volume {
            target: PathBuf::from(target),
            kind: VolumeKind::Stored(StoredVolume::default()),
            readonly: false,
        });
    of_image.chain(options.volumes.iter().cloned()).collect()
}

/// Makes what is missing of mount targets and working directory in a layer of its own.
fn prepare_targets(
    view: &RootView,
    into: &Path,
    cwd: &Path,
    mounts: &mut [(Mount, TargetKind)],
) -> Result<(), Failure> {
    let directory = |path: &Path| ScaffoldTarget {
        path: path.to_path_buf(),
        kind: TargetKind::Directory,
    };
    let in_kernel_tree = |path: &Path| {
        KERNEL_TREES
            .iter()
            .any(|tree| path.starts_with(tree) && path != Path::new(tree))
    };
    let mut targets: Vec<ScaffoldTarget> = KERNEL_TREES
        .iter()
        .map(|tree| directory(Path::new(tree)))
        .collect();
    if !in_kernel_tree(cwd) {
        targets.push(directory(cwd));
    }
    let first = targets.len();
    let mut places = Vec::new();
    for (index, (mount, kind)) in mounts.iter().enumerate() {
        if !in_kernel_tree(&mount.target) {
            targets.push(ScaffoldTarget {
                path: mount.target.clone(),
                kind: *kind,
            });
            places.push(index);
        }
    }
    std::fs::create_dir(into)?;
    let resolved = scaffold(view, &targets, into)
        .map_err(|error| Failure::from(error).within("could not prepare the mount targets"))?;
    for (index, target) in places.into_iter().zip(resolved.into_iter().skip(first)) {
        mounts[index].0.target = target;
    }
    Ok(())
}

fn lowers(scaffold: &Path, layers: &[Layer]) -> Vec<PathBuf> {
    std::iter::once(scaffold.to_path_buf())
        .chain(lowers_of(layers))
        .collect()
}

/// Directories of layers, the topmost first.
fn lowers_of(layers: &[Layer]) -> impl Iterator<Item = PathBuf> {
    layers
        .iter()
        .rev()
        .flat_map(Layer::directories)
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_short_and_differ() {
        let name = hostname(&Options::default()).unwrap();
        assert_eq!(name.len(), 12);
        assert_ne!(name, hostname(&Options::default()).unwrap());
    }
}
