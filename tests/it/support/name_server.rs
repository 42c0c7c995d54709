//! A name server in the test's process, for the few names that it is given.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::JoinHandle;

/// The bytes of a header before the question (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// The server; ends with the value.
pub(crate) struct NameServer {
    address: Ipv4Addr,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// A server at port 53 of an address; it knows the addresses of these names, and no other name.
    pub(crate) fn start(address: Ipv4Addr, names: &[(&str, Ipv4Addr)]) -> NameServer {
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let names: Vec<(String, Ipv4Addr)> = names
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query)
                && length > 0
            {
                // Who has gone meanwhile needs no answer.
                let answer = answer(&query[..length], &names);
                drop(answer.map(|answer| socket.send_to(&answer, client)));
            }
        });
        NameServer {
            address,
            thread: Some(thread),
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // An empty datagram is no question: it ends the thread.
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        sender.send_to(&[], (self.address, 53)).unwrap();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a query with one question; none to what is no such query.
fn answer(query: &[u8], names: &[(String, Ipv4Addr)]) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let is_address = query.get(at..at + 4)? == [0, 1, 0, 1];
    let question = &query[HEADER..at + 4];
    let name = labels.join(".");
    let known = names.iter().find(|(known, _)| *known == name);
    let found = known.filter(|_| is_address);
    // An answer, recursion available; the name is not known.
    let state = if known.is_some() { 0x80 } else { 0x83 };
    let mut bytes = query[..2].to_vec();
    bytes.extend([0x81, state, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
    bytes.extend(question);
    if let Some((_, address)) = found {
        // The name of the question, an address, for a minute.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(address.octets());
    }
    Some(bytes)
}
