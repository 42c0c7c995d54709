//! DNS messages: a question out, addresses in. RFC 1035, section 4.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// Length of the header in bytes.
const HEADER: usize = 12;

/// Class `IN`.
const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    A = 1,
    Aaaa = 28,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Possibly none.
    Addresses(Vec<IpAddr>),
    NoSuchName,
    /// The server could not tell (response code).
    Failed(u8),
    /// Too long for a datagram.
    Truncated,
    /// Not the answer to this question, or not a message at all.
    Foreign,
}

/// Writes a query with a random ID. None if it is not a legal name.
pub(super) fn query(name: &str, kind: Kind) -> Option<(u16, Vec<u8>)> {
    // A guessable ID would make forging answers easy; each hasher has its own random key.
    let id = RandomState::new().hash_one(name) as u16;
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    message.extend_from_slice(&id.to_be_bytes());
    // Recursion desired; one question.
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&(kind as u16).to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    Some((id, message))
}

/// Reads the answer to `query`.
pub(super) fn read_answer(message: &[u8], id: u16, query: &[u8]) -> Answer {
    read(message, id, query).unwrap_or(Answer::Foreign)
}

/// None for what is malformed or not an answer to the query.
fn read(message: &[u8], id: u16, query: &[u8]) -> Option<Answer> {
    let flags = u16_at(message, 2)?;
    let is_response = flags & 0x8000 != 0;
    let question = query.get(HEADER..)?;
    let echoed = message.get(HEADER..HEADER + question.len())?;
    if u16_at(message, 0)? != id
        || !is_response
        || u16_at(message, 4)? != 1
        || !echoed.eq_ignore_ascii_case(question)
    {
        return None;
    }
    if flags & 0x0200 != 0 {
        return Some(Answer::Truncated);
    }
    match flags & 0x000f {
        0 => {}
        3 => return Some(Answer::NoSuchName),
        code => return Some(Answer::Failed(code as u8)),
    }
    let wanted = u16_at(query, query.len() - 4)?;
    let mut position = HEADER + question.len();
    let mut addresses = Vec::new();
    for _ in 0..u16_at(message, 6)? {
        position = skip_name(message, position)?;
        let kind = u16_at(message, position)?;
        let class = u16_at(message, position + 2)?;
        let length = usize::from(u16_at(message, position + 8)?);
        let data = message.get(position + 10..position + 10 + length)?;
        position += 10 + length;
        // Aliases (CNAME) stand before the addresses that they lead to: those are what we want.
        if kind == wanted && class == INTERNET {
            addresses.push(address(data)?);
        }
    }
    Some(Answer::Addresses(addresses))
}

fn u16_at(message: &[u8], position: usize) -> Option<u16> {
    let bytes = message.get(position..position + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Where a name ends: labels up to an empty one or a pointer.
fn skip_name(message: &[u8], mut position: usize) -> Option<usize> {
    loop {
        match *message.get(position)? {
            0 => return Some(position + 1),
            length if length >= 0xc0 => return Some(position + 2),
            length if length < 0x40 => position += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn address(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Name and type that a query asks for.
    pub(in super::super) fn question(query: &[u8]) -> (String, u16) {
        let mut labels = Vec::new();
        let mut position = HEADER;
        while query[position] != 0 {
            let length = usize::from(query[position]);
            let label = &query[position + 1..=position + length];
            labels.push(String::from_utf8(label.to_vec()).unwrap());
            position += 1 + length;
        }
        (labels.join("."), u16_at(query, position + 1).unwrap())
    }

    /// Answers a query with a response code and records; names are pointers to the question.
    pub(in super::super) fn reply(query: &[u8], code: u8, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut message = query.to_vec();
        message[2] |= 0x80;
        message[3] = 0x80 | code;
        message[7] = records.len() as u8;
        for (kind, data) in records {
            message.extend_from_slice(&[0xc0, HEADER as u8]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&INTERNET.to_be_bytes());
            message.extend_from_slice(&[0, 0, 0, 60]);
            message.extend_from_slice(&(data.len() as u16).to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    pub(in super::super) fn truncated(query: &[u8]) -> Vec<u8> {
        let mut message = reply(query, 0, &[]);
        message[2] |= 0x02;
        message
    }

    #[test]
    fn questions_are_written_as_the_standard_says() {
        let (id, message) = query("ab.c", Kind::Aaaa).unwrap();
        assert_eq!(message[..2], id.to_be_bytes());
        assert_eq!(
            message[2..],
            [
                1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'a', b'b', 1, b'c', 0, 0, 28, 0, 1
            ]
        );
        let long = "x".repeat(64);
        for bad in ["", ".", "a..b", long.as_str()] {
            assert!(query(bad, Kind::A).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn aliases_are_followed_to_the_addresses() {
        let (id, query) = query("a.b", Kind::A).unwrap();
        let alias = (5, vec![1, b'c', 0]);
        let message = reply(
            &query,
            0,
            &[alias, (1, vec![1, 2, 3, 4]), (28, vec![0; 16])],
        );
        assert_eq!(
            read_answer(&message, id, &query),
            Answer::Addresses(vec![IpAddr::from([1, 2, 3, 4])])
        );
        assert_eq!(
            read_answer(&reply(&query, 3, &[]), id, &query),
            Answer::NoSuchName
        );
        assert_eq!(
            read_answer(&reply(&query, 2, &[]), id, &query),
            Answer::Failed(2)
        );
        assert_eq!(
            read_answer(&truncated(&query), id, &query),
            Answer::Truncated
        );
    }

    #[test]
    fn no_cut_or_bent_message_is_believed_or_panics() {
        let (id, query) = query("a.b", Kind::A).unwrap();
        let whole = reply(&query, 0, &[(1, vec![1, 2, 3, 4])]);
        for length in 0..whole.len() {
            assert_eq!(
                read_answer(&whole[..length], id, &query),
                Answer::Foreign,
                "{length}"
            );
        }
        for position in 0..whole.len() {
            for value in [0, 0x3f, 0x40, 0xc0, 0xff] {
                let mut bent = whole.clone();
                bent[position] = value;
                read_answer(&bent, id, &query);
            }
        }
        assert_eq!(read_answer(&whole, id ^ 1, &query), Answer::Foreign);
        let (_, other) = super::query("a.c", Kind::A).unwrap();
        assert_eq!(read_answer(&whole, id, &other), Answer::Foreign);
    }
}
