//! What `rbuild inspect` shows of a container.

mod host_config;

use std::collections::BTreeMap;

use rbuild_runtime::Network;
use rbuild_runtime::container::{Container, Health, State, Status};

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
        // These files are made for the container only, and lie in no directory.
        ("ResolvConfPath", "".into()),
        ("HostnamePath", "".into()),
        ("HostsPath", "".into()),
        ("LogPath", log.into()),
        ("Name", format!("/{}", config.name).into()),
        ("RestartCount", Value::Int(state.restarts.into())),
        ("Driver", "overlayfs".into()),
        ("Platform", "linux".into()),
        ("MountLabel", "".into()),
        ("ProcessLabel", "".into()),
        ("AppArmorProfile", "".into()),
        ("ExecIDs", Value::Nil(NilKind::List)),
        ("HostConfig", host_config::describe(container, &details)),
        ("GraphDriver", graph_driver(container)),
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

/// Where its files are: the layers from the topmost down, and what it writes.
fn graph_driver(container: &Container) -> Value {
    let root = &container.config.sandbox.root;
    let path = |path: &std::path::Path| path.display().to_string();
    let lowers: Vec<String> = root.lowers.iter().map(|lower| path(lower)).collect();
    let mut data = BTreeMap::from([("LowerDir".to_owned(), Value::from(lowers.join(":")))]);
    if let Some(upper) = &root.upper {
        data.insert("UpperDir".to_owned(), path(&upper.upper).into());
        data.insert("WorkDir".to_owned(), path(&upper.work).into());
    }
    Value::Struct(vec![
        ("Data", Value::Map(data)),
        ("Name", "overlayfs".into()),
    ])
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
        ("StdinOnce", Value::Bool(config.interactive)),
        ("Env", Value::strings(details.config.env.iter().cloned())),
        ("Cmd", words(&details.config.cmd)),
        ("Entrypoint", words(&details.config.entrypoint)),
        ("OnBuild", Value::Nil(NilKind::List)),
        ("Volumes", Value::Map(volumes.collect())),
        ("Image", details.image.clone().into()),
        ("WorkingDir", process.cwd.display().to_string().into()),
        ("Labels", Value::Map(labels)),
        ("StopSignal", details.asked.stop_signal.clone().into()),
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
