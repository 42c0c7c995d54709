//! One network over several user namespaces: its bridges, one in each, as if they were one.
//!
//! Bridges of users are in network namespaces that belong to different user namespaces, where nothing of
//! the kernel's connects them. So each of them has a port whose frames a thread of the monitor passes
//! on, through datagram sockets in `lans/ID/wires/`, to the bridges that have sent from where a frame
//! is to go, or to all. Each bridge is its own gateway: what has to do with that stays where it is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::link::{self, Links};
use super::{Place, shared};
use crate::sys;
use crate::wire::{InStep as _, Step};

/// What goes before a frame: what the kernel has left to do about it (`struct virtio_net_hdr`).
const HEADER: usize = 10;
/// Addresses and type at the beginning of a frame.
const ETHERNET: usize = 14;
/// Largest frame, of many packets that are cut later.
const LARGEST: usize = HEADER + ETHERNET + (64 << 10) + 64;
/// Frames that are passed on before others have their turn.
const TURN: usize = 64;
/// Addresses that are remembered; whoever has more than that is up to no good.
const MOST: usize = 4096;

type Hardware = [u8; 6];

/// A thread that passes frames on; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel {
    path: PathBuf,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// Connects the bridge of a network in the place's router with its other bridges. `name` is one that
    /// nobody else has there.
    pub(crate) fn start(place: &Place, lan: &str, gateway: Ipv4Addr, name: &str) -> Step<Tunnel> {
        let wires = place.shared.join("lans").join(lan).join("wires");
        fs::create_dir_all(&wires).step_at("make the directory", &wires)?;
        let port = port(place, lan)?;
        let step = "connect the network with its other parts";
        let directory = rustix::fs::open(
            &wires,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step_at(step, &wires)?;
        let path = wires.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).step_at(step, &path);
            }
            _ => {}
        }
        // By the directory's descriptor: a socket's path may have 107 bytes only.
        let near = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let socket = UnixDatagram::bind(near.join(name)).step_at(step, &path)?;
        socket.set_nonblocking(true).step(step)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
        let work = Work {
            _directory: directory,
            wires: near,
            name: name.to_owned(),
            gateway: link::hardware_address(gateway),
            port,
            socket,
            stopped,
            known: HashMap::new(),
        };
        let thread = Builder::new()
            .name("tunnel".into())
            .spawn(move || work.serve())
            .step("start a thread")?;
        Ok(Tunnel {
            path,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // Nobody sends to a socket that is gone.
        let _ = fs::remove_file(&self.path);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// Makes another port of a network's bridge; returns a socket for what goes through it. Moves the calling
/// thread to where the bridge is.
fn port(place: &Place, lan: &str) -> Step<OwnedFd> {
    let step = "connect the network with its other parts";
    std::thread::scope(|scope| {
        let thread = Builder::new()
            .name("network".into())
            .spawn_scoped(scope, || {
                place.enter()?;
                let mut links = Links::open().step("open a netlink socket")?;
                let bridge = shared::bridge_name(lan);
                let (ours, theirs) = (
                    format!("rbt{}", &bridge[7..]),
                    format!("rbw{}", &bridge[7..]),
                );
                let index = links.index_of(&bridge).step_at(step, &bridge)?;
                let here = rustix::fs::open(
                    c"/proc/thread-self/ns/net",
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .step("open the network namespace")?;
                let hardware = link::random_address();
                links
                    .add_veth(&theirs, index, &here, &ours, hardware)
                    .step_at(step, &theirs)?;
                for name in [&ours, &theirs] {
                    let index = links.index_of(name).step_at(step, name)?;
                    links.up(index).step_at(step, name)?;
                }
                let index = links.index_of(&ours).step_at(step, &ours)?;
                sys::packet_socket(index).step_at(step, &ours)
            });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(port)) => port,
            Ok(Err(_)) => Err(io::Error::other("internal error (panic)")).step(step),
            Err(error) => Err(error).step("start a thread"),
        }
    })
}

struct Work {
    _directory: OwnedFd,
    /// The directory of all sockets.
    wires: PathBuf,
    /// Our own one.
    name: String,
    gateway: Hardware,
    port: OwnedFd,
    socket: UnixDatagram,
    stopped: OwnedFd,
    /// Who has sent from an address.
    known: HashMap<Hardware, String>,
}

impl Work {
    fn serve(mut self) {
        let mut buffer = vec![0; LARGEST];
        loop {
            let mut fds = [
                PollFd::new(&self.stopped, PollFlags::IN),
                PollFd::from_borrowed_fd(self.port.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // Out of memory at worst: the others are out of reach.
                Err(_) => return,
            }
            let ready = fds.each_ref().map(|fd| !fd.revents().is_empty());
            if ready[0] {
                return;
            }
            for _ in 0..TURN {
                let outward = ready[1] && self.pass_out(&mut buffer);
                let inward = ready[2] && self.pass_in(&mut buffer);
                if !outward && !inward {
                    break;
                }
            }
        }
    }

    /// Passes a frame of the bridge on to the others.
    fn pass_out(&mut self, buffer: &mut [u8]) -> bool {
        let Ok(count) = rustix::io::read(&self.port, &mut *buffer) else {
            return false;
        };
        let frame = &buffer[..count];
        let Some((to, from)) = addresses(frame) else {
            return true;
        };
        if from == self.gateway || to == self.gateway {
            return true;
        }
        match self.known.get(&to) {
            Some(name) if self.send(frame, name) => {}
            Some(_) => {
                self.known.remove(&to);
                self.send_to_all(frame);
            }
            None => self.send_to_all(frame),
        }
        true
    }

    /// Sends a frame; says whether there is anybody. A frame may be lost.
    fn send(&self, frame: &[u8], name: &str) -> bool {
        let path = self.wires.join(name);
        match self.socket.send_to(frame, &path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Its monitor was killed.
                let _ = fs::remove_file(path);
                false
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(_) => true,
        }
    }

    fn send_to_all(&self, frame: &[u8]) {
        let Ok(entries) = fs::read_dir(&self.wires) else {
            return;
        };
        for entry in entries.flatten() {
            if let Some(name) = entry.file_name().to_str()
                && name != self.name
            {
                self.send(frame, name);
            }
        }
    }

    /// Passes a frame of another bridge on to ours.
    fn pass_in(&mut self, buffer: &mut [u8]) -> bool {
        let Ok((count, sender)) = self.socket.recv_from(buffer) else {
            return false;
        };
        let frame = &buffer[..count];
        let Some((to, from)) = addresses(frame) else {
            return true;
        };
        if from == self.gateway || to == self.gateway {
            return true;
        }
        let name = sender.as_pathname().and_then(Path::file_name);
        if let Some(name) = name.and_then(|name| name.to_str()) {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(from, name.to_owned());
        }
        // A frame may be lost.
        let _ = rustix::io::write(&self.port, frame);
        true
    }
}

/// Where a frame goes to and comes from.
fn addresses(frame: &[u8]) -> Option<(Hardware, Hardware)> {
    let addresses = frame.get(HEADER..HEADER + ETHERNET)?;
    Some((
        addresses[..6].try_into().ok()?,
        addresses[6..12].try_into().ok()?,
    ))
}
