//! Sockets for whole frames.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h` (Linux 4.20).
const IGNORE_OUTGOING: libc::c_int = 23;
/// `PACKET_VNET_HDR` of the same.
const VNET_HEADER: libc::c_int = 15;

/// Makes a socket for all frames that come in by an interface, and to send by it. It does not block.
///
/// Before each frame there is a `struct virtio_net_hdr`: what passes between interfaces of one machine
/// has no checksums yet and may be longer than a packet, and the header says so.
pub(crate) fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes plain numbers; the descriptor is new, and nobody else's. Protocol 0 receives nothing
    // before the socket is bound.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, kind, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(socket)
    };
    for option in [VNET_HEADER, IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        // SAFETY: the option is an integer, which lives during the call, with its size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all zeroes are a valid address, whose fields are set below.
    let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = interface as i32;
    // SAFETY: the address lives during the call, and its size is given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
