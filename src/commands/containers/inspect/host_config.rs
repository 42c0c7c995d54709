//! `HostConfig`: what was asked for beside what the image says.

use std::collections::BTreeMap;

use rbuild_runtime::container::{Container, LogOptions, RestartPolicy};
use rbuild_runtime::{Limits, Rlimit, Sandbox, Swap};

use crate::commands::containers::networking;
use crate::container::details::Details;
use crate::format::{NilKind, Value};

/// The object, with Docker's fields.
pub(super) fn describe(container: &Container, details: &Details) -> Value {
    let config = &container.config;
    let asked = &details.asked;
    let id_file = asked.id_file.clone();
    let mut fields = vec![
        ("Binds", list(&details.binds)),
        ("ContainerIDFile", id_file.into()),
        ("LogConfig", log_config(&config.log)),
        ("RestartPolicy", restart_policy(config.restart)),
        ("AutoRemove", Value::Bool(config.auto_remove)),
        ("VolumeDriver", "".into()),
        ("VolumesFrom", list(&details.volumes_from)),
        ("Annotations", map(&asked.annotations)),
        ("Tmpfs", tmpfs(&asked.tmpfs)),
        ("Links", networking::links(container)),
    ];
    fields.extend(networking::host_config(&config.networking, details));
    fields.extend(rights(&config.sandbox, details));
    fields.extend(limits(&config.sandbox.limits));
    fields.extend([
        ("Devices", devices(&asked.devices)),
        ("Ulimits", ulimits(&config.sandbox.rlimits, &asked.ulimits)),
        ("Init", Value::Bool(config.sandbox.init)),
    ]);
    Value::Struct(fields)
}

fn rights(sandbox: &Sandbox, details: &Details) -> Vec<(&'static str, Value)> {
    let asked = &details.asked;
    let host = |is: bool, otherwise: &str| Value::from(if is { "host" } else { otherwise });
    let kernel = &sandbox.kernel;
    let sysctls = kernel.sysctls.iter().cloned().collect();
    vec![
        ("CapAdd", list(&asked.cap_add)),
        ("CapDrop", list(&asked.cap_drop)),
        ("CgroupnsMode", "private".into()),
        ("GroupAdd", list(&asked.group_add)),
        ("IpcMode", host(sandbox.of_host.ipc, "private")),
        (
            "OomScoreAdj",
            Value::Int(kernel.oom_score_adj.unwrap_or(0).into()),
        ),
        ("PidMode", "".into()),
        ("Privileged", Value::Bool(sandbox.security.privileged)),
        ("ReadonlyRootfs", Value::Bool(sandbox.root.readonly)),
        ("SecurityOpt", list(&asked.security_opt)),
        ("Sysctls", map(&sysctls)),
        ("UTSMode", host(sandbox.of_host.names, "")),
        ("UsernsMode", "".into()),
        ("ShmSize", Value::Int(sandbox.shm_size as i64)),
        ("Runtime", "rbuild".into()),
    ]
}

fn limits(limits: &Limits) -> Vec<(&'static str, Value)> {
    let number = |number: Option<u64>| Value::Int(number.unwrap_or(0) as i64);
    let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
    let swap = match (limits.memory, limits.swap) {
        (_, Swap::Unlimited) => -1,
        (None, _) => 0,
        (Some(memory), Swap::AsMuchAgain) => memory.saturating_mul(2) as i64,
        (Some(memory), Swap::Bytes(bytes)) => memory.saturating_add(bytes) as i64,
    };
    vec![
        ("CpuShares", number(limits.cpu_shares)),
        ("Memory", number(limits.memory)),
        (
            "NanoCpus",
            Value::Int(limits.cpus.map_or(0, |cpus| (cpus * 1e9) as i64)),
        ),
        ("CgroupParent", text(&limits.parent)),
        ("CpuPeriod", number(limits.cpu_period)),
        ("CpuQuota", number(limits.cpu_quota)),
        ("CpusetCpus", text(&limits.cpuset_cpus)),
        ("CpusetMems", text(&limits.cpuset_mems)),
        ("MemoryReservation", number(limits.memory_reservation)),
        ("MemorySwap", Value::Int(swap)),
        ("PidsLimit", number(limits.pids)),
    ]
}

fn list(items: &[String]) -> Value {
    Value::strings(items.iter().cloned())
}

fn map(items: &BTreeMap<String, String>) -> Value {
    if items.is_empty() {
        return Value::Nil(NilKind::Map);
    }
    let items = items.iter();
    Value::Map(
        items
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect(),
    )
}

/// Directories in memory with their options.
fn tmpfs(asked: &[String]) -> Value {
    let pairs = asked.iter().map(|text| {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        (target.to_owned(), options.to_owned())
    });
    map(&pairs.collect())
}

fn devices(asked: &[String]) -> Value {
    let devices = asked.iter().map(|text| {
        let mut parts = text.split(':');
        let source = parts.next().unwrap_or_default();
        let target = parts.next().unwrap_or(source);
        Value::Struct(vec![
            ("PathOnHost", source.into()),
            ("PathInContainer", target.into()),
            ("CgroupPermissions", parts.next().unwrap_or("rwm").into()),
        ])
    });
    match devices.collect::<Vec<_>>() {
        none if none.is_empty() => Value::Nil(NilKind::List),
        devices => Value::List(devices),
    }
}

/// `names` are as they were written, in the order of the limits.
fn ulimits(limits: &[Rlimit], names: &[String]) -> Value {
    let number = |limit: u64| Value::Int(i64::try_from(limit).unwrap_or(-1));
    let all = limits.iter().zip(names).map(|(limit, name)| {
        let name = name.split('=').next().unwrap_or_default();
        Value::Struct(vec![
            ("Name", name.into()),
            ("Hard", number(limit.hard)),
            ("Soft", number(limit.soft)),
        ])
    });
    match all.collect::<Vec<_>>() {
        none if none.is_empty() => Value::Nil(NilKind::List),
        all => Value::List(all),
    }
}

fn log_config(log: &LogOptions) -> Value {
    let mut options = BTreeMap::new();
    if let Some(size) = log.max_size {
        options.insert("max-size".to_owned(), Value::from(size.to_string()));
        options.insert("max-file".to_owned(), log.max_file.to_string().into());
    }
    Value::Struct(vec![
        ("Type", log.driver.clone().into()),
        ("Config", Value::Map(options)),
    ])
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let most = match policy {
        RestartPolicy::OnFailure(most) => most.unwrap_or(0),
        _ => 0,
    };
    Value::Struct(vec![
        ("Name", policy.name().into()),
        ("MaximumRetryCount", Value::Int(most.into())),
    ])
}
