//! The thread that speaks for callers inside the container's network.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread::{Builder, JoinHandle};

use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::datagrams::Datagrams;
use super::streams::{Connection, Pipes, Progress};
use super::{Bound, Protocol};

/// How many descriptors the process may have meanwhile: a connection needs two.
const DESCRIPTORS: u64 = 1 << 16;

/// Events that are taken at once.
const EVENTS: usize = 128;

/// How often datagram conversations are looked through for those that have ended.
const TICK: Timespec = Timespec {
    tv_sec: 15,
    tv_nsec: 0,
};

/// Key of the pipe whose end tells the thread to end.
const STOP: u64 = 0;

/// A thread that passes connections and datagrams on; ends when this is dropped.
#[derive(Debug)]
pub(in crate::container) struct Relay {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    limit: Rlimit,
}

impl Relay {
    /// Starts the thread, which joins the network of `container`, a descriptor of its first process. Calls go
    /// to `address` there.
    pub(in crate::container) fn start(
        bound: Vec<Bound>,
        container: BorrowedFd<'_>,
        address: IpAddr,
    ) -> io::Result<Relay> {
        let container = container.try_clone_to_owned()?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let limit = raise_limit();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = Builder::new().name("ports".into()).spawn(move || {
            let joined =
                move_into_thread_name_spaces(container.as_fd(), ThreadNameSpaceType::NETWORK);
            drop(container);
            let exchange = joined
                .map_err(io::Error::from)
                .and_then(|()| Exchange::new(bound, stopped, address));
            match exchange {
                Ok(mut exchange) => {
                    // Whoever waits has not gone: it is in the same call.
                    let _ = ready.send(Ok(()));
                    exchange.serve();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let relay = Relay {
            stop: Some(stop),
            thread: Some(thread),
            limit,
        };
        is_ready
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread of the ports panicked")))?;
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
        // What is started next shall have the limit that this process was started with.
        let _ = setrlimit(Resource::Nofile, self.limit);
    }
}

/// Raises the limit of descriptors as far as it goes; returns the one before.
fn raise_limit() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let most = before
        .maximum
        .map_or(DESCRIPTORS, |hard| hard.min(DESCRIPTORS));
    if before.current.is_some_and(|soft| soft < most) {
        let raised = Rlimit {
            current: Some(most),
            maximum: before.maximum,
        };
        // With fewer there are fewer connections.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    before
}

/// Where calls come from and go to.
struct Exchange {
    poll: OwnedFd,
    _stopped: OwnedFd,
    address: IpAddr,
    /// Listening sockets, by key from 1 on.
    bound: Vec<Bound>,
    /// Streams by key, which is even; the side of the container has the odd number behind it.
    connections: HashMap<u64, Connection>,
    datagrams: Datagrams,
    pipes: Pipes,
    next: u64,
    /// Connections that had more to move than their turn allowed.
    waiting: VecDeque<u64>,
    /// Nobody is let in, for want of descriptors.
    closed: bool,
}

impl Exchange {
    fn new(bound: Vec<Bound>, stopped: OwnedFd, address: IpAddr) -> io::Result<Exchange> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&poll, stopped.as_fd(), STOP, epoll::EventFlags::IN)?;
        for (key, bound) in (1..).zip(&bound) {
            watch(&poll, bound.socket.as_fd(), key, epoll::EventFlags::IN)?;
        }
        // Even, above those of the listening sockets.
        let next = (bound.len() as u64 + 2) & !1;
        Ok(Exchange {
            poll,
            _stopped: stopped,
            address,
            bound,
            connections: HashMap::new(),
            datagrams: Datagrams::default(),
            pipes: Pipes::default(),
            next,
            waiting: VecDeque::new(),
            closed: false,
        })
    }

    fn serve(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let time = match (self.waiting.is_empty(), self.datagrams.is_empty()) {
                (false, _) => Some(Timespec::default()),
                (true, false) => Some(TICK),
                (true, true) => None,
            };
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.poll, space, time.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Out of memory at worst: the ports are gone, the container is not.
                Err(_) => return,
            }
            for event in &events {
                let (key, flags) = (event.data.u64(), event.flags);
                if key == STOP {
                    return;
                }
                self.handle(key, flags);
            }
            for _ in 0..self.waiting.len() {
                if let Some(key) = self.waiting.pop_front() {
                    self.move_on(key, true);
                }
            }
            for key in self.datagrams.expired() {
                self.datagrams.end(key);
            }
        }
    }

