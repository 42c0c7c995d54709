//! The name server of a container that is in networks of users: knows who else is in them, and asks
//! the host's name servers for all other names.
//!
//! Its sockets are in the container's network, it is a thread of the monitor in the host's. Who is in
//! a network is read from the leases at each question, so that it is right whatever became of whom.

mod message;
mod streams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recvfrom, sendto};
use rustix::pipe::{PipeFlags, pipe_with};

use super::network::Linked;
use crate::net::find_leases;
use message::{Kind, Question, Rcode};

/// The port of name servers.
const DOMAIN: u16 = 53;

/// How long one name server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Questions to other name servers at a time; more are dropped, and asked again by who wants to know.
const MOST: usize = 256;

/// Largest message in a datagram.
const LARGEST: usize = 4096;

/// A network that a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    /// The network's ID.
    pub(super) lan: String,
    /// Its name.
    pub(super) name: String,
    /// Nothing outside can be reached from it.
    pub(super) internal: bool,
}

/// What the resolver knows; may be changed while it works.
#[derive(Debug)]
pub(super) struct Known {
    /// Directory of the leases.
    pub(super) shared: PathBuf,
    /// The container's networks.
    pub(super) domains: Mutex<Vec<Domain>>,
    /// Containers with names that only this one knows.
    pub(super) links: Vec<Linked>,
    /// The name servers of the host, or those that were asked for.
    pub(super) upstream: Vec<IpAddr>,
}

/// What there is to say to a question.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// This.
    Known(Vec<u8>),
    /// What another name server says.
    Elsewhere,
}

impl Known {
    fn domains(&self) -> Vec<Domain> {
        super::monitor::lock(&self.domains).clone()
    }

    fn answer(&self, query: &[u8], question: &Question) -> Answer {
        let domains = self.domains();
        let known = match question.kind {
            Kind::Pointer(address) => self
                .name_of(&domains, address)
                .map(|name| message::pointer(query, question, &name)),
            Kind::Address | Kind::Other => {
                let addresses = self.addresses(&domains, &question.name);
                let asked = question.kind == Kind::Address;
                // A name that is known but has nothing of the kind has an empty answer.
                (!addresses.is_empty()).then(|| {
                    let shown: &[Ipv4Addr] = if asked { &addresses } else { &[] };
                    message::addresses(query, question, shown)
                })
            }
        };
        let cut_off = !domains.is_empty() && domains.iter().all(|domain| domain.internal);
        match known {
            Some(answer) => Answer::Known(answer),
            None if cut_off => Answer::Known(message::refusal(query, question, Rcode::NoName)),
            None if self.upstream.is_empty() => {
                Answer::Known(message::refusal(query, question, Rcode::Failed))
            }
            None => Answer::Elsewhere,
        }
    }

