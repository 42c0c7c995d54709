//! What a build is asked to do: flags and files as one typed value.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_cache::{Compression, DiffId, Digest};
use serde::{Deserialize, Serialize};

use rbuild_parser::{GitUrl, ImageReference, Platform};
use rbuild_runtime::{Limits, SeccompProfile};

/// Everything that decides the outcome of a build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The Dockerfile's text and the name to show for it.
    pub dockerfile: DockerfileSource,
    /// The build context.
    pub context: ContextSource,
    /// `--build-context NAME=…`, by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, by name, values literal.
    pub build_args: BTreeMap<String, String>,
    /// `--platform`; empty means the host's.
    pub platforms: Vec<Platform>,
    /// `--label`, merged after all instructions.
    pub labels: BTreeMap<String, String>,
    /// `-t`: names of the result.
    pub tags: Vec<ImageReference>,
    /// `-o`: where the result goes; several are allowed.
    pub outputs: Vec<Output>,
    /// `--no-cache`: run every step.
    pub no_cache: bool,
    /// `--no-cache-filter`: run every step of these stages (lower case).
    pub no_cache_filter: Vec<String>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// `--network`: what RUN gets unless it says otherwise.
    pub network: NetworkDefault,
    /// `--add-host NAME:IP`, in order.
    pub extra_hosts: Vec<(String, String)>,
    /// `--allow`: entitlements granted.
    pub entitlements: Vec<Entitlement>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit TYPE=SOFT:HARD`.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--cap-add`, `--cap-drop`, `--security-opt`: rights of steps, if they are not the usual ones.
    pub rights: Option<Rights>,
    /// Limits of all processes of a step together. Not part of any key: they change no result.
    pub limits: Limits,
    /// `--cache-from`: caches that are read.
    pub cache_from: Vec<CacheSource>,
    /// `--cache-to`: caches that are written.
    pub cache_to: Vec<CacheTarget>,
    /// `--pull`: when registries are asked for base images.
    pub pull: PullPolicy,
    /// `--from`: takes the place of the image of the first `FROM`.
    pub first_base: Option<String>,
    /// What the command line changes in the image's config.
    pub config: ConfigChanges,
    /// How names of hosts are found in RUN.
    pub names: NameResolution,
    /// `--volume`: files and directories of this machine that every RUN sees.
    pub volumes: Vec<HostVolume>,
    /// `--squash`: layers that are put together into one.
    pub squash: Option<Squash>,
    /// Cache mounts are empty at first and thrown away with the build.
    pub fresh_cache_mounts: bool,
    /// `--reproducible`: nothing of when and where the build runs shows in its result.
    pub reproducible: bool,
    /// `--jobs`: steps at once; `None` means as many as there are CPUs, at least sixteen.
    pub jobs: Option<usize>,
}

impl BuildRequest {
    /// The time of a reproducible build that names none, in seconds since 1970: the second day of
    /// 1980, because zip archives can hold nothing earlier, in whatever time zone they are made.
    pub const REPRODUCIBLE_TIME: i64 = 315_619_200;
}

/// Changes of an image's config beside those of the Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct ConfigChanges {
    /// `--env`: set at the start of every stage that starts from an image.
    pub env: Vec<(String, String)>,
    /// `--unsetenv`: names that the image shall not have.
    pub unset_env: Vec<String>,
    /// `--unsetlabel`: labels that the image shall not have.
    pub unset_labels: Vec<String>,
    /// `--inherit-labels=false`: the base image's labels are left out.
    pub drop_base_labels: bool,
    /// `--omit-history`: the image has no history.
    pub omit_history: bool,
}

/// How names of hosts are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameResolution {
    /// `--dns=none`: `/etc/resolv.conf` is the image's own.
    pub own_resolv_conf: bool,
    /// `--dns`: name servers instead of the host's.
    pub servers: Vec<IpAddr>,
    /// `--dns-search`: search domains instead of the host's; `.` alone for none.
    pub search: Vec<String>,
    /// `--dns-option`: options of the resolver instead of the host's.
    pub options: Vec<String>,
    /// `--no-hosts`: `/etc/hosts` is the image's own.
    pub own_hosts: bool,
}

