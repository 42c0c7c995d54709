//! Datagrams that are passed on: for each caller there is a socket inside, by which answers find back.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, recvfrom, send,
    sendto, socket_with,
};

/// Largest datagram.
const LARGEST: usize = 64 << 10;

/// Datagrams of one socket that are passed on before others have their turn.
const TURN: usize = 64;

/// How long a conversation may be silent.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many conversations there may be; the one that is silent for longest gives way.
const MOST: usize = 1024;

/// Who speaks with the container.
#[derive(Default)]
pub(super) struct Datagrams {
    /// Conversations by key.
    all: HashMap<u64, Conversation>,
    /// Their keys, by listening socket and caller.
    keys: HashMap<(usize, SocketAddr), u64>,
    buffer: Vec<u8>,
    looked: Option<Instant>,
}

struct Conversation {
    listener: usize,
    caller: SocketAddr,
    socket: OwnedFd,
    last: Instant,
}

impl Datagrams {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The listening socket that a conversation came in by.
    pub(super) fn listener(&self, key: u64) -> Option<usize> {
        self.all.get(&key).map(|conversation| conversation.listener)
    }

    /// Passes on what has come in from the host. `watch` gives a socket inside a key.
    pub(super) fn pass_in(
        &mut self,
        listener: usize,
        socket: &OwnedFd,
        target: SocketAddr,
        watch: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<u64>,
    ) {
        self.buffer.resize(LARGEST, 0);
        for _ in 0..TURN {
            let received = recvfrom(socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT);
            let Ok((count, _, Some(caller))) = received else {
                return;
            };
            let Ok(caller) = SocketAddr::try_from(caller) else {
                continue;
            };
            let key = match self.keys.get(&(listener, caller)) {
                Some(key) => *key,
                None => match self.begin(listener, caller, target, watch) {
                    Ok(key) => key,
                    // Datagrams may be lost; this one is.
                    Err(_) => continue,
                },
            };
            if let Some(conversation) = self.all.get_mut(&key) {
                conversation.last = Instant::now();
                // A container that does not listen refuses; the caller hears nothing, as of any loss.
                let _ = send(
                    &conversation.socket,
                    &self.buffer[..count],
                    SendFlags::DONTWAIT,
                );
            }
        }
    }

    fn begin(
        &mut self,
        listener: usize,
        caller: SocketAddr,
        target: SocketAddr,
        watch: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<u64>,
    ) -> io::Result<u64> {
        if self.all.len() >= MOST {
            let oldest = self.all.iter().min_by_key(|(_, known)| known.last);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.end(key);
            }
        }
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        connect(&socket, &target)?;
        let key = watch(socket.as_fd())?;
        self.keys.insert((listener, caller), key);
        let conversation = Conversation {
            listener,
            caller,
            socket,
            last: Instant::now(),
        };
        self.all.insert(key, conversation);
        Ok(key)
    }

    /// Passes the container's answers on to the caller, out of the socket that it has called.
    pub(super) fn answer(&mut self, key: u64, listener: &OwnedFd) {
        let Some(conversation) = self.all.get_mut(&key) else {
            return;
        };
        self.buffer.resize(LARGEST, 0);
        for _ in 0..TURN {
            let received = recv(
                &conversation.socket,
                self.buffer.as_mut_slice(),
                RecvFlags::DONTWAIT,
            );
            match received {
                Ok((count, _)) => {
                    conversation.last = Instant::now();
                    let caller = &conversation.caller;
                    let _ = sendto(listener, &self.buffer[..count], SendFlags::DONTWAIT, caller);
                }
                // Nothing more, or word that nobody listens: reading it is what makes it go away.
                Err(_) => return,
            }
        }
    }

    /// Conversations that are over. Looks for them now and then only.
    pub(super) fn expired(&mut self) -> Vec<u64> {
        let now = Instant::now();
        let soon = Duration::from_secs(10);
        if self.all.is_empty() || self.looked.is_some_and(|last| now - last < soon) {
            return Vec::new();
        }
        self.looked = Some(now);
        let over = self
            .all
            .iter()
            .filter(|(_, known)| now - known.last > PATIENCE);
        over.map(|(key, _)| *key).collect()
    }

    pub(super) fn end(&mut self, key: u64) {
        if let Some(conversation) = self.all.remove(&key) {
            self.keys
                .remove(&(conversation.listener, conversation.caller));
        }
    }
}
