//! `rbuild network create`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rbuild_runtime::networks::NewNetwork;
use rbuild_runtime::{LanKind, MacvlanMode, Subnet, in_user_namespace};

use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Make a network
///
/// Containers in it reach each other, and find each other by name. Prints its ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network create back
  rbuild network create --subnet 10.5.0.0/24 --gateway 10.5.0.254 --internal vault
  rbuild network create -d macvlan -o parent=eth0 --subnet 192.0.2.0/24 lan")]
pub(crate) struct CreateArgs {
    /// Name
    name: String,
    /// Driver: `bridge`, or `macvlan` with `-o parent=INTERFACE`
    #[arg(
        short,
        long,
        value_name = "DRIVER",
        default_value = "bridge",
        hide_default_value = true
    )]
    driver: String,
    /// Addresses [default: 256 that nobody has]
    #[arg(long, value_name = "ADDRESS/BITS")]
    subnet: Vec<String>,
    /// Address of the host [default: the first one]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<Ipv4Addr>,
    /// Where addresses of containers come from [default: all of the subnet]
    #[arg(long, value_name = "ADDRESS/BITS")]
    ip_range: Vec<String>,
    /// Let nothing outside be reached
    #[arg(long)]
    internal: bool,
    /// Let containers that run be connected; they always may
    #[arg(long)]
    attachable: bool,
    /// Give addresses of IPv6, too
    #[arg(long)]
    ipv6: bool,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Option of the driver: `parent=` and `macvlan_mode=`
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
}

/// Makes a network.
pub(crate) fn create(settings: &Settings, args: &CreateArgs) -> Result<(), Failure> {
    if args.ipv6 {
        return Err(Failure::unsupported("`--ipv6`").hint("networks have IPv4 addresses"));
    }
    let options = pairs(&args.opt);
    let new = NewNetwork {
        name: args.name.clone(),
        subnet: one("--subnet", &args.subnet)?
            .map(|text| subnet(text))
            .transpose()?,
        gateway: one("--gateway", &args.gateway)?.copied(),
        range: one("--ip-range", &args.ip_range)?
            .map(|text| subnet(text))
            .transpose()?,
        internal: args.internal,
        kind: Some(kind(&args.driver, &options)?),
        labels: pairs(&args.label),
        options,
        attachable: args.attachable,
    };
    if new.subnet.is_none() && (new.range.is_some() || new.gateway.is_some()) {
        return Err(Failure::new(
            "every ip-range or gateway must have a corresponding subnet",
        ));
    }
    let macvlan = !matches!(new.kind, Some(LanKind::Bridge));
    if macvlan && new.subnet.is_none() {
        return Err(
            Failure::new("a macvlan network needs the addresses of the network it is in")
                .hint("name them with `--subnet`"),
        );
    }
    if macvlan && in_user_namespace() {
        return Err(Failure::new("macvlan networks need root"));
    }
    let network = super::networks(settings)?.create(new)?;
    events::note(settings, || {
        Event::network("create", &network.lan.id, &network.name, network.driver())
    });
    ui::println(&network.lan.id)
}

/// The one value of an option that may be given once.
fn one<'v, T>(flag: &str, values: &'v [T]) -> Result<Option<&'v T>, Failure> {
    match values {
        [] => Ok(None),
        [value] => Ok(Some(value)),
        _ => Err(Failure::unsupported(&format!("more than one `{flag}`"))),
    }
}

fn subnet(text: &str) -> Result<Subnet, Failure> {
    text.parse().map_err(Failure::new)
}

fn pairs(values: &[String]) -> BTreeMap<String, String> {
    let pair = |value: &String| {
        let (name, value) = value.split_once('=').unwrap_or((value, ""));
        (name.to_owned(), value.to_owned())
    };
    values.iter().map(pair).collect()
}

/// What the driver and its options ask for.
fn kind(driver: &str, options: &BTreeMap<String, String>) -> Result<LanKind, Failure> {
    let known: &[&str] = match driver {
        "bridge" => &[],
        "macvlan" => &["parent", "macvlan_mode"],
        "overlay" => {
            return Err(Failure::new(
                "the driver `overlay` connects several hosts, and this is one",
            )
            .hint("use `bridge`, which does on one host what it does on several"));
        }
        "ipvlan" => {
            return Err(Failure::unsupported("the driver `ipvlan`")
                .hint("`macvlan` connects containers with a network of the host, too"));
        }
        "host" | "none" | "null" => {
            return Err(Failure::new(format!(
                "only one network with the driver `{driver}` is possible, and it is there"
            ))
            .hint("use it with `--network`"));
        }
        other => {
            return Err(Failure::new(format!("plugin {other:?} not found"))
                .hint("known drivers: bridge, macvlan"));
        }
    };
    if let Some(name) = options.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::unsupported(&format!(
            "the option `{name}` of the driver `{driver}`"
        )));
    }
    if driver == "bridge" {
        return Ok(LanKind::Bridge);
    }
    let parent = options.get("parent").filter(|parent| !parent.is_empty());
    let parent = parent.ok_or_else(|| {
        Failure::new("a macvlan network needs an interface of the host")
            .hint("name it with `-o parent=INTERFACE`")
    })?;
    let mode = match options.get("macvlan_mode").map(String::as_str) {
        None | Some("bridge") => MacvlanMode::Bridge,
        Some("private") => MacvlanMode::Private,
        Some("vepa") => MacvlanMode::Vepa,
        Some("passthru") => MacvlanMode::Passthru,
        Some(other) => {
            return Err(
                Failure::new(format!("requested macvlan mode {other:?} is not valid"))
                    .hint("known modes: bridge, private, vepa, passthru"),
            );
        }
    };
    Ok(LanKind::Macvlan {
        parent: parent.clone(),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_have_their_options() {
        let with = |driver: &str, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            kind(driver, &pairs(&options))
        };
        assert_eq!(with("bridge", &[]).unwrap(), LanKind::Bridge);
        assert_eq!(
            with("macvlan", &["parent=eth0", "macvlan_mode=private"]).unwrap(),
            LanKind::Macvlan {
                parent: "eth0".into(),
                mode: MacvlanMode::Private
            }
        );
        for (driver, options) in [
            ("bridge", &["parent=x"][..]),
            ("macvlan", &[]),
            ("macvlan", &["parent=x", "macvlan_mode=y"]),
            ("overlay", &[]),
            ("nope", &[]),
        ] {
            assert!(with(driver, options).is_err(), "{driver} {options:?}");
        }
    }
}
