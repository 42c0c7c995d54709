//! A container's life: started again, asked whether it is well, standing still, and what it uses.

use std::fs;
use std::time::{Duration, Instant};

use super::{serve, states, told, with_busybox};
use crate::support::TestEnv;

/// How long something may take on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until the answer is the one that is waited for.
#[track_caller]
pub(super) fn until<T: std::fmt::Debug>(
    mut ask: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "it stays at {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn inspect(env: &TestEnv, name: &str, template: &str) -> String {
    told(env, &["inspect", "-f", template, name])
}

#[test]
fn a_container_that_fails_is_started_again_as_often_as_asked() {
    let env = with_busybox();
    let script = "echo again >> /count; wc -l < /count; exit 4";
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "fails",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    );
    until(
        || states(&env),
        |states| states == &["fails exited Exited (4)"],
    );
    assert_eq!(told(&env, &["logs", "fails"]), "1\n2\n3");
    let shown = "{{.RestartCount}} {{.State.Restarting}} {{.HostConfig.RestartPolicy.Name}} \
                 {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
    assert_eq!(inspect(&env, "fails", shown), "2 false on-failure 2");
    // Who ends well is left alone; so is who was started by hand and is counted anew.
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "ends",
            "--restart",
            "on-failure",
            "busybox",
            "true",
        ],
    );
    until(
        || states(&env)[0].clone(),
        |state| state == "ends exited Exited (0)",
    );
    told(&env, &["start", "fails"]);
    until(
        || inspect(&env, "fails", "{{.RestartCount}} {{.State.Status}}"),
        |shown| shown == "2 exited",
    );
    assert_eq!(told(&env, &["logs", "-n", "1", "fails"]), "6");
    for (wrong, why) in [
        (&["--restart", "never"] as &[&str], "unknown policy 'never'"),
        (
            &["--restart", "always:3"],
            "maximum retry count cannot be used",
        ),
        (
            &["--restart", "always", "--rm"],
            "cannot specify both --restart and --rm",
        ),
    ] {
        env.rbuild(["run"])
            .args(wrong)
            .args(["busybox", "true"])
            .run()
            .exits(125)
            .says(why);
    }
    told(&env, &["rm", "fails", "ends"]);
}

#[test]
fn a_container_that_is_always_started_again_can_be_stopped() {
    let env = with_busybox();
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "again",
            "--restart",
            "always",
            "busybox",
            "sh",
            "-c",
            "exit 3",
        ],
    );
    until(
        || {
            inspect(&env, "again", "{{.RestartCount}}")
                .parse::<u32>()
                .unwrap()
        },
        |count| *count >= 2,
    );
    // The delay grows: it is found between two lives.
    let shown = until(
        || states(&env),
        |states| states[0].starts_with("again restarting"),
    );
    assert_eq!(shown, ["again restarting Restarting (3)"]);
    assert_eq!(
        told(&env, &["ps", "-q", "-f", "status=restarting"]).len(),
        12
    );
    env.rbuild(["rm", "again"])
        .run()
        .exits(1)
        .says("container is running");
    assert_eq!(told(&env, &["stop", "again"]), "again");
    assert_eq!(states(&env), ["again exited Exited (3)"]);
    let count = inspect(&env, "again", "{{.RestartCount}}");
    // It has been stopped by hand, so `unless-stopped` would leave it; `always` means always.
    let on_boot = ["ps", "-aq", "-f", "should-start-on-boot=true"];
    assert_eq!(told(&env, &on_boot).len(), 12);
    assert_eq!(
        inspect(&env, "again", "{{.RestartCount}}"),
        count,
        "it stays stopped"
    );
    told(&env, &["rm", "again"]);
    // Killed, too, it stays where it is; an order that is no end does not stop it.
    serve_again(&env, "web", "unless-stopped");
    told(&env, &["kill", "-s", "USR1", "web"]);
    told(&env, &["kill", "web"]);
    assert_eq!(states(&env), ["web exited Exited (137)"]);
    assert_eq!(told(&env, &on_boot), "");
    // What a unit of systemd would start after a start of the machine.
    told(&env, &["create", "--name", "never", "busybox", "true"]);
    assert_eq!(
        told(
            &env,
            &[
                "start",
                "--all",
                "--filter",
                "restart-policy=unless-stopped"
            ]
        ),
        "web"
    );
    assert_eq!(states(&env)[1], "web running Up");
    // Its first process is killed by somebody else: it is started again.
    let pid = inspect(&env, "web", "{{.State.Pid}}");
    super::kill(pid.parse().unwrap());
    until(
        || inspect(&env, "web", "{{.State.Status}} {{.RestartCount}}"),
        |shown| shown == "running 1",
    );
    assert_ne!(inspect(&env, "web", "{{.State.Pid}}"), pid);
    told(&env, &["rm", "-f", "web", "never"]);
}