/// A file or directory of this machine in every RUN. What is in it counts for no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVolume {
    /// Where it is.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// It cannot be written to.
    pub readonly: bool,
}

/// Which layers of a result become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// Those that are not the base image's.
    New,
    /// All.
    All,
}

/// One `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSource {
    /// Where it is.
    pub place: SourcePlace,
    /// Results that are older are not taken.
    pub max_age: Option<Duration>,
    /// `mounts=true`: new cache mounts are filled from it.
    pub mounts: bool,
}

/// Where a cache is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourcePlace {
    /// A cache, or an image with one inside, in a registry.
    Registry(ImageReference),
    /// A repository of a registry with a record for each step.
    Records(ImageReference),
    /// An OCI layout.
    Local {
        /// Its directory.
        path: PathBuf,
        /// Which of its entries.
        tag: Option<String>,
        /// Which of its manifests.
        digest: Option<Digest>,
    },
}

/// One `--cache-to`.
#[derive(Debug, Clone)]
pub struct CacheTarget {
    /// Where to.
    pub place: CachePlace,
    /// `mode=max`: the results of all steps, not only those that the image is made of.
    pub all: bool,
    /// A failure is a warning.
    pub ignore_error: bool,
    /// How layers are compressed.
    pub compression: Option<Compression>,
    /// What lists its blobs.
    pub form: CacheForm,
    /// Larger layers stay out, in bytes of their blob.
    pub max_layer: Option<u64>,
    /// `mounts=true`: the cache mounts that the build uses go with it.
    pub mounts: bool,
}

/// What lists the blobs of a cache in BuildKit's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheForm {
    /// The manifest of an image.
    #[default]
    Manifest,
    /// An index whose entries are the blobs, as BuildKit wrote it before there was the other form.
    Index,
    /// The same with Docker's media types.
    DockerIndex,
}

/// Where a cache is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// Into a registry.
    Registry(ImageReference),
    /// Into a repository of a registry, a record for each step, while the build runs.
    Records(ImageReference),
    /// Into an OCI layout.
    Local {
        /// Its directory.
        path: PathBuf,
        /// The tag of the entry.
        tag: String,
    },
    /// Into the image itself.
    Inline,
}

impl fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourcePlace::Registry(reference) => f.write_str(&reference.canonical()),
            SourcePlace::Records(name) => write!(f, "{}/{}", name.domain(), name.path()),
            SourcePlace::Local { path, .. } => write!(f, "`{}`", path.display()),
        }
    }
}

impl fmt::Display for CachePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CachePlace::Registry(reference) => f.write_str(&reference.canonical()),
            CachePlace::Records(name) => write!(f, "{}/{}", name.domain(), name.path()),
            CachePlace::Local { path, .. } => write!(f, "`{}`", path.display()),
            CachePlace::Inline => f.write_str("the image"),
        }
    }
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// When the store does not have it.
    #[default]
    Missing,
    /// Always; layers that are there are not downloaded again.
    Always,
    /// Always; if the registry does not answer, what the store has will do.
    Newer,
    /// Never.
    Never,
}

