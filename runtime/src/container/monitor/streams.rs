//! The start of a container, and the streams between it, its log and who is attached.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::pipe::{PipeFlags, pipe_with};

use super::shared::Shared;
use crate::container::Container;
use crate::container::log::{Lines, Stream};
use crate::container::network::{self, Live};
use crate::{MountSource, Running, Runtime, SandboxError, Stdio, UpperDir};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;

/// A container that has just been started, with our ends of its streams.
pub(super) struct Begun {
    pub(super) running: Running,
    pub(super) network: Arc<Live>,
    pub(super) outputs: Vec<(Stream, OwnedFd)>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
}

/// Starts the sandbox.
pub(super) fn start(container: &Container, runtime: &Runtime) -> Result<Begun, SandboxError> {
    let network = network::prepare(container, runtime.state_dir())?;
    let sandbox = &network.sandbox;
    let host = |action| move |source: io::Error| SandboxError::Host { action, source };
    fresh_work_directories(sandbox).map_err(host("empty a directory of overlay"))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| host("make a pipe")(error.into()));
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (stdin_end, stdin) = if container.config.interactive {
        let (end, stdin) = pipe()?;
        (Some(end), Some(stdin))
    } else {
        (None, None)
    };
    let stdio = Stdio {
        stdin: stdin_end,
        stdout: stdout_end,
        stderr: stderr_end,
    };
    let mut running = runtime.spawn(sandbox, stdio)?;
    let network = Arc::new(network.begin(container, &mut running)?);
    Ok(match running.take_terminal() {
        None => Begun {
            running,
            network,
            outputs: vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)],
            stdin,
            terminal: None,
        },
        Some(terminal) => {
            let copy = || terminal.try_clone().map_err(host("duplicate a descriptor"));
            Begun {
                running,
                network,
                outputs: vec![(Stream::Stdout, copy()?)],
                stdin: container.config.interactive.then(copy).transpose()?,
                terminal: Some(terminal),
            }
        }
    })
}

/// Overlay wants an empty directory for every mount.
pub(in crate::container) fn fresh_work_directories(sandbox: &crate::Sandbox) -> io::Result<()> {
    let of_mounts = sandbox
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Overlay { upper, .. } => upper.as_ref(),
            _ => None,
        });
    for UpperDir { work, .. } in sandbox.root.upper.iter().chain(of_mounts) {
        match fs::remove_dir_all(work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(work)?;
    }
    Ok(())
}

/// Begins to move what the container writes. Our ends of its streams are given away by this: the
/// container sees the end of its input when nobody else has it.
pub(super) fn pump_all(shared: &Arc<Shared>, begun: &mut Begun) -> io::Result<Vec<JoinHandle<()>>> {
    begun.stdin.take();
    begun.terminal.take();
    begun
        .outputs
        .drain(..)
        .map(|(stream, from)| pump(shared, stream, from))
        .collect()
}

/// Moves what one stream brings into the log and to who is attached.
fn pump(shared: &Arc<Shared>, stream: Stream, from: OwnedFd) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name("stream".into()).spawn(move || {
        let mut from = File::from(from);
        let mut lines = Lines::new(shared.log(), stream);
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    lines.push(&buffer[..count]);
                    shared.show(stream, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal whose last user has gone answers with an error.
                Err(_) => break,
            }
        }
        lines.finish();
    })
}

/// Passes on what somebody types, or pipes in.
pub(super) fn feed(shared: &Arc<Shared>, input: OwnedFd) -> io::Result<()> {
    let Some(life) = shared.life() else {
        return Ok(());
    };
    Builder::new().name("input".into()).spawn(move || {
        let target = super::shared::lock(&life.stdin)
            .as_ref()
            .map(|stdin| stdin.as_fd().try_clone_to_owned());
        let Some(Ok(target)) = target else { return };
        let (mut input, mut target) = (File::from(input), File::from(target));
        // Its end is the end of the container's input, unless a terminal has it.
        if io::copy(&mut input, &mut target).is_ok() && life.terminal.is_none() {
            super::shared::lock(&life.stdin).take();
        }
    })?;
    Ok(())
}
