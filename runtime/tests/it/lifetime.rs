//! Waiting, signals, orphans, terminals, limits, many at once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rbuild_runtime::{ExitStatus, Limits, Stdio};

use crate::support::{Host, pipe, read};

fn stdio() -> (Stdio, std::os::fd::OwnedFd) {
    let (output, its_output) = pipe();
    let (_, its_errors) = pipe();
    (
        Stdio {
            stdin: None,
            stdout: its_output,
            stderr: its_errors,
        },
        output,
    )
}

#[test]
fn root_a_killed_command_says_so() {
    let host = Host::new();
    let (stdio, _output) = stdio();
    let mut running = host
        .runtime
        .spawn(&host.sandbox(&["sleep", "1000"]), stdio)
        .unwrap();
    assert_eq!(running.try_wait().unwrap(), None);
    assert!(running.pid() > 1);
    assert!(fs::exists(format!("/proc/{}", running.pid())).unwrap());
    running.kill().unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Signal(9, false));
    assert_eq!(
        running.wait().unwrap(),
        ExitStatus::Signal(9, false),
        "asked twice"
    );
    running.kill().unwrap();
    assert!(!fs::exists(format!("/proc/{}", running.pid())).unwrap());
}

#[test]
fn root_a_handled_signal_reaches_the_command() {
    let host = Host::new();
    let (stdio, output) = stdio();
    let script = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut running = host.runtime.spawn(&host.shell(script), stdio).unwrap();
    let mut output = fs::File::from(output);
    let mut ready = [0; 6];
    output.read_exact(&mut ready).unwrap();
    running.signal(libc::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(7));
    assert_eq!(read(output.into()), "got\n");
}

#[test]
fn root_what_a_command_leaves_running_ends_with_it() {
    let host = Host::new();
    let (stdio, output) = stdio();
    let script = "for i in $(seq 50); do setsid sleep 1000 & done; echo done";
    let mut running = host.runtime.spawn(&host.shell(script), stdio).unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(0));
    // Were one of them alive, its copy of the pipe would keep this from ending.
    assert_eq!(read(output), "done\n");
}

#[test]
fn root_the_pidfd_becomes_readable_at_the_end() {
    let host = Host::new();
    let (stdio, _output) = stdio();
    let mut running = host.runtime.spawn(&host.sandbox(&["true"]), stdio).unwrap();
    let pidfd = running.pidfd();
    let mut poll = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut poll, None).unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(0));
}

#[test]
fn root_dropping_a_running_sandbox_kills_it() {
    let host = Host::new();
    let (stdio, output) = stdio();
    let running = host
        .runtime
        .spawn(&host.sandbox(&["sleep", "1000"]), stdio)
        .unwrap();
    drop(running);
    assert_eq!(read(output), "");
}

#[test]
fn root_dropping_the_runtime_ends_the_spawner() {
    let host = Host::new();
    host.sh("true");
    let directory = host.directory;
    drop(host.runtime);
    // The spawner is a child of this process and of nobody else; it was reaped by the drop.
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for child in children.split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        assert!(!name.starts_with("rbuild-spawner"), "{child}");
    }
    drop(directory);
}

#[test]
fn root_many_threads_use_one_runtime() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (host, directory) = (&host, &host.directory);
            scope.spawn(move || {
                for round in 0..10 {
                    let code = thread * 10 + round;
                    let mut sandbox = host.shell(&format!("echo {code}; exit {code}"));
                    let upper = sandbox.root.upper.as_mut().unwrap();
                    upper.upper = directory.path().join(format!("u{code}"));
                    upper.work = directory.path().join(format!("w{code}"));
                    fs::create_dir(&upper.upper).unwrap();
                    fs::create_dir(&upper.work).unwrap();
                    let outcome = host.run(&sandbox);
                    assert_eq!(outcome.status, ExitStatus::Code(code));
                    assert_eq!(outcome.stdout.trim_end(), code.to_string());
                }
            });
        }
    });
}

#[test]
fn root_an_init_reaps_forwards_and_passes_the_code_on() {
    let host = Host::new();
    let mut sandbox = host.shell("test $$ -ne 1 && cut -c1-10 /proc/1/comm; exit 5");
    sandbox.init = true;
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.status, ExitStatus::Code(5), "{outcome:?}");

    let mut sandbox = host.shell("(sleep 0.05 &) ; sleep 0.2; ps | grep -c '\\[sleep\\]'");
    sandbox.init = true;
    assert_eq!(host.run(&sandbox).stdout, "0\n", "no zombie is left");

    // The default action of a signal works, which it does not for process 1.
    let (stdio, output) = stdio();
    let mut sandbox = host.shell("echo ready; exec sleep 1000");
    sandbox.init = true;
    let mut running = host.runtime.spawn(&sandbox, stdio).unwrap();
    let mut output = fs::File::from(output);
    output.read_exact(&mut [0; 6]).unwrap();
    running.signal(libc::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(128 + 15));
}

