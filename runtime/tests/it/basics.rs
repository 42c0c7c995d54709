//! Exit codes, environment, working directory, streams.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rbuild_runtime::{ExitStatus, RootFs, Runtime, RuntimeOptions, Sandbox, SandboxError, Stdio};

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
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(host.path("layer/file"), executable).unwrap();
    assert_eq!(errno(&["/file"]), libc::ENOEXEC);
}

/// Not a test: what [`root_a_plain_user_is_told_what_is_missing`] runs as a plain user.
#[test]
#[ignore = "started by another test"]
fn helper_asks_for_a_sandbox() {
    let runtime = Runtime::start(RuntimeOptions {
        state_dir: "/nowhere".into(),
    })
    .unwrap();
    let sandbox = Sandbox::new(RootFs::default(), ["true"]);
    let (_, stdout) = crate::support::pipe();
    let (_, stderr) = crate::support::pipe();
    let error = runtime
        .spawn(
            &sandbox,
            Stdio {
                stdin: None,
                stdout,
                stderr,
            },
        )
        .unwrap_err();
    assert!(
        matches!(error, SandboxError::NotPermitted { .. }),
        "{error:?}"
    );
    println!("{}", crate::support::chain(&error));
}

#[test]
fn root_a_plain_user_is_told_what_is_missing() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let helper = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "basics::helper_asks_for_a_sandbox",
            "--ignored",
            "--nocapture",
        ])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8(helper.stdout).unwrap();
    assert!(helper.status.success(), "{said}");
    assert!(
        said.contains("not permitted to make the namespaces of a sandbox"),
        "{said}"
    );
    assert!(said.contains("rbuild doctor"), "{said}");
}

#[test]
fn root_a_killed_spawner_is_replaced() {
    let host = Host::new();
    let (_output, stdout) = crate::support::pipe();
    let (_errors, stderr) = crate::support::pipe();
    let stdio = Stdio {
        stdin: None,
        stdout,
        stderr,
    };
    let mut running = host
        .runtime
        .spawn(&host.sandbox(&["sleep", "1000"]), stdio)
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
    let spawner = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let spawner = rustix::process::Pid::from_raw(spawner).unwrap();
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).unwrap();
    assert!(matches!(running.wait(), Err(SandboxError::SpawnerGone)));
    assert!(matches!(
        host.try_run(&host.shell("true")),
        Err(SandboxError::SpawnerGone)
    ));
    assert_eq!(host.sh("echo again"), "again");
}
