//! A root made of busybox, and a way to run a command in it and look at what it says.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rbuild_runtime::{
    ExitStatus, RootFs, Runtime, RuntimeOptions, Sandbox, SandboxError, Stdio, UpperDir,
};
use tempfile::TempDir;

/// A directory with a root layer, an upper directory and a runtime.
pub(crate) struct Host {
    /// First, so that no sandbox is left before their directory goes.
    pub(crate) runtime: Runtime,
    pub(crate) directory: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) warnings: Vec<String>,
}

impl Outcome {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, ExitStatus::Code(0), "{self:?}");
        self.stdout.trim_end()
    }
}

impl Host {
    /// Lets the spawner end; returns the directory, which it needs to remove networks.
    pub(crate) fn end(self) -> TempDir {
        self.directory
    }

    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        // In memory: overlay works on tmpfs, and nothing is left after a crash of the machine.
        let directory = tempfile::Builder::new()
            .prefix("rbuild-test")
            .tempdir_in("/dev/shm");
        let directory = directory.unwrap();
        let layer = directory.path().join("layer");
        make_root(&layer);
        let options = RuntimeOptions {
            state_dir: directory.path().join("state"),
        };
        let host = Self {
            runtime: Runtime::start(options).unwrap(),
            directory,
        };
        for name in ["upper", "work"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A sandbox with a writable root that runs a shell script.
    pub(crate) fn shell(&self, script: &str) -> Sandbox {
        self.sandbox(&["/bin/sh", "-c", script])
    }

    pub(crate) fn sandbox(&self, args: &[&str]) -> Sandbox {
        let upper = UpperDir {
            upper: self.path("upper"),
            work: self.path("work"),
        };
        let lowers = vec![self.path("layer")];
        let root = RootFs {
            lowers,
            upper: Some(upper),
            readonly: false,
            plain: None,
        };
        let mut sandbox = Sandbox::new(root, args);
        sandbox.process.env = vec!["PATH=/bin".into()];
        sandbox
    }

    /// Runs a sandbox to its end.
    pub(crate) fn try_run(&self, sandbox: &Sandbox) -> Result<Outcome, SandboxError> {
        let (stdout, its_stdout) = pipe();
        let (stderr, its_stderr) = pipe();
        let stdio = Stdio {
            stdin: None,
            stdout: its_stdout,
            stderr: its_stderr,
        };
        let mut running = self.runtime.spawn(sandbox, stdio)?;
        let errors = std::thread::spawn(move || read(stderr));
        let stdout = read(stdout);
        let stderr = errors.join().unwrap();
        let status = running.wait()?;
        Ok(Outcome {
            status,
            stdout,
            stderr,
            warnings: running.warnings().to_vec(),
        })
    }

    #[track_caller]
    pub(crate) fn run(&self, sandbox: &Sandbox) -> Outcome {
        match self.try_run(sandbox) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}", chain(&error)),
        }
    }

    /// Runs a shell script that must succeed; returns what it prints.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.run(&self.shell(script)).text().to_owned()
    }

    /// Runs a sandbox that must not start; returns the error with its causes.
    #[track_caller]
    pub(crate) fn refused(&self, sandbox: &Sandbox) -> String {
        match self.try_run(sandbox) {
            Ok(outcome) => panic!("it ran: {outcome:?}"),
            Err(error) => chain(&error),
        }
    }
}

/// An error with its causes, as the command prints it.
pub(crate) fn chain(error: &SandboxError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

pub(crate) fn read(from: OwnedFd) -> String {
    let mut bytes = Vec::new();
    File::from(from).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Makes a root of busybox, with the directories that the builder's scaffold would add.
pub(crate) fn make_root(root: &Path) {
    for name in [
        "bin", "dev", "proc", "sys", "etc", "tmp", "root", "mnt", "work dir",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in ["etc/hosts", "etc/resolv.conf", "file"] {
        fs::write(root.join(name), "").unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, root.join("bin/busybox")).expect("these tests need busybox-static");
    for name in [
        "sh", "cat", "ls", "id", "grep", "true", "false", "sleep", "env", "pwd", "hostname",
        "mount", "umount", "unshare", "rm", "mkdir", "mknod", "chmod", "chown", "touch", "stat",
        "readlink", "ip", "ifconfig", "nc", "wget", "ps", "kill", "head", "tail", "wc", "tty",
        "stty", "dd", "test", "sort", "find", "ln", "mv", "cp", "echo", "yes", "su", "sed", "tr",
        "cut", "ping", "chroot", "seq", "df", "date", "basename", "setsid", "nohup", "uname",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}
