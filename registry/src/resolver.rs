//! From host names to addresses without the C library.
//!
//! A static binary must not call `getaddrinfo`: glibc then loads plug-ins of the host's own library
//! at run time, which breaks where that is another version or another library. What is read is
//! `/etc/hosts` and `/etc/resolv.conf`, what is spoken is plain DNS over UDP and, when an answer is
//! cut, TCP. That covers what containers and servers use; mDNS and LDAP names are not found.

mod files;
mod message;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use self::files::ResolvConf;
use self::message::{Answer, Kind};

/// Addresses that are kept of one name: more are never tried.
const MOST_ADDRESSES: usize = 8;

/// Largest UDP answer: nothing larger is asked for.
const UDP_ANSWER: usize = 4096;

/// Resolves names as `hosts` and `resolv.conf` say.
#[derive(Debug, Clone)]
pub(crate) struct FileResolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// Port of the name servers; another one only in tests.
    port: u16,
}

/// What asking for a name gave.
#[derive(Debug)]
enum Found {
    Addresses(Vec<IpAddr>),
    /// A server knows for sure that there is no such name, or no address of it.
    Nothing,
}

impl FileResolver {
    /// The files of this machine.
    pub(crate) fn system() -> FileResolver {
        FileResolver {
            hosts: PathBuf::from("/etc/hosts"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            port: 53,
        }
    }

    /// The addresses of a name, best first. Empty if there is no such name.
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let listed = files::lookup_host(&read_text(&self.hosts)?, bare);
        if !listed.is_empty() {
            return Ok(preferred(listed));
        }
        // RFC 6761: these names never go to a name server.
        if crate::url::is_loopback(bare) {
            return Ok(vec![
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]);
        }
        let settings = ResolvConf::parse(&read_text(&self.resolv_conf)?);
        for candidate in settings.candidates(bare) {
            if let Found::Addresses(addresses) = self.ask_servers(&settings, &candidate)? {
                return Ok(preferred(addresses));
            }
        }
        Ok(Vec::new())
    }

    /// Asks one server after the other until one knows.
    fn ask_servers(&self, settings: &ResolvConf, name: &str) -> io::Result<Found> {
        let mut last = io::Error::other("no name server is known");
        for _ in 0..settings.attempts {
            for server in &settings.servers {
                match ask(SocketAddr::new(*server, self.port), name, settings.timeout) {
                    Ok(found) => return Ok(found),
                    Err(error) => last = error,
                }
            }
        }
        Err(io::Error::new(
            last.kind(),
            format!("no name server answered: {last}"),
        ))
    }
}

/// Asks one server for both kinds of addresses.
fn ask(server: SocketAddr, name: &str, timeout: Duration) -> io::Result<Found> {
    let mut addresses = Vec::new();
    for kind in [Kind::A, Kind::Aaaa] {
        let Some((id, query)) = message::query(name, kind) else {
            return Ok(Found::Nothing);
        };
        let answer = match over_udp(server, id, &query, timeout) {
            Ok(Answer::Truncated) => over_tcp(server, id, &query, timeout),
            answer => answer,
        };
        let failure = match answer {
            Ok(Answer::Addresses(found)) => {
                addresses.extend(found);
                continue;
            }
            Ok(Answer::NoSuchName) => return Ok(Found::Nothing),
            Ok(Answer::Failed(code)) => io::Error::other(format!("name server error {code}")),
            Ok(Answer::Truncated | Answer::Foreign) => {
                io::Error::other("bad answer of the name server")
            }
            Err(error) => error,
        };
        // Some servers fail for, or never answer, the second question only: what is known counts.
        if addresses.is_empty() {
            return Err(failure);
        }
    }
    if addresses.is_empty() {
        return Ok(Found::Nothing);
    }
    Ok(Found::Addresses(addresses))
}

fn over_udp(server: SocketAddr, id: u16, query: &[u8], timeout: Duration) -> io::Result<Answer> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // A connected socket takes datagrams from this server only.
    socket.connect(server)?;
    socket.send(query)?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; UDP_ANSWER];
    loop {
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or(io::ErrorKind::TimedOut)?;
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        match message::read_answer(&buffer[..length], id, query) {
            // Late, or forged: the right one may still come.
            Answer::Foreign => {}
            answer => return Ok(answer),
        }
    }
}

fn over_tcp(server: SocketAddr, id: u16, query: &[u8], timeout: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(message::read_answer(&answer, id, query))
}

/// A file's text; a file that is not there is empty.
fn read_text(path: &Path) -> io::Result<String> {
    const LARGEST: u64 = 4 << 20;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// IPv6 first where the machine has a way there, else last. (RFC 6724 in its shortest form.)
fn preferred(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let reachable = |address: &IpAddr| {
        // Connecting a datagram socket sends nothing, it only looks for a route.
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.connect((*address, 443)))
            .is_ok()
    };
    let six_first = addresses
        .iter()
        .find(|address| address.is_ipv6())
        .is_some_and(reachable);
    addresses.sort_by_key(|address| address.is_ipv6() != six_first);
    addresses.dedup();
    addresses.truncate(MOST_ADDRESSES);
    addresses
}

