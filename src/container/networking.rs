//! What `rbuild run` and `rbuild create` ask of the network.

mod publishing;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use rbuild_builder::request::NameResolution;
use rbuild_parser::parse_port_spec;
use rbuild_runtime::container::{Container, Endpoint, Link, Networking, PortMapping};
use rbuild_runtime::networks::NetworkConfig;
use rbuild_runtime::{Network, in_user_namespace, private_network};

use super::Options;
use crate::commands::networks::networks;
use crate::config::Settings;
use crate::csv;
use crate::failure::Failure;
use crate::hostflags;
use crate::ui;
use publishing::{all_exposed, publish};

/// The network that all share.
const BRIDGE: &str = "bridge";

/// The options about the network.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// `bridge` (outgoing connections), `none`, `host`, `container:NAME`, or a network of
    /// `rbuild network create`, also as `name=NET,alias=NAME,ip=ADDRESS`
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Let others in its networks find it by this name, too
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Let it find another container by its name, or by ALIAS, in the network `bridge`, too
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    link: Vec<String>,
    /// Its address in the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Let a port be reached on this machine; without HOST by any free one
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Let all ports of EXPOSE be reached, by any free ones
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Add to the ports of EXPOSE
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    expose: Vec<String>,
    /// Add a line to `/etc/hosts`
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Name server in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Domain that short names are looked up in, in place of the host's; `.` for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of `resolv.conf`, in place of the host's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
}

/// The same in typed form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetworkOptions {
    /// The network as it was named.
    pub(crate) mode: String,
    /// The networks that users made, and `bridge` among several.
    named: Vec<Named>,
    /// The container whose network is used.
    container: Option<String>,
    hardware: Option<[u8; 6]>,
    ports: Vec<PortMapping>,
    /// Containers, and by what names they are found.
    links: Vec<(String, String)>,
    /// All exposed ports are published.
    pub(crate) publish_all: bool,
    /// Ports beside those of the image, such as `80/tcp`.
    pub(crate) expose: BTreeSet<String>,
    /// Lines for `/etc/hosts`.
    pub(crate) extra_hosts: Vec<(String, String)>,
    /// Name servers.
    pub(crate) names: NameResolution,
    /// Domain name.
    pub(crate) domain: Option<String>,
}

/// A network and what the container is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    network: String,
    aliases: Vec<String>,
    address: Option<Ipv4Addr>,
    hardware: Option<[u8; 6]>,
}

impl Named {
    /// Whether it is no more than what every container has.
    fn is_plain(&self) -> bool {
        self.network == BRIDGE && self.hardware.is_none()
    }
}

impl NetworkArgs {
    /// The options, and what a sandbox without further ado sees of the network.
    pub(crate) fn options(&self) -> Result<(Network, NetworkOptions), Failure> {
        let mode = self.network.first().map_or("bridge", String::as_str);
        let mut options = NetworkOptions {
            mode: mode.to_owned(),
            hardware: self.mac_address.as_deref().map(hardware).transpose()?,
            ports: self.ports()?,
            links: self
                .link
                .iter()
                .map(|text| link(text))
                .collect::<Result<_, _>>()?,
            publish_all: self.publish_all,
            expose: self.exposed()?,
            extra_hosts: self
                .add_host
                .iter()
                .map(|host| hostflags::add_host_or_gateway(host))
                .collect::<Result<_, _>>()?,
            names: NameResolution {
                servers: hostflags::name_servers(&self.dns)?,
                search: self.dns_search.clone(),
                options: self.dns_option.clone(),
                ..NameResolution::default()
            },
            domain: self.domainname.clone(),
            ..NetworkOptions::default()
        };
        let network = self.place(mode, &mut options)?;
        let refused = |flag: &str| {
            Failure::new(format!(
                "conflicting options: {flag} and the network mode `{mode}`"
            ))
        };
        let own = network == Network::Private;
        if self.publishes() && options.container.is_some() {
            return Err(refused("port publishing"));
        }
        for (flag, given) in [
            ("mac-address", options.hardware.is_some()),
            ("ip", self.ip.is_some()),
            ("network-alias", !self.network_alias.is_empty()),
            ("link", !self.link.is_empty()),
        ] {
            if given && !own {
                return Err(refused(flag));
            }
        }
        if options.container.is_some() && !self.dns.is_empty() {
            return Err(refused("dns"));
        }
        Ok((network, options))
    }

