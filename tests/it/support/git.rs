//! Git repositories, and a server of the git protocol in the test's process.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::needs;

/// Time of all commits: 2001-02-03T04:05:06Z.
pub(crate) const COMMIT_TIME: i64 = 981_173_106;

/// A repository whose commits always have the same names.
pub(crate) struct Repository {
    path: PathBuf,
}

impl Repository {
    /// An empty one with the branch `main`.
    pub(crate) fn new(path: &Path) -> Repository {
        let repository = Repository {
            path: path.to_owned(),
        };
        std::fs::create_dir_all(path).unwrap();
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    /// Commits all files and returns the commit.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in it and returns what it prints.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = command()
            .args(arguments)
            .current_dir(&self.path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn command() -> Command {
    let mut command = Command::new(needs::program("git", "git"));
    command
        .env_clear()
        .env("PATH", needs::PROGRAM_PATH)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "t")
            .env(format!("GIT_{who}_EMAIL"), "t@x")
            .env(format!("GIT_{who}_DATE"), format!("{COMMIT_TIME} +0000"));
    }
    command
}

/// Serves the repositories of a directory by the git protocol; ends with the value.
pub(crate) struct GitServer {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GitServer {
    pub(crate) fn start(directory: &Path) -> GitServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let directory = directory.to_owned();
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let directory = directory.clone();
                // A client that goes away in the middle is its own business.
                std::thread::spawn(move || serve(connection.unwrap(), &directory));
            }
        });
        GitServer {
            address,
            ended,
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Address of a repository.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("git://{}/{name}", self.address)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the request (`0033git-upload-pack /r.git\0host=…\0\0version=2\0`) and leaves the rest to
/// `git upload-pack`.
fn serve(mut connection: TcpStream, directory: &Path) -> Option<()> {
    let mut length = [0; 4];
    connection.read_exact(&mut length).ok()?;
    let length = usize::from_str_radix(std::str::from_utf8(&length).ok()?, 16).ok()?;
    let mut request = vec![0; length.checked_sub(4)?];
    connection.read_exact(&mut request).ok()?;
    let text = String::from_utf8(request).ok()?;
    let mut parts = text.split('\0');
    let path = parts.next()?.strip_prefix("git-upload-pack /")?;
    assert!(!path.contains(".."), "{path}");
    let version = parts.find(|part| part.starts_with("version="));
    let mut child = command()
        .arg("upload-pack")
        .arg(directory.join(path))
        .env("GIT_PROTOCOL", version.unwrap_or_default())
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stdin(OwnedFd::from(connection.try_clone().ok()?))
        .stdout(OwnedFd::from(connection))
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.wait().ok()?;
    Some(())
}
