//! The files that a container gets from outside: `/etc/hosts` and `/etc/resolv.conf`.

use std::fs;
use std::net::IpAddr;

use crate::request::NameResolution;

/// Largest `resolv.conf` that is taken from the host.
const RESOLV_LIMIT: usize = 64 * 1024;

/// Where systemd-resolved keeps the real name servers when `/etc/resolv.conf` names its stub.
const SYSTEMD_RESOLV: &str = "/run/systemd/resolve/resolv.conf";

/// `/etc/hosts` as `BuildKit` writes it (language reference, section 13); without a host name for one that
/// has its own line.
pub fn hosts_file(hostname: &str, extra: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}")
        .trim_end()
        .to_owned();
    text.push('\n');
    text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

/// `/etc/resolv.conf` from the host, with what was asked for in place of the host's.
///
/// Name servers on the loopback interface cannot be reached from another network namespace and
/// are left out unless `host_network`.
pub fn resolv_conf(host_network: bool, names: &NameResolution) -> Vec<u8> {
    let host = host_resolv_conf(host_network);
    replaced(&String::from_utf8_lossy(&host), names).into_bytes()
}

/// Replaces the lines that something was asked for instead of.
fn replaced(host: &str, names: &NameResolution) -> String {
    let servers: Vec<String> = names.servers.iter().map(ToString::to_string).collect();
    let search: Vec<String> = match names.search.as_slice() {
        // Docker's way to say that there is none.
        [only] if only == "." => vec![".".to_owned()],
        search => search.to_vec(),
    };
    let replaces = |line: &str| match line.split_whitespace().next() {
        Some("nameserver") => !servers.is_empty(),
        Some("search" | "domain") => !search.is_empty(),
        Some("options") => !names.options.is_empty(),
        _ => false,
    };
    let mut text: String = host
        .lines()
        .filter(|line| !replaces(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in &servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !names.options.is_empty() {
        text.push_str(&format!("options {}\n", names.options.join(" ")));
    }
    text
}

fn host_resolv_conf(host_network: bool) -> Vec<u8> {
    let own = read("/etc/resolv.conf");
    if host_network {
        return own.into_bytes();
    }
    let reachable = without_loopback(&own);
    if has_server(&reachable) {
        return reachable.into_bytes();
    }
    let upstream = without_loopback(&read(SYSTEMD_RESOLV));
    if has_server(&upstream) {
        upstream.into_bytes()
    } else {
        reachable.into_bytes()
    }
}

fn read(path: &str) -> String {
    let mut bytes = fs::read(path).unwrap_or_default();
    bytes.truncate(RESOLV_LIMIT);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver"))
        .then(|| words.next())
        .flatten()
}

fn has_server(text: &str) -> bool {
    text.lines().any(|line| server(line).is_some())
}

fn without_loopback(text: &str) -> String {
    let keep = |line: &&str| {
        server(line).is_none_or(|address| {
            let address = address.split('%').next().unwrap_or(address);
            !address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        })
    };
    text.lines()
        .filter(keep)
        .flat_map(|line| {
            [
                line, "
",
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_left_out() {
        let text = "search x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\n";
        assert_eq!(without_loopback(text), "search x\nnameserver 10.0.0.1\n");
        assert!(!has_server(&without_loopback("nameserver 127.0.0.53\n")));
    }

    #[test]
    fn name_servers_that_were_asked_for_replace_the_hosts() {
        let host = "# own\nsearch a.example\nnameserver 10.0.0.1\noptions ndots:2\n";
        let mut names = NameResolution::default();
        assert_eq!(replaced(host, &names), host);
        names.servers = vec!["1.1.1.1".parse().unwrap(), "2606::1".parse().unwrap()];
        names.search = vec!["b.example".into(), "c.example".into()];
        assert_eq!(
            replaced(host, &names),
            "# own\noptions ndots:2\nsearch b.example c.example\nnameserver 1.1.1.1\nnameserver \
             2606::1\n"
        );
        names.search = vec![".".into()];
        names.options = vec!["timeout:1".into()];
        assert_eq!(
            replaced(host, &names),
            "# own\nnameserver 1.1.1.1\nnameserver 2606::1\noptions timeout:1\n"
        );
    }

    #[test]
    fn extra_hosts_come_last() {
        let hosts = hosts_file("h", &[("a.example".into(), "1.2.3.4".into())]);
        assert_eq!(
            String::from_utf8(hosts).unwrap(),
            "127.0.0.1\tlocalhost h\n::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\ta.example\n"
        );
    }
}
