//! What a trivial command costs. Run with `cargo test --release -p rbuild-runtime --test it cost --
//! --ignored --nocapture`.

use std::process::Command;
use std::time::{Duration, Instant};

use rbuild_runtime::{Network, Sandbox, Seccomp, Stdio};

use crate::support::{Host, pipe};

const ROUNDS: usize = 300;

fn median(mut once: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

#[test]
#[ignore = "a measurement"]
fn root_cost_of_a_trivial_command() {
    let host = Host::new();
    let floor = median(|| {
        assert!(
            Command::new("/bin/busybox")
                .arg("true")
                .status()
                .unwrap()
                .success()
        );
    });
    println!("fork + exec + wait of busybox true: {floor:?}");
    let (_output, stdout) = pipe();
    let spawn = |sandbox: &Sandbox| {
        let stdio = Stdio {
            stdin: None,
            stdout: stdout.try_clone().unwrap(),
            stderr: stdout.try_clone().unwrap(),
        };
        host.runtime.spawn(sandbox, stdio).unwrap().wait().unwrap();
    };
    let start = Instant::now();
    spawn(&host.sandbox(&["/bin/true"]));
    println!(
        "first, with the start of the spawner: {:?}",
        start.elapsed()
    );
    for network in [Network::Host, Network::None, Network::Private] {
        let mut sandbox = host.sandbox(&["/bin/true"]);
        sandbox.network = network;
        let time = median(|| spawn(&sandbox));
        println!(
            "{network:?}: {time:?}, {:.2} of the floor",
            time.as_secs_f64() / floor.as_secs_f64()
        );
    }
    let mut sandbox = host.sandbox(&["/bin/true"]);
    sandbox.network = Network::Host;
    sandbox.security.seccomp = Seccomp::Unconfined;
    sandbox.security.masked_paths = false;
    let time = median(|| spawn(&sandbox));
    println!("no filter, no masks, host network: {time:?}");
}
