//! A server that stands before a registry, or alone, and misbehaves by script.
//!
//! It speaks just enough HTTP/1.1: one request a connection. Bodies are passed on as they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbuild_registry::Location;

/// What the server does with a request.
pub(crate) enum Action {
    /// Passes it on, and the answer back.
    Forward,
    /// Answers itself.
    Reply(Reply),
    /// Passes it on, and answers something else when that is done.
    ForwardThenReply(Reply),
    /// Passes it on, and closes after this many bytes of the answer's body.
    CutAnswer(usize),
    /// Passes this many bytes of the body on, then closes both sides.
    CutRequest(usize),
    /// Closes without an answer.
    Close,
    /// Passes it on without one of its headers.
    ForwardWithout(&'static str),
    /// Passes it on, and flips a bit in the byte at this place of the answer's body.
    Flip(usize),
    /// Passes it on, and replaces a header of the answer.
    SetHeader(&'static str, String),
    /// Passes it on, and sends the answer's body by so many bytes with pauses.
    Drip(usize, Duration),
    /// Reads it and says nothing until the client goes away.
    Silence,
    /// Reads nothing any more and keeps the connection open.
    Deafness,
}

/// An answer.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Goes on sending the body for ever, without telling a length.
    pub(crate) endless: bool,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The body of a small `POST`.
    pub(crate) body: String,
    headers: Vec<(String, String)>,
}

/// The server; lives as long as the test process.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply {
            status,
            ..Reply::default()
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    pub(crate) fn redirect(status: u16, location: impl Into<String>) -> Reply {
        Reply::status(status).header("Location", location)
    }
}

impl From<Reply> for Action {
    fn from(reply: Reply) -> Action {
        Action::Reply(reply)
    }
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether it is this method, and the target has this in it.
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    fn length(&self) -> u64 {
        self.header("content-length")
            .map_or(0, |value| value.parse().unwrap())
    }
}

impl Proxy {
    /// Stands before `upstream`.
    pub(crate) fn before(
        upstream: SocketAddr,
        script: impl Fn(&Seen) -> Action + Send + Sync + 'static,
    ) -> Proxy {
        Proxy::start(Some(upstream), Arc::new(script))
    }

    /// Stands alone.
    pub(crate) fn alone(script: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Proxy {
        Proxy::start(None, Arc::new(script))
    }

    fn start(
        upstream: Option<SocketAddr>,
        script: Arc<dyn Fn(&Seen) -> Action + Send + Sync>,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || {
                    // A client that goes away is not an error here.
                    let _ = serve(stream.unwrap(), upstream, &*script, &log);
                });
            }
        });
        Proxy { port, seen }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn location(&self, repository: &str, tag: &str) -> Location {
        crate::support::location(&self.host(), repository, tag)
    }

    /// The requests so far that are of this method and have this in their target.
    pub(crate) fn seen(&self, method: &str, part: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|request| request.is(method, part))
            .cloned()
            .collect()
    }
}

/// A script that does something with the first `times` requests that match, and forwards the rest.
pub(crate) fn first(
    times: usize,
    method: &'static str,
    part: &'static str,
    action: impl Fn(usize) -> Action + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Action + Send + Sync + 'static {
    let count = AtomicUsize::new(0);
    move |request| {
        if !request.is(method, part) {
            return Action::Forward;
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            number if number < times => action(number),
            _ => Action::Forward,
        }
    }
}

