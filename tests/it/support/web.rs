//! A web server in the test's process: what it answers is the test's to say, what it was asked is
//! written down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query, or a whole address where it was asked as a proxy.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What is special about how the body is sent.
    pub(crate) manner: Manner,
}

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// As it should be.
    #[default]
    Whole,
    /// Only the first bytes of it, then the connection is closed.
    CutAfter(usize),
    /// Over and over again, without a length.
    Endless,
    /// The headers, and then nothing until the client goes away.
    Silent,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Answer {
        Answer {
            status,
            ..Answer::default()
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            body: body.into(),
            ..Answer::new(200)
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Answer {
        self.manner = manner;
        self
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The server; ends with the value.
pub(crate) struct WebServer {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// A server on loopback that answers with what `handler` says.
    pub(crate) fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> WebServer {
        Self::start_at(std::net::Ipv4Addr::LOCALHOST, handler)
    }

    /// The same on another address of this machine.
    pub(crate) fn start_at(
        address: std::net::Ipv4Addr,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> WebServer {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let shared: (Arc<Handler>, _, _) =
            (Arc::new(handler), Arc::clone(&log), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let (handler, log, ended) = shared;
            for connection in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                // A client that goes away in the middle is its own business.
                std::thread::spawn(move || serve(connection.unwrap(), &*handler, &log));
            }
        });
        WebServer {
            address,
            log,
            ended,
            thread: Some(thread),
        }
    }

    /// `ADDRESS:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns what was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(connection: TcpStream, handler: &Handler, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut writer = connection;
    loop {
        let asked = read_request(&mut reader)?;
        log.lock().unwrap().push(asked.clone());
        let answer = handler(&asked);
        let open = send(&mut writer, &asked, &answer).ok()?;
        if !open {
            return Some(());
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Some(Asked {
                method,
                target,
                headers,
            });
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Sends an answer; whether the connection can be used again.
fn send(writer: &mut TcpStream, asked: &Asked, answer: &Answer) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match answer.manner {
        Manner::Endless => head.push_str("Connection: close\r\n"),
        _ => head.push_str(&format!("Content-Length: {}\r\n", answer.body.len())),
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes())?;
    if asked.method == "HEAD" || answer.status == 304 {
        return Ok(true);
    }
    match answer.manner {
        Manner::Whole => writer.write_all(&answer.body).map(|()| true),
        Manner::CutAfter(count) => writer.write_all(&answer.body[..count]).map(|()| false),
        Manner::Endless => loop {
            writer.write_all(&answer.body)?;
        },
        Manner::Silent => {
            writer.flush()?;
            // Ends when the client closes.
            let mut rest = [0; 1];
            writer.read(&mut rest).map(|_| false)
        }
    }
}
