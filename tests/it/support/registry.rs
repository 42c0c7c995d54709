//! Debian's `docker-registry` on loopback, and a proxy before it that counts and misbehaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::needs;

/// User of registries with a password file.
pub(crate) const USER: &str = "tester";
/// The password.
pub(crate) const PASSWORD: &str = "geheim";
/// The password file that knows them (bcrypt).
const HTPASSWD: &str = "tester:$2b$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n";

/// A registry process; ends with the value, or with the test.
pub(crate) struct Registry {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Registry {
    /// One that lets everybody in, over plain http.
    pub(crate) fn plain() -> Registry {
        Registry::start(&|_| (String::new(), String::new()))
    }

    /// One that wants a password.
    pub(crate) fn with_password() -> Registry {
        Registry::start(&|folder| {
            let path = folder.join("htpasswd");
            std::fs::write(&path, HTPASSWD).unwrap();
            let path = path.display();
            let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n");
            (String::new(), auth)
        })
    }

    /// One that speaks TLS with a certificate of a new authority; returns the authority's
    /// certificate as PEM.
    pub(crate) fn with_tls() -> (Registry, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let own = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&own, &issuer).unwrap().pem();
        let registry = Registry::start(&|folder| {
            std::fs::write(folder.join("cert.pem"), &certificate).unwrap();
            std::fs::write(folder.join("key.pem"), own.serialize_pem()).unwrap();
            let folder = folder.display();
            let tls =
                format!("  tls:\n    certificate: {folder}/cert.pem\n    key: {folder}/key.pem\n");
            (tls, String::new())
        });
        (registry, authority)
    }