#[test]
fn a_machine_that_goes_down_has_containers_end_and_be_there_again() {
    let env = with_busybox();
    serve_again(&env, "web", "unless-stopped");
    until(|| told(&env, &["logs", "web"]), |log| log.contains("ready"));
    let monitor = super::monitor_of(&told(&env, &["ps", "-q", "--no-trunc"]));
    let monitor = rustix::process::Pid::from_raw(monitor).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::TERM).unwrap();
    until(
        || states(&env),
        |states| states == &["web exited Exited (3)"],
    );
    assert!(told(&env, &["logs", "web"]).ends_with("bye"));
    told(&env, &["create", "--name", "other", "busybox", "true"]);
    let start = ["start", "--all", "--filter", "should-start-on-boot=true"];
    assert_eq!(told(&env, &start), "web");
    told(&env, &["stop", "web"]);
    assert_eq!(told(&env, &start), "");
    told(&env, &["rm", "web", "other"]);
}

fn serve_again(env: &TestEnv, name: &str, policy: &str) {
    told(
        env,
        &[
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "busybox",
            "sh",
            "-c",
            super::SERVER,
        ],
    );
}

#[test]
fn a_container_is_asked_whether_it_is_well() {
    let env = with_busybox();
    let context = env.dockerfile(
        "checked",
        "FROM busybox\nHEALTHCHECK --interval=100ms --timeout=20s --retries=2 \
         CMD cat /well\nCMD touch /well; exec sleep 1000\n",
    );
    env.build("checked", &context);
    told(&env, &["run", "-d", "--name", "web", "checked"]);
    let status = || inspect(&env, "web", "{{.State.Health.Status}}");
    until(status, |status| status == "healthy");
    assert!(told(&env, &["ps"]).contains("(healthy)"));
    told(&env, &["exec", "web", "rm", "/well"]);
    until(status, |status| status == "unhealthy");
    assert!(told(&env, &["ps", "-f", "health=unhealthy"]).contains("(unhealthy)"));
    let probe = "{{with index .State.Health.Log 4}}{{.ExitCode}} {{.Output}}{{end}}";
    until(
        || env.rbuild(["inspect", "-f", probe, "web"]).run().out(),
        |shown| shown.starts_with("1 cat: can't open '/well'"),
    );
    assert_eq!(inspect(&env, "web", "{{len .State.Health.Log}}"), "5");
    // What stands still is not asked.
    told(&env, &["pause", "web"]);
    let streak = inspect(&env, "web", "{{.State.Health.FailingStreak}}");
    told(&env, &["unpause", "web"]);
    let streak: u32 = streak.parse().unwrap();
    until(
        || {
            inspect(&env, "web", "{{.State.Health.FailingStreak}}")
                .parse::<u32>()
                .unwrap()
        },
        |now| *now > streak,
    );
    told(&env, &["rm", "-f", "web"]);
    // Without checks there is nothing to show.
    told(
        &env,
        &["run", "-d", "--name", "web", "--no-healthcheck", "checked"],
    );
    assert_eq!(inspect(&env, "web", "{{json .State}}").find("Health"), None);
    told(&env, &["rm", "-f", "web"]);
}

