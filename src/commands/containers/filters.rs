//! `--filter key=value` of container lists.

use std::collections::BTreeMap;

use rbuild_runtime::container::{Container, Containers, RestartPolicy, State, Status};

use super::networking::Names;
use super::port;
use super::ps::word;
use crate::container::details::Details;
use crate::failure::Failure;

/// The conditions of a list. Those of one kind are alternatives, except labels; all kinds must hold.
#[derive(Default)]
pub(super) struct Filters {
    by_kind: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// Parses the values of `--filter`.
    pub(super) fn parse(containers: &Containers, filters: &[String]) -> Result<Filters, Failure> {
        let mut parsed = Filters::default();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                return Err(Failure::new(format!(
                    "invalid filter {filter:?}: it must have the form key=value"
                )));
            };
            let value = match key {
                "id" | "name" | "label" | "ancestor" | "network" | "volume" => value.to_owned(),
                "publish" | "expose" => port::wanted(filter, value)?,
                "status"
                    if matches!(
                        value,
                        "created"
                            | "running"
                            | "paused"
                            | "restarting"
                            | "exited"
                            | "removing"
                            | "dead"
                    ) =>
                {
                    value.to_owned()
                }
                "health" if matches!(value, "starting" | "healthy" | "unhealthy" | "none") => {
                    value.to_owned()
                }
                "restart-policy" => match RestartPolicy::parse(value) {
                    Ok(policy) => policy.name().to_owned(),
                    Err(_) => return Err(invalid_value(filter)),
                },
                "should-start-on-boot" if matches!(value, "true" | "false") => value.to_owned(),
                "exited" if value.parse::<i32>().is_ok() => value.to_owned(),
                // Compared by time of creation.
                "before" | "since" => containers.find(value)?.config.created,
                "status" | "exited" | "health" | "should-start-on-boot" => {
                    return Err(invalid_value(filter));
                }
                other => {
                    return Err(Failure::new(format!("invalid filter {other:?}")).hint(
                        "known filters: id, name, label, volume, status, exited, ancestor, before, since, \
                         health, restart-policy, should-start-on-boot, network, publish, expose",
                    ));
                }
            };
            let values = parsed.by_kind.entry(key.to_owned()).or_default();
            values.push(value);
        }
        Ok(parsed)
    }

    /// Whether it was asked for states, so that not only what runs is looked at.
    pub(super) fn about_state(&self) -> bool {
        ["status", "exited"]
            .iter()
            .any(|kind| self.by_kind.contains_key(*kind))
    }

    /// Whether a container meets all conditions.
    pub(super) fn accept(
        &self,
        container: &Container,
        state: &State,
        names: &Names,
    ) -> Result<bool, Failure> {
        if self.by_kind.is_empty() {
            return Ok(true);
        }
        let config = &container.config;
        let details = Details::of(container);
        let ports = container.network_of(state)?.ports;
        let health = container.health()?;
        let health = health.map_or("none", |health| health.status.name());
        let on_boot = match config.restart {
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !state.stopped && !state.started.is_empty(),
            RestartPolicy::No | RestartPolicy::OnFailure(_) => false,
        };
        let has_label = |value: &str| match value.split_once('=') {
            Some((name, value)) => details.labels.get(name).is_some_and(|known| known == value),
            None => details.labels.contains_key(value),
        };
        let meets = |(kind, values): (&String, &Vec<String>)| {
            let mut values = values.iter().map(String::as_str);
            match kind.as_str() {
                "id" => values.any(|value| config.id.starts_with(value)),
                "name" => values.any(|value| config.name.contains(value.trim_start_matches('/'))),
                "label" => values.all(has_label),
                "status" => values.any(|value| word(state.status) == value),
                "exited" => {
                    state.status == Status::Exited
                        && values.any(|value| state.exit_code.to_string() == value)
                }
                "ancestor" => values.any(|value| {
                    let id = details.image_id.trim_start_matches("sha256:");
                    let short = value.trim_start_matches("sha256:");
                    details.image == value
                        || details.image.strip_suffix(":latest") == Some(value)
                        || (short.len() >= 4 && id.starts_with(short))
                }),
                "volume" => values.any(|value| {
                    details.mounts.iter().any(|mount| {
                        mount.name == value || mount.target == std::path::Path::new(value)
                    })
                }),
                "before" => values.any(|value| config.created.as_str() < value),
                "network" => values.any(|value| names.is_in(container, &details, value)),
                "publish" => {
                    values.any(|value| port::matches(value, ports.iter().map(port::inside)))
                }
                "expose" => values.any(|value| {
                    let published = ports.iter().map(port::inside);
                    port::matches(value, published.chain(details.exposed.iter().cloned()))
                }),
                "health" => values.any(|value| value == health),
                "restart-policy" => values.any(|value| value == config.restart.name()),
                "should-start-on-boot" => values.any(|value| value == on_boot.to_string()),
                _ => values.any(|value| config.created.as_str() > value),
            }
        };
        Ok(self.by_kind.iter().all(meets))
    }
}

fn invalid_value(filter: &str) -> Failure {
    Failure::new(format!("invalid value in the filter {filter:?}"))
}
