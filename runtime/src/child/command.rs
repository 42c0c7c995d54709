//! The last steps: working directory, streams, exec.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, OFlags, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::mount::open_in_root;
use crate::spec::{Process, User};
use crate::sys;
use crate::userns::has_single_id;
use crate::wire::{Failure, InStep as _, Request, Step};

/// Searched where the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Changes to the working directory, inside the root whatever its name says (CVE-2024-21626).
pub(super) fn enter_directory(root: BorrowedFd<'_>, cwd: &Path) -> Step<()> {
    let step = "change to the working directory";
    let directory = open_in_root(root, cwd, OFlags::DIRECTORY).map_err(|error| {
        let failure = Failure::new(step, &error).at(cwd);
        if error.raw_os_error() == Some(libc::ELOOP) {
            return failure.because("the path leads through a link of /proc or a circle of links");
        }
        failure
    })?;
    rustix::process::fchdir(&directory).step_at(step, cwd)?;
    let found = rustix::process::getcwd(Vec::new()).step_at(step, cwd)?;
    if !found.as_bytes().starts_with(b"/") {
        let outside = io::Error::from_raw_os_error(libc::ENOENT);
        return Err(Failure::new(step, &outside)
            .at(cwd)
            .because("it lies outside the root"));
    }
    Ok(())
}

/// Puts the streams in place, in a session of their own.
pub(super) fn take_streams(request: &Request, terminal: Option<OwnedFd>, user: &User) -> Step<()> {
    rustix::process::setsid().step("start a session")?;
    let step = "set up the standard streams";
    if let Some(terminal) = terminal {
        rustix::process::ioctl_tiocsctty(&terminal).step("take the terminal")?;
        dup2_stdin(&terminal).step(step)?;
        dup2_stdout(&terminal).step(step)?;
        return dup2_stderr(&terminal).step(step);
    }
    if let Some(stdin) = &request.stdin {
        dup2_stdin(stdin).step(step)?;
    } else {
        // The write end closes at once: reads find the end, and nobody else has this pipe.
        let (empty, _) = pipe_with(PipeFlags::CLOEXEC).step(step)?;
        dup2_stdin(&empty).step(step)?;
    }
    dup2_stdout(&request.stdout).step(step)?;
    dup2_stderr(&request.stderr).step(step)?;
    if user.uid == 0 || has_single_id() {
        return Ok(());
    }
    // A pipe belongs to whoever made it; `echo > /dev/stderr` by another user opens it by name.
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let kind = FileType::from_raw_mode(fstat(stream).step(step)?.st_mode);
        if kind == FileType::Fifo {
            fchown(stream, Some(Uid::from_raw(user.uid)), None::<Gid>).step(step)?;
        }
    }
    Ok(())
}

/// Makes sure that there is a command, as far as that can be known without executing it.
pub(super) fn look_for(process: &Process) -> Step<()> {
    let Some(program) = process.args.first() else {
        return Ok(());
    };
    let mut best = Failure::new("", &io::Error::from_raw_os_error(libc::ENOENT)).at(program);
    for candidate in candidates(program, &process.env) {
        let found = rustix::fs::stat(&candidate);
        match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
            Err(error) => best = why_not_found(&candidate, program, error).unwrap_or(best),
            Ok(FileType::RegularFile)
                if rustix::fs::access(&candidate, rustix::fs::Access::EXEC_OK).is_ok() =>
            {
                return Ok(());
            }
            Ok(_) => {
                let denied = io::Error::from_raw_os_error(libc::EACCES);
                best = Failure::new("", &denied).at(candidate);
            }
        }
    }
    Err(best)
}

/// Becomes the command; returns why not.
pub(super) fn execute(process: &Process) -> Failure {
    let c_strings = |strings: &[OsString]| -> io::Result<Vec<CString>> {
        Ok(strings
            .iter()
            .map(|s| CString::new(s.as_bytes()))
            .collect::<Result<_, _>>()?)
    };
    let step = "prepare the command";
    let (args, env) = match (c_strings(&process.args), c_strings(&process.env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(error), _) | (_, Err(error)) => return Failure::new(step, &error),
    };
    let Some(program) = process.args.first() else {
        let nothing = io::Error::from_raw_os_error(libc::EINVAL);
        return Failure::new(step, &nothing).because("no command is given");
    };
    let mut best = Failure::new("", &io::Error::from_raw_os_error(libc::ENOENT)).at(program);
    for candidate in candidates(program, &process.env) {
        let path = match CString::new(candidate.as_os_str().as_bytes()) {
            Ok(path) => path,
            Err(error) => return Failure::new(step, &error.into()),
        };
        // A failed attempt to execute costs twenty times as much as this look.
        if let Err(error @ (Errno::NOENT | Errno::NOTDIR)) = rustix::fs::stat(&path) {
            best = why_not_found(&candidate, program, error).unwrap_or(best);
            continue;
        }
        let error = sys::execute(&path, &args, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // Perhaps a later directory has one that may be executed.
            Some(libc::EACCES) => best = Failure::new("", &error).at(candidate),
            _ => return Failure::new("", &error).at(candidate),
        }
    }
    best
}

/// Why the one file that was named is not there; none where a later directory of `PATH` may have one, or
/// when it is simply missing.
fn why_not_found(candidate: &Path, program: &OsStr, error: Errno) -> Option<Failure> {
    let is_named = candidate.as_os_str() == program;
    let told = is_named && error != Errno::NOENT;
    told.then(|| Failure::new("", &error.into()).at(candidate))
}

/// Where a program may be, in the order in which a shell looks.
fn candidates(program: &OsStr, env: &[OsString]) -> Vec<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.into()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = env
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(|&byte| byte == b':')
        .map(|directory| {
            // An empty entry means the working directory.
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            Path::new(&OsString::from_vec(directory.to_vec())).join(program)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_in_the_path_of_the_sandbox() {
        let find = |program: &str, env: &[&str]| -> Vec<String> {
            let env: Vec<OsString> = env.iter().map(Into::into).collect();
            candidates(OsStr::new(program), &env)
                .into_iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(find("./x", &["PATH=/a"]), ["./x"]);
        assert_eq!(find("x", &["A=b", "PATH=/a::/b"]), ["/a/x", "./x", "/b/x"]);
        assert_eq!(find("x", &[]).len(), 6);
        assert!(find("", &["PATH=/a"]).is_empty());
    }
}