    /// Starts one with pieces of configuration: below `http:`, and at the top.
    fn start(setup: &dyn Fn(&Path) -> (String, String)) -> Registry {
        needs::program("docker-registry", "docker-registry");
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(folder.path());
        // The port is free when we look; should somebody else take it, there is another try.
        for _ in 0..5 {
            let port = free_port();
            let mut child = spawn(folder.path(), port, &setup);
            if listens(port, &mut child) {
                return Registry {
                    child,
                    port,
                    folder,
                };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("docker-registry does not start:\n{log}");
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The directory with all that it has.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A name in this registry.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.host())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(folder: &Path, port: u16, setup: &(String, String)) -> Child {
    let config = folder.join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: 127.0.0.1:{port}\n  secret: test\n{}{}",
        folder.join("data").display(),
        setup.0,
        setup.1
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    // Should the test be killed, the registry goes with it.
    Command::new(needs::program("setpriv", "util-linux"))
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(&config)
        .env_clear()
        .env("PATH", needs::PROGRAM_PATH)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until somebody listens; false if the process ends before.
fn listens(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("docker-registry does not listen after 30 s");
}

/// What the proxy does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Passes it on, and the answer back.
    Forward,
    /// Answers with this status and header line itself.
    Answer(u16, &'static str),
    /// Passes it on, and closes after this many bytes of the answer's body.
    Cut(usize),
    /// Passes it on, and flips a bit in this byte of the answer's body.
    Flip(usize),
    /// Says nothing until the client goes away.
    Silence,
    /// Passes it on, and replaces the answer's digest header.
    WrongDigest,
    /// Sends a manifest that never ends.
    Endless,
    /// Passes it on, and sends the answer's body in small pieces with pauses.
    Drip,
}

/// A request and what came back.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Bytes of the answer's body.
    pub(crate) bytes: usize,
    /// The answer has gone out whole.
    pub(crate) answered: bool,
}

/// What came so far, and the news that there is more.
#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
}

/// Tokens that are good for some requests each.
#[derive(Default)]
struct Tokens {
    /// Requests for which a token is good; 0 if none is wanted.
    uses: usize,
    /// Uses of each token so far.
    used: Mutex<Vec<usize>>,
}

impl Tokens {
    /// Makes a token.
    fn issue(&self) -> String {
        let mut used = self.used.lock().unwrap();
        used.push(0);
        format!("token-{}", used.len() - 1)
    }

    /// Whether a request may pass.
    fn accept(&self, authorization: Option<&str>) -> bool {
        if self.uses == 0 {
            return true;
        }
        let number = authorization.and_then(|value| value.strip_prefix("Bearer token-"));
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else {
            return false;
        };
        let mut used = self.used.lock().unwrap();
        used[number] += 1;
        used[number] <= self.uses
    }
}

/// A server before a registry.
pub(crate) struct Proxy {
    port: u16,
    log: Arc<Log>,
    tokens: Arc<Tokens>,
}

type Script = dyn Fn(&str, &str, usize) -> Action + Send + Sync;

impl Proxy {
    /// Stands before a registry. The script gets method and target of a request, and how many such
    /// came before.
    pub(crate) fn before(
        registry: &Registry,
        script: impl Fn(&str, &str, usize) -> Action + Send + Sync + 'static,
    ) -> Proxy {
        Proxy::start(registry, 0, script)
    }

    /// Stands before a registry and wants tokens, which it hands out and which expire after so many
    /// requests, wherever that is.
    pub(crate) fn with_tokens(registry: &Registry, uses: usize) -> Proxy {
        Proxy::start(registry, uses, |_, _, _| Action::Forward)
    }

    fn start(
        registry: &Registry,
        uses: usize,
        script: impl Fn(&str, &str, usize) -> Action + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (kept, upstream) = (Arc::<Log>::default(), registry.port);
        let log = Arc::clone(&kept);
        let script: Arc<Script> = Arc::new(script);
        let tokens = Arc::new(Tokens {
            uses,
            ..Tokens::default()
        });
        let handed_out = Arc::clone(&tokens);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                let tokens = Arc::clone(&handed_out);
                std::thread::spawn(move || {
                    // A client that goes away is not an error here.
                    let _ = serve(stream.unwrap(), (port, upstream), &*script, &log, &tokens);
                });
            }
        });
        Proxy {
            port,
            log: kept,
            tokens,
        }
    }

    /// Requests that were refused because their token had expired.
    pub(crate) fn expired(&self) -> usize {
        let used = self.tokens.used.lock().unwrap();
        let over = used
            .iter()
            .map(|used| used.saturating_sub(self.tokens.uses));
        over.sum()
    }

    /// A name in the registry as seen through the proxy.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("127.0.0.1:{}/{repository}", self.port)
    }

    /// Requests so far with this method and this in the target.
    pub(crate) fn seen(&self, method: &str, part: &str) -> Vec<Seen> {
        let seen = self.log.seen.lock().unwrap();
        let matching = seen
            .iter()
            .filter(|seen| seen.method == method && seen.target.contains(part));
        matching.cloned().collect()
    }

    /// Waits until requests with these methods and parts of targets have all been answered.
    pub(crate) fn wait_for(&self, wanted: &[(&str, &str)]) {
        let missing = |seen: &mut Vec<Seen>| {
            !wanted.iter().all(|(method, part)| {
                let fits = |seen: &Seen| {
                    seen.answered && seen.method == *method && seen.target.contains(part)
                };
                seen.iter().any(fits)
            })
        };
        let seen = self.log.seen.lock().unwrap();
        let limit = Duration::from_mins(2);
        let waited = self.log.changed.wait_timeout_while(seen, limit, missing);
        let (seen, result) = waited.unwrap();
        assert!(!result.timed_out(), "never came: {wanted:?} in {seen:?}");
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.log.seen.lock().unwrap().len()
    }

    /// Bytes of all blobs that were sent to the client.
    pub(crate) fn blob_bytes(&self) -> usize {
        let blobs = self.seen("GET", "/blobs/");
        blobs.iter().map(|seen| seen.bytes).sum()
    }
}