#[test]
fn a_check_that_takes_too_long_is_ended_and_an_unhealthy_container_can_be_started_again() {
    let env = with_busybox();
    let check = "test -e /hang || exit 0; echo hangs; sleep 1000";
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--health-cmd",
            check,
            "--health-interval",
            "50ms",
            "--health-timeout",
            "1s",
            "--health-retries",
            "1",
            "--health-on-failure",
            "restart",
            "busybox",
            "sh",
            "-c",
            "rm -f /hang; trap 'touch /hang' USR1; \
             echo ready; while :; do sleep 1 & wait $!; done",
        ],
    );
    until(
        || inspect(&env, "web", "{{.State.Health.Status}}"),
        |status| status == "healthy",
    );
    until(|| told(&env, &["logs", "web"]), |log| log == "ready");
    told(&env, &["kill", "-s", "USR1", "web"]);
    until(
        || inspect(&env, "web", "{{.RestartCount}} {{.State.Health.Status}}"),
        |shown| shown == "1 healthy",
    );
    told(&env, &["rm", "-f", "web"]);
    // The same, without anything being done about it.
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--health-cmd",
            "echo hangs; sleep 1000",
            "--health-interval",
            "50ms",
            "--health-timeout",
            "500ms",
            "--health-retries",
            "1",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let probe =
        "{{.State.Health.Status}} {{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}";
    let shown = until(
        || inspect(&env, "web", probe),
        |shown| shown.starts_with("unhealthy"),
    );
    assert!(
        shown.starts_with("unhealthy -1 Health check exceeded timeout (500ms): hangs"),
        "{shown}"
    );
    told(&env, &["rm", "-f", "web"]);
    for (wrong, why) in [
        (
            &["--no-healthcheck", "--health-cmd", "x"] as &[&str],
            "conflicts with --health-*",
        ),
        (&["--health-interval", "1us"], "cannot be less than 1ms"),
        (
            &["--health-on-failure", "cry"],
            "known values: none, kill, restart, stop",
        ),
    ] {
        env.rbuild(["run"])
            .args(wrong)
            .args(["busybox", "true"])
            .run()
            .exits(125)
            .says(why);
    }
}

#[test]
fn a_container_stands_still_and_goes_on() {
    let env = with_busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i > /count; done & \
                  trap 'exit 5' TERM; while :; do sleep 1 & wait $!; done";
    told(
        &env,
        &[
            "run", "-d", "--name", "counts", "busybox", "sh", "-c", script,
        ],
    );
    let count = || {
        // It is not there before the first turn of the loop.
        let text = told(&env, &["exec", "counts", "sh", "-c", "cat /count || true"]);
        text.parse::<u64>().unwrap_or(0)
    };
    until(count, |count| *count > 0);
    let directory = env.store().join("containers");
    let id = told(&env, &["ps", "-q", "--no-trunc"]);
    let file = directory.join(id).join("files-0/upper/count");
    let read = || fs::read_to_string(&file).unwrap();
    assert_eq!(told(&env, &["pause", "counts"]), "counts");
    let before = read();
    assert_eq!(states(&env), ["counts paused Up"]);
    assert_eq!(
        inspect(
            &env,
            "counts",
            "{{.State.Running}} {{.State.Paused}} {{.State.Status}}"
        ),
        "true true paused"
    );
    env.rbuild(["pause", "counts"])
        .run()
        .fails_with("is already paused");
    env.rbuild(["exec", "counts", "true"])
        .run()
        .fails_with("is paused, unpause it first");
    env.rbuild(["rm", "counts"])
        .run()
        .exits(1)
        .says("container is running");
    // Whatever runs in it would have written by now: this takes as many turns of the processor.
    for _ in 0..3 {
        told(&env, &["top", "counts"]);
        assert_eq!(read(), before);
    }
    assert_eq!(told(&env, &["unpause", "--all"]), "counts");
    until(count, |count| count.to_string() != before.trim());
    env.rbuild(["unpause", "counts"])
        .run()
        .fails_with("is not paused");
    // It can be asked to end while it stands still, and be killed.
    told(&env, &["pause", "counts"]);
    told(&env, &["stop", "-t", "60", "counts"]);
    assert_eq!(states(&env), ["counts exited Exited (5)"]);
    env.rbuild(["pause", "counts"])
        .run()
        .fails_with("is not running");
    told(&env, &["start", "counts"]);
    told(&env, &["pause", "counts"]);
    told(&env, &["rm", "-f", "counts"]);
    assert!(states(&env).is_empty());
    // The monitor is killed meanwhile.
    serve(&env, "web");
    told(&env, &["pause", "web"]);
    let monitor = super::monitor_of(&told(&env, &["ps", "-q", "--no-trunc"]));
    let first: i32 = inspect(&env, "web", "{{.State.Pid}}").parse().unwrap();
    super::kill(monitor);
    until(
        || fs::exists(format!("/proc/{first}")).unwrap(),
        |there| !there,
    );
    assert_eq!(states(&env), ["web exited Exited (137)"]);
    told(&env, &["rm", "web"]);
}

