//! Whatever is killed, no interface, rule, address or file of a network is left.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::{reached, sleeper, told, until, with_busybox};
use crate::support::{TestEnv, needs};

/// The name of a network's bridge, and of its table of rules.
fn bridge(id: &str) -> String {
    format!("rbuild-{}", &id[..8])
}

fn has_bridge(id: &str) -> bool {
    fs::exists(format!("/sys/class/net/{}", bridge(id))).unwrap()
}

fn has_rules(id: &str) -> bool {
    let nft = needs::program("nft", "nftables");
    let listed = Command::new(nft).args(["list", "tables"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).contains(&bridge(id))
}

/// Waits until nothing of a network is on the host.
#[track_caller]
fn is_clean(id: &str) {
    until("something of the network is left", || {
        let state = format!("/run/rbuild/network/lans/{id}");
        let left = (has_bridge(id), has_rules(id), fs::exists(&state).unwrap());
        if left == (false, false, false) {
            Ok(())
        } else {
            Err(format!("bridge, rules, state: {left:?}"))
        }
    });
}

fn kill_monitor(env: &TestEnv, name: &str) {
    let id = env.inspect(name, "{{.Id}}");
    let monitor = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.contains("container-monitor") && line.contains(&id)).then_some(pid)
    });
    let pid = monitor.expect("the container has no monitor");
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn the_last_to_leave_removes_what_was_made() {
    let env = with_busybox();
    let id = told(&env, &["network", "create", "back"]);
    assert!(!has_bridge(&id), "nobody is in it yet");
    sleeper(&env, "one", &["--network", "back"]);
    sleeper(&env, "two", &["--network", "back"]);
    assert!(has_bridge(&id) && has_rules(&id));
    told(&env, &["rm", "-f", "one"]);
    assert!(has_bridge(&id), "the other one still uses it");
    told(&env, &["rm", "-f", "two"]);
    is_clean(&id);
    sleeper(&env, "two", &["--network", "back"]);
    assert!(has_bridge(&id));
    told(&env, &["kill", "two"]);
    is_clean(&id);
    told(&env, &["rm", "two"]);
}

#[test]
fn a_killed_monitor_leaves_no_network_and_no_address() {
    let env = with_busybox();
    let id = told(&env, &["network", "create", "back"]);
    sleeper(&env, "one", &["--network", "back", "-p", "127.0.0.1::80"]);
    let port = reached(&env, "one", "80").port();
    let address = env.inspect("one", "{{.NetworkSettings.Networks.back.IPAddress}}");
    kill_monitor(&env, "one");
    until("it still runs", || {
        let status = env.inspect("one", "{{.State.Status}}");
        if status == "exited" {
            Ok(())
        } else {
            Err(status)
        }
    });
    is_clean(&id);
    drop(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    // The address is free for the next, at once.
    sleeper(&env, "two", &["--network", "back", "--ip", &address]);
    told(&env, &["rm", "-f", "one", "two"]);
    is_clean(&id);
}

#[test]
fn what_was_left_by_killed_programs_goes_with_the_next_command() {
    let env = with_busybox();
    let id = told(&env, &["network", "create", "back"]);
    sleeper(&env, "one", &["--network", "back"]);
    // Monitor and spawner at once, as when a machine's memory has run out: nobody can clean up.
    let first: i32 = env.inspect("one", "{{.State.Pid}}").parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let spawner = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let spawner = Pid::from_raw(spawner.parse().unwrap()).unwrap();
    // While it is stopped it does not see that its monitor has gone.
    kill_process(spawner, Signal::STOP).unwrap();
    kill_monitor(&env, "one");
    kill_process(spawner, Signal::KILL).unwrap();
    until("it still runs", || {
        let status = env.inspect("one", "{{.State.Status}}");
        if status == "exited" {
            Ok(())
        } else {
            Err(status)
        }
    });
    until("something is left", || {
        told(&env, &["network", "prune", "-f", "--filter", "label=none"]);
        if has_bridge(&id) || has_rules(&id) {
            Err(bridge(&id))
        } else {
            Ok(())
        }
    });
    is_clean(&id);
    told(&env, &["start", "one"]);
    assert!(has_bridge(&id));
    told(&env, &["rm", "-f", "one"]);
    is_clean(&id);
}