    /// Whether it has a domain name.
    pub(crate) fn has_domain(&self) -> bool {
        self.domainname.is_some()
    }

    /// The container whose network is to be used, as it was named.
    pub(crate) fn container(&self) -> Option<&str> {
        self.network.first()?.strip_prefix("container:")
    }

    fn publishes(&self) -> bool {
        self.publish_all || !self.publish.is_empty()
    }

    fn place(&self, mode: &str, options: &mut NetworkOptions) -> Result<Network, Failure> {
        match mode {
            "none" | "host" if self.network.len() > 1 => {
                return Err(Failure::new(format!(
                    "conflicting options: the network `{mode}` and other networks"
                )));
            }
            "none" => return Ok(Network::None),
            "host" => return Ok(Network::Host),
            _ => {}
        }
        if let Some(container) = self.container() {
            options.container = Some(container.to_owned());
            // The container that is joined has it all.
            return Ok(Network::None);
        }
        options.named = self.named(options.hardware)?;
        Ok(Network::Private)
    }

    /// The networks with what holds for the container in each.
    fn named(&self, hardware: Option<[u8; 6]>) -> Result<Vec<Named>, Failure> {
        let mut all = self
            .network
            .iter()
            .map(|value| named(value))
            .collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            all.push(Named {
                network: BRIDGE.to_owned(),
                ..Named::default()
            });
        }
        all[0].address = all[0].address.or(self.ip);
        all[0].hardware = all[0].hardware.or(hardware);
        let (mut known, mut made) = (false, false);
        for named in &mut all {
            if matches!(named.network.as_str(), "default" | "private") {
                BRIDGE.clone_into(&mut named.network);
            }
            if named.network == BRIDGE {
                known |= named.address.is_some() || !named.aliases.is_empty();
            } else {
                made = true;
                named.aliases.extend(self.network_alias.iter().cloned());
            }
        }
        if known || (!made && !self.network_alias.is_empty()) {
            return Err(Failure::new(
                "names and fixed addresses are for networks that users made, not for the network \
                 `bridge`",
            )
            .hint("`rbuild network create NAME` makes one, `--network NAME` uses it"));
        }
        Ok(all)
    }

    fn ports(&self) -> Result<Vec<PortMapping>, Failure> {
        let all = self.publish.iter().map(|value| publish(value));
        Ok(all.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn exposed(&self) -> Result<BTreeSet<String>, Failure> {
        let mut all = BTreeSet::new();
        for value in &self.expose {
            let invalid = |reason| Failure::new(format!("invalid --expose: {reason}"));
            let spec = parse_port_spec(value).map_err(invalid)?;
            if spec.had_host_part {
                return Err(invalid(format!(
                    "invalid port format for --expose: {value}"
                )));
            }
            all.extend(spec.ports);
        }
        Ok(all)
    }
}

/// Parses a value of `--link`.
fn link(text: &str) -> Result<(String, String), Failure> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    if container.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(Failure::new(format!("invalid --link {text:?}"))
            .hint("it has the form CONTAINER or CONTAINER:ALIAS"));
    }
    let alias = alias.trim_start_matches('/');
    Ok((container.to_owned(), alias.to_owned()))
}

/// Parses a value of `--network`.
fn named(value: &str) -> Result<Named, Failure> {
    if !value.contains('=') {
        return Ok(Named {
            network: value.to_owned(),
            ..Named::default()
        });
    }
    let invalid = |reason: String| Failure::new(format!("invalid --network `{value}`: {reason}"));
    let mut named = Named::default();
    for field in csv::fields(value).map_err(|error| invalid(error.to_string()))? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match key {
            "name" => value.clone_into(&mut named.network),
            "alias" => named.aliases.push(value.to_owned()),
            "ip" => {
                let address = value.parse();
                named.address = Some(
                    address.map_err(|_| invalid(format!("{value:?} is not an IPv4 address")))?,
                );
            }
            "mac-address" => named.hardware = Some(hardware(value)?),
            "ip6" | "link-local-ip" | "driver-opt" | "gw-priority" => {
                return Err(Failure::unsupported(&format!("`{key}` of `--network`")));
            }
            other => return Err(invalid(format!("unknown field {other:?}"))),
        }
    }
    if named.network.is_empty() {
        return Err(invalid("it has no name".to_owned()));
    }
    Ok(named)
}

