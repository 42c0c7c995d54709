//! Running the binary and other programs with a deadline, and what came out.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the output pipes of an ended process may stay open.
///
/// Longer means that a process it started still holds them, which is a leak.
const PIPES_CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A program about to be run.
pub(crate) struct Invocation {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Invocation {
    /// A program with an environment that holds only `PATH` (of the host).
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", super::needs::PROGRAM_PATH)
            .env("LC_ALL", "C.UTF-8");
        Self {
            command,
            stdin: Vec::new(),
            timeout: Duration::from_mins(2),
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Bytes for standard input; without them it is empty.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub(crate) fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// Runs to the end. Panics when the deadline passes.
    pub(crate) fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts the program.
    pub(crate) fn spawn(mut self) -> Running {
        let described = describe(&self.command);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {described}: {e}"));
        let mut input = child.stdin.take().unwrap();
        let bytes = self.stdin;
        // The program may end without reading its input: a broken pipe is its right.
        std::thread::spawn(move || drop(input.write_all(&bytes)));
        let (stdout, output) = collect(child.stdout.take().unwrap());
        let (stderr, lines) = collect(child.stderr.take().unwrap());
        Running {
            child,
            described,
            started,
            timeout: self.timeout,
            stdout,
            stderr,
            output,
            lines,
        }
    }
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    format!("`{text}`")
}

/// Reads a pipe to its end in a thread: all bytes at the end, and each line as it comes.
fn collect(mut pipe: impl Read + Send + 'static) -> (Receiver<Vec<u8>>, Receiver<String>) {
    let (all_sender, all) = channel();
    let (line_sender, lines) = channel();
    std::thread::spawn(move || {
        let (mut bytes, mut line_start) = (Vec::new(), 0);
        let mut buffer = [0; 8192];
        while let Ok(count) = pipe.read(&mut buffer)
            && count > 0
        {
            bytes.extend_from_slice(&buffer[..count]);
            while let Some(length) = bytes[line_start..].iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&bytes[line_start..line_start + length]);
                // Nobody may be listening: most callers only want the whole.
                let _ = line_sender.send(line.into_owned());
                line_start += length + 1;
            }
        }
        let _ = all_sender.send(bytes);
    });
    (all, lines)
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    described: String,
    started: Instant,
    timeout: Duration,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    output: Receiver<String>,
    lines: Receiver<String>,
}

impl Running {
    /// Waits until a line of standard error contains `text`.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        self.wait_for(&self.lines, text)
    }

    /// Waits until a line of standard output contains `text`.
    pub(crate) fn wait_for_output(&self, text: &str) -> String {
        self.wait_for(&self.output, text)
    }

    fn wait_for(&self, lines: &Receiver<String>, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let left = self.timeout.saturating_sub(self.started.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!(
                        "{}: no line with {text:?}, but:\n{}",
                        self.described,
                        seen.join("\n")
                    )
                }
            }
        }
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program itself, and nothing else, with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end. Panics, after killing the program, when the deadline passes.
    pub(crate) fn wait(mut self) -> Outcome {
        let status = self.wait_with_deadline();
        let elapsed = self.started.elapsed();
        let pipe = |receiver: &Receiver<Vec<u8>>, name: &str| {
            receiver
                .recv_timeout(PIPES_CLOSE_WITHIN)
                .unwrap_or_else(|_| {
                    panic!(
                        "{} ended, but a process it started still holds its {name}",
                        self.described
                    )
                })
        };
        let stdout = pipe(&self.stdout, "standard output");
        let stderr = String::from_utf8_lossy(&pipe(&self.stderr, "standard error")).into_owned();
        Outcome {
            described: self.described,
            status,
            stdout,
            stderr,
            elapsed,
        }
    }

    fn wait_with_deadline(&mut self) -> ExitStatus {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        loop {
            let left = self.timeout.saturating_sub(self.started.elapsed());
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec::try_from(left).unwrap())) {
                Ok(0) => break,
                Ok(_) => return self.child.wait().unwrap(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("could not wait for {}: {error}", self.described),
            }
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let text = self
            .stderr
            .recv_timeout(PIPES_CLOSE_WITHIN)
            .unwrap_or_default();
        panic!(
            "{} did not end within {:?}; standard error:\n{}",
            self.described,
            self.timeout,
            String::from_utf8_lossy(&text)
        );
    }
}

/// What a program left: status, output, time.
pub(crate) struct Outcome {
    described: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// Exit status as a shell reports it.
    pub(crate) fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// Standard output as text.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output and standard error together.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.out(), self.stderr)
    }

    /// Panics unless the exit status is 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Panics unless the exit status is `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            code,
            "{} ended with {}\n--- standard output\n{}--- standard error\n{}---",
            self.described,
            self.status,
            self.out(),
            self.stderr
        );
        self
    }

    /// Panics unless standard output is `text`.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(
            self.out(),
            text,
            "{}: standard error:\n{}",
            self.described,
            self.stderr
        );
        self
    }

    /// Panics unless standard error contains `text`, in whatever case.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.to_lowercase().contains(&text.to_lowercase()),
            "{}: standard error lacks {text:?}:\n{}",
            self.described,
            self.stderr
        );
        self
    }

    /// Panics unless it is a failure a user can read: status 1, the one `ERROR:` (or `Error:`) line
    /// of standard error holds `text`, nothing on standard output, no panic of the program.
    #[track_caller]
    pub(crate) fn fails_with(self, text: &str) -> Self {
        let outcome = self.exits(1);
        let errors: Vec<_> = outcome
            .stderr
            .lines()
            .filter(|line| line.to_ascii_uppercase().starts_with("ERROR:"))
            .collect();
        assert!(
            errors.len() == 1 && errors[0].contains(text),
            "{}: want one line `ERROR: …{text}…`, got:\n{}",
            outcome.described,
            outcome.stderr
        );
        assert!(
            !outcome.stderr.contains("this is a bug"),
            "{}",
            outcome.stderr
        );
        assert_eq!(
            outcome.out(),
            "",
            "an error must leave standard output empty"
        );
        outcome
    }
}

/// `OsString`s of mixed arguments, for calls with paths and strings side by side.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$(::std::ffi::OsString::from(&$arg)),*]
    };
}

/// Joins a flag's name and a path, as in `dest=PATH`.
pub(crate) fn with_path(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}
