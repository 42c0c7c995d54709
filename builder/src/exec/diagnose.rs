//! Why a command failed, as far as its exit status, its last words and the files of its root tell:
//! hints that name what to change.

mod kind;

use std::io::{self, Read as _};
use std::path::Path;

use rbuild_cache::{FileKind, Follow, ViewEntry};
use rbuild_parser::{NetworkMode, Platform, closest};
use rustix::io::Errno;

use super::circumstances::Failed;
use crate::scope::DEFAULT_PATH;
pub(crate) use kind::is_static_program;
use kind::{Kind, kind_of};

/// Directories in which programs lie that `PATH` should have had.
const USUAL: [&str; 8] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/opt/bin",
    "/usr/games",
];

/// What the hint for a full disk begins with.
pub(super) const DISK_FULL: &str = "the disk is full";

/// Bytes of a program that tell what kind it is.
const HEAD: u64 = 4096;

/// A failed command and the end of its output.
pub(super) struct Case<'a> {
    pub(super) failed: &'a Failed<'a>,
    pub(super) output: &'a str,
}

impl Case<'_> {
    /// Hints for an exit code.
    pub(super) fn exit(&self, code: i32, out_of_memory: bool) -> Vec<String> {
        let mut hints = Vec::new();
        match code {
            _ if out_of_memory => hints.push(format!(
                "exit code {code}: a process was killed because the step was out of memory: give it \
                 more (`--memory`), or let it do less at once (for example `make -j1`)"
            )),
            126 => hints.push(self.not_executable()),
            127 if !self.output.contains("\u{7f}ELF") => hints.push(self.not_found()),
            137 => hints.push(
                "exit code 137: a process was killed (SIGKILL): by the kernel when the machine ran out \
                 of memory (`dmesg` tells), by a memory limit around rbuild, or by a `kill -9`; let the \
                 step do less at once (for example `make -j1`), or give it more memory"
                    .to_owned(),
            ),
            _ => hints.extend(signal(code)),
        }
        hints.extend(self.last_words());
        hints
    }

    /// Hints for a program that the kernel did not take.
    pub(super) fn not_executed(&self, reason: &io::Error) -> Vec<String> {
        let Some(program) = self.failed.operation.args.first() else {
            return Vec::new();
        };
        let shell = self.failed.operation.args.len() == 3 && self.failed.operation.args[1] == "-c";
        let hint = match reason.kind() {
            io::ErrorKind::NotFound if shell && self.find(program).is_none() => format!(
                "the image has no {program}: use the exec form (`RUN [\"program\", \"argument\"]`), or \
                 build in a stage that has a shell and copy the result"
            ),
            io::ErrorKind::NotFound => self.missing(program),
            io::ErrorKind::PermissionDenied => self.no_permission(program),
            io::ErrorKind::NotADirectory => {
                format!("{program} leads through something that is there, but is no directory")
            }
            io::ErrorKind::ArgumentListTooLong => "the arguments and variables are more than the \
                 kernel takes for one program: put long ones into a file, or `xargs` before the \
                 program"
                .to_owned(),
            _ if Errno::from_io_error(reason) == Some(Errno::LOOP) => self.circle(program),
            _ if Errno::from_io_error(reason) == Some(Errno::NOEXEC) => self.wrong_format(program),
            // The kernel's own words have to do.
            _ => return Vec::new(),
        };
        vec![hint]
    }

    /// The kernel followed links, or lines of scripts, until it had enough.
    fn circle(&self, program: &str) -> String {
        let Some(entry) = self.find(program) else {
            return format!(
                "{program} is a symbolic link that leads back to itself: look with `ls -l` where it \
                 leads in the image, and which step made it"
            );
        };
        let shown = entry.path.display();
        match self.kind(&entry) {
            Kind::Script(interpreter) => format!(
                "{shown} is there, but {interpreter} of its `#!` line is a link that leads back to \
                 itself, or a script of which the same is true: name a program there"
            ),
            _ => format!("{shown} needs a program that is a link which leads back to itself"),
        }
    }

    /// Exit code 126: what was to be executed is named in the output, if anywhere.
    fn not_executable(&self) -> String {
        let word = blamed(
            self.output,
            &[
                "Permission denied",
                "Exec format error",
                "exec format error",
            ],
        );
        match word {
            Some(program) if self.output.to_lowercase().contains("exec format error") => {
                self.wrong_format(&program)
            }
            Some(program) => format!("exit code 126: {}", self.no_permission(&program)),
            None => "exit code 126: the command was found but could not be executed".to_owned(),
        }
    }

    /// Exit code 127: a shell names what it did not find.
    fn not_found(&self) -> String {
        let told = blamed(
            self.output,
            &[
                "not found",
                "command not found",
                "No such file or directory",
            ],
        );
        match told {
            Some(program) => format!("exit code 127: {}", self.missing(&program)),
            None => format!(
                "exit code 127: a command was not found in the image; PATH is {}",
                self.path()
            ),
        }
    }

    fn path(&self) -> String {
        let path = self.failed.variable("PATH");
        path.unwrap_or_else(|| DEFAULT_PATH.to_owned())
    }

    /// Why a program is not found.
    fn missing(&self, program: &str) -> String {
        if let Some(entry) = self.find(program) {
            return self.interpreter_missing(&entry);
        }
        if program.contains('/') {
            return format!(
                "{program} is not in the image{}",
                self.similar_file(program)
            );
        }
        let path = self.path();
        let elsewhere = USUAL
            .iter()
            .find(|directory| self.is_program(&format!("{directory}/{program}")));
        if let Some(directory) = elsewhere {
            return format!(
                "`{program}` is in {directory}, which is not in PATH ({path}): write the whole path, or \
                 add it with `ENV PATH`"
            );
        }
        let mut text = format!("`{program}` is in no directory of PATH ({path})");
        let names = self.programs(&path);
        match similar_name(program, &names) {
            Some(name) => text.push_str(&format!(": did you mean `{name}`?")),
            None => text.push_str(&self.installer()),
        }
        text
    }

    /// How the image's own packages are installed.
    fn installer(&self) -> String {
        for (manager, install) in [
            ("/usr/bin/apt-get", "apt-get update && apt-get install -y"),
            ("/sbin/apk", "apk add"),
            ("/usr/bin/dnf", "dnf install -y"),
            ("/usr/bin/microdnf", "microdnf install -y"),
            ("/usr/bin/zypper", "zypper install -y"),
            ("/usr/bin/pacman", "pacman -Sy --noconfirm"),
        ] {
            if self.is_program(manager) {
                return format!(
                    ": install the package that has it before (`RUN {install} PACKAGE`)"
                );
            }
        }
        ": copy it into the image, or take a base image that has it".to_owned()
    }

    /// A file that is there, and yet the kernel says that it is not.
    fn interpreter_missing(&self, entry: &ViewEntry) -> String {
        let shown = entry.path.display();
        match self.kind(entry) {
            Kind::Script(interpreter) if interpreter.ends_with('\r') => format!(
                "{shown} has Windows line ends, so its `#!` line names a program that is not there: \
                 convert it (`sed -i 's/\\r$//'`)"
            ),
            Kind::Script(interpreter) => format!(
                "{shown} is there, but {interpreter} of its `#!` line is not: install that, or change \
                 the line"
            ),
            Kind::Program {
                interpreter: Some(loader),
                ..
            } => format!(
                "{shown} is there, but the loader it needs, {loader}, is not: it was built for another \
                 C library (glibc or musl); link it statically, or use a base image like the one that \
                 it was built on"
            ),
            _ => format!("{shown} is there, but something that it needs is not"),
        }
    }

    fn no_permission(&self, program: &str) -> String {
        let Some(entry) = self.find_file(program) else {
            return format!("{program} may not be executed by this user");
        };
        let shown = entry.path.display();
        if entry.metadata.kind == FileKind::Directory {
            return format!("{shown} is a directory, not a program");
        }
        let mode = entry.metadata.mode & 0o7777;
        if mode & 0o111 == 0 {
            return format!(
                "{shown} is not marked as executable (mode {mode:04o}): add `RUN chmod +x {shown}`, or \
                 `--chmod=755` to the COPY that brings it"
            );
        }
        let owner = (entry.metadata.uid, entry.metadata.gid);
        format!(
            "{shown} (mode {mode:04o}, owner {}:{}) may not be executed by user {}",
            owner.0, owner.1, self.failed.user.uid
        )
    }

    /// A file that is no program for this machine.
    fn wrong_format(&self, program: &str) -> String {
        let host = Platform::host().architecture;
        let what = match self
            .find_file(program)
            .map(|entry| (self.kind(&entry), entry))
        {
            Some((Kind::Program { machine, .. }, entry)) if machine != host => format!(
                "{} is a program for {machine}, and this machine is {host}: the base image or the file \
                 is for the wrong platform; choose with `--platform linux/{host}`, or let this host run \
                 foreign programs (Debian: `apt install qemu-user-static`)",
                entry.path.display()
            ),
            Some((Kind::Empty, entry)) => format!("{} is empty", entry.path.display()),
            Some((Kind::Other, entry)) => format!(
                "{} is neither a program nor a script: a script begins with a line such as `#!/bin/sh`",
                entry.path.display()
            ),
            _ => format!(
                "{program} is not a program for this machine ({host}): is the base image for the wrong \
                 platform? Choose with `--platform linux/{host}`"
            ),
        };
        format!("exec format error: {what}")
    }

    /// What the command said last, when it is something that many people meet.
    fn last_words(&self) -> Vec<String> {
        let output = self.output;
        let has = |texts: &[&str]| texts.iter().any(|text| output.contains(text));
        let mut hints = Vec::new();
        // Some shells take a program for another processor for a script.
        let script = output.lines().find(|line| line.contains("\u{7f}ELF"));
        if let Some((program, _)) = script.and_then(|line| line.split_once(':')) {
            return vec![self.wrong_format(program)];
        }
        if has(NO_NETWORK) {
            hints.push(match self.failed.operation.network {
                NetworkMode::None => {
                    "the step has no network: remove `--network=none` from it, or \
                                      from the command line"
                        .to_owned()
                }
                _ => "the network could not be reached or the name not be found: look at the \
                      address, at the host's connection and name servers, and whether a proxy is \
                      needed (`--build-arg http_proxy=…`)"
                    .to_owned(),
            });
        }
        if has(&["Unable to locate package", "has no installation candidate"]) {
            hints.push(if output.contains("apt-get update") || has(&["Reading package lists"]) {
                "apt knows no such package: check its name, and run `apt-get update` in the same RUN, \
                 before the installation"
                    .to_owned()
            } else {
                "apt knows no such package: check its name".to_owned()
            });
        }
        if has(&["unable to select packages", "(no such package)"]) {
            hints.push(
                "apk knows no such package: check its name and the repositories of this release"
                    .to_owned(),
            );
        }
        if has(&["No space left on device", "no space left on device"]) {
            hints.push(
                format!(
                    "{DISK_FULL}: `rbuild du` shows what the store holds, `rbuild prune` makes room; or \
                     the step filled a tmpfs or `/dev/shm` (`--shm-size`)"
                ),
            );
        }
        let denied = has(&[
            "Permission denied",
            "Operation not permitted",
            "permission denied",
        ]);
        if denied && self.failed.user.uid != 0 && !output.contains("Exec format") {
            hints.push(format!(
                "the step ran as user {} and may not do that: put `USER root` before it and switch back \
                 after, or change the owner of the files (`COPY --chown`)",
                self.failed.user.uid
            ));
        }
        if has(&["Read-only file system"]) && !self.failed.operation.mounts.is_empty() {
            hints.push(
                "a bind mount is read-only unless it says `rw`; what is written there is not kept"
                    .to_owned(),
            );
        }
        hints
    }

    /// Looks a program up as the kernel and shells do: with a slash from the working directory,
    /// without in `PATH`.
    fn find(&self, program: &str) -> Option<ViewEntry> {
        let entry = self.find_file(program)?;
        (entry.metadata.kind == FileKind::File).then_some(entry)
    }

    fn find_file(&self, program: &str) -> Option<ViewEntry> {
        let look = |path: String| self.failed.view.lookup(path, Follow::Last).ok().flatten();
        if program.starts_with('/') {
            return look(program.to_owned());
        }
        let cwd = &self.failed.operation.cwd;
        if program.contains('/') {
            return look(format!("{cwd}/{program}"));
        }
        let path = self.path();
        path.split(':')
            .filter(|directory| directory.starts_with('/'))
            .find_map(|directory| look(format!("{directory}/{program}")))
    }

    fn is_program(&self, path: &str) -> bool {
        let found = self.failed.view.lookup(path, Follow::Last);
        matches!(found, Ok(Some(entry)) if entry.metadata.kind == FileKind::File)
    }

    /// Names of all programs in `PATH`.
    fn programs(&self, path: &str) -> Vec<String> {
        let directories = path.split(':').filter(|path| path.starts_with('/'));
        directories
            .filter_map(|directory| self.failed.view.read_dir(directory).ok())
            .flatten()
            .map(|entry| entry.name().to_string_lossy().into_owned())
            .collect()
    }

    /// A file of nearly the same name in the same directory, in words.
    fn similar_file(&self, path: &str) -> String {
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.failed.operation.cwd)
        };
        let whole = Path::new(&whole);
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return String::new();
        };
        let Ok(entries) = self.failed.view.read_dir(parent) else {
            return format!(" (nor is {})", parent.display());
        };
        let names: Vec<String> = entries
            .iter()
            .map(|entry| entry.name().to_string_lossy().into_owned())
            .collect();
        match similar_name(&name.to_string_lossy(), &names) {
            Some(name) => format!(": did you mean {}?", parent.join(name).display()),
            None => String::new(),
        }
    }

    /// What the kernel would make of a file.
    fn kind(&self, entry: &ViewEntry) -> Kind {
        let Ok(file) = self.failed.view.open(entry) else {
            return Kind::Unknown;
        };
        let mut head = Vec::new();
        match file.take(HEAD).read_to_end(&mut head) {
            Ok(_) => kind_of(&head),
            Err(_) => Kind::Unknown,
        }
    }
}

