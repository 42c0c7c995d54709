//! The options of a build made into one typed request.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_builder::BuildRequest;
use rbuild_builder::request::{
    CachePlace, CacheTarget, ConfigChanges, Entitlement, NameResolution, NamedContext,
    NetworkDefault, PullPolicy, Rights, SshSource,
};
use rbuild_cache::Digest;
use rbuild_parser::{ImageReference, Platform, SourceKind, context_kind, parse_size};
use rbuild_runtime::{Seccomp, Security};

use super::context::{self, Access, Opener, Sought};
use super::options::{BuildArgs, WhatArgs};
use super::{caches, changes, outputs, secrets, ssh};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::hostflags;

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The variables that name proxies; they are known in small letters, too.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A request, and where its Dockerfile lies.
pub(crate) struct Requested {
    /// What to build.
    pub(crate) request: BuildRequest,
    /// Path of the Dockerfile; none if it came from standard input.
    pub(crate) dockerfile: Option<PathBuf>,
}

/// Rights of steps; none if they are the usual ones.
fn rights(args: &BuildArgs) -> Result<Option<Rights>, Failure> {
    let security = args.rights.security()?;
    let usual = Security::default();
    Ok((security != usual).then(|| Rights {
        capabilities: security.capabilities.0,
        unconfined: security.seccomp == Seccomp::Unconfined,
        no_new_privileges: security.no_new_privileges,
        masked_paths: security.masked_paths,
        seccomp: match security.seccomp {
            Seccomp::Profile(profile) => Some(profile),
            Seccomp::Default | Seccomp::Unconfined => None,
        },
    }))
}

/// Makes the request of a build; reads the Dockerfile, but none of the context.
pub(super) fn request(
    settings: &Settings,
    args: &BuildArgs,
    stdin: &mut dyn Read,
    opener: &mut dyn Opener,
) -> Result<Requested, Failure> {
    // Flags first: a mistake in them is told before anything is read.
    let mut outputs = outputs::parse(&args.output, args.load, args.push)?;
    outputs::add_annotations(&mut outputs, &args.annotation)?;
    let docker = match args.format.as_deref() {
        None | Some("oci") => false,
        Some("docker") => true,
        Some(other) => {
            return Err(Failure::new(format!("image format {other:?} is not known"))
                .hint("known formats: oci, docker"));
        }
    };
    let reproducible = args.reproducible || args.timestamp.is_some();
    for output in &mut outputs {
        output.options.rewrite_timestamp |= args.rewrite_timestamp;
        output.options.docker_media_types |= docker;
        output.options.own_blobs |= reproducible;
    }
    changes::compress(args, &mut outputs)?;
    let tags = args
        .tag
        .iter()
        .map(|tag| parse_tag(tag))
        .collect::<Result<_, _>>()?;
    let (network, entitlements) = network(args)?;
    let extra_hosts = args
        .add_host
        .iter()
        .map(|host| hostflags::add_host(host))
        .collect::<Result<_, _>>()?;
    let ulimits = args
        .ulimit
        .iter()
        .map(|limit| hostflags::ulimit(limit))
        .collect::<Result<_, _>>()?;
    let mut limits = args.limits.clone();
    limits.add_resources(&args.resource)?;
    let limits = limits.limits()?;
    let rights = rights(args)?;
    let shm_size = args.shm_size.as_deref().map(parse_size).transpose();
    let shm_size =
        shm_size.map_err(|reason| Failure::new(format!("invalid --shm-size: {reason}")))?;
    let secrets = secrets::from_environment(&args.secret)?;
    let mut ssh = ssh::parse(&args.ssh, settings.environment.ssh_agent.as_deref())?;
    let contexts = args.what.context.iter().map(String::as_str).chain(
        args.what
            .build_context
            .iter()
            .filter_map(|context| context.split_once('=').map(|(_, source)| source)),
    );
    if ssh.is_empty()
        && let Some(agent) = &settings.environment.ssh_agent
        && contexts.into_iter().any(is_ssh)
    {
        // Who builds from a repository that is reached by SSH wants his keys used for it.
        ssh.insert("default".to_owned(), SshSource::Agent(agent.clone()));
    }
    let Requested {
        request,
        dockerfile,
    } = what(
        settings,
        &args.what,
        args.ignorefile.as_deref(),
        stdin,
        &mut Access {
            opener,
            secrets: &secrets,
            ssh: &ssh,
        },
    )?;
    let no_cache_filter = args.no_cache_filter.iter();
    let cache_to = caches::targets(&args.cache_to)?;
    let squash = changes::squash(args);
    let inline = |target: &CacheTarget| target.place == CachePlace::Inline;
    if squash.is_some() && cache_to.iter().any(inline) {
        return Err(
            Failure::new("an inline cache needs the layers that `--squash` puts together")
                .hint(
                    "write the cache elsewhere, for example with `--cache-to type=local,dest=DIR`",
                )
                .with_status(status::USAGE),
        );
    }
    Ok(Requested {
        request: BuildRequest {
            build_args: step_arguments(args, request.build_args)?,
            config: changes::config(args)?,
            names: changes::names(args)?,
            volumes: changes::volumes(args)?,
            squash,
            reproducible,
            labels: labels(&args.label),
            tags,
            outputs,
            no_cache: args.no_cache,
            no_cache_filter: no_cache_filter.map(|stage| stage.to_lowercase()).collect(),
            secrets,
            ssh,
            network,
            extra_hosts,
            entitlements,
            shm_size,
            ulimits,
            rights,
            limits,
            cache_from: caches::sources(&args.cache_from, args.cache_ttl.as_deref())?,
            cache_to,
            pull: pull_policy(args.pull.as_deref())?,
            jobs: args.jobs.filter(|jobs| *jobs > 0),
            ..request
        },
        dockerfile,
    })
}

