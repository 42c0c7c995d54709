//! A machine that builds from, and for, caches in a registry.

use std::path::{Path, PathBuf};

use crate::args;
use crate::support::process::Outcome;
use crate::support::{TestEnv, base};

/// Makes a base image in a registry.
pub(super) fn push_base(name: &str) {
    let env = TestEnv::new();
    let archive = base::busybox_rootfs();
    env.rbuild(args!["import", archive, name]).run().ok();
    env.rbuild(["push", name]).run().ok();
}

/// A context with a stage that makes files, and one whose last step runs `last`.
pub(super) fn context(env: &TestEnv, base: &str, last: &str) -> PathBuf {
    let dockerfile = format!(
        "FROM {base} AS tools\nRUN dd if=/dev/urandom of=/big bs=1M count=4 && echo tool >/tool\n\
         FROM {base}\nRUN echo one >/one\nCOPY --from=tools /tool /tool\nCOPY file /file\nRUN {last}\n"
    );
    env.files(
        "context",
        &[("Dockerfile", &dockerfile), ("file", "content\n")],
    )
}

/// Builds it with plain progress.
pub(super) fn build(env: &TestEnv, context: &Path, more: &[&str]) -> Outcome {
    let mut args = args!["build", "--progress", "plain"].to_vec();
    args.extend(more.iter().map(Into::into));
    args.push(context.into());
    env.rbuild(args).run()
}
