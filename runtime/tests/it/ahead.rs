//! Half of the next sandbox is made while one runs; nothing passes from one to the next.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rbuild_runtime::{ExitStatus, Network, Running, Sandbox, Stdio};

use crate::network::new_network;
use crate::support::{Host, pipe, read};

/// Starts a sandbox after which another one is expected; returns its output, too.
fn followed(host: &Host, sandbox: &Sandbox) -> (Running, OwnedFd) {
    start(host, sandbox, None, true)
}

fn start(
    host: &Host,
    sandbox: &Sandbox,
    stdin: Option<OwnedFd>,
    followed: bool,
) -> (Running, OwnedFd) {
    let (output, stdout) = pipe();
    let stderr = stdout.try_clone().unwrap();
    let stdio = Stdio {
        stdin,
        stdout,
        stderr,
    };
    let running = host.runtime.spawn_followed(sandbox, stdio, followed);
    (running.unwrap(), output)
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn spawner_of(running: &Running) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The process that waits to become the next sandbox.
#[track_caller]
fn waiting_beside(running: &Running) -> u32 {
    let start = Instant::now();
    let spawner = spawner_of(running);
    loop {
        let children = children_of(spawner);
        let other = children.iter().find(|pid| **pid != running.pid());
        if let Some(pid) = other {
            return *pid;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "{children:?}");
        std::thread::yield_now();
    }
}

fn sleeper(host: &Host, network: &Network) -> Sandbox {
    let mut sandbox = host.shell(
        "echo secret >/dev/shm/left; echo secret >/dev/left; ip addr add 10.9.9.9/32 dev lo; \
         hostname; sleep 1000",
    );
    sandbox.hostname = "first".into();
    sandbox.network = network.clone();
    sandbox
}

fn end(mut running: Running) {
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn root_the_sandbox_that_waits_becomes_the_next_and_has_nothing_of_the_one_before() {
    // In a network of its own: its bridge goes with it, and not when the directory that tells of it has gone.
    let thread = std::thread::spawn(|| {
        new_network();
        becomes_the_next();
    });
    thread.join().unwrap();
}

fn becomes_the_next() {
    let host = Host::new();
    for network in [Network::None, Network::Private] {
        let (first, _output) = followed(&host, &sleeper(&host, &network));
        let ahead = waiting_beside(&first);
        end(first);
        // It waits until it was looked at.
        let (stdin, go) = pipe();
        let script = "read go; hostname; ls -A /dev/shm; ls /dev/left 2>/dev/null; ip addr | grep -c 10.9.9.9; echo $$; \
                      mount | grep -c /proc/fs; ls /proc/self/fd | wc -l; id -u; cat /etc/own";
        let mut second = host.shell(script);
        second.hostname = "second".into();
        second.network = network.clone();
        second.mounts.push(rbuild_runtime::Mount {
            target: "/etc/own".into(),
            source: rbuild_runtime::MountSource::File {
                content: b"mine\n".to_vec(),
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
            readonly: true,
        });
        fs::create_dir_all(host.path("layer/etc")).unwrap();
        fs::write(host.path("layer/etc/own"), "").unwrap();
        let (mut running, output) = start(&host, &second, Some(stdin), false);
        assert_eq!(
            running.pid(),
            ahead,
            "{network:?}: another process was made"
        );
        drop(go);
        // One mount on /proc/fs write-protects it, and the descriptor of the listing itself is the fourth.
        assert_eq!(read(output), "second\n0\n1\n1\n4\n0\nmine\n", "{network:?}");
        assert_eq!(running.wait().unwrap(), ExitStatus::Code(0));
    }
}

#[test]
fn root_a_sandbox_of_another_kind_is_made_for_itself() {
    let host = Host::new();
    let (first, _output) = followed(&host, &sleeper(&host, &Network::None));
    let ahead = waiting_beside(&first);
    end(first);
    let mut other = host.shell("df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2");
    other.shm_size = 1 << 20;
    let (mut running, output) = followed(&host, &other);
    assert_ne!(running.pid(), ahead);
    assert_eq!(read(output), "1024\n");
    running.wait().unwrap();
}

#[test]
fn root_what_cannot_be_started_is_told_of_a_sandbox_that_waited() {
    let host = Host::new();
    let (first, _output) = followed(&host, &sleeper(&host, &Network::None));
    waiting_beside(&first);
    end(first);
    let told = host.refused(&host.sandbox(&["/bin/nothing"]));
    assert!(told.contains("/bin/nothing"), "{told}");
    assert_eq!(host.sh("echo goes on"), "goes on");
}

#[test]
fn root_a_sandbox_that_waits_ends_with_the_spawner() {
    let host = Host::new();
    let (first, _output) = followed(&host, &sleeper(&host, &Network::None));
    let ahead = waiting_beside(&first);
    drop((first, host));
    assert!(
        !fs::exists(format!("/proc/{ahead}")).unwrap(),
        "it waits on"
    );
}

#[test]
fn root_a_sandbox_that_was_killed_while_it_waited_is_made_anew() {
    let host = Host::new();
    let (first, _output) = followed(&host, &sleeper(&host, &Network::None));
    let ahead = waiting_beside(&first);
    let pid = rustix::process::Pid::from_raw(ahead.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    while fs::exists(format!("/proc/{ahead}")).unwrap() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "it is not collected"
        );
        std::thread::yield_now();
    }
    end(first);
    assert_eq!(host.sh("echo made"), "made");
}

/// Runs a command with a network of its own, after which others follow; returns what it wrote.
fn networked(host: &Host, script: &str, change: impl Fn(&mut Sandbox)) -> String {
    let mut sandbox = host.shell(&format!("{script} && echo ran"));
    sandbox.network = Network::Private;
    change(&mut sandbox);
    let (mut running, output) = followed(host, &sandbox);
    let text = read(output);
    assert_eq!(running.wait().unwrap(), ExitStatus::Code(0), "{text}");
    assert!(text.ends_with("ran\n"), "it was not started: {text}");
    text.trim_end_matches("ran\n").trim().to_owned()
}

/// Tells the number of the other end of the way out, which the kernel gives only once.
const WIRE: &str = "cat /sys/class/net/eth0/iflink";

/// More sandboxes than networks are kept.
const TURNS: usize = 20;

/// In a network of its own, as above.
fn alone(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        new_network();
        test();
    })
    .join()
    .unwrap();
}

