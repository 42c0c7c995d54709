//! The object that `rbuild network inspect` shows.

use std::collections::BTreeMap;

use rbuild_runtime::Connected;
use rbuild_runtime::networks::Networks;

use super::Known;
use crate::commands::containers::containers;
use crate::config::Settings;
use crate::container::networking::show_hardware;
use crate::failure::Failure;
use crate::format::Value;

/// Go's zero time, for what has always been there.
const ALWAYS: &str = "0001-01-01T00:00:00Z";

/// The object that Docker shows.
pub(super) fn describe(
    settings: &Settings,
    networks: &Networks,
    network: &Known,
) -> Result<Value, Failure> {
    let made = network.made();
    let texts = |map: Option<&BTreeMap<String, String>>| {
        let entries = map.into_iter().flatten();
        Value::Map(
            entries
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
        )
    };
    let created = made.map_or(ALWAYS, |network| &network.created);
    Ok(Value::Struct(vec![
        ("Name", network.name().into()),
        ("Id", network.id().into()),
        ("Created", created.to_owned().into()),
        ("Scope", "local".into()),
        ("Driver", network.driver().into()),
        ("EnableIPv6", Value::Bool(false)),
        ("IPAM", addresses(network)),
        (
            "Internal",
            Value::Bool(made.is_some_and(|network| network.lan.internal)),
        ),
        (
            "Attachable",
            Value::Bool(made.is_some_and(|network| network.attachable)),
        ),
        ("Ingress", Value::Bool(false)),
        ("ConfigOnly", Value::Bool(false)),
        ("Containers", users(settings, networks, network)?),
        ("Options", texts(made.map(|network| &network.options))),
        ("Labels", texts(made.map(|network| &network.labels))),
    ]))
}

fn addresses(network: &Known) -> Value {
    let config = network.made().map(|network| {
        let lan = &network.lan;
        let mut entry = BTreeMap::from([("Subnet".to_owned(), lan.subnet.to_string().into())]);
        if let Some(range) = lan.range {
            entry.insert("IPRange".to_owned(), range.to_string().into());
        }
        if let Some(gateway) = lan.gateway {
            entry.insert("Gateway".to_owned(), gateway.to_string().into());
        }
        Value::Map(entry)
    });
    Value::Struct(vec![
        ("Driver", "default".into()),
        ("Options", Value::Map(BTreeMap::new())),
        ("Config", Value::List(config.into_iter().collect())),
    ])
}

/// Who is in it now.
fn users(settings: &Settings, networks: &Networks, network: &Known) -> Result<Value, Failure> {
    let mut all = BTreeMap::new();
    let mut add = |id: &str, name: &str, interface: &Connected, address: String| {
        let hardware = show_hardware(interface.hardware);
        let entry = Value::Struct(vec![
            ("Name", name.to_owned().into()),
            ("EndpointID", "".into()),
            ("MacAddress", hardware.into()),
            ("IPv4Address", address.into()),
            ("IPv6Address", "".into()),
        ]);
        all.insert(id.to_owned(), entry);
    };
    let lan = network.made().map(|network| network.lan.id.as_str());
    let leased = network.made().map(|network| networks.users(network));
    let leased = leased.unwrap_or_default();
    let nobody = match network {
        Known::Made(_) => leased.is_empty(),
        Known::Predefined(name) => *name != "bridge",
    };
    if nobody {
        return Ok(Value::Map(all));
    }
    for container in containers(settings)?.list()? {
        let state = container.network()?;
        for interface in state
            .interfaces
            .iter()
            .filter(|known| known.lan.as_deref() == lan)
        {
            let address = interface.address.map_or_else(String::new, |address| {
                format!("{address}/{}", interface.prefix)
            });
            let config = &container.config;
            add(&config.id, &config.name, interface, address);
        }
    }
    Ok(Value::Map(all))
}
