//! A registry process, a store, and clients with short tempers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild_cache::{BlobInfo, Digest, Store, StoreOptions};
use rbuild_registry::{
    Client, ClientOptions, Descriptor, Location, Notice, Notify, Reference, RetryPolicy, Timeouts,
};

/// Media type of an image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// User of registries with a password file.
pub(crate) const USER: &str = "tester";
/// His password.
pub(crate) const PASSWORD: &str = "geheim";
/// The password file that knows him (bcrypt).
const HTPASSWD: &str = "tester:$2b$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n";

/// A `docker-registry` on loopback; ends with the value, or with the test's thread.
pub(crate) struct TestRegistry {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

/// How a registry is set up: pieces of its YAML configuration.
#[derive(Default)]
pub(crate) struct Setup {
    /// Below `http:`, indented by two.
    pub(crate) http: String,
    /// At the top level.
    pub(crate) top: String,
}

impl TestRegistry {
    /// One that lets everybody in, over plain http.
    pub(crate) fn plain() -> TestRegistry {
        TestRegistry::start(|_| Setup::default())
    }

    /// One that wants a password.
    pub(crate) fn with_password() -> TestRegistry {
        TestRegistry::start(|folder| {
            let path = folder.join("htpasswd");
            std::fs::write(&path, HTPASSWD).unwrap();
            Setup {
                top: format!(
                    "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                    path.display()
                ),
                ..Setup::default()
            }
        })
    }

    /// Starts one; `setup` gets a directory for files.
    pub(crate) fn start(setup: impl Fn(&Path) -> Setup) -> TestRegistry {
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(folder.path());
        // The port is free when we look; should somebody else take it, there is another try.
        for _ in 0..5 {
            let port = free_port();
            let mut child = spawn(folder.path(), port, &setup);
            if wait_for(port, &mut child) {
                return TestRegistry {
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

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn location(&self, repository: &str, tag: &str) -> Location {
        location(&self.host(), repository, tag)
    }

    /// What the registry wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, port: u16, setup: &Setup) -> Child {
    let config = folder.join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: 127.0.0.1:{port}\n  secret: test\n{}{}",
        folder.join("data").display(),
        setup.http,
        setup.top
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    // Should the test be killed, the registry goes with it.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(&config)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .expect("setpriv and docker-registry are needed for this test")
}

/// Waits until somebody listens; false if the process ends before.
fn wait_for(port: u16, child: &mut Child) -> bool {
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

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A store in a directory of its own.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), &StoreOptions::default()).unwrap();
        TestStore { store, folder }
    }

    /// Puts bytes into the store.
    pub(crate) fn put(&self, bytes: &[u8]) -> Descriptor {
        let BlobInfo { digest, size } = self.store.put_blob(bytes).unwrap();
        Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest,
            size,
        }
    }

    /// Reads a blob back; none if it is not there.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = self.store.open_blob(digest).ok()?;
        file.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    /// Files that downloads left behind.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let tmp = self.folder.path().join("store/tmp");
        walk(&tmp)
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// Bytes that look random and are the same each time.
pub(crate) fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn location(host: &str, repository: &str, tag: &str) -> Location {
    Location {
        host: host.to_owned(),
        repository: repository.to_owned(),
        reference: Reference::Tag(tag.to_owned()),
    }
}

/// Options for tests: waits are short, everything else is as in real life.
pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(50),
            ..RetryPolicy::default()
        },
        timeouts: Timeouts {
            stall: Duration::from_secs(10),
            ..Timeouts::default()
        },
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

/// Options that keep what they are told.
pub(crate) fn options_with_notices() -> (ClientOptions, Arc<Mutex<Vec<Notice>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notices);
    let options = ClientOptions {
        notify: Some(Notify(Arc::new(move |notice: &Notice| {
            kept.lock().unwrap().push(notice.clone());
        }))),
        ..options()
    };
    (options, notices)
}

pub(crate) fn no_progress(_: u64) {}

/// A small image in the store: its config, layers and the bytes of its manifest.
pub(crate) struct Image {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) manifest: Vec<u8>,
}

/// Makes an image that every tool takes for a real one.
pub(crate) fn image(store: &TestStore, layer_sizes: &[usize]) -> Image {
    let layers: Vec<Descriptor> = layer_sizes
        .iter()
        .enumerate()
        .map(|(number, size)| store.put(&tar(&bytes(*size, number as u64 + 1))))
        .collect();
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| layer.digest.to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut config = store.put(config.to_string().as_bytes());
    "application/vnd.oci.image.config.v1+json".clone_into(&mut config.media_type);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
    });
    Image {
        config,
        layers,
        manifest: manifest.to_string().into_bytes(),
    }
}

/// Pushes an image; returns its digest.
pub(crate) fn push(client: &Client, store: &TestStore, image: &Image, to: &Location) -> Digest {
    for blob in image.layers.iter().chain([&image.config]) {
        client
            .push_blob(to, &store.store, blob, None, &no_progress)
            .unwrap();
    }
    client.push_manifest(to, &image.manifest, MANIFEST).unwrap()
}

/// A tar with one file.
fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"file");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    write!(&mut header[124..136], "{:011o}\0", content.len()).unwrap();
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    write!(&mut header[148..156], "{sum:06o}\0 ").unwrap();
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}