/// The Dockerfile, already read.
#[derive(Debug, Clone)]
pub struct DockerfileSource {
    /// Shown in messages, for example `Dockerfile` or `docker/app.Dockerfile`.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// Where the files of `COPY` and `ADD` come from.
#[derive(Debug, Clone)]
pub enum ContextSource {
    /// A directory, with the text of the ignore file that applies to it.
    Directory {
        /// The context root.
        path: PathBuf,
        /// Name and content of the ignore file, if there is one.
        ignore: Option<(String, Vec<u8>)>,
    },
    /// The files of a source that was brought into the store beforehand.
    Fetched(FetchedContext),
    /// No files at all (Dockerfile from standard input).
    Empty,
}

/// A context in the store: see [`open_context`](crate::open_context).
#[derive(Debug, Clone)]
pub struct FetchedContext {
    /// The layer with its files.
    pub layer: DiffId,
    /// Time of the source, in seconds since 1970: of the commit, `Last-Modified`, or the newest file
    /// of an archive.
    pub time: Option<i64>,
}

/// The value of a `--build-context`.
#[derive(Debug, Clone)]
pub enum NamedContext {
    /// A local directory (its own `.dockerignore` applies).
    Directory(PathBuf),
    /// `oci-layout://DIR[:tag|@digest]`.
    OciLayout {
        /// The layout directory.
        path: PathBuf,
        /// Tag to choose, if given.
        tag: Option<String>,
        /// Digest to choose, if given.
        digest: Option<Digest>,
    },
    /// `docker-image://REF`.
    Image(ImageReference),
    /// A git repository.
    Git(GitUrl),
    /// A file at a web address; archives are unpacked.
    Http(String),
}

/// The value of a `--ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshSource {
    /// The socket of an agent.
    Agent(PathBuf),
    /// Files with private keys.
    Keys(Vec<PathBuf>),
}

/// The value of a `--secret`.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// Read from a file at the moment of use.
    File(PathBuf),
    /// A value taken from the environment.
    Value(Vec<u8>),
}

/// What steps may do that run in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// One bit for each number of `linux/capability.h`.
    pub capabilities: u64,
    /// Without a system call filter.
    pub unconfined: bool,
    /// Set-user-id programs give no rights.
    pub no_new_privileges: bool,
    /// The usual paths of `/proc` and `/sys` are hidden and write-protected.
    pub masked_paths: bool,
    /// The user's own system call filter.
    pub seccomp: Option<SeccompProfile>,
}

/// Network mode of RUN steps that do not choose one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkDefault {
    /// Own network namespace with outgoing connections.
    #[default]
    Default,
    /// Own network namespace without connections.
    None,
    /// The host's network.
    Host,
}

/// A right that a Dockerfile cannot give itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entitlement {
    /// `network.host`.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
}

/// One `-o`.
#[derive(Debug, Clone)]
pub struct Output {
    /// What to write.
    pub kind: OutputKind,
    /// How layers are written.
    pub options: OutputOptions,
}

/// Kinds of output (`cli.md`, section 2).
#[derive(Debug, Clone)]
pub enum OutputKind {
    /// Into the image store, under the request's tags and these names.
    Image {
        /// More names, from `name=`.
        names: Vec<ImageReference>,
    },
    /// Into registries, under the request's tags and these names.
    Registry {
        /// More names, from `name=`.
        names: Vec<ImageReference>,
        /// Only under its digest, not under the tags.
        by_digest: bool,
    },
    /// OCI layout.
    Oci(ArchiveTarget),
    /// Docker archive (an OCI layout with `manifest.json`).
    Docker(ArchiveTarget),
    /// The root file system as a tar.
    Tar(Destination),
    /// The root file system as a directory.
    Local(PathBuf),
    /// Nothing: only fill the cache.
    CacheOnly,
}

/// Where an archive goes and in which shape.
#[derive(Debug, Clone)]
pub enum ArchiveTarget {
    /// One tar.
    Tar(Destination),
    /// A layout directory, re-used and extended (`tar=false`).
    Directory(PathBuf),
}

/// A file or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file, written beside and renamed into place.
    File(PathBuf),
    /// `-`.
    Stdout,
}

/// Options common to image-like outputs.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// Compression of layers; `None` means gzip, existing blobs reused.
    pub compression: Option<Compression>,
    /// `false` selects Docker media types.
    pub docker_media_types: bool,
    /// Clamp file times to `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// Blobs of layers that were made here are compressed here, never ones that are there already:
    /// the same layers give the same manifest everywhere.
    pub own_blobs: bool,
    /// Manifest annotations.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of the index's descriptor for the manifest.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Annotations that need an index.
    pub index_annotations: BTreeMap<String, String>,
}
