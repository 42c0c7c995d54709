//! Questions that come by a connection, as long ones and those for long answers do.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::message::{self, Rcode};
use super::{Answer, DOMAIN, Known};

/// Connections at a time.
pub(super) const MOST: usize = 16;

/// How long either side may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until the caller has no more questions.
pub(super) fn serve(known: &Known, mut caller: TcpStream) -> io::Result<()> {
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.set_write_timeout(Some(PATIENCE))?;
    loop {
        let query = receive(&mut caller)?;
        let Some(question) = message::question(&query) else {
            return Ok(());
        };
        let answer = match known.answer(&query, &question) {
            Answer::Known(answer) => answer,
            Answer::Elsewhere => ask(known, &query)
                .unwrap_or_else(|| message::refusal(&query, &question, Rcode::Failed)),
        };
        send(&mut caller, &answer)?;
    }
}

/// What the first name server says that says anything.
fn ask(known: &Known, query: &[u8]) -> Option<Vec<u8>> {
    known.upstream.iter().find_map(|server| {
        let address = SocketAddr::new(*server, DOMAIN);
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        send(&mut stream, query).ok()?;
        receive(&mut stream).ok()
    })
}

/// A message with its length before it (RFC 1035, section 4.2.2).
fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}
