//! `hosts(5)` and `resolv.conf(5)`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Servers that are asked at most, as in glibc.
const MOST_SERVERS: usize = 3;

/// What `resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// Asked in this order.
    pub(super) servers: Vec<IpAddr>,
    /// Domains that are appended to short names.
    pub(super) search: Vec<String>,
    /// A name with this many dots is tried as it is first.
    pub(super) dots: usize,
    /// For one answer.
    pub(super) timeout: Duration,
    /// Rounds through the servers.
    pub(super) attempts: u32,
}

impl ResolvConf {
    pub(super) fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) cannot be told to the socket by name: left out.
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    conf.servers.extend(address);
                }
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf.servers.truncate(MOST_SERVERS);
        if conf.servers.is_empty() {
            conf.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let Some((name, Ok(value))) = word
            .split_once(':')
            .map(|(name, value)| (name, value.parse::<u32>()))
        else {
            return;
        };
        match name {
            "ndots" => self.dots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The full names to ask for, in order.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let mut names: Vec<String> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_matches('.')))
            .collect();
        let position = if dots >= self.dots { 0 } else { names.len() };
        names.insert(position, name.to_owned());
        names
    }
}

/// The addresses that `hosts` has for a name, in its order.
pub(super) fn lookup_host(hosts: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let conf = ResolvConf::parse(
            "# comment\n; other\nnameserver 10.0.0.1\nnameserver bad\nnameserver fd00::1\n\
             nameserver 10.0.0.3\nnameserver 10.0.0.4\nsearch a.b c.d\n\
             options ndots:2 timeout:100 attempts:0 rotate edns0\nunknown x\n",
        );
        assert_eq!(conf.servers.len(), 3);
        assert_eq!(conf.search, ["a.b", "c.d"]);
        assert_eq!((conf.dots, conf.attempts), (2, 1));
        assert_eq!(conf.timeout, Duration::from_secs(30));
        assert_eq!(
            ResolvConf::parse("").servers,
            [IpAddr::V4(Ipv4Addr::LOCALHOST)]
        );
    }

    #[test]
    fn short_names_are_completed_before_and_long_ones_after() {
        let conf = ResolvConf::parse("search s.example\n");
        assert_eq!(conf.candidates("h"), ["h.s.example", "h"]);
        assert_eq!(conf.candidates("h.x"), ["h.x", "h.x.s.example"]);
        assert_eq!(conf.candidates("h."), ["h"]);
    }

    #[test]
    fn hosts_lines_may_be_anything() {
        let hosts = "\n# c\n127.0.0.1\tlocalhost\nbad line\n10.0.0.1 a b#c\n::1 a\n";
        assert_eq!(lookup_host(hosts, "A").len(), 2);
        assert_eq!(lookup_host(hosts, "b."), [IpAddr::from([10, 0, 0, 1])]);
        assert!(lookup_host(hosts, "c").is_empty());
    }
}
