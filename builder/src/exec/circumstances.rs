//! The error of a failed command: its exit status in words, and what it ran as and with.

use std::ffi::OsString;

use rbuild_cache::RootView;
use rbuild_runtime::{ExitStatus, SandboxError};

use super::{Exited, diagnose};
use crate::error::{BuildError, BuildErrorKind, chain};
use crate::ops::{ExecMount, ExecMountKind, ExecOp};
use crate::users::ResolvedUser;

/// A command that failed, and what it had around it.
pub(super) struct Failed<'a> {
    pub(super) operation: &'a ExecOp,
    pub(super) user: &'a ResolvedUser,
    /// Its environment, as `NAME=value`.
    pub(super) env: &'a [OsString],
    /// Its root file system as it left it.
    pub(super) view: &'a RootView,
}

impl Failed<'_> {
    /// The error for a command that ended badly; `name` begins the message.
    pub(super) fn status(&self, name: &str, ended: &Exited) -> BuildError {
        let (code, out_of_memory) = match ended.status {
            ExitStatus::Code(code) => (i32::from(code), ended.out_of_memory),
            ExitStatus::Signal(signal, out_of_memory) => (128 + signal, out_of_memory),
        };
        let mut error = BuildError::new(BuildErrorKind::Run, format!("{name}: exit code: {code}"));
        let output = String::from_utf8_lossy(&ended.tail);
        let case = diagnose::Case {
            failed: self,
            output: &output,
        };
        error.help = case.exit(code, out_of_memory);
        error.notes.push(self.surroundings());
        error
    }

    /// The error for a command that could not be started.
    pub(super) fn not_started(&self, name: &str, reason: &SandboxError) -> BuildError {
        let mut error = BuildError::new(BuildErrorKind::Run, format!("{name}: exit code: 1"));
        error.causes = chain(reason);
        let case = diagnose::Case {
            failed: self,
            output: "",
        };
        if let SandboxError::Exec { source, .. } = reason {
            error.help = case.not_executed(source);
        }
        error.notes.push(self.surroundings());
        error
    }

    /// The value of a variable of its environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.env.iter().find_map(|variable| {
            let text = variable.to_string_lossy();
            let (key, value) = text.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    }

    /// Who it ran as, where, and with what: one line.
    fn surroundings(&self) -> String {
        let operation = self.operation;
        let (uid, gid) = (self.user.uid, self.user.gid);
        let user = match operation.user.as_str() {
            "" | "0" | "root" => "root".to_owned(),
            name if name
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b':') =>
            {
                format!("user {uid}:{gid}")
            }
            name => format!("user {name} ({uid}:{gid})"),
        };
        let mut text = format!("ran as {user} in {}", operation.cwd);
        let mounts: Vec<String> = operation.mounts.iter().map(describe).collect();
        if !mounts.is_empty() {
            text.push_str(&format!(", with {}", mounts.join(", ")));
        }
        match operation.network {
            rbuild_parser::NetworkMode::Default => {}
            rbuild_parser::NetworkMode::None => text.push_str(", without network"),
            rbuild_parser::NetworkMode::Host => text.push_str(", on the host's network"),
        }
        text
    }
}

/// A mount in a few words.
fn describe(mount: &ExecMount) -> String {
    let target = &mount.target;
    let access = if mount.readonly { " (read-only)" } else { "" };
    match &mount.kind {
        ExecMountKind::Bind { source, .. } => format!("bind {source} on {target}{access}"),
        ExecMountKind::Cache { .. } => format!("cache on {target}{access}"),
        ExecMountKind::Tmpfs { .. } => format!("tmpfs on {target}"),
        ExecMountKind::Secret { id, env, file, .. } => match env {
            Some(name) if !file => format!("secret {id} as ${name}"),
            _ => format!("secret {id} on {target}"),
        },
        ExecMountKind::Ssh { .. } => format!("ssh agent on {target}"),
        ExecMountKind::Host { source } => format!("{} on {target}", source.display()),
    }
}
