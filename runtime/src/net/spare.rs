//! Networks of sandboxes that have ended, for later ones of the same program.
//!
//! To make one and to throw it away is a third of what a short command costs. A network is given on only if
//! nobody can tell that it was used: no packet has left through any of its interfaces, loopback included, so
//! that no connection lingers and nobody else has learned or answered anything; and no socket is left in it,
//! so that nothing that was handed out of the sandbox reaches into it. Its commands had no right to change it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::RecvFlags;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::spec::{Sandbox, Seccomp};
use crate::wire::{self, InStep as _, Step};

/// A network namespace with the way out of it, and what tells whether it was used.
#[derive(Debug)]
pub(crate) struct Spare {
    namespace: OwnedFd,
    /// Its `/proc/net/dev`.
    interfaces: File,
    /// Its `/proc/net/sockstat`.
    sockets: File,
    made: Instant,
}

/// After so long a network is not used any more: what it is connected with may have changed.
pub(crate) const FRESH: Duration = Duration::from_secs(5);

/// Hands the network of this process to its spawner, at the other end of `spawner`. What fails only costs time.
pub(crate) fn hand_out(spawner: BorrowedFd<'_>) {
    let open = |name: &str| {
        let path = format!("/proc/thread-self/{name}");
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    if let (Ok(namespace), Ok(interfaces), Ok(sockets)) =
        (open("ns/net"), open("net/dev"), open("net/sockstat"))
    {
        let all = [namespace.as_fd(), interfaces.as_fd(), sockets.as_fd()];
        let _ = wire::send(spawner, b"network", &all);
    }
}

impl Spare {
    /// What a sandbox has handed out.
    pub(crate) fn receive(sandbox: BorrowedFd<'_>, made: Instant) -> Option<Self> {
        let (_, descriptors) = wire::receive(sandbox, &mut [0; 16], RecvFlags::DONTWAIT).ok()?;
        let [namespace, interfaces, sockets] = descriptors.try_into().ok()?;
        Some(Self {
            namespace,
            interfaces: interfaces.into(),
            sockets: sockets.into(),
            made,
        })
    }

    /// Moves the calling process there.
    pub(crate) fn enter(&self) -> Step<()> {
        move_into_thread_name_spaces(self.namespace.as_fd(), ThreadNameSpaceType::NETWORK)
            .step("enter the network that was made ahead")
    }

    fn is_unused(&self) -> bool {
        let is = |file: &File, unused: fn(&str) -> bool| read(file).is_ok_and(|text| unused(&text));
        is(&self.interfaces, nothing_sent) && is(&self.sockets, no_socket)
    }
}

/// Reads a file of `/proc/net` again from its beginning; one of a sandbox's network is short.
fn read(file: &File) -> io::Result<String> {
    let mut text = vec![0; 4096];
    let length = file.read_at(&mut text, 0)?;
    text.truncate(length);
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `text`: a line for each interface below two of headings; the ninth number is that of the bytes sent.
fn nothing_sent(text: &str) -> bool {
    let mut interfaces = text.lines().skip(2).peekable();
    interfaces.peek().is_some()
        && interfaces.all(|line| {
            let sent = line
                .split_once(':')
                .and_then(|(_, numbers)| numbers.split_whitespace().nth(8));
            sent == Some("0")
        })
}

fn no_socket(text: &str) -> bool {
    text.lines().next() == Some("sockets: used 0")
}

/// The network of a sandbox that runs, to be had when it has ended.
#[derive(Debug)]
pub(crate) enum Lent {
    /// The sandbox has handed it out.
    New(Instant),
    /// It had others before.
    Again(Spare),
}

impl Lent {
    /// Whether a sandbox can leave no trace in its network but packets and sockets.
    pub(crate) fn may_come_back(sandbox: &Sandbox) -> bool {
        const NET_ADMIN: u32 = 12;
        const SYS_ADMIN: u32 = 21;
        let security = &sandbox.security;
        !security.privileged
            && security.masked_paths
            && matches!(security.seccomp, Seccomp::Default)
            && !security.capabilities.contains(NET_ADMIN)
            && !security.capabilities.contains(SYS_ADMIN)
            && sandbox.kernel.sysctls.is_empty()
    }
}

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Spare>);

impl Spares {
    /// The kernel lets go of a socket some milliseconds after it was closed; so many networks may wait for that.
    const MOST: usize = 8;

    /// Takes the network of a sandbox that has ended.
    pub(crate) fn put(&mut self, spare: Option<Spare>) {
        self.0.retain(|spare| spare.made.elapsed() < FRESH);
        if let Some(spare) = spare
            && self.0.len() < Self::MOST
            && spare.made.elapsed() < FRESH
        {
            self.0.push(spare);
        }
    }

    /// Gives one that nobody has used.
    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.0.retain(|spare| spare.made.elapsed() < FRESH);
        // What was sent does not become unsent; sockets may still go.
        self.0
            .retain(|spare| read(&spare.interfaces).is_ok_and(|text| nothing_sent(&text)));
        let unused = self.0.iter().position(Spare::is_unused)?;
        Some(self.0.remove(unused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootFs;

    #[test]
    fn one_byte_through_any_interface_is_a_use() {
        let table = |lo: u32, eth0: u32| {
            format!(
                "Inter-|   Receive | Transmit\n face |bytes packets errs drop fifo frame compressed \
                 multicast|bytes\n    lo:       7 1 0 0 0 0 0 0  {lo} 0 0 0 0 0 0 0\n  \
                 eth0:340 4 0 0 0 0 0 0 {eth0} 0 0 0 0 0 0 0\n"
            )
        };
        assert!(nothing_sent(&table(0, 0)));
        assert!(!nothing_sent(&table(1, 0)));
        assert!(!nothing_sent(&table(0, 90)));
        assert!(!nothing_sent(""), "nothing is known of it");
        assert!(!nothing_sent("a\nb\nlo: 1\n"), "nothing is known of it");
    }

    #[test]
    fn a_socket_that_is_left_is_a_use() {
        assert!(no_socket("sockets: used 0\nTCP: inuse 0\n"));
        assert!(!no_socket("sockets: used 10\nTCP: inuse 0\n"));
        assert!(!no_socket(""));
    }

    #[test]
    fn rights_over_a_network_keep_it_from_being_given_on() {
        let mut sandbox = Sandbox::new(RootFs::default(), ["true"]);
        assert!(Lent::may_come_back(&sandbox));
        sandbox.security.capabilities.0 |= 1 << 12;
        assert!(!Lent::may_come_back(&sandbox));
    }
}