    /// The addresses of all who have a name, as it is or with the network's name behind it.
    fn addresses(&self, domains: &[Domain], name: &str) -> Vec<Ipv4Addr> {
        let links = self.links.iter();
        let mut found: Vec<Ipv4Addr> = links.flat_map(|link| link.addresses(name)).collect();
        for domain in domains {
            let within = name
                .strip_suffix(domain.name.to_ascii_lowercase().as_str())
                .and_then(|name| name.strip_suffix('.'));
            for (address, owner) in find_leases(&self.shared, &domain.lan) {
                let named = [Some(name), within].into_iter().flatten().any(|name| {
                    owner.name.eq_ignore_ascii_case(name)
                        || owner
                            .aliases
                            .iter()
                            .any(|alias| alias.eq_ignore_ascii_case(name))
                        || owner.id.get(..12) == Some(name)
                        || owner.id == name
                });
                if named && !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        found
    }

    fn name_of(&self, domains: &[Domain], address: Ipv4Addr) -> Option<String> {
        domains.iter().find_map(|domain| {
            let leases = find_leases(&self.shared, &domain.lan);
            let (_, owner) = leases.into_iter().find(|(known, _)| *known == address)?;
            Some(format!("{}.{}", owner.name, domain.name))
        })
    }
}

/// The thread; ends when this is dropped.
#[derive(Debug)]
pub(super) struct Resolver {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Answers what comes in by the sockets: for datagrams, for connections.
    pub(super) fn start(known: Arc<Known>, sockets: [OwnedFd; 2]) -> io::Result<Resolver> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let [datagrams, connections] = sockets;
        let work = Work {
            known,
            stopped,
            datagrams,
            connections,
            asked: Vec::new(),
            streams: Arc::default(),
        };
        let thread = Builder::new()
            .name("names".into())
            .spawn(move || work.serve())?;
        Ok(Resolver {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

struct Work {
    known: Arc<Known>,
    stopped: OwnedFd,
    datagrams: OwnedFd,
    connections: OwnedFd,
    asked: Vec<Asked>,
    /// Held once by each thread that serves a connection.
    streams: Arc<()>,
}

/// A question that another name server has.
struct Asked {
    query: Vec<u8>,
    question: Question,
    caller: SocketAddr,
    socket: UdpSocket,
    /// Which server has it.
    server: usize,
    until: Instant,
}

impl Work {
    fn serve(mut self) {
        loop {
            let now = Instant::now();
            let next = self.asked.iter().map(|asked| asked.until).min();
            let time = next.map(|until| {
                let left = until.saturating_duration_since(now);
                Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            let own = [&self.stopped, &self.datagrams, &self.connections];
            let mut fds: Vec<PollFd<'_>> = own
                .into_iter()
                .map(|fd| fd.as_fd())
                .chain(self.asked.iter().map(|asked| asked.socket.as_fd()))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            match poll(&mut fds, time.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // Out of memory at worst: there are no names any more.
                Err(_) => return,
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                return;
            }
            self.hear_answers(&ready[3..]);
            self.ask_the_next();
            if ready[1] {
                self.hear_question();
            }
            if ready[2] {
                self.let_in();
            }
        }
    }

    fn hear_question(&mut self) {
        let mut buffer = [0; LARGEST];
        let received = recvfrom(&self.datagrams, &mut buffer[..], RecvFlags::DONTWAIT);
        let Ok((count, _, Some(caller))) = received else {
            return;
        };
        let (query, Ok(caller)) = (&buffer[..count], SocketAddr::try_from(caller)) else {
            return;
        };
        // What is no question gets no answer.
        let Some(question) = message::question(query) else {
            return;
        };
        match self.known.answer(query, &question) {
            Answer::Known(answer) => self.tell(&answer, caller),
            Answer::Elsewhere if self.asked.len() >= MOST => {}
            Answer::Elsewhere => self.ask(query.to_vec(), question, caller, 0),
        }
    }

    /// Asks the server with this number, or the next that can be asked at all.
    fn ask(&mut self, query: Vec<u8>, question: Question, caller: SocketAddr, first: usize) {
        for server in first..self.known.upstream.len() {
            let address = self.known.upstream[server];
            let any: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let sent = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket.set_nonblocking(true)?;
                socket.connect((address, DOMAIN))?;
                socket.send(&query)?;
                Ok(socket)
            });
            if let Ok(socket) = sent {
                self.asked.push(Asked {
                    query,
                    question,
                    caller,
                    socket,
                    server,
                    until: Instant::now() + PATIENCE,
                });
                return;
            }
        }
        let answer = message::refusal(&query, &question, Rcode::Failed);
        self.tell(&answer, caller);
    }

    fn hear_answers(&mut self, ready: &[bool]) {
        let mut buffer = [0; LARGEST];
        for index in (0..self.asked.len()).rev() {
            if !ready.get(index).copied().unwrap_or_default() {
                continue;
            }
            let asked = &mut self.asked[index];
            match asked.socket.recv(&mut buffer) {
                // The number of the question proves that it is the answer to it.
                Ok(count) if count >= 12 && buffer[..2] == asked.query[..2] => {
                    let caller = asked.caller;
                    self.asked.swap_remove(index);
                    self.tell(&buffer[..count], caller);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody listens there.
                Err(_) => asked.until = Instant::now(),
            }
        }
    }

    fn ask_the_next(&mut self) {
        let now = Instant::now();
        for index in (0..self.asked.len()).rev() {
            if self.asked[index].until <= now {
                let asked = self.asked.swap_remove(index);
                self.ask(asked.query, asked.question, asked.caller, asked.server + 1);
            }
        }
    }

    fn tell(&self, answer: &[u8], caller: SocketAddr) {
        // A datagram may be lost; who wants to know asks again.
        let _ = sendto(&self.datagrams, answer, SendFlags::DONTWAIT, &caller);
    }

    fn let_in(&self) {
        let flags = SocketFlags::CLOEXEC;
        let Ok(stream) = accept_with(&self.connections, flags) else {
            return;
        };
        if Arc::strong_count(&self.streams) > streams::MOST {
            return;
        }
        let (known, served) = (Arc::clone(&self.known), Arc::clone(&self.streams));
        // Without a thread the connection closes, and who has called knows.
        let _ = Builder::new().name("names-stream".into()).spawn(move || {
            // An error means that the caller or the server has gone.
            let _ = streams::serve(&known, stream.into());
            drop(served);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Place;
    use crate::spec::Owner;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, (kind >> 8) as u8, kind as u8, 0, 1]);
        bytes
    }

    fn ask(known: &Known, name: &str, kind: u16) -> Answer {
        let query = query(name, kind);
        known.answer(&query, &message::question(&query).unwrap())
    }

    #[test]
    fn names_aliases_and_ids_of_who_is_there_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::on_host(directory.path());
        let leases = place.shared.join("lans/n1/leases");
        std::fs::create_dir_all(&leases).unwrap();
        let owner = Owner {
            id: "0123456789abcdef".into(),
            name: "Web".into(),
            aliases: vec!["www".into()],
        };
        let path = leases.join("10.1.0.2");
        std::fs::write(&path, serde_json::to_vec(&owner).unwrap()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut known = Known {
            shared: place.shared,
            domains: Mutex::new(vec![Domain {
                lan: "n1".into(),
                name: "Back".into(),
                internal: false,
            }]),
            links: Vec::new(),
            upstream: vec!["192.0.2.1".parse().unwrap()],
        };
        assert_eq!(ask(&known, "web", 1), Answer::Elsewhere, "nobody is there");
        file.lock().unwrap();
        for name in ["web", "WEB", "www", "0123456789ab", "web.back"] {
            let Answer::Known(answer) = ask(&known, name, 1) else {
                panic!("{name}");
            };
            assert!(answer.ends_with(&[0, 4, 10, 1, 0, 2]), "{name}");
            assert_eq!(answer[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
            let Answer::Known(answer) = ask(&known, name, 28) else {
                panic!("{name}");
            };
            assert_eq!(answer[6..8], [0, 0], "there is no IPv6");
        }
        let Answer::Known(answer) = ask(&known, "2.0.1.10.in-addr.arpa", 12) else {
            panic!("pointer");
        };
        assert!(answer.ends_with(b"\x03Web\x04Back\x00"));
        assert_eq!(ask(&known, "example.org", 1), Answer::Elsewhere);
        known.domains.get_mut().unwrap()[0].internal = true;
        let Answer::Known(answer) = ask(&known, "example.org", 1) else {
            panic!("an internal network asks nobody");
        };
        assert_eq!(answer[3] & 15, 3);
    }
}
