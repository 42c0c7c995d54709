//! The private network, each test on a "host" of its own: a network namespace with an uplink to
//! another one, in which servers run. That one knows no way back to the sandboxes' addresses, so an
//! answer proves that addresses are translated.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rbuild_runtime::{Network, Sandbox};

use crate::support::Host;

const HOST: &str = "198.51.100.1";
const OUTSIDE: &str = "198.51.100.2";

/// Moves this thread, and what it starts, into a network namespace of its own.
pub(crate) fn new_network() -> i32 {
    // The safe name for it; only `UnshareFlags::FILES` makes it unsafe.
    #[expect(
        deprecated,
        reason = "the replacement is unsafe for the sake of flags not used here"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("this test needs root");
    // A new network has the settings of the host's, which may be one that forwards.
    fs::write(sysctl("ip_forward"), "0").unwrap();
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn ip(args: &str) -> bool {
    let status = Command::new("ip")
        .args(args.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.expect("this test needs the ip program").success()
}

fn exists(interface: &str) -> bool {
    ip(&format!("-o link show {interface}"))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what}");
        std::thread::yield_now();
    }
}

/// Runs a test in a network of its own with a server outside that tells who calls.
fn on_a_host_with_uplink(test: impl FnOnce() + Send) {
    let (ready, outside) = mpsc::channel();
    let (connect, connected) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            ready.send(new_network()).unwrap();
            connected.recv().unwrap();
            assert!(ip(&format!("addr add {OUTSIDE}/24 dev out0")) && ip("link set out0 up"));
            let listener = TcpListener::bind((OUTSIDE, 80)).unwrap();
            ready.send(0).unwrap();
            // Ends when the test connects itself.
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let _ = stream.write_all(format!("hello {peer}\n").as_bytes());
                if connected.try_recv().is_ok() {
                    return;
                }
            }
        });
        scope.spawn(move || {
            new_network();
            let outside_tid = outside.recv().unwrap();
            assert!(ip("link set lo up"));
            assert!(ip("link add up0 type veth peer name out0"));
            assert!(ip(&format!("link set out0 netns {outside_tid}")));
            assert!(ip(&format!("addr add {HOST}/24 dev up0")) && ip("link set up0 up"));
            assert!(ip(&format!("route add default via {OUTSIDE}")));
            connect.send(()).unwrap();
            outside.recv().unwrap();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            connect.send(()).unwrap();
            drop(std::net::TcpStream::connect((OUTSIDE, 80)));
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
    });
}

fn private(host: &Host, script: &str) -> Sandbox {
    let mut sandbox = host.shell(script);
    sandbox.network = Network::Private;
    sandbox
}

fn forwards(interface: &str) -> bool {
    let path = sysctl(&format!("conf/{interface}/forwarding"));
    fs::read_to_string(path).unwrap().trim() == "1"
}

/// A setting of this thread's network.
fn sysctl(name: &str) -> String {
    format!("/proc/thread-self/root/proc/sys/net/ipv4/{name}")
}

#[test]
fn root_private_sandboxes_reach_out_with_the_address_of_the_host() {
    on_a_host_with_uplink(|| {
        let host = Host::new();
        assert!(!forwards("up0"));
        let outcome = host.run(&private(
            &host,
            &format!("ls /sys/class/net; nc {OUTSIDE} 80"),
        ));
        assert_eq!(outcome.text(), format!("eth0\nlo\nhello {HOST}"));
        assert!(exists("rbuild0") && forwards("up0"));
        let _state = host.end();
        wait_until("the last user leaves the bridge", || !exists("rbuild0"));
        assert!(!forwards("up0"), "and puts settings back");
        wait_until("a veth pair is left", || {
            !fs::read_to_string("/proc/thread-self/net/dev")
                .unwrap()
                .contains("rbv")
        });
    });
}

#[test]
fn root_what_is_kept_of_a_network_only_its_owner_can_change() {
    on_a_host_with_uplink(|| {
        let host = Host::new();
        // Whatever the caller's is.
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        host.run(&private(&host, "true"));
        rustix::process::umask(umask);
        let mut found = 0;
        let mut todo = vec![host.path("state")];
        while let Some(path) = todo.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o022, 0, "{path:?}");
            if metadata.is_dir() {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            found += 1;
        }
        assert!(found > 3, "{found}");
    });
}

#[test]
fn root_private_sandboxes_reach_the_host_but_not_each_other() {
    on_a_host_with_uplink(|| {
        let host = Host::new();
        let listener = TcpListener::bind(("0.0.0.0", 81)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"host\n").unwrap();
            });
            let script = "nc $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p') 81";
            assert_eq!(host.run(&private(&host, script)).text(), "host");
        });
        // One waits for a call, the other calls it.
        let (stdout, its_stdout) = crate::support::pipe();
        let (_, its_stderr) = crate::support::pipe();
        let stdio = rbuild_runtime::Stdio {
            stdin: None,
            stdout: its_stdout,
            stderr: its_stderr,
        };
        let script = "ifconfig eth0 | sed -n 's/.*inet addr:\\([^ ]*\\).*/\\1/p'; nc -l -p 82";
        let server = host.runtime.spawn(&private(&host, script), stdio).unwrap();
        let mut address = String::new();
        BufReader::new(fs::File::from(stdout))
            .read_line(&mut address)
            .unwrap();
        let address = address.trim();
        let mut client = private(&host, &format!("nc -w 1 {address} 82 < /dev/null"));
        client.root.upper = None;
        assert_ne!(
            host.run(&client).status,
            rbuild_runtime::ExitStatus::Code(0)
        );
        server.kill().unwrap();
    });
}