/// Parses a hardware address.
pub(crate) fn hardware(text: &str) -> Result<[u8; 6], Failure> {
    let invalid = || Failure::new(format!("{text} is not a valid mac address"));
    let mut bytes = [0; 6];
    let parts: Vec<&str> = text.split([':', '-']).collect();
    if parts.len() != bytes.len() {
        return Err(invalid());
    }
    for (byte, part) in bytes.iter_mut().zip(parts) {
        if part.len() != 2 {
            return Err(invalid());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    // A group of machines is not a machine.
    if bytes[0] & 1 == 1 {
        return Err(invalid());
    }
    Ok(bytes)
}

/// Shows a hardware address.
pub(crate) fn show_hardware(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

impl NetworkOptions {
    /// Whether a monitor has to serve the network.
    pub(crate) fn needs_monitor(&self) -> bool {
        !self.ports.is_empty()
            || self.publish_all
            || !self.links.is_empty()
            || self.container.is_some()
            || self.named.iter().any(|named| !named.is_plain())
            || self
                .extra_hosts
                .iter()
                .any(|(_, address)| address == hostflags::HOST_GATEWAY)
    }

    /// The container whose network is used.
    pub(crate) fn other(&self, settings: &Settings) -> Result<Option<Container>, Failure> {
        let containers = crate::commands::containers::containers(settings)?;
        let other = self.container.as_ref().map(|query| containers.find(query));
        Ok(other.transpose()?)
    }

    /// What becomes of it in the container's config. `exposed` are the ports of the image and of
    /// `--expose`.
    pub(crate) fn networking(
        &self,
        settings: &Settings,
        network: &Network,
        exposed: &BTreeSet<String>,
    ) -> Result<Networking, Failure> {
        if let Some(other) = self.other(settings)? {
            return Ok(Networking {
                container: Some(other.config.id),
                ..Networking::default()
            });
        }
        if *network != Network::Private {
            if *network == Network::Host && (self.publish_all || !self.ports.is_empty()) {
                ui::warn(
                    &settings.palette,
                    "published ports are discarded when using host network mode",
                );
            }
            return Ok(Networking::default());
        }
        let mut ports = self.ports.clone();
        if self.publish_all {
            ports.extend(all_exposed(exposed, &self.ports)?);
        }
        Ok(Networking {
            endpoints: self.endpoints(settings)?,
            container: None,
            ports,
            links: self.links(settings)?,
        })
    }

    fn links(&self, settings: &Settings) -> Result<Vec<Link>, Failure> {
        let containers = crate::commands::containers::containers(settings)?;
        let link = |(query, alias): &(String, String)| {
            let other = containers.find(query);
            let other = other.map_err(|error| {
                Failure::from(error).within(format!("could not get container for {query}"))
            })?;
            Ok(Link {
                container: other.config.id,
                alias: alias.clone(),
            })
        };
        self.links.iter().map(link).collect()
    }

    fn endpoints(&self, settings: &Settings) -> Result<Vec<Endpoint>, Failure> {
        let networks = networks(settings)?;
        let endpoint = |named: &Named| {
            if named.network == BRIDGE {
                return Ok(Endpoint {
                    hardware: named.hardware,
                    ..Endpoint::default()
                });
            }
            if matches!(named.network.as_str(), "none" | "host") {
                return Err(Failure::new(format!(
                    "conflicting options: the network `{}` and other networks",
                    named.network
                )));
            }
            let network = networks.find(&named.network)?;
            check_address(&network, named.address)?;
            Ok(Endpoint {
                network: Some(network.lan.id),
                aliases: named.aliases.clone(),
                address: named.address,
                hardware: named.hardware,
            })
        };
        self.named.iter().map(endpoint).collect()
    }
}

/// Whether an address can be had in a network.
pub(crate) fn check_address(
    network: &NetworkConfig,
    address: Option<Ipv4Addr>,
) -> Result<(), Failure> {
    match address {
        Some(address) if !network.lan.subnet.contains(address) => Err(Failure::new(format!(
            "invalid config for network {}: no configured subnet contains the IP address {address}",
            network.name
        ))),
        _ => Ok(()),
    }
}

/// Takes the host's network where there can be no other, and says so; fails if that is of no use.
pub(crate) fn fall_back(settings: &Settings, options: &mut Options) -> Result<(), Failure> {
    if options.network != Network::Private {
        return Ok(());
    }
    let Err(why) = private_network() else {
        let gateway = |(_, address): &(String, String)| address == hostflags::HOST_GATEWAY;
        if in_user_namespace() && options.networks.extra_hosts.iter().any(gateway) {
            return Err(Failure::unsupported(
                "`--add-host NAME:host-gateway` without root",
            ));
        }
        return Ok(());
    };
    let wanted = &options.networks;
    if wanted.needs_monitor() {
        return Err(Failure::new("the container cannot have a network of its own here").hint(why));
    }
    ui::warn(
        &settings.palette,
        &format!("no network of its own: the container uses the host's (`--network host`): {why}"),
    );
    options.network = Network::Host;
    Ok(())
}

/// Replaces the word for the host's address in lines for `/etc/hosts` of a container in the host's network.
pub(crate) fn hosts_in_host_network(hosts: &[(String, String)]) -> Vec<(String, String)> {
    let own = |address: &String| match address.as_str() {
        hostflags::HOST_GATEWAY => IpAddr::V4(Ipv4Addr::LOCALHOST).to_string(),
        address => address.to_owned(),
    };
    let lines = hosts.iter();
    lines
        .map(|(name, address)| (name.clone(), own(address)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &NetworkArgs) -> Result<(Network, NetworkOptions), Failure> {
        args.options()
    }

    fn with(networks: &[&str]) -> NetworkArgs {
        NetworkArgs {
            network: networks.iter().map(|name| (*name).to_owned()).collect(),
            ..NetworkArgs::default()
        }
    }

    #[test]
    fn networks_are_named_in_several_ways() {
        for plain in [&[][..], &["bridge"], &["default"]] {
            let (network, options) = options(&with(plain)).unwrap();
            assert_eq!(network, Network::Private);
            assert!(!options.needs_monitor(), "{plain:?}");
        }
        assert_eq!(options(&with(&["none"])).unwrap().0, Network::None);
        assert_eq!(options(&with(&["host"])).unwrap().0, Network::Host);
        let args = NetworkArgs {
            network_alias: vec!["a".into()],
            ip: Some(Ipv4Addr::new(10, 1, 0, 5)),
            ..with(&["name=back,alias=b,mac-address=02:00:00:00:00:01"])
        };
        let (_, options) = options(&args).unwrap();
        assert_eq!(
            options.named,
            [Named {
                network: "back".into(),
                aliases: vec!["b".into(), "a".into()],
                address: args.ip,
                hardware: Some([2, 0, 0, 0, 0, 1]),
            }]
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let alias = |networks: &[&str]| NetworkArgs {
            network_alias: vec!["a".into()],
            ..with(networks)
        };
        assert!(options(&alias(&["bridge"])).is_err());
        assert!(options(&alias(&["host"])).is_err());
        assert!(options(&with(&["host", "back"])).is_err());
        assert!(options(&with(&["name=x,what=y"])).is_err());
        let published = NetworkArgs {
            publish: vec!["80".into()],
            ..with(&["container:x"])
        };
        assert!(options(&published).is_err());
        for text in ["02:00", "zz:00:00:00:00:00", "01:00:00:00:00:00"] {
            assert!(hardware(text).is_err(), "{text}");
        }
    }
}