/// The word that a shell or program puts before one of these endings, in the last line that has one:
/// `sh: 1: foo: not found`, `bash: line 1: foo: command not found`, `/bin/sh: ./x: Permission denied`.
fn blamed(output: &str, endings: &[&str]) -> Option<String> {
    output.lines().rev().find_map(|line| {
        let line = line.trim_end();
        let ending = endings
            .iter()
            .filter(|ending| line.ends_with(**ending))
            .max_by_key(|ending| ending.len())?;
        let before = line[..line.len() - ending.len()].trim_end_matches([':', ' ']);
        let word = before.rsplit(": ").next()?.trim();
        let word = word.trim_matches(['\'', '"', '`', '‘', '’']);
        (!word.is_empty() && !word.contains(char::is_whitespace)).then(|| word.to_owned())
    })
}

/// A name that was perhaps meant. Short names are similar to too many others: of them only those with
/// the same letters count.
fn similar_name<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let sorted = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    let wanted = sorted(name);
    let swapped = names.iter().find(|other| sorted(other) == wanted);
    match swapped {
        Some(other) => Some(other),
        None if name.chars().count() > 4 => closest(name, names.iter().map(String::as_str)),
        None => None,
    }
}

/// What ended a program that a signal ended.
fn signal(code: i32) -> Option<String> {
    let text = match code {
        132 => "SIGILL: the program uses instructions that this processor does not have",
        134 => "SIGABRT: the program gave up after an error that it found in itself",
        135 => "SIGBUS: the program read a file that had become shorter, or memory was not there",
        136 => "SIGFPE: the program divided by zero",
        139 => "SIGSEGV: the program crashed",
        141 => {
            "SIGPIPE: a program wrote to a pipe whose reader had ended, as in `… | head` with `set \
             -o pipefail`: let the reader read everything (`… | sed -n 1p`), or allow this status"
        }
        143 => "SIGTERM: something asked the program to end",
        _ => return None,
    };
    Some(format!("exit code {code}: {text}"))
}

/// What programs say when they cannot reach another machine.
const NO_NETWORK: &[&str] = &[
    "Temporary failure in name resolution",
    "Temporary failure resolving",
    "Could not resolve host",
    "Could not resolve '",
    "bad address '",
    "Name or service not known",
    "Network is unreachable",
    "network is unreachable",
    "No route to host",
    "temporary error (try again later)",
    "getaddrinfo EAI_AGAIN",
    "getaddrinfo ENOTFOUND",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_name_what_they_did_not_find() {
        let endings = ["not found", "command not found", "Permission denied"];
        for (line, word) in [
            ("/bin/sh: 1: pyhton: not found", Some("pyhton")),
            ("/bin/sh: pyhton: not found", Some("pyhton")),
            ("bash: line 1: pyhton: command not found", Some("pyhton")),
            ("zsh:1: command not found: x", None),
            (
                "/bin/sh: ./run.sh: Permission denied\nbye",
                Some("./run.sh"),
            ),
            ("file a b not found", None),
        ] {
            assert_eq!(blamed(line, &endings).as_deref(), word, "{line}");
        }
    }
}