fn serve(
    client: TcpStream,
    (port, upstream): (u16, u16),
    script: &Script,
    log: &Log,
    tokens: &Tokens,
) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    if client.fill_buf()?.first() == Some(&0x16) {
        // Somebody tries TLS: what a real server says then.
        let answer = b"HTTP/1.0 400 Bad Request\r\n\r\n";
        return client.get_mut().write_all(answer);
    }
    let mut line = String::new();
    client.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(());
    };
    let (mut head, mut length) = (format!("{method} {target} HTTP/1.1\r\n"), 0);
    let mut authorization = None;
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "expect" => client
                .get_mut()
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
        if !name.eq_ignore_ascii_case("expect") {
            head.push_str(&line);
        }
    }
    if target.starts_with("/token") {
        let body = format!("{{\"token\":\"{}\"}}", tokens.issue());
        let length = body.len();
        let text = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        return client.get_mut().write_all(text.as_bytes());
    }
    if !tokens.accept(authorization.as_deref()) {
        std::io::copy(&mut (&mut client).take(length), &mut std::io::sink())?;
        let text = format!(
            "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
             WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"test\"\r\n\r\n"
        );
        return client.get_mut().write_all(text.as_bytes());
    }
    let number = {
        let mut seen = log.seen.lock().unwrap();
        let same = |seen: &&Seen| seen.method == method && seen.target == target;
        let number = seen.iter().filter(same).count();
        seen.push(Seen {
            method: method.to_owned(),
            target: target.to_owned(),
            bytes: 0,
            answered: false,
        });
        (number, seen.len() - 1)
    };
    let action = script(method, target, number.0);
    if let Action::Answer(status, header) = &action {
        // Read first: closing with unread bytes would reset the connection.
        std::io::copy(&mut (&mut client).take(length), &mut std::io::sink())?;
        let text = format!(
            "HTTP/1.1 {status} Scripted\r\nConnection: close\r\n{header}\r\nContent-Length: 0\r\n\r\n"
        );
        return client.get_mut().write_all(text.as_bytes());
    }
    if matches!(action, Action::Endless) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n{{");
        client.get_mut().write_all(head.as_bytes())?;
        // Until the client has had enough.
        loop {
            client.get_mut().write_all(&[b' '; 8 << 10])?;
        }
    }
    if matches!(action, Action::Silence) {
        return std::io::copy(&mut client, &mut std::io::sink()).map(drop);
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    // The server may refuse before it has read all: its answer counts, not our error.
    let _ = std::io::copy(&mut (&mut client).take(length), &mut server);
    let sent = pass_back(server, &action, client.get_mut())?;
    let mut seen = log.seen.lock().unwrap();
    (seen[number.1].bytes, seen[number.1].answered) = (sent, true);
    log.changed.notify_all();
    Ok(())
}

/// Sends the answer on, changed or not; returns the bytes of its body.
fn pass_back(server: TcpStream, action: &Action, client: &mut TcpStream) -> std::io::Result<usize> {
    let mut server = BufReader::new(server);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        server.read_line(&mut line)?;
        let digest = line
            .to_ascii_lowercase()
            .starts_with("docker-content-digest");
        if digest && matches!(action, Action::WrongDigest) {
            line = format!("Docker-Content-Digest: sha256:{}\r\n", "0".repeat(64));
        }
        head.push_str(&line);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = Vec::new();
    server.read_to_end(&mut body)?;
    match action {
        Action::Cut(bytes) => body.truncate(*bytes),
        Action::Flip(at) => body[*at] ^= 1,
        _ => {}
    }
    client.write_all(head.as_bytes())?;
    let piece = match action {
        Action::Drip => body.len() / 64 + 1,
        _ => body.len().max(1),
    };
    for piece in body.chunks(piece) {
        client.write_all(piece)?;
        if matches!(action, Action::Drip) {
            // This is the fault, nothing waits for it.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What was announced and did not come is cut off here.
    client.shutdown(Shutdown::Both)?;
    Ok(body.len())
}
