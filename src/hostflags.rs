//! Values that `build` and `run` both take: lines for `/etc/hosts`, limits, `NAME=VALUE`.

use std::net::IpAddr;

use crate::env;
use crate::failure::Failure;

/// Names of the resources that `--ulimit` limits.
const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The word for the address by which a container reaches the host.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

/// Parses `NAME:ADDRESS` or `NAME=ADDRESS`; an IPv6 address may stand in brackets.
pub(crate) fn add_host(value: &str) -> Result<(String, String), Failure> {
    let line = add_host_or_gateway(value)?;
    if line.1 == HOST_GATEWAY {
        return Err(Failure::unsupported("`--add-host NAME:host-gateway`"));
    }
    Ok(line)
}

/// The same, with [`HOST_GATEWAY`] as an address, too.
pub(crate) fn add_host_or_gateway(value: &str) -> Result<(String, String), Failure> {
    let invalid = || Failure::new(format!("invalid add-host entry {value:?}"));
    let (name, address) = value
        .split_once('=')
        .or_else(|| value.split_once(':'))
        .ok_or_else(invalid)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|bare| bare.strip_suffix(']'));
    let address = bare.unwrap_or(address);
    let plain = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '#';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(invalid());
    }
    if address == HOST_GATEWAY {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let address: IpAddr = address
        .parse()
        .map_err(|_| invalid().hint(format!("{address:?} is not an IP address")))?;
    Ok((name.to_owned(), address.to_string()))
}

/// Parses the values of `--dns`.
pub(crate) fn name_servers(values: &[String]) -> Result<Vec<IpAddr>, Failure> {
    let server = |value: &String| {
        value
            .parse()
            .map_err(|_| Failure::new(format!("invalid --dns: {value:?} is not an IP address")))
    };
    values.iter().map(server).collect()
}

/// Parses `NAME=SOFT[:HARD]`; -1 is unlimited.
pub(crate) fn ulimit(value: &str) -> Result<(String, u64, u64), Failure> {
    let invalid = || Failure::new(format!("invalid ulimit argument: {value}"));
    let (name, limits) = value.split_once('=').ok_or_else(invalid)?;
    if !ULIMITS.contains(&name) {
        return Err(Failure::new(format!("invalid ulimit type: {name}"))
            .hint(format!("known types: {}", ULIMITS.join(", "))));
    }
    let limit = |text: &str| match text.trim() {
        "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| invalid()),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (limit(soft)?, limit(hard)?),
        None => (limit(limits)?, limit(limits)?),
    };
    if soft > hard {
        return Err(Failure::new(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok((name.to_owned(), soft, hard))
}

/// Parses `NAME=VALUE`, or `NAME` with the value from the environment; none if that is not set.
pub(crate) fn from_environment(text: &str) -> Result<Option<(String, String)>, Failure> {
    if let Some((name, value)) = text.split_once('=') {
        return Ok(Some((name.to_owned(), value.to_owned())));
    }
    match env::by_name(text).map(std::ffi::OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some((text.to_owned(), value))),
        Some(Err(_)) => Err(Failure::new(format!(
            "the environment variable `{text}` is not valid UTF-8"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_two_separators() {
        let host = |value: &str| add_host(value).unwrap();
        assert_eq!(host("a:1.2.3.4"), ("a".into(), "1.2.3.4".into()));
        assert_eq!(host("a=::1"), ("a".into(), "::1".into()));
        assert_eq!(host("a:::1"), ("a".into(), "::1".into()));
        assert_eq!(host("a:[fe80::1]"), ("a".into(), "fe80::1".into()));
        for value in [
            "a",
            "a:",
            ":1.2.3.4",
            "a:b",
            "a b:1.2.3.4",
            "a:host-gateway",
            "a:1.2.3.4\n",
        ] {
            assert!(add_host(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn ulimits_have_two_numbers() {
        assert_eq!(
            ulimit("nofile=1024").unwrap(),
            ("nofile".into(), 1024, 1024)
        );
        assert_eq!(ulimit("core=0:-1").unwrap(), ("core".into(), 0, u64::MAX));
        for value in [
            "nofile",
            "nofiles=1",
            "nofile=x",
            "nofile=2:1",
            "nofile=1:2:3",
        ] {
            assert!(ulimit(value).is_err(), "{value}");
        }
    }
}