    fn handle(&mut self, key: u64, flags: epoll::EventFlags) {
        if let Some(bound) = usize::try_from(key - 1)
            .ok()
            .and_then(|at| self.bound.get(at))
        {
            match bound.port.protocol {
                Protocol::Tcp => self.let_in(key),
                Protocol::Udp => self.pass_in(key),
            }
            return;
        }
        if let Some(listener) = self.datagrams.listener(key) {
            if let Some(bound) = self.bound.get(listener) {
                self.datagrams.answer(key, &bound.socket);
            }
            return;
        }
        let of_container = key % 2 == 1;
        let connected =
            of_container && flags.intersects(epoll::EventFlags::OUT | epoll::EventFlags::ERR);
        self.move_on(key & !1, connected);
    }

    /// Accepts one caller.
    fn let_in(&mut self, listener: u64) {
        let bound = &self.bound[listener as usize - 1];
        let target = SocketAddr::new(self.address, bound.port.container_port);
        let key = self.next;
        match Connection::begin(&bound.socket, target) {
            Ok(connection) => {
                let flags = epoll::EventFlags::IN
                    | epoll::EventFlags::OUT
                    | epoll::EventFlags::RDHUP
                    | epoll::EventFlags::ET;
                let watched = watch(&self.poll, connection.caller(), key, flags)
                    .and_then(|()| watch(&self.poll, connection.called(), key + 1, flags));
                // Without being watched it would only stay; dropping it closes it.
                if watched.is_ok() {
                    self.next += 2;
                    self.connections.insert(key, connection);
                }
            }
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) =>
            {
                self.close_doors();
            }
            // A caller that has gone already, or whom the container refuses: dropped by that.
            Err(_) => {}
        }
    }

    /// Lets nobody in until a connection has ended: who waits at a listening socket would wake us for ever.
    fn close_doors(&mut self) {
        if self.closed || self.connections.is_empty() {
            return;
        }
        self.closed = true;
        for bound in self.streams() {
            let _ = epoll::delete(&self.poll, &bound.socket);
        }
    }

    fn open_doors(&mut self) {
        if !std::mem::take(&mut self.closed) {
            return;
        }
        for (key, bound) in (1..).zip(&self.bound) {
            if bound.port.protocol == Protocol::Tcp {
                // It was watched before, so there is room for it.
                let _ = watch(&self.poll, bound.socket.as_fd(), key, epoll::EventFlags::IN);
            }
        }
    }

    fn streams(&self) -> impl Iterator<Item = &Bound> {
        let tcp = |bound: &&Bound| bound.port.protocol == Protocol::Tcp;
        self.bound.iter().filter(tcp)
    }

    /// Moves what can be moved of a connection.
    fn move_on(&mut self, key: u64, connected: bool) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match connection.move_on(connected, &mut self.pipes) {
            Progress::Waits => {}
            Progress::HasMore => self.waiting.push_back(key),
            Progress::Ended => {
                if let Some(connection) = self.connections.remove(&key) {
                    connection.end(&mut self.pipes);
                }
                self.open_doors();
            }
        }
    }

    /// Passes datagrams from the host in.
    fn pass_in(&mut self, listener: u64) {
        let at = listener as usize - 1;
        let bound = &self.bound[at];
        let target = SocketAddr::new(self.address, bound.port.container_port);
        let poll = &self.poll;
        let next = &mut self.next;
        self.datagrams
            .pass_in(at, &bound.socket, target, &mut |socket| {
                let key = *next;
                watch(poll, socket, key, epoll::EventFlags::IN)?;
                *next += 2;
                Ok(key)
            });
    }
}

fn watch(
    poll: &OwnedFd,
    socket: BorrowedFd<'_>,
    key: u64,
    flags: epoll::EventFlags,
) -> io::Result<()> {
    epoll::add(poll, socket, epoll::EventData::new_u64(key), flags)?;
    Ok(())
}
