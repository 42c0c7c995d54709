//! Processes that join a container which somebody hostile is in already.

use std::fs;

use super::Canary;
use crate::args;
use crate::support::Outcome;

/// Looks at the newest processes all the time, and notes what it has seen of each: what it runs, where
/// it is, what it has open. In Perl, for a shell is too slow to see a process before it executes.
const WATCH: &str = r#"
my %seen;
print STDERR "ready\n";
until (-e "/enough") {
    open my $load, "<", "/proc/loadavg" or die; my $last = (split " ", <$load>)[4];
    for my $process ($last - 1 .. $last + 1) {
        next if $process <= $$;
        for my $link ("exe", "cwd", "root", map { "fd/$_" } 0 .. 16) {
            my $target = readlink "/proc/$process/$link";
            $seen{"$link $target"} = 1 if defined $target;
        }
        $seen{"exe can be written"} = 1 if open my $exe, "+<", "/proc/$process/exe";
        if (open my $environment, "<", "/proc/$process/environ") {
            $seen{"environment"} = 1 if (<$environment> // "") =~ /SECRET_OF_THE_HOST/;
        }
    }
}
open my $out, ">", "/found" or die;
print $out map { "$_\n" } sort keys %seen;
close $out;
rename "/found", "/seen" or die;
sleep 100000;
"#;

/// How many processes join while they are watched. `RBUILD_RACES=2000` makes it two hundred.
fn rounds() -> usize {
    std::env::var("RBUILD_RACES")
        .ok()
        .and_then(|races| races.parse::<usize>().ok())
        .map_or(30, |races| races / 10)
}

/// Starts a container; what it runs says `ready` on its standard error.
fn start(canary: &Canary, image: &str, command: &[&str]) {
    let run = ["run", "-d", "--network=none", "--name", "prey", image];
    canary.env.rbuild(run).args(command).run().ok();
    let logs = canary.env.rbuild(["logs", "-f", "prey"]).spawn();
    logs.wait_for_line("ready");
    logs.signal(rustix::process::Signal::TERM);
    logs.wait();
}

fn exec(canary: &Canary, options: &[&str], command: &[&str]) -> Outcome {
    let env = &canary.env;
    let outcome = env.rbuild(["exec"]).args(options).args(["prey"]);
    let outcome = outcome.args(command).run();
    canary.check(&outcome.text());
    outcome
}

#[test]
fn cve_2016_9962_who_joins_shows_nothing_of_the_host() {
    let canary = Canary::new();
    let env = &canary.env;
    let rootfs = crate::support::debian::rootfs();
    env.rbuild(args!["import", rootfs, "debian:bookworm"])
        .timeout(300)
        .run()
        .ok();
    start(&canary, "debian:bookworm", &["perl", "-e", WATCH]);
    for _ in 0..rounds() {
        let joined = env
            .rbuild([
                "exec",
                "prey",
                "sh",
                "-c",
                "ls /proc/self/fd | tr '\\n' ' '",
            ])
            .env("SECRET_OF_THE_HOST", "SECRET_OF_THE_HOST")
            .run()
            .ok();
        // The streams, and the directory that is listed.
        assert_eq!(joined.out(), "0 1 2 3 ");
    }
    let wait = ">/enough; until [ -e /seen ]; do sleep 1; done; cat /seen";
    let told = exec(&canary, &[], &["sh", "-c", wait]).ok();
    let out = told.out();
    let is_inside = |line: &&str| {
        let (link, target) = line.split_once(' ').unwrap_or((line, ""));
        match link {
            "exe" => target.starts_with("/usr/bin/"),
            "cwd" | "root" => target == "/",
            _ if link.starts_with("fd/") => {
                let own = [
                    "pipe:",
                    "/dev/null",
                    "/proc/",
                    "/enough",
                    "/seen",
                    "/usr/",
                    "/etc/",
                ];
                own.iter().any(|begin| target.starts_with(begin))
            }
            _ => false,
        }
    };
    let (inside, outside): (Vec<&str>, Vec<&str>) = out.lines().partition(is_inside);
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(inside.contains(&"root /"), "nobody was seen: {out}");
    env.rbuild(["rm", "-f", "prey"]).run().ok();
}

#[test]
fn cve_2019_5736_joining_does_not_lend_the_binary_out() {
    let canary = Canary::new();
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let before = fs::read(binary).unwrap();
    let script = "printf '#!/proc/self/exe\\n' >/evil; chmod 755 /evil; echo ready >&2\n\
        while :; do for exe in /proc/[0-9]*/exe; do (echo x >>$exe); done 2>/dev/null; done";
    start(&canary, "busybox", &["sh", "-c", script]);
    for _ in 0..rounds() {
        // Executing itself is executing a program that is not there, or that cannot run there.
        let outcome = exec(&canary, &[], &["/evil"]);
        assert_ne!(outcome.status.code(), Some(0), "{}", outcome.text());
    }
    assert!(
        fs::read(binary).unwrap() == before,
        "the binary has changed"
    );
    canary.env.rbuild(["rm", "-f", "prey"]).run().ok();
}

#[test]
fn cve_2024_21626_nobody_starts_in_a_directory_of_the_host() {
    let canary = Canary::new();
    let script = "echo ready >&2; exec sleep 100000";
    start(&canary, "busybox", &["sh", "-c", script]);
    let read = format!(
        "cat ../../../{0}/canary ../../../../../..{0}/canary; pwd",
        canary.outside.display()
    );
    for number in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20] {
        let directory = format!("-w=/proc/self/fd/{number}");
        let joined = exec(&canary, &[&directory], &["sh", "-c", &read]);
        assert!(!joined.text().contains("untouched"), "{}", joined.text());
        let run = canary
            .env
            .rbuild(["run", "--rm", "--network=none", &directory, "busybox"])
            .args(["sh", "-c", &read])
            .run();
        assert!(!run.text().contains("untouched"), "{}", run.text());
        canary.check(&run.text());
    }
    canary.env.rbuild(["rm", "-f", "prey"]).run().ok();
}

/// A process that executes this program can be kept by its `exe`, and be written to when it has ended: only
/// the mount that it was executed from refuses that.
#[test]
fn cve_2019_5736_what_makes_sandboxes_is_executed_from_a_mount_that_refuses_writes() {
    let canary = Canary::new();
    start(
        &canary,
        "busybox",
        &["sh", "-c", "echo ready >&2; exec sleep 100000"],
    );
    let place = canary.env.path().to_str().unwrap().to_owned();
    let of_this_test = |process: &str| {
        let read = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        let its =
            parent.map(|parent| fs::read(format!("/proc/{parent}/environ")).unwrap_or_default());
        read("cmdline").starts_with(b"rbuild-spawner")
            && its.is_some_and(|its| String::from_utf8_lossy(&its).contains(&place))
    };
    let mut kept = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if of_this_test(&name) {
            kept.push(fs::File::open(format!("/proc/{name}/exe")).unwrap());
        }
    }
    assert!(!kept.is_empty(), "there is no spawner");
    canary.env.rbuild(["rm", "-f", "prey"]).run().ok();
    for executable in kept {
        let flags = rustix::fs::fstatvfs(&executable).unwrap().f_flag;
        assert!(
            flags.contains(rustix::fs::StatVfsMountFlags::RDONLY),
            "{flags:?}"
        );
    }
}