#[test]
fn root_two_programs_share_the_network_and_the_last_removes_it() {
    on_a_host_with_uplink(|| {
        let first = Host::new();
        let options = rbuild_runtime::RuntimeOptions {
            state_dir: first.path("state"),
        };
        let second = rbuild_runtime::Runtime::start(options).unwrap();
        let call = format!("nc {OUTSIDE} 80");
        first.run(&private(&first, &call)).text();
        let (_, its_stdout) = crate::support::pipe();
        let (_, its_stderr) = crate::support::pipe();
        let stdio = rbuild_runtime::Stdio {
            stdin: None,
            stdout: its_stdout,
            stderr: its_stderr,
        };
        let mut running = second.spawn(&private(&first, "true"), stdio).unwrap();
        running.wait().unwrap();
        drop((running, second));
        assert!(exists("rbuild0"), "the other still uses it");
        assert_eq!(
            first.run(&private(&first, &call)).text(),
            format!("hello {HOST}")
        );
        let _state = first.end();
        wait_until("the bridge is left", || !exists("rbuild0"));
    });
}

#[test]
fn root_programs_with_other_state_directories_have_other_networks() {
    on_a_host_with_uplink(|| {
        let (first, second) = (Host::new(), Host::new());
        let call = format!("nc {OUTSIDE} 80");
        assert_eq!(
            first.run(&private(&first, &call)).text(),
            format!("hello {HOST}")
        );
        assert_eq!(
            second.run(&private(&second, &call)).text(),
            format!("hello {HOST}")
        );
        assert_eq!(
            first.run(&private(&first, &call)).text(),
            format!("hello {HOST}")
        );
        assert!(exists("rbuild0") && exists("rbuild1"));
        let _states = (second.end(), first.end());
        wait_until("something is left", || {
            !exists("rbuild0") && !exists("rbuild1") && !forwards("up0")
        });
    });
}

#[test]
fn root_many_private_sandboxes_get_different_addresses() {
    on_a_host_with_uplink(|| {
        let host = Host::new();
        let address = "ifconfig eth0 | sed -n 's/.*inet addr:\\([^ ]*\\).*/\\1/p'; sleep 0.5";
        let mut found: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut sandbox = private(&host, address);
                        sandbox.root.upper = None;
                        host.run(&sandbox).text().to_owned()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 8, "{found:?}");
    });
}

/// Not a test: the program that [`root_a_killed_program_leaves_nothing`] kills.
#[test]
#[ignore = "started by another test"]
fn helper_runs_a_sandbox_until_it_is_killed() {
    let mut host = Host::new();
    // As after a kill, whatever kills it.
    host.directory.disable_cleanup(true);
    let (stdout, its_stdout) = crate::support::pipe();
    let (_, its_stderr) = crate::support::pipe();
    let stdio = rbuild_runtime::Stdio {
        stdin: None,
        stdout: its_stdout,
        stderr: its_stderr,
    };
    let sandbox = private(&host, "setsid sleep 1000 & echo ready; sleep 1000");
    let mut running = host.runtime.spawn(&sandbox, stdio).unwrap();
    fs::File::from(stdout).read_exact(&mut [0; 6]).unwrap();
    println!(
        "\nsandbox {} {}",
        running.pid(),
        host.directory.path().display()
    );
    running.wait().unwrap();
}

#[expect(
    clippy::zombie_processes,
    reason = "the callers kill it and wait for it"
)]
/// Starts the helper; returns it with the sandbox's process id and its directory.
fn start_helper() -> (Child, u32, String) {
    let name = "network::helper_runs_a_sandbox_until_it_is_killed";
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(helper.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix("sandbox ") {
            let (pid, directory) = rest.split_once(' ').unwrap();
            return (helper, pid.parse().unwrap(), directory.to_owned());
        }
    }
    panic!("the helper did not start");
}

fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn is_gone(pid: u32) -> bool {
    !fs::exists(format!("/proc/{pid}")).unwrap()
}

fn no_process_mentions(directory: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    !processes.into_iter().any(|entry| {
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        mounts.contains(directory)
    })
}

#[test]
fn root_a_killed_program_leaves_nothing() {
    on_a_host_with_uplink(|| {
        let (mut helper, sandbox, directory) = start_helper();
        let spawner = parent_of(sandbox);
        assert_eq!(parent_of(spawner), helper.id());
        assert!(exists("rbuild0"));
        helper.kill().unwrap();
        helper.wait().unwrap();
        wait_until("the sandbox lives on", || is_gone(sandbox));
        wait_until("the spawner lives on", || is_gone(spawner));
        wait_until("a mount is left", || no_process_mentions(&directory));
        wait_until("something is left", || {
            !exists("rbuild0") && !forwards("up0")
        });
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn root_a_killed_spawner_takes_its_sandboxes_along_and_the_next_cleans_up() {
    on_a_host_with_uplink(|| {
        let (mut helper, sandbox, directory) = start_helper();
        let spawner = parent_of(sandbox);
        let pid = rustix::process::Pid::from_raw(spawner as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        helper.wait().unwrap();
        wait_until("the sandbox lives on", || is_gone(sandbox));
        assert!(
            exists("rbuild0") && forwards("up0"),
            "nobody was left to clean up"
        );

        let host = Host::new();
        let state_dir = format!("{directory}/state").into();
        let options = rbuild_runtime::RuntimeOptions { state_dir };
        let runtime = rbuild_runtime::Runtime::start(options).unwrap();
        let next = Host {
            runtime,
            directory: host.directory,
        };
        let outcome = next.run(&private(&next, &format!("nc {OUTSIDE} 80")));
        assert_eq!(outcome.text(), format!("hello {HOST}"));
        drop(next);
        wait_until("something is left", || {
            !exists("rbuild0") && !forwards("up0")
        });
        fs::remove_dir_all(directory).unwrap();
    });
}