/// Adds the build arguments that other flags stand for.
fn step_arguments(
    args: &BuildArgs,
    mut known: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    if args.http_proxy == Some(true) {
        for name in PROXIES
            .iter()
            .flat_map(|name| [name.to_lowercase(), (*name).to_owned()])
        {
            if let Some((name, value)) = hostflags::from_environment(&name)? {
                known.entry(name).or_insert(value);
            }
        }
    }
    if let Some(time) = args.timestamp {
        known.insert(EPOCH.to_owned(), time.to_string());
    }
    Ok(known)
}

/// Makes a request that says what to build, and nothing about how and what for.
pub(super) fn what(
    settings: &Settings,
    args: &WhatArgs,
    ignore_file: Option<&Path>,
    stdin: &mut dyn Read,
    access: &mut Access<'_>,
) -> Result<Requested, Failure> {
    let build_args = build_args(settings, args)?;
    let named_contexts = named_contexts(&args.build_context)?;
    let platforms = platforms(settings, args)?;
    let found = context::load(
        Sought {
            context: args.context.as_deref(),
            file: args.file.as_deref(),
            ignore_file,
            keep_git_dir: is_true(build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")),
            commit_times: build_args
                .get("SOURCE_DATE_EPOCH")
                .is_some_and(|epoch| !epoch.is_empty()),
        },
        stdin,
        access,
    )?;
    Ok(Requested {
        request: BuildRequest {
            dockerfile: found.dockerfile,
            context: found.context,
            named_contexts,
            target: args.target.clone().filter(|target| !target.is_empty()),
            build_args,
            platforms,
            labels: BTreeMap::new(),
            tags: Vec::new(),
            outputs: Vec::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            network: NetworkDefault::Default,
            extra_hosts: Vec::new(),
            entitlements: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            rights: None,
            limits: rbuild_runtime::Limits::default(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            pull: PullPolicy::Missing,
            first_base: args.from.clone().filter(|image| !image.is_empty()),
            config: ConfigChanges::default(),
            names: NameResolution::default(),
            volumes: Vec::new(),
            squash: None,
            fresh_cache_mounts: false,
            reproducible: false,
            jobs: None,
        },
        dockerfile: found.path,
    })
}

/// A build argument that is a switch, read as Go does.
fn is_true(value: Option<&String>) -> bool {
    matches!(
        value.map(String::as_str),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True")
    )
}

/// Whether a context is a repository that is reached by SSH.
fn is_ssh(context: &str) -> bool {
    match context_kind(context) {
        SourceKind::Git(url) => url.remote.starts_with("ssh://") || !url.remote.contains("://"),
        _ => false,
    }
}

fn pull_policy(given: Option<&str>) -> Result<PullPolicy, Failure> {
    match given {
        None | Some("missing" | "ifmissing" | "false") => Ok(PullPolicy::Missing),
        Some("always" | "true") => Ok(PullPolicy::Always),
        Some("newer" | "ifnewer") => Ok(PullPolicy::Newer),
        Some("never") => Ok(PullPolicy::Never),
        Some(other) => Err(
            Failure::new(format!("invalid value {other:?} for `--pull`"))
                .hint("known values: always, missing, newer, never")
                .with_status(status::USAGE),
        ),
    }
}

fn parse_tag(tag: &str) -> Result<ImageReference, Failure> {
    match ImageReference::parse(tag) {
        Ok(reference) if reference.digest().is_some() => Err(Failure::new(format!(
            "invalid tag {tag:?}: a name with a digest cannot be given"
        ))),
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(reason) => Err(Failure::new(format!("invalid tag {tag:?}: {reason}"))),
    }
}

/// What is given last wins: the environment, files, arguments by name, the time.
fn build_args(settings: &Settings, given: &WhatArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    if let Some(epoch) = &settings.environment.source_date_epoch {
        args.insert(EPOCH.to_owned(), epoch.clone());
    }
    for file in &given.build_arg_file {
        args.extend(build_arg_file(file)?);
    }
    for arg in &given.build_arg {
        args.extend(hostflags::from_environment(arg)?);
    }
    if let Some(epoch) = &given.source_date_epoch {
        args.insert(EPOCH.to_owned(), epoch.clone());
    }
    Ok(args)
}

/// Lines of `NAME=VALUE`; empty ones and those that begin with `#` are left out.
fn build_arg_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let what = || format!("`{}`", path.display());
    let text = std::fs::File::open(path)
        .and_then(context::read_limited)
        .map_err(|error| Failure::new(format!("could not read {}", what())).because(&error))?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(format!("{} is not valid UTF-8", what())))?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::new(format!(
                "{}, line {number}: expected NAME=VALUE",
                what()
            )));
        };
        found.push((name.to_owned(), value.to_owned()));
    }
    Ok(found)
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    given
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn platforms(settings: &Settings, args: &WhatArgs) -> Result<Vec<Platform>, Failure> {
    if args.arch.is_some() || args.os.is_some() || args.variant.is_some() {
        return one_platform(args).map(|platform| vec![platform]);
    }
    let given = &args.platform;
    let default = settings
        .environment
        .default_platform
        .iter()
        .filter(|_| given.is_empty());
    let mut platforms: Vec<Platform> = Vec::new();
    for text in given.iter().chain(default).map(|text| text.trim()) {
        let platform = match text {
            "local" => Platform::host(),
            text => Platform::parse(text).map_err(Failure::new)?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// The platform of `--os`, `--arch` and `--variant`; what is not given is the host's.
fn one_platform(args: &WhatArgs) -> Result<Platform, Failure> {
    if !args.platform.is_empty() {
        return Err(Failure::new(
            "`--platform` cannot be used together with `--os`, `--arch` or `--variant`",
        )
        .with_status(status::USAGE));
    }
    let host = Platform::host();
    let os = args.os.as_deref().unwrap_or(&host.os);
    let architecture = args.arch.as_deref().unwrap_or(&host.architecture);
    let text = match &args.variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    };
    Platform::parse(&text).map_err(Failure::new)
}

fn network(args: &BuildArgs) -> Result<(NetworkDefault, Vec<Entitlement>), Failure> {
    let mut entitlements = Vec::new();
    for right in &args.allow {
        entitlements.push(match right.as_str() {
            "network.host" => Entitlement::NetworkHost,
            "security.insecure" => Entitlement::SecurityInsecure,
            "device" => return Err(Failure::unsupported("`--allow device`")),
            other => {
                return Err(Failure::new(format!("invalid entitlement {other:?}"))
                    .hint("known entitlements: network.host, security.insecure"));
            }
        });
    }
    let network = match args.network.as_deref() {
        None | Some("" | "default") => NetworkDefault::Default,
        Some("none") => NetworkDefault::None,
        // Who asks for it on the command line has granted it.
        Some("host") => {
            entitlements.push(Entitlement::NetworkHost);
            NetworkDefault::Host
        }
        Some(other) => {
            return Err(
                Failure::new(format!("network mode {other:?} is not supported"))
                    .hint("known modes: default, none, host"),
            );
        }
    };
    Ok((network, entitlements))
}

fn named_contexts(given: &[String]) -> Result<BTreeMap<String, NamedContext>, Failure> {
    let mut contexts = BTreeMap::new();
    for value in given {
        let Some((name, source)) = value.split_once('=') else {
            return Err(Failure::new(format!(
                "invalid context value: {value}, expected key=value"
            )));
        };
        contexts.insert(context_name(name)?, named_context(name, source)?);
    }
    Ok(contexts)
}

/// The form in which named contexts are matched: short, lower case, without `:latest`.
fn context_name(name: &str) -> Result<String, Failure> {
    let lower = name.to_lowercase();
    let (image, platform) = match lower.split_once("::") {
        Some((image, platform)) => (image, Some(platform)),
        None => (lower.as_str(), None),
    };
    let reference = ImageReference::parse(image)
        .map_err(|reason| Failure::new(format!("invalid context name {name}: {reason}")))?;
    let familiar = reference.familiar();
    let familiar = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    Ok(match platform {
        Some(platform) => format!("{familiar}::{platform}"),
        None => familiar.to_owned(),
    })
}

fn named_context(name: &str, source: &str) -> Result<NamedContext, Failure> {
    if let Some(layout) = source.strip_prefix("oci-layout://") {
        return oci_layout(name, layout);
    }
    let image = source
        .strip_prefix("docker-image://")
        .or(source.strip_prefix("container-image://"));
    if let Some(image) = image {
        return ImageReference::parse(image)
            .map(NamedContext::Image)
            .map_err(|reason| Failure::new(format!("invalid context {name}: {reason}")));
    }
    let path = Path::new(source);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(NamedContext::Directory(path.to_path_buf())),
        Err(error) => {
            match context_kind(source) {
                SourceKind::Git(url) => return Ok(NamedContext::Git(url)),
                SourceKind::Http => return Ok(NamedContext::Http(source.to_owned())),
                SourceKind::InvalidGit(reason) => {
                    return Err(Failure::new(format!("invalid context {name}: {reason}")));
                }
                SourceKind::Path => {}
            }
            let of_bake = ["target:", "input:"];
            if of_bake.iter().any(|prefix| source.starts_with(prefix)) {
                return Err(Failure::unsupported(&format!(
                    "the build context `{name}={source}`"
                )));
            }
            let failure = Failure::new(format!("failed to get build context path {source:?}"));
            Err(failure.because(&error))
        }
        Ok(_) => Err(Failure::new(format!(
            "failed to get build context path {source:?}: not a directory"
        ))),
    }
}

/// `DIR[:TAG][@DIGEST]`.
fn oci_layout(name: &str, layout: &str) -> Result<NamedContext, Failure> {
    let (rest, digest) = match layout.rsplit_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse::<Digest>()
                .map_err(|reason| Failure::new(format!("invalid context {name}: {reason}")))?;
            (rest, Some(digest))
        }
        None => (layout, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    Ok(NamedContext::OciLayout {
        path: path.into(),
        tag,
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_names_are_short_and_lower_case() {
        for (name, want) in [
            ("BB", "bb"),
            ("docker.io/library/alpine:latest", "alpine"),
            ("alpine:3.20", "alpine:3.20"),
            ("base::linux/arm64", "base::linux/arm64"),
        ] {
            assert_eq!(context_name(name).unwrap(), want);
        }
        assert!(context_name("a b").is_err());
    }

    #[test]
    fn layouts_have_tags_and_digests() {
        let digest = Digest::of(b"x");
        let parts = |text: &str| match oci_layout("n", text).unwrap() {
            NamedContext::OciLayout { path, tag, digest } => {
                (path.to_str().unwrap().to_owned(), tag, digest)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(parts("/a/b"), ("/a/b".into(), None, None));
        assert_eq!(parts("a:1/b"), ("a:1/b".into(), None, None));
        assert_eq!(parts("a:1/b:2"), ("a:1/b".into(), Some("2".into()), None));
        assert_eq!(
            parts(&format!("d:t@{digest}")),
            ("d".into(), Some("t".into()), Some(digest))
        );
        assert!(oci_layout("n", "d@sha256:12").is_err());
    }

    #[test]
    fn contexts_may_be_outside_this_machine() {
        let git = named_context("n", "https://example.org/x.git#v1:d").unwrap();
        assert!(matches!(git, NamedContext::Git(url) if url.subdir.as_deref() == Some("d")));
        let web = named_context("n", "https://example.org/x.tgz").unwrap();
        assert!(matches!(web, NamedContext::Http(_)));
        assert!(named_context("n", "https://example.org/x.git?foo=1").is_err());
        assert!(is_ssh("git@example.org:x") && is_ssh("ssh://example.org/x"));
        assert!(!is_ssh("https://example.org/x.git") && !is_ssh("."));
        let message = named_context("n", "target:other").unwrap_err().message;
        let message = message.unwrap();
        assert!(message.ends_with("is not supported yet"), "{message}");
        assert!(named_context("n", "/no/such/place").is_err());
    }
}