impl Resolver for FileResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let bad = || ureq::Error::BadUri("it has no host".to_owned());
        let authority = uri.authority().ok_or_else(bad)?;
        let port = authority.port_u16().unwrap_or(match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        let addresses = self.addresses(authority.host())?;
        if addresses.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut resolved = self.empty();
        for address in addresses {
            resolved.push(SocketAddr::new(address, port));
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A name server that answers by `serve` over UDP and TCP, at the same port.
    fn server(
        serve: impl Fn(&[u8], bool) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let tcp = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let serve = std::sync::Arc::new(serve);
        let (count, answer) = (asked.clone(), serve.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if let Some(reply) = answer(&buffer[..length], false) {
                    let _ = udp.send_to(&reply, from);
                }
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let reply = serve(&query, true).unwrap();
                stream
                    .write_all(&(reply.len() as u16).to_be_bytes())
                    .unwrap();
                stream.write_all(&reply).unwrap();
            }
        });
        (port, asked)
    }

    fn resolver(folder: &Path, port: u16, hosts: &str, conf: &str) -> FileResolver {
        std::fs::write(folder.join("hosts"), hosts).unwrap();
        std::fs::write(folder.join("resolv.conf"), conf).unwrap();
        FileResolver {
            hosts: folder.join("hosts"),
            resolv_conf: folder.join("resolv.conf"),
            port,
        }
    }

    /// Answers A queries for `name` with this address, everything else with nothing or no name.
    fn only(name: &'static str, address: [u8; 4]) -> impl Fn(&[u8], bool) -> Option<Vec<u8>> {
        move |query, _| {
            let asked = message::tests::question(query);
            Some(if asked.0 != name {
                message::tests::reply(query, 3, &[])
            } else if asked.1 == 1 {
                message::tests::reply(query, 0, &[(1, address.to_vec())])
            } else {
                message::tests::reply(query, 0, &[])
            })
        }
    }

    #[test]
    fn addresses_hosts_and_loopback_need_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let resolver = resolver(
            folder.path(),
            1,
            "10.0.0.1 first other # not.this\nfd00::1 first\n",
            "nameserver 127.0.0.1\n",
        );
        let find = |name: &str| resolver.addresses(name).unwrap();
        assert_eq!(find("[::2]"), ["::2".parse::<IpAddr>().unwrap()]);
        assert_eq!(find("1.2.3.4"), ["1.2.3.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(find("OTHER"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(find("first").len(), 2);
        assert_eq!(find("localhost")[0], IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn servers_are_asked_and_search_domains_tried() {
        let (port, _) = server(only("registry.corp.example", [10, 9, 8, 7]));
        let folder = tempfile::tempdir().unwrap();
        let conf = "search a.example corp.example\nnameserver 127.0.0.1\n";
        let resolver = resolver(folder.path(), port, "", conf);
        let expected = vec![IpAddr::from([10, 9, 8, 7])];
        assert_eq!(resolver.addresses("registry").unwrap(), expected);
        assert_eq!(
            resolver.addresses("registry.corp.example").unwrap(),
            expected
        );
        assert_eq!(
            resolver.addresses("registry.corp.example.").unwrap(),
            expected
        );
        assert!(resolver.addresses("nowhere").unwrap().is_empty());
    }

    #[test]
    fn a_cut_answer_is_asked_for_again_over_tcp() {
        let (port, _) = server(|query, tcp| {
            Some(if tcp {
                message::tests::reply(query, 0, &[(1, vec![10, 0, 0, 5])])
            } else {
                message::tests::truncated(query)
            })
        });
        let folder = tempfile::tempdir().unwrap();
        let resolver = resolver(folder.path(), port, "", "nameserver 127.0.0.1\n");
        assert_eq!(
            resolver.addresses("big.example").unwrap(),
            [IpAddr::from([10, 0, 0, 5])]
        );
    }

    #[test]
    fn silence_and_failure_are_errors_not_missing_names() {
        let folder = tempfile::tempdir().unwrap();
        let conf = "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n";
        let (port, asked) = server(|_, _| None);
        let silent = resolver(folder.path(), port, "", conf);
        let error = silent.addresses("x.example").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
        let (port, _) = server(|query, _| Some(message::tests::reply(query, 2, &[])));
        let failing = resolver(folder.path(), port, "", conf);
        let error = failing.addresses("x.example").unwrap_err();
        assert!(error.to_string().contains("error 2"), "{error}");
    }

    #[test]
    fn a_forged_answer_is_passed_over() {
        let (port, _) = server(|query, _| {
            let mut reply = message::tests::reply(query, 0, &[(1, vec![6, 6, 6, 6])]);
            reply[0] ^= 0xff;
            Some(reply)
        });
        let folder = tempfile::tempdir().unwrap();
        let conf = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        let resolver = resolver(folder.path(), port, "", conf);
        assert!(resolver.addresses("x.example").is_err());
    }
}
