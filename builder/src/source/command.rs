//! Running a program of this machine: output by pipes, stopped when the build is.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cancel::Cancel;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// Most bytes of standard output that are kept.
const MOST_OUTPUT: usize = 64 << 20;
/// Last bytes of standard error that are kept for the report of a failure.
const ERROR_TAIL: usize = 4 << 10;

/// Why a program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It could not be started, or its output not be read.
    #[error("could not run `{}`", program.display())]
    Run {
        /// The program.
        program: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with another status than 0.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// What was run, without credentials.
        command: String,
        /// Its status.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// It put out too much.
    #[error("`{command}` put out more than {} MiB", MOST_OUTPUT >> 20)]
    Output {
        /// What was run.
        command: String,
    },
    /// The build was stopped.
    #[error("stopped")]
    Cancelled,
}

/// A program with its surroundings.
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    /// All of its environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) cancel: &'a Cancel,
    /// Sees standard error as it comes.
    pub(crate) on_stderr: &'a dyn Fn(&[u8]),
}

impl Program<'_> {
    /// Runs it and returns its standard output.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        directory: &Path,
        shown: &str,
    ) -> Result<Vec<u8>, CommandError> {
        let failed = |source: io::Error| CommandError::Run {
            program: self.path.to_path_buf(),
            source,
        };
        let (stdout, stdout_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let (stderr, stderr_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let mut command = Command::new(self.path);
        command
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout_write)
            .stderr(stderr_write)
            // Its helpers must die with it.
            .process_group(0);
        let mut running = Running(command.spawn().map_err(failed)?);
        // The ends that the child writes to.
        drop(command);
        let mut output = Output {
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let drained = self.drain(stdout, stderr, &mut output).map_err(failed)?;
        match drained {
            Drained::Cancelled => return Err(CommandError::Cancelled),
            Drained::TooMuch => {
                return Err(CommandError::Output {
                    command: shown.to_owned(),
                });
            }
            Drained::All => {}
        }
        let status = running.0.wait().map_err(failed)?;
        if status.success() {
            return Ok(output.stdout);
        }
        if self.cancel.is_cancelled() {
            return Err(CommandError::Cancelled);
        }
        Err(CommandError::Failed {
            command: shown.to_owned(),
            status,
            stderr: last_lines(&output.stderr),
        })
    }

    /// Reads both pipes to their ends.
    fn drain(&self, stdout: OwnedFd, stderr: OwnedFd, output: &mut Output) -> io::Result<Drained> {
        let mut pipes = [Some(stdout), Some(stderr)];
        let mut buffer = vec![0; CHUNK];
        while pipes.iter().any(Option::is_some) {
            let ready = {
                let mut fds = vec![PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN)];
                fds.extend(
                    pipes
                        .iter()
                        .flatten()
                        .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
                );
                wait(&mut fds)?;
                if !fds[0].revents().is_empty() {
                    return Ok(Drained::Cancelled);
                }
                let mut fired = fds[1..].iter().map(|fd| !fd.revents().is_empty());
                [0, 1].map(|index| pipes[index].is_some() && fired.next().unwrap_or(false))
            };
            for (index, ready) in ready.into_iter().enumerate() {
                let Some(pipe) = pipes[index].as_ref().filter(|_| ready) else {
                    continue;
                };
                match rustix::io::read(pipe, &mut buffer) {
                    Ok(0) => pipes[index] = None,
                    Ok(count) if index == 0 => output.stdout.extend_from_slice(&buffer[..count]),
                    Ok(count) => {
                        (self.on_stderr)(&buffer[..count]);
                        output.stderr.extend_from_slice(&buffer[..count]);
                        let over = output.stderr.len().saturating_sub(ERROR_TAIL);
                        output.stderr.drain(..over);
                    }
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if output.stdout.len() > MOST_OUTPUT {
                return Ok(Drained::TooMuch);
            }
        }
        Ok(Drained::All)
    }
}

struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum Drained {
    All,
    Cancelled,
    TooMuch,
}

/// A child with its group; killed when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // Its process ID is its group's: see `process_group`.
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last lines that say something; progress is rewritten with carriage returns.
fn last_lines(bytes: &[u8]) -> String {
    const LINES: usize = 5;
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            line.rsplit('\r')
                .find(|part| !part.is_empty())
                .unwrap_or("")
        })
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn program(cancel: &Cancel) -> Program<'_> {
        Program {
            path: Path::new("/bin/sh"),
            environment: Vec::new(),
            cancel,
            on_stderr: &|_| {},
        }
    }

    #[test]
    fn output_and_failure_are_told() {
        let cancel = Cancel::new().unwrap();
        let run = |script: &str| program(&cancel).run(&["-c", script], Path::new("/"), "sh");
        assert_eq!(run("echo a; echo b >&2").unwrap(), b"a\n");
        let error = run("printf '1%%\\r2%%\\n' >&2; echo no >&2; exit 3").unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3): 2%; no");
    }

    #[test]
    fn a_stopped_build_stops_the_program_and_its_helpers() {
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        let seen = |_: &[u8]| other.cancel();
        let program = Program {
            on_stderr: &seen,
            ..program(&cancel)
        };
        let started = Instant::now();
        let error = program
            .run(
                &["-c", "sleep 60 & echo up >&2; wait"],
                Path::new("/"),
                "sh",
            )
            .unwrap_err();
        assert!(matches!(error, CommandError::Cancelled));
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
