//! What `rbuild inspect` shows of a container.

use std::collections::BTreeMap;

use rbuild_runtime::Network;
use rbuild_runtime::container::{Container, Health, LogOptions, RestartPolicy, State, Status};

use super::networking::{self, Names};
use super::ps::word;
use crate::commands::inspect::health as health_check;
use crate::config::Settings;
use crate::container::details::{Details, MountKind};
use crate::failure::Failure;
use crate::format::{NilKind, Value};

/// Go's zero time, for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The object that `docker inspect` shows.
pub(crate) fn describe(settings: &Settings, container: &Container) -> Result<Value, Failure> {
    let config = &container.config;
    let state = container.state()?;
    let details = Details::of(container);
    let words = config.sandbox.process.args.iter();
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    let path = words.next().unwrap_or_default();
    let args: Vec<Value> = words.map(Value::from).collect();
    let log = container.log().display().to_string();
    Ok(Value::Struct(vec![
        ("Id", config.id.clone().into()),
        ("Created", config.created.clone().into()),
        ("Path", path.into()),
        ("Args", Value::List(args)),
        ("State", state_of(&state, container.health()?.as_ref())),
        ("Image", details.image_id.clone().into()),
        ("LogPath", log.into()),
        ("Name", format!("/{}", config.name).into()),
        ("RestartCount", Value::Int(state.restarts.into())),
        ("Driver", "overlayfs".into()),
        ("Platform", "linux".into()),
        ("HostConfig", host_config(container, &details)),
        ("Mounts", mounts(&details)),
        ("Config", config_of(container, &details)),
        (
            "NetworkSettings",
            networking::settings(container, &details, &Names::read(settings)?)?,
        ),
    ]))
}

fn state_of(state: &State, health: Option<&Health>) -> Value {
    let time = |time: &str| Value::from(if time.is_empty() { NEVER } else { time }.to_owned());
    let is = |status: Status| Value::Bool(state.status == status);
    let mut fields = vec![
        ("Status", word(state.status).into()),
        ("Running", Value::Bool(state.status.is_alive())),
        ("Paused", is(Status::Paused)),
        ("Restarting", is(Status::Restarting)),
        ("OOMKilled", Value::Bool(state.out_of_memory)),
        ("Dead", Value::Bool(false)),
        ("Pid", Value::Int(state.pid.into())),
        ("ExitCode", Value::Int(state.exit_code.into())),
        ("Error", state.error.clone().into()),
        ("StartedAt", time(&state.started)),
        ("FinishedAt", time(&state.finished)),
    ];
    fields.extend(health.map(|health| ("Health", health_of(health))));
    Value::Struct(fields)
}

fn health_of(health: &Health) -> Value {
    let probes = health.log.iter().map(|probe| {
        Value::Struct(vec![
            ("Start", probe.start.clone().into()),
            ("End", probe.end.clone().into()),
            ("ExitCode", Value::Int(probe.exit_code.into())),
            ("Output", probe.output.clone().into()),
        ])
    });
    Value::Struct(vec![
        ("Status", health.status.name().into()),
        ("FailingStreak", Value::Int(health.failing_streak.into())),
        ("Log", Value::List(probes.collect())),
    ])
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

fn host_config(container: &Container, details: &Details) -> Value {
    let sandbox = &container.config.sandbox;
    let limits = &sandbox.limits;
    let networks = networking::host_config(&container.config.networking, details);
    let mut fields = vec![
        ("Binds", Value::strings(details.binds.iter().cloned())),
        (
            "VolumesFrom",
            Value::strings(details.volumes_from.iter().cloned()),
        ),
        ("LogConfig", log_config(&container.config.log)),
        ("RestartPolicy", restart_policy(container.config.restart)),
        ("AutoRemove", Value::Bool(container.config.auto_remove)),
        ("Privileged", Value::Bool(sandbox.security.privileged)),
        ("ReadonlyRootfs", Value::Bool(sandbox.root.readonly)),
        ("Init", Value::Bool(sandbox.init)),
        ("ShmSize", Value::Int(sandbox.shm_size as i64)),
        ("Memory", Value::Int(limits.memory.unwrap_or(0) as i64)),
        (
            "NanoCpus",
            Value::Int(limits.cpus.map_or(0, |cpus| (cpus * 1e9) as i64)),
        ),
        ("PidsLimit", Value::Int(limits.pids.unwrap_or(0) as i64)),
    ];
    fields.extend(networks);
    Value::Struct(fields)
}

fn mounts(details: &Details) -> Value {
    let shown = details.mounts.iter().map(|mount| {
        let is_volume = mount.kind == MountKind::Volume;
        let mut fields = vec![("Type", mount.kind.name().into())];
        if is_volume {
            fields.push(("Name", mount.name.clone().into()));
        }
        fields.extend([
            ("Source", mount.source.clone().into()),
            ("Destination", mount.target.display().to_string().into()),
        ]);
        if is_volume {
            fields.push(("Driver", "local".into()));
        }
        let propagation = match mount.kind {
            MountKind::Bind => "rprivate",
            _ => "",
        };
        fields.extend([
            ("Mode", if mount.writable { "" } else { "ro" }.into()),
            ("RW", Value::Bool(mount.writable)),
            ("Propagation", propagation.into()),
        ]);
        Value::Struct(fields)
    });
    Value::List(shown.collect())
}

fn config_of(container: &Container, details: &Details) -> Value {
    let config = &container.config;
    let process = &config.sandbox.process;
    let labels: BTreeMap<String, Value> = details
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let words = |words: &Option<Vec<String>>| Value::strings(words.iter().flatten().cloned());
    let volumes = details.config.volumes.iter();
    let volumes = volumes.map(|path| (path.clone(), Value::Map(BTreeMap::new())));
    let hostname = match config.sandbox.network {
        Network::Host => "",
        _ => &config.sandbox.hostname,
    };
    let mut fields = vec![
        ("Hostname", hostname.to_owned().into()),
        (
            "Domainname",
            config
                .sandbox
                .domain_name
                .clone()
                .unwrap_or_default()
                .into(),
        ),
        ("User", details.user.clone().into()),
        ("ExposedPorts", exposed(details)),
        ("Tty", Value::Bool(process.terminal)),
        ("OpenStdin", Value::Bool(config.interactive)),
        ("Env", Value::strings(details.config.env.iter().cloned())),
        ("Cmd", words(&details.config.cmd)),
        ("Entrypoint", words(&details.config.entrypoint)),
        ("Volumes", Value::Map(volumes.collect())),
        ("Image", details.image.clone().into()),
        ("WorkingDir", process.cwd.display().to_string().into()),
        ("Labels", Value::Map(labels)),
        ("StopSignal", Value::Int(config.stop_signal.into())),
        ("StopTimeout", Value::Int(config.stop_timeout)),
    ];
    let health = details.health.as_ref();
    fields.extend(health.map(|check| ("Healthcheck", health_check(check))));
    Value::Struct(fields)
}

/// The ports of EXPOSE and `--expose`, as Docker has them: without anything.
fn exposed(details: &Details) -> Value {
    if details.exposed.is_empty() {
        return Value::Nil(NilKind::Map);
    }
    let ports = details.exposed.iter();
    Value::Map(
        ports
            .map(|port| (port.clone(), Value::Struct(Vec::new())))
            .collect(),
    )
}
