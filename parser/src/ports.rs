//! The ports of `EXPOSE` and of `--publish`.

use std::net::IpAddr;

use crate::text::quote;

/// An expanded word of `EXPOSE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Single ports with protocol in lower case, such as `80/tcp`.
    pub ports: Vec<String>,
    /// Address on the host, if one was given.
    pub address: Option<IpAddr>,
    /// First and last port on the host, if they were given.
    pub host: Option<(u16, u16)>,
    /// First and last port in the container.
    pub container: (u16, u16),
    /// The protocol in lower case.
    pub protocol: String,
    /// Whether an address or host port stood before the container port.
    pub had_host_part: bool,
    /// Whether the protocol was not written in lower case.
    pub protocol_not_lowercase: bool,
}

/// Parses one expanded word of `EXPOSE`: `[[address:]host:]port[-port][/protocol]`.
///
/// `EXPOSE` checks address and host port and drops them. The error is `BuildKit`'s text.
pub fn parse_port_spec(word: &str) -> Result<PortSpec, String> {
    let (address, host, container) = split_parts(word);
    let (port, protocol) = split_protocol(container)
        .map_err(|reason| format!("invalid port: {}: {reason}", quote(word)))?;
    let ip = parse_address(address)?;
    let (start, end) = port_range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    let mut host_range = None;
    if !host.is_empty() {
        let (host_start, host_end) =
            port_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        host_range = Some((host_start, host_end));
        // A range of host ports is fine for a single container port.
        if end - start != host_end - host_start && end != start {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {port} and {host}"
            ));
        }
    }
    let lower = protocol.to_lowercase();
    Ok(PortSpec {
        ports: (start..=end)
            .map(|port| format!("{port}/{lower}"))
            .collect(),
        address: ip,
        host: host_range,
        container: (start, end),
        had_host_part: !address.is_empty() || !host.is_empty(),
        protocol_not_lowercase: lower != protocol,
        protocol: lower,
    })
}

/// Splits at the last two colons into address, host port, container port.
fn split_parts(word: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else {
        return ("", "", word);
    };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn split_protocol(container: &str) -> Result<(&str, &str), String> {
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err("no port specified".to_owned());
    }
    match protocol.to_lowercase().as_str() {
        "" => Ok((port, "tcp")),
        "tcp" | "udp" | "sctp" => Ok((port, protocol)),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

fn parse_address(address: &str) -> Result<Option<IpAddr>, String> {
    if address.is_empty() {
        return Ok(None);
    }
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| {
            format!("invalid IP address {address}: address {address}:: missing ']' in address")
        })?,
        None => address,
    };
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(format!("invalid IP address: {bare}")),
    }
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        text.parse::<i64>()
            .ok()
            .and_then(|number| u16::try_from(number).ok())
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((start, end)) => {
            let start_port = number(start)?;
            let end_port = if start == end {
                start_port
            } else {
                number(end)?
            };
            (start_port <= end_port).then_some((start_port, end_port))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: &[&str]) {
        assert_eq!(parse_port_spec(word).unwrap().ports, expected, "{word}");
    }

    #[test]
    fn ports() {
        check("80", &["80/tcp"]);
        check("53/udp", &["53/udp"]);
        check("5000-5002", &["5000/tcp", "5001/tcp", "5002/tcp"]);
        check("80/TCP", &["80/tcp"]);
        check("127.0.0.1:90:91", &["91/tcp"]);
        check("[::1]:90:91/sctp", &["91/sctp"]);
        check("8000-8001:90", &["90/tcp"]);
        check("80/", &["80/tcp"]);
        check("65535", &["65535/tcp"]);
        assert!(parse_port_spec("80/TCP").unwrap().protocol_not_lowercase);
        assert!(parse_port_spec("8080:81").unwrap().had_host_part);
        assert!(!parse_port_spec("81").unwrap().had_host_part);
    }

    #[test]
    fn errors() {
        for (word, error) in [
            ("x", "invalid containerPort: x"),
            ("70000", "invalid containerPort: 70000"),
            ("5-3", "invalid containerPort: 5-3"),
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            (
                "80-81:90-95",
                "invalid ranges specified for container and host Ports: 90-95 and 80-81",
            ),
        ] {
            assert_eq!(parse_port_spec(word), Err(error.to_owned()));
        }
    }
}
