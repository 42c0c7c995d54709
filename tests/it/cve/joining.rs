//! Processes that join a container which somebody hostile is in already.

use std::fs;

use super::Canary;
use crate::support::Outcome;

/// Looks at every process that it can see, all the time, and tells what it has seen of each: what it
/// runs, where it is, what it has open. Of programs it tries to write to what they run.
const WATCH: &str = r#"
mkdir /seen; echo ready >&2
while [ ! -e /enough ]; do
  for process in /proc/[0-9]*; do
    case $process in /proc/1|/proc/$$) continue;; esac
    for link in exe cwd root fd/0 fd/1 fd/2 fd/3 fd/4 fd/5 fd/6 fd/7 fd/8 fd/9 fd/10 fd/12 fd/16; do
      seen=$(readlink $process/$link) && echo "$link $seen" >>/seen/links
    done
    tr '\0' '\n' <$process/environ >>/seen/environment
    (echo overwritten >$process/exe)
  done 2>/dev/null
done
sort -u /seen/links >/seen/sorted
exec sleep 100000
"#;

/// How many processes join while they are watched. `RBUILD_RACES=2000` makes it two hundred.
fn rounds() -> usize {
    std::env::var("RBUILD_RACES")
        .ok()
        .and_then(|races| races.parse::<usize>().ok())
        .map_or(12, |races| races / 10)
}

fn start(canary: &Canary, script: &str) {
    let run = ["run", "-d", "--network=none", "--name", "prey", "busybox"];
    canary.env.rbuild(run).args(["sh", "-c", script]).run().ok();
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
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let before = fs::read(binary).unwrap();
    start(&canary, WATCH);
    let secret = "SECRET_OF_THE_HOST";
    for _ in 0..rounds() {
        let env = &canary.env;
        let joined = env
            .rbuild([
                "exec",
                "prey",
                "sh",
                "-c",
                "ls -l /proc/self/fd | wc -l; cat /proc/self/limits >/dev/null",
            ])
            .env(secret, "1")
            .run()
            .ok();
        // Three streams, the listing's own directory, and the line that says how much it is.
        assert_eq!(joined.out(), "5\n");
    }
    let told = exec(
        &canary,
        &[],
        &[
            "sh",
            "-c",
            ">/enough; while [ ! -s /seen/sorted ]; do sleep 1; done; \
        cat /seen/sorted; grep -c SECRET_OF_THE_HOST /seen/environment",
        ],
    );
    let out = told.out();
    let mut lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.pop(), Some("0"), "{}", told.text());
    let seen = |line: &&str| {
        let (link, target) = line.split_once(' ').unwrap();
        match link {
            "exe" => target.starts_with("/bin/"),
            "cwd" | "root" => target == "/",
            _ => {
                let own = ["pipe:", "/dev/null", "/proc/", "/seen/", "/enough"];
                own.iter().any(|begin| target.starts_with(begin))
            }
        }
    };
    let (inside, outside): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| seen(line));
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(
        inside.contains(&"exe /bin/busybox"),
        "nobody was seen: {inside:#?}"
    );
    assert!(
        fs::read(binary).unwrap() == before,
        "the binary has changed"
    );
    canary.env.rbuild(["rm", "-f", "prey"]).run().ok();
}

#[test]
fn cve_2019_5736_joining_does_not_lend_the_binary_out() {
    let canary = Canary::new();
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let before = fs::read(binary).unwrap();
    let script = "printf '#!/proc/self/exe\\n' >/evil; chmod 755 /evil; echo ready >&2\n\
        while :; do for exe in /proc/[0-9]*/exe; do (echo x >>$exe); done 2>/dev/null; done";
    start(&canary, script);
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
    start(&canary, "echo ready >&2; exec sleep 100000");
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
