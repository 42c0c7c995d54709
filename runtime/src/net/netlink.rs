//! The netlink wire format: messages of attributes, sent and acknowledged.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto,
    socket_with,
};

const HEADER: usize = 16;
const FLAG_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const FLAG_ACK: u16 = libc::NLM_F_ACK as u16;
/// Flags of a request for all objects of a kind.
pub(super) const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// Flags of a request that makes an object which must not exist.
pub(super) const CREATE_NEW: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// Flags of a request that makes an object which may exist.
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// Attribute type without its flags.
const TYPE_MASK: u16 = 0x3fff;
/// Attribute of an acknowledgement with a text.
const ACK_MESSAGE: u16 = 1;

/// A message under construction.
pub(super) struct Message {
    kind: u16,
    flags: u16,
    acknowledged: bool,
    body: Vec<u8>,
}

impl Message {
    /// Begins a message with the fixed structure that its kind wants.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut body = fixed.to_vec();
        pad(&mut body);
        Self {
            kind,
            flags,
            acknowledged: true,
            body,
        }
    }

    /// Asks for no answer, as for the messages that begin and end a transaction.
    pub(super) fn unacknowledged(mut self) -> Self {
        self.acknowledged = false;
        self
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.body, kind, value);
        self
    }

    /// Appends a string with its final NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds others.
    pub(super) fn nest(mut self, kind: u16, attributes: &Attributes) -> Self {
        put(&mut self.body, kind | NESTED, &attributes.0);
        self
    }

    fn encode(&self, sequence: u32, extra_flags: u16, out: &mut Vec<u8>) {
        let length = (HEADER + self.body.len()) as u32;
        out.extend(length.to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((self.flags | extra_flags).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        out.extend(&self.body);
        pad(out);
    }
}

/// Attributes inside an attribute.
#[derive(Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Begins with a fixed structure, as few nested attributes do.
    pub(super) fn after(fixed: &[u8]) -> Self {
        Self(fixed.to_vec())
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    /// Appends a number in network byte order, as nftables wants it.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends a string with its final NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds others.
    pub(super) fn nest(mut self, kind: u16, attributes: &Self) -> Self {
        put(&mut self.0, kind | NESTED, &attributes.0);
        self
    }
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((value.len() + 4) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Reads attributes: kind without flags, value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Finds one attribute.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A netlink socket of the network namespace in which it was opened.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket; `None` is the routing family.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        // Without it (before Linux 4.12) an error is a number only.
        let _ = crate::sys::enable_extended_acks(&socket);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and waits until it is done.
    pub(super) fn request(&mut self, message: &Message) -> io::Result<()> {
        self.batch(std::slice::from_ref(message))
    }

    /// Sends several requests as one packet, waits for their answers; returns the first error.
    pub(super) fn batch(&mut self, messages: &[Message]) -> io::Result<()> {
        let mut packet = Vec::new();
        let mut waiting = Vec::new();
        for message in messages {
            self.sequence += 1;
            let mut flags = FLAG_REQUEST;
            if message.acknowledged {
                flags |= FLAG_ACK;
                waiting.push(self.sequence);
            }
            message.encode(self.sequence, flags, &mut packet);
        }
        self.send(&packet)?;
        let mut buffer = vec![0; 16 << 10];
        while !waiting.is_empty() {
            let length = self.receive(&mut buffer)?;
            for (kind, sequence, body) in parse(&buffer[..length]) {
                if i32::from(kind) == libc::NLMSG_ERROR {
                    waiting.retain(|&number| number != sequence);
                    acknowledged(body)?;
                }
            }
        }
        Ok(())
    }

    /// Sends a request for one object; returns the body of the answer.
    pub(super) fn get(&mut self, message: &Message) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let mut packet = Vec::new();
        message.encode(self.sequence, FLAG_REQUEST, &mut packet);
        self.send(&packet)?;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = self.receive(&mut buffer)?;
            for (kind, sequence, body) in parse(&buffer[..length]) {
                if sequence != self.sequence {
                    continue;
                }
                if i32::from(kind) != libc::NLMSG_ERROR {
                    return Ok(body.to_vec());
                }
                acknowledged(body)?;
                return Err(io::ErrorKind::NotFound.into());
            }
        }
    }

    /// Sends a request and collects the bodies of all answers.
    pub(super) fn dump(&mut self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let mut packet = Vec::new();
        message.encode(self.sequence, FLAG_REQUEST | DUMP, &mut packet);
        self.send(&packet)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = self.receive(&mut buffer)?;
            for (kind, sequence, body) in parse(&buffer[..length]) {
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        acknowledged(body)?;
                        return Ok(answers);
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| sendto(&self.socket, packet, SendFlags::empty(), &kernel))?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, length) =
            rustix::io::retry_on_intr(|| recv(&self.socket, &mut *buffer, RecvFlags::TRUNC))?;
        if length > buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "truncated netlink answer",
            ));
        }
        Ok(length)
    }
}

impl From<Netlink> for OwnedFd {
    fn from(netlink: Netlink) -> Self {
        netlink.socket
    }
}

/// Splits a packet into messages: kind, sequence number, body.
fn parse(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, word(8), body))
    })
}

/// Reads an acknowledgement: error number, the request (or its header), perhaps a text.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    let Some(code) = body.first_chunk::<4>() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "short netlink answer",
        ));
    };
    let error = match i32::from_ne_bytes(*code) {
        0 => return Ok(()),
        code => io::Error::from_raw_os_error(-code),
    };
    Err(match text_of(body) {
        // Callers look at the number where they can go on; only these have a fallback.
        Some(text) if !matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) => {
            io::Error::new(error.kind(), format!("{text} ({error})"))
        }
        _ => error,
    })
}

fn text_of(body: &[u8]) -> Option<String> {
    let request = body.get(4..4 + HEADER)?;
    let length = u32::from_ne_bytes([request[0], request[1], request[2], request[3]]) as usize;
    // The kernel repeats the request or only its header: try both layouts.
    [4 + HEADER, 4 + length.next_multiple_of(4)]
        .into_iter()
        .find_map(|at| {
            let text = attribute(body.get(at..)?, ACK_MESSAGE)?;
            let text = std::str::from_utf8(text).ok()?.trim_end_matches('\0');
            (!text.is_empty()).then(|| text.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let inner = Attributes::default().text(3, "abc").number(4, 7);
        let message = Message::new(16, 0, &[1, 2])
            .attribute(1, &[9])
            .nest(2, &inner);
        let mut bytes = Vec::new();
        message.encode(5, FLAG_REQUEST, &mut bytes);
        assert_eq!(bytes.len() % 4, 0);
        let messages: Vec<_> = parse(&bytes).collect();
        assert_eq!(messages.len(), 1);
        let (kind, sequence, body) = messages[0];
        assert_eq!((kind, sequence), (16, 5));
        let attributes_found: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(attributes_found[0], (1, &[9][..]));
        assert_eq!(attribute(attributes_found[1].1, 3), Some(&b"abc\0"[..]));
        assert_eq!(
            attribute(attributes_found[1].1, 4),
            Some(&7_u32.to_be_bytes()[..])
        );
    }

    #[test]
    fn garbage_from_a_socket_ends_the_iteration() {
        assert_eq!(parse(&[0; 20]).count(), 0, "a length below the header");
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[255, 0, 1, 0]).count(), 0);
        assert!(acknowledged(&[]).is_err());
    }
}
