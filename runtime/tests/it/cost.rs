//! What a trivial command costs. Run with `cargo test --release -p rbuild-runtime --test it cost --
//! --ignored --nocapture`.

use std::process::Command;
use std::time::{Duration, Instant};

use rbuild_runtime::{Network, Sandbox, Seccomp, Stdio};

use crate::support::{Host, pipe};

type Configure = fn(&mut Sandbox);

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

/// Processor time of this process and of those it has waited for.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // utime, stime, cutime, cstime in ticks of 10 ms.
    let ticks: u64 = fields[11..15]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Prints wall-clock and processor time. The latter is what counts on a busy machine.
#[expect(clippy::print_stdout, reason = "a measurement is printed")]
fn report(name: &str, mut once: impl FnMut()) {
    let before = processor_time();
    let wall = median(&mut once);
    // With it the runtime goes, and the spawner is waited for.
    drop(once);
    let processor = processor_time().saturating_sub(before) / ROUNDS as u32;
    println!("{name:45} {wall:>10.1?} median, {processor:>10.1?} of processor time");
}

#[test]
#[ignore = "a measurement"]
fn root_cost_of_a_trivial_command() {
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    report("fork, exec, wait", || {
        run(Command::new("/bin/busybox").arg("true"));
    });
    let host = Host::new();
    let layer = host.path("layer");
    report("unshare -mpiunC, chroot", || {
        let mut command = Command::new("unshare");
        command
            .args(["-mpiunC", "--fork", "chroot"])
            .arg(&layer)
            .arg("/bin/true");
        run(&mut command);
    });
    let start = Instant::now();
    host.sh("true");
    println!(
        "the first sandbox, which starts the spawner:  {:.1?}",
        start.elapsed()
    );
    drop(host);
    let configure: [(&str, Configure); 4] = [
        ("host network", |sandbox| sandbox.network = Network::Host),
        ("no network", |_| ()),
        ("private network", |sandbox| {
            sandbox.network = Network::Private;
        }),
        ("host network, no filter, no masks", |sandbox| {
            sandbox.network = Network::Host;
            sandbox.security.seccomp = Seccomp::Unconfined;
            sandbox.security.masked_paths = false;
        }),
    ];
    for (name, configure) in configure {
        let host = Host::new();
        let (_output, stdout) = pipe();
        let mut sandbox = host.sandbox(&["/bin/true"]);
        configure(&mut sandbox);
        report(name, move || {
            let stdio = Stdio {
                stdin: None,
                stdout: stdout.try_clone().unwrap(),
                stderr: stdout.try_clone().unwrap(),
            };
            host.runtime.spawn(&sandbox, stdio).unwrap().wait().unwrap();
        });
    }
}
