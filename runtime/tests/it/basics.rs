//! Exit codes, environment, working directory, streams.

use std::ffi::OsString;

use rbuild_runtime::{ExitStatus, SandboxError};

use crate::support::Host;

#[test]
fn root_exit_codes_and_signals_come_back() {
    let host = Host::new();
    assert_eq!(
        host.run(&host.sandbox(&["true"])).status,
        ExitStatus::Code(0)
    );
    assert_eq!(host.run(&host.shell("exit 3")).status, ExitStatus::Code(3));
    assert_eq!(
        host.run(&host.shell("exit 255")).status,
        ExitStatus::Code(255)
    );
}

#[test]
fn root_streams_are_separate_and_stdin_is_empty() {
    let host = Host::new();
    let outcome = host.run(&host.shell("echo out; echo err >&2; cat; echo $?"));
    assert_eq!(
        (outcome.text(), outcome.stderr.as_str()),
        ("out\n0", "err\n")
    );
}

#[test]
fn root_the_environment_is_exactly_what_was_given() {
    let host = Host::new();
    let mut sandbox = host.sandbox(&["env"]);
    sandbox.process.env.push(OsString::from("A=b c"));
    assert_eq!(host.run(&sandbox).text(), "PATH=/bin\nA=b c");
}

#[test]
fn root_a_missing_program_is_told_from_a_forbidden_and_a_broken_one() {
    let host = Host::new();
    let errno = |args: &[&str]| match host.try_run(&host.sandbox(args)) {
        Err(SandboxError::Exec { source, .. }) => source.raw_os_error().unwrap(),
        other => panic!("{other:?}"),
    };
    std::fs::write(host.path("layer/file"), "not a program").unwrap();
    assert_eq!(errno(&["nope"]), libc::ENOENT);
    assert_eq!(errno(&["/bin/nope"]), libc::ENOENT);
    assert_eq!(errno(&["/file"]), libc::EACCES);
    use std::os::unix::fs::PermissionsExt as _;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(host.path("layer/file"), executable).unwrap();
    assert_eq!(errno(&["/file"]), libc::ENOEXEC);
}
