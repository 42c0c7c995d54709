//! Messages of name servers (RFC 1035, section 4), as far as they are looked at here.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

const HEADER: usize = 12;
const TYPE_ADDRESS: u16 = 1;
const TYPE_POINTER: u16 = 12;
const CLASS_INTERNET: u16 = 1;
/// Containers come and go: nobody shall remember an answer for long.
const SECONDS: u32 = 1;
/// Addresses in an answer, which shall fit into the 512 bytes that every asker takes.
const MOST: usize = 12;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The IPv4 address of a name.
    Address,
    /// The name of an address.
    Pointer(Ipv4Addr),
    /// Anything else.
    Other,
}

/// The question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The name in lower case, without the dot at the end.
    pub(super) name: String,
    /// What is asked for.
    pub(super) kind: Kind,
    /// Where the question ends in the query.
    end: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rcode {
    /// It could not be found out.
    Failed = 2,
    /// There is no such name.
    NoName = 3,
}

/// Reads a query with one question.
pub(super) fn question(query: &[u8]) -> Option<Question> {
    let header = query.get(..HEADER)?;
    // An ordinary query, not an answer, with one question.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = query.get(at..at + length)?;
                labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            // A question is the first thing there is: it points to nothing before it.
            _ => return None,
        }
    }
    let tail = query.get(at..at + 4)?;
    let name = labels.join(".");
    let kind = match (
        u16::from_be_bytes([tail[0], tail[1]]),
        u16::from_be_bytes([tail[2], tail[3]]),
    ) {
        (TYPE_ADDRESS, CLASS_INTERNET) => Kind::Address,
        (TYPE_POINTER, CLASS_INTERNET) => reverse(&name).map_or(Kind::Other, Kind::Pointer),
        _ => Kind::Other,
    };
    Some(Question {
        name,
        kind,
        end: at + 4,
    })
}

/// The address that `4.3.2.1.in-addr.arpa` asks for.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let backward: Ipv4Addr = name.strip_suffix(".in-addr.arpa")?.parse().ok()?;
    let [a, b, c, d] = backward.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

/// An answer with addresses, another one first each time.
pub(super) fn addresses(query: &[u8], question: &Question, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut shown = addresses.to_vec();
    if shown.len() > 1 {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let turn = time.map_or(0, |time| time.subsec_micros() as usize);
        let count = shown.len();
        shown.rotate_left(turn % count);
        shown.truncate(MOST);
    }
    let mut answer = begin(query, question, 0, shown.len() as u16);
    for address in shown {
        record(&mut answer, TYPE_ADDRESS, &address.octets());
    }
    answer
}

/// An answer with a name.
pub(super) fn pointer(query: &[u8], question: &Question, name: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for label in name.split('.') {
        let label = &label.as_bytes()[..label.len().min(63)];
        data.push(label.len() as u8);
        data.extend_from_slice(label);
    }
    data.push(0);
    let mut answer = begin(query, question, 0, 1);
    record(&mut answer, TYPE_POINTER, &data);
    answer
}

/// An answer that there is none.
pub(super) fn refusal(query: &[u8], question: &Question, code: Rcode) -> Vec<u8> {
    begin(query, question, code as u8, 0)
}

fn begin(query: &[u8], question: &Question, code: u8, answers: u16) -> Vec<u8> {
    let mut message = query[..question.end].to_vec();
    // An answer, recursion as it was wished for, and available.
    message[2] = 0x80 | (query[2] & 0x01);
    message[3] = 0x80 | code;
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    message[8..HEADER].fill(0);
    message
}

fn record(message: &mut Vec<u8>, kind: u16, data: &[u8]) {
    // The name is that of the question.
    message.extend([0xc0, HEADER as u8]);
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_INTERNET.to_be_bytes());
    message.extend(SECONDS.to_be_bytes());
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_question_is_none() {
        let good =
            b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01A\x02bC\x00\x00\x01\x00\x01";
        let found = question(good).unwrap();
        assert_eq!((found.name.as_str(), found.kind), ("a.bc", Kind::Address));
        for length in 0..good.len() {
            assert_eq!(question(&good[..length]), None, "{length}");
        }
        let mut answer = good.to_vec();
        answer[2] |= 0x80;
        assert_eq!(question(&answer), None);
        let mut pointing = good.to_vec();
        pointing[HEADER] = 0xc0;
        assert_eq!(question(&pointing), None);
    }

    #[test]
    fn an_answer_stays_small_however_many_there_are() {
        let query = b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
        let question = question(query).unwrap();
        let many = vec![Ipv4Addr::LOCALHOST; 300];
        let answer = addresses(query, &question, &many);
        assert!(answer.len() <= 512);
        assert_eq!(answer[6..8], (MOST as u16).to_be_bytes());
    }
}
