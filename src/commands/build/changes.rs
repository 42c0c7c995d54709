//! What flags change in the image beside the Dockerfile, and in what surrounds its steps.

use rbuild_builder::request::{
    ConfigChanges, HostVolume, NameResolution, Output, OutputKind, Squash,
};
use rbuild_cache::{Compression, CompressionKind};

use super::options::BuildArgs;
use crate::container::mounts::{VolumeKind, parse_volume};
use crate::failure::{Failure, status};
use crate::hostflags;

/// Variables, labels and history.
pub(super) fn config(args: &BuildArgs) -> Result<ConfigChanges, Failure> {
    let mut env = Vec::new();
    for variable in &args.env {
        env.extend(hostflags::from_environment(variable)?);
    }
    Ok(ConfigChanges {
        env,
        unset_env: args.unsetenv.clone(),
        unset_labels: args.unsetlabel.clone(),
        drop_base_labels: args.inherit_labels == Some(false),
        omit_history: args.omit_history,
    })
}

/// Which layers become one.
pub(super) fn squash(args: &BuildArgs) -> Option<Squash> {
    if args.squash_all {
        Some(Squash::All)
    } else if args.squash || args.layers == Some(false) {
        Some(Squash::New)
    } else {
        None
    }
}

/// `--dns`, `--dns-search`, `--dns-option` and `--no-hosts`.
pub(super) fn names(args: &BuildArgs) -> Result<NameResolution, Failure> {
    if args.no_hosts && !args.add_host.is_empty() {
        return Err(
            Failure::new("`--no-hosts` and `--add-host` cannot be used together")
                .with_status(status::USAGE),
        );
    }
    let own_resolv_conf = args.dns.iter().any(|server| server == "none");
    if own_resolv_conf
        && (args.dns.len() > 1 || !args.dns_search.is_empty() || !args.dns_option.is_empty())
    {
        return Err(Failure::new(
            "`--dns=none` cannot be used together with other `--dns` options",
        )
        .with_status(status::USAGE));
    }
    Ok(NameResolution {
        own_resolv_conf,
        servers: if own_resolv_conf {
            Vec::new()
        } else {
            hostflags::name_servers(&args.dns)?
        },
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
        own_hosts: args.no_hosts,
    })
}

/// `--volume`.
pub(super) fn volumes(args: &BuildArgs) -> Result<Vec<HostVolume>, Failure> {
    args.volume.iter().map(|value| volume(value)).collect()
}

fn volume(value: &str) -> Result<HostVolume, Failure> {
    let parsed = parse_volume(value)?;
    let VolumeKind::Bind { source, .. } = parsed.kind else {
        return Err(Failure::new(format!(
            "invalid volume specification: '{value}': a build has no volumes of its own"
        ))
        .hint("name a file or directory of this machine: `--volume /SOURCE:/TARGET`"));
    };
    if let Err(error) = std::fs::metadata(&source) {
        return Err(
            Failure::new(format!("could not mount `{}`", source.display())).because(&error),
        );
    }
    let target = parsed.target.into_os_string().into_string();
    let target = target.map_err(|_| Failure::new("the target of a volume must be UTF-8"))?;
    Ok(HostVolume {
        source,
        target,
        readonly: parsed.readonly,
    })
}

/// The compression flags, for the outputs that compress and do not say how.
pub(super) fn compress(args: &BuildArgs, outputs: &mut [Output]) -> Result<(), Failure> {
    let named = match args.compression_format.as_deref() {
        _ if args.disable_compression => Some(CompressionKind::Uncompressed),
        None => None,
        Some(name) => Some(CompressionKind::from_name(name).ok_or_else(|| {
            Failure::new(format!("compression format {name:?} is not known"))
                .hint("known formats: gzip, zstd, uncompressed")
        })?),
    };
    let level = args.compression_level.as_deref().map(|level| {
        level.parse::<i32>().map_err(|_| {
            Failure::new(format!("invalid value {level:?} for `--compression-level`"))
                .with_status(status::USAGE)
        })
    });
    let level = level.transpose()?;
    if named.is_none() && level.is_none() && !args.force_compression {
        return Ok(());
    }
    for output in outputs {
        let compresses = matches!(
            output.kind,
            OutputKind::Registry { .. } | OutputKind::Oci(_) | OutputKind::Docker(_)
        );
        if compresses && output.options.compression.is_none() {
            output.options.compression = Some(Compression {
                kind: named.unwrap_or(CompressionKind::Gzip),
                level,
                // Who names a compression wants that one.
                force: args.force_compression || named.is_some(),
            });
        }
    }
    Ok(())
}