#[test]
fn root_an_init_gives_no_rights_away() {
    let host = Host::new();
    let mut sandbox = host.shell(
        "grep ^CapEff /proc/1/status; cat /proc/1/environ /proc/1/maps; readlink /proc/1/exe; \
         readlink /proc/1/root; ls /proc/1/fd; grep ^CapEff /proc/self/status; ls /proc/self/fd",
    );
    sandbox.init = true;
    let outcome = host.run(&sandbox);
    let expected = "CapEff:\t0000000000000020\n64\nCapEff:\t00000000a80425fb\n0\n1\n2\n3";
    assert_eq!(outcome.text(), expected, "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("Permission denied").count(),
        2,
        "{outcome:?}"
    );
}

#[test]
fn root_a_terminal_works() {
    let host = Host::new();
    let (stdio, output) = stdio();
    let mut sandbox =
        host.shell("tty; test -t 0 && echo terminal; read x; echo \"<$x>\"; ls /dev/console");
    sandbox.process.terminal = true;
    sandbox.process.user.uid = 12;
    let mut running = host.runtime.spawn(&sandbox, stdio).unwrap();
    let mut terminal = fs::File::from(running.take_terminal().expect("a terminal"));
    assert!(running.take_terminal().is_none());
    let size = rustix::termios::Winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal.as_fd(), size).unwrap();
    terminal.write_all(b"hello\n").unwrap();
    let mut text = Vec::new();
    // The end of a terminal is an error (EIO) when the last user has closed it.
    let _ = terminal.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(0), "{text}");
    for expected in ["/dev/pts/0", "terminal", "<hello>", "/dev/console"] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(read(output), "");
}

#[test]
fn root_a_command_over_its_memory_limit_is_reported() {
    let host = Host::new();
    // One child alone, and the shell waiting: a second process that asks for memory while the
    // first one dies could make the kernel choose another victim, the shell among them.
    let mut sandbox = host.shell("tail -c 100m /dev/zero; exit 4");
    sandbox.limits = Limits {
        memory: Some(20 << 20),
        ..Limits::default()
    };
    let outcome = host.run(&sandbox);
    assert!(
        outcome.warnings.is_empty(),
        "this test needs a memory controller: {outcome:?}"
    );
    // The shell is the one that lives on; its child was killed.
    assert_eq!(outcome.status, ExitStatus::Code(4), "{outcome:?}");
    let mut sandbox = host.sandbox(&["tail", "-c", "100m", "/dev/zero"]);
    sandbox.limits = Limits {
        memory: Some(20 << 20),
        ..Limits::default()
    };
    assert_eq!(host.run(&sandbox).status, ExitStatus::Signal(9, true));
}

#[test]
fn root_the_number_of_processes_is_limited() {
    let host = Host::new();
    let mut sandbox = host.shell("for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait");
    sandbox.limits = Limits {
        pids: Some(4),
        ..Limits::default()
    };
    let outcome = host.run(&sandbox);
    assert!(
        outcome.warnings.is_empty(),
        "this test needs a pids controller: {outcome:?}"
    );
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
}

#[test]
fn root_a_limit_that_the_host_cannot_hold_is_a_warning() {
    let host = Host::new();
    let mut sandbox = host.shell("echo ran");
    sandbox.limits = Limits {
        cpus: Some(0.5),
        ..Limits::default()
    };
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.text(), "ran");
    for warning in &outcome.warnings {
        assert!(warning.contains("cpu limit is not in force"), "{warning}");
    }
}

/// Control groups whose makers have ended: those of tests that run at the same time do not count.
fn groups_of_the_dead() -> BTreeSet<String> {
    let groups = std::process::Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-maxdepth",
            "5",
            "-type",
            "d",
            "-name",
            "rbuild-*",
        ])
        .output()
        .unwrap();
    let groups = String::from_utf8(groups.stdout).unwrap();
    let dead = |line: &&str| {
        let pid = line.rsplit('/').next().unwrap().split('-').nth(1).unwrap();
        !fs::exists(format!("/proc/{pid}")).unwrap()
    };
    groups.lines().filter(dead).map(str::to_owned).collect()
}

#[test]
fn root_control_groups_are_removed() {
    // What killed programs have left where no sandbox of this test looks is not its business.
    let before = groups_of_the_dead();
    let host = Host::new();
    let mut sandbox = host.shell("cat /proc/self/cgroup");
    sandbox.limits = Limits {
        memory: Some(1 << 30),
        pids: Some(100),
        cpus: None,
        ..Limits::default()
    };
    host.run(&sandbox).text();
    drop(host);
    let start = Instant::now();
    while let Some(left) = groups_of_the_dead().difference(&before).next() {
        assert!(start.elapsed() < Duration::from_mins(1), "{left} is left");
        std::thread::yield_now();
    }
}