fn serve(
    stream: TcpStream,
    upstream: Option<SocketAddr>,
    script: &(dyn Fn(&Seen) -> Action + Send + Sync),
    log: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let mut client = BufReader::new(stream);
    let Some(mut request) = read_head(&mut client)? else {
        // Not HTTP: somebody tries TLS. What a real server says then.
        return client
            .get_mut()
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    };
    let mut length = request.length();
    if upstream.is_none() && request.method == "POST" {
        (&mut client)
            .take(std::mem::take(&mut length))
            .read_to_string(&mut request.body)?;
    }
    log.lock().unwrap().push(request.clone());
    let forward = |without: &str, limit: u64, client: &mut BufReader<TcpStream>| {
        let upstream = upstream.expect("a server that stands alone does not forward");
        pass_on(upstream, &request, without, length.min(limit), client)
    };
    let answer = match script(&request) {
        Action::Reply(reply) => {
            // Read first: closing with unread bytes would reset the connection.
            std::io::copy(&mut (&mut client).take(length), &mut std::io::sink())?;
            return send_reply(client.get_mut(), &request, &reply);
        }
        Action::ForwardThenReply(reply) => {
            let mut answer = forward("", u64::MAX, &mut client)?;
            std::io::copy(&mut answer, &mut std::io::sink())?;
            return send_reply(client.get_mut(), &request, &reply);
        }
        Action::Silence => {
            std::io::copy(&mut client, &mut std::io::sink())?;
            return Ok(());
        }
        Action::Deafness => loop {
            std::thread::park();
        },
        Action::Close => return Ok(()),
        Action::CutRequest(bytes) => {
            drop(forward("", bytes as u64, &mut client)?);
            return client.get_mut().shutdown(Shutdown::Both);
        }
        Action::ForwardWithout(header) => {
            return copy(forward(header, u64::MAX, &mut client)?, client.get_mut());
        }
        Action::Forward => return copy(forward("", u64::MAX, &mut client)?, client.get_mut()),
        other => {
            let answer = forward("", u64::MAX, &mut client)?;
            (answer, other)
        }
    };
    let (mut upstream, action) = answer;
    change_answer(&mut upstream, &action, client.get_mut())
}

fn copy(mut answer: BufReader<TcpStream>, client: &mut TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut answer, client).map(drop)
}

/// Sends the request on, with so much of its body; returns the side where the answer comes.
fn pass_on(
    upstream: SocketAddr,
    request: &Seen,
    without: &str,
    bytes: u64,
    client: &mut BufReader<TcpStream>,
) -> std::io::Result<BufReader<TcpStream>> {
    let mut server = TcpStream::connect(upstream)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        let dropped = ["connection", "expect"].contains(&name.to_ascii_lowercase().as_str());
        if !dropped && !name.eq_ignore_ascii_case(without) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    server.write_all(head.as_bytes())?;
    if request.header("expect").is_some() {
        client
            .get_mut()
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    // The server may refuse before it has read all: its answer counts, not our error.
    let _ = std::io::copy(&mut client.take(bytes), &mut server);
    Ok(BufReader::new(server))
}

fn change_answer(
    server: &mut BufReader<TcpStream>,
    action: &Action,
    client: &mut TcpStream,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        server.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let replaced = match action {
            Action::SetHeader(name, _) => line
                .split(':')
                .next()
                .is_some_and(|own| own.eq_ignore_ascii_case(name)),
            _ => false,
        };
        if !replaced {
            head.extend_from_slice(line.as_bytes());
        }
    }
    if let Action::SetHeader(name, value) = action {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    client.write_all(&head)?;
    let mut body = Vec::new();
    server.read_to_end(&mut body)?;
    match action {
        Action::CutAnswer(bytes) => {
            client.write_all(&body[..body.len().min(*bytes)])?;
            return client.shutdown(Shutdown::Both);
        }
        Action::Flip(at) => body[*at] ^= 1,
        Action::Drip(bytes, pause) => {
            for part in body.chunks(*bytes) {
                client.write_all(part)?;
                std::thread::sleep(*pause);
            }
            return Ok(());
        }
        _ => {}
    }
    client.write_all(&body)
}

fn send_reply(client: &mut TcpStream, request: &Seen, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nConnection: close\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length = reply
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !reply.endless && !has_length {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    client.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    client.write_all(&reply.body)?;
    if reply.endless {
        // Until the client has enough and goes away.
        loop {
            client.write_all(&reply.body)?;
        }
    }
    Ok(())
}

/// None if it is not HTTP.
fn read_head(client: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let start = client.fill_buf()?;
    if start.first() == Some(&0x16) {
        return Ok(None);
    }
    let mut line = String::new();
    client.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut request = Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        body: String::new(),
        headers: Vec::new(),
    };
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => request
                .headers
                .push((name.trim().to_owned(), value.trim().to_owned())),
            None => return Ok(Some(request)),
        }
    }
}
