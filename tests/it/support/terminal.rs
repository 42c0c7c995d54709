//! A program on a pseudo terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::{TestEnv, needs};

/// How long something may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A program on a pseudo terminal of its own, as its session's controlling terminal.
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    pub(crate) master: File,
    /// Kept open so that the terminal's settings can be read after the program's end.
    slave: OwnedFd,
    pub(crate) output: Receiver<Vec<u8>>,
    /// Closing it ends the thread that reads `master`.
    reading: OwnedFd,
    seen: String,
}

impl OnTerminal {
    pub(crate) fn start(env: &TestEnv, args: &[&str]) -> Self {
        Self::start_sized(env, args, (40, 100))
    }

    pub(crate) fn start_sized(env: &TestEnv, args: &[&str], size: (u16, u16)) -> Self {
        Self::start_with(env, args, size, &[])
    }

    pub(crate) fn start_with(
        env: &TestEnv,
        args: &[&str],
        (rows, columns): (u16, u16),
        variables: &[(&str, &str)],
    ) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        set_size(&master, rows, columns);
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = Command::new(needs::program("setsid", "util-linux"))
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_rbuild")])
            .args(args)
            .env_clear()
            .env("PATH", needs::PROGRAM_PATH)
            .env("TERM", "xterm")
            .env("HOME", env.join("home"))
            .env("TMPDIR", env.join("tmp"))
            .env("RBUILD_ROOT", env.store())
            .envs(variables.iter().copied())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let (stop, reading) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let output = read_in_background(master.try_clone().unwrap(), stop);
        Self {
            child,
            master,
            slave,
            output,
            reading,
            seen: String::new(),
        }
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the output since the last such call contains `text`, and returns it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} on the terminal ({error}): {:?}", self.seen),
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        let rest = self.seen.split_off(end);
        std::mem::replace(&mut self.seen, rest)
    }

    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    /// Takes the terminal away, as a closed window or a broken connection does; the exit status.
    #[track_caller]
    pub(crate) fn hang_up(self) -> Option<i32> {
        let Self {
            mut child,
            master,
            slave,
            output,
            reading,
            seen,
        } = self;
        drop((slave, reading));
        // The reader's copy of the terminal is closed when it has hung up its end of the channel.
        while output.recv_timeout(PATIENCE).is_ok() {}
        drop(master);
        wait_for(&mut child, &seen).code()
    }

    /// Waits for the end; the exit status and what was still on the terminal.
    #[track_caller]
    pub(crate) fn end(&mut self) -> (i32, String) {
        let status = wait_for(&mut self.child, &self.seen);
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status.code().unwrap_or(-1), self.seen.clone())
    }
}

#[track_caller]
fn wait_for(child: &mut Child, seen: &str) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(child);
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(pid, flags).unwrap();
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(PATIENCE).unwrap();
    if poll(&mut fds, Some(&timeout)).unwrap() == 0 {
        child.kill().unwrap();
        panic!("still running; on the terminal: {seen:?}");
    }
    child.wait().unwrap()
}

/// Reads until the terminal's other side or the writing end of `stop` is closed.
fn read_in_background(mut from: File, stop: OwnedFd) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let mut fds = [
                PollFd::new(&from, PollFlags::IN),
                PollFd::new(&stop, PollFlags::IN),
            ];
            poll(&mut fds, None).unwrap();
            if fds[0].revents().is_empty() {
                return;
            }
            // EIO says that the last holder of the other side closed it.
            match from.read(&mut buffer) {
                Ok(count) if count > 0 && sender.send(buffer[..count].to_vec()).is_ok() => {}
                _ => return,
            }
        }
    });
    receiver
}

/// Gives a terminal another size.
pub(crate) fn set_size(terminal: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}