#[test]
fn root_a_network_that_nobody_has_used_is_given_on() {
    alone(|| {
        let host = Host::new();
        let start = Instant::now();
        let mut seen = Vec::new();
        loop {
            let wire = networked(&host, WIRE, |_| {});
            if seen.contains(&wire) {
                break;
            }
            seen.push(wire);
            assert!(start.elapsed() < Duration::from_mins(1), "{seen:?}");
        }
        // It leads outside as a new one does.
        let gateway =
            "ip route | grep -q default && ping -c 1 $(ip route | grep default | cut -d' ' -f3)";
        let told = networked(&host, gateway, |_| {});
        assert!(told.contains(" 0% packet loss"), "{told}");
    });
}

#[test]
fn root_a_network_that_a_packet_was_sent_in_is_never_given_on() {
    alone(|| {
        let host = Host::new();
        for script in [
            "ping -c 1 127.0.0.1 >/dev/null",
            "ping -c 1 $(ip route | grep default | cut -d' ' -f3) >/dev/null",
        ] {
            let script = format!("{script} && {WIRE}");
            let mut seen: Vec<String> = (0..TURNS)
                .map(|_| networked(&host, &script, |_| {}))
                .collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), TURNS, "{script}");
        }
    });
}

#[test]
fn root_a_network_that_a_command_could_change_is_never_given_on() {
    alone(|| {
        let host = Host::new();
        let mut seen: Vec<String> = (0..TURNS)
            .map(|turn| {
                networked(&host, WIRE, |sandbox| match turn % 2 {
                    0 => sandbox.security.capabilities.0 |= 1 << 12,
                    _ => {
                        sandbox.kernel.sysctls =
                            vec![("net.ipv4.ip_default_ttl".into(), "9".into())];
                    }
                })
            })
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), TURNS);
    });
}

#[test]
fn root_a_network_in_which_a_socket_is_left_is_not_given_on() {
    alone(|| {
        let host = Host::new();
        // The next one is made ahead, so that its network might come back.
        networked(&host, "true", |_| {});
        let mut sandbox = host.shell(&format!("{WIRE}; exec nc -l -p 99"));
        sandbox.network = Network::Private;
        let (running, output) = followed(&host, &sandbox);
        let start = Instant::now();
        let socket = loop {
            let of_it = |name: &str| format!("/proc/{}/{name}", running.pid());
            let listens = |table: &str| {
                fs::read_to_string(of_it(table)).is_ok_and(|text| text.lines().count() > 1)
            };
            let listening = listens("net/tcp") || listens("net/tcp6");
            // Those of the set-up are gone by then.
            let mut open = fs::read_dir(of_it("fd")).into_iter().flatten().flatten();
            let is_socket = |to: std::path::PathBuf| to.to_string_lossy().starts_with("socket:");
            let found = open.find(|entry| fs::read_link(entry.path()).is_ok_and(is_socket));
            if let (true, Some(found)) = (listening, found) {
                let number = found.file_name().to_str().unwrap().parse().unwrap();
                let flags = rustix::process::PidfdGetfdFlags::empty();
                break rustix::process::pidfd_getfd(running.pidfd(), number, flags).unwrap();
            }
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "it does not listen"
            );
            std::thread::yield_now();
        };
        end(running);
        let held = read(output).trim().to_owned();
        for _ in 0..TURNS {
            assert_ne!(networked(&host, WIRE, |_| {}), held);
        }
        drop(socket);
    });
}