#[test]
fn what_a_container_uses_is_shown() {
    let env = with_busybox();
    // Ten megabytes of its own, and a processor.
    let script =
        "x=$(head -c 10485760 /dev/zero | tr '\\0' x); echo ready >&2; while :; do :; done";
    told(
        &env,
        &[
            "run", "-d", "-m", "100m", "--name", "busy", "busybox", "sh", "-c", script,
        ],
    );
    told(
        &env,
        &["run", "-d", "--name", "idle", "busybox", "sleep", "1000"],
    );
    let logs = env.rbuild(["logs", "-f", "busy"]).spawn();
    logs.wait_for_line("ready");
    let format = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}} {{.ID}}";
    let shown = told(
        &env,
        &["stats", "--no-stream", "--format", format, "busy", "idle"],
    );
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    let number = |text: &str| {
        text.trim_end_matches(|c: char| !c.is_ascii_digit())
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!((rows[0][0], rows[1][0]), ("busy", "idle"), "{shown}");
    assert!(number(rows[0][1]) > 0.0, "{shown}");
    assert!(number(rows[1][1]) <= 1.0, "{shown}");
    assert!(
        rows[0][2].ends_with("MiB") && number(rows[0][2]) >= 10.0,
        "{shown}"
    );
    assert_eq!(rows[0][4], "100MiB", "{shown}");
    assert!(
        rows[1][2].ends_with("KiB") || rows[1][2].ends_with("MiB"),
        "{shown}"
    );
    assert_eq!((rows[0][5], rows[1][5]), ("1", "1"), "{shown}");
    let table = told(&env, &["stats", "--no-stream"]);
    assert!(
        table.starts_with("CONTAINER ID   NAME      CPU %"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    // Those that have ended are shown when asked for, and use nothing.
    told(&env, &["kill", "busy"]);
    logs.wait();
    assert_eq!(told(&env, &["stats", "--no-stream"]).lines().count(), 2);
    let all = told(&env, &["stats", "--no-stream", "-a", "--format", format]);
    assert!(all.contains("busy 0.00% 0B / 0B 0 "), "{all}");
    env.rbuild(["stats", "nope"])
        .run()
        .fails_with("No such container: nope");
    let top = told(&env, &["top", "idle", "-o", "pid,comm,args"]);
    let pid = inspect(&env, "idle", "{{.State.Pid}}");
    let lines: Vec<Vec<&str>> = top
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["PID", "COMMAND", "COMMAND"]);
    assert_eq!(lines[1], [pid.as_str(), "sleep", "sleep", "1000"], "{top}");
    env.rbuild(["top", "idle", "-o", "soul"])
        .run()
        .fails_with("the column `soul`");
    told(&env, &["rm", "-f", "busy", "idle"]);
}

#[test]
fn a_next_end_and_a_removal_can_be_waited_for() {
    let env = with_busybox();
    let command = ["busybox", "sh", "-c", "exit 6"];
    let created = env
        .rbuild(["create", "--name", "job"])
        .args(command)
        .run()
        .ok();
    let id = created.out().trim().to_owned();
    let next = env
        .rbuild(["wait", "--condition", "next-exit", &id])
        .spawn();
    let gone = env.rbuild(["wait", "--condition", "removed", &id]).spawn();
    assert_eq!(told(&env, &["wait", "job"]), "0", "it has never run");
    // Until it was seen, for it may not have waited yet.
    until(
        || {
            env.rbuild(["start", "-a", "job"]).run().exits(6);
            let processes = fs::read_dir("/proc").unwrap().flatten();
            processes.filter(|entry| waits(entry, &id)).count()
        },
        |waiting| *waiting == 0,
    );
    assert_eq!(next.wait().ok().out(), "6\n");
    told(&env, &["rm", "job"]);
    assert_eq!(gone.wait().ok().out(), "6\n");
}

/// Whether a process is one of this program that waits for the next end of a container.
fn waits(entry: &fs::DirEntry, id: &str) -> bool {
    let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(&format!("--condition\0next-exit\0{id}"))
}
