//! `commit`, `system df`, `container prune` and `system prune`.

use super::{told, with_busybox};

#[test]
fn commit_makes_an_image_of_what_a_container_changed() {
    let env = with_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nENV A=1 B=2\nRUN mkdir /old && touch /old/x /gone\nVOLUME /vol\nCMD [\"false\"]\n",
    );
    env.build("app", &context);
    let script = "echo new >/new; rm /gone; rm -r /old; mkdir /old; echo v >/vol/v; chown 5 /new; \
                  ln /new /hard";
    env.rbuild([
        "run", "--name", "box", "-e", "B=3", "-e", "C=4", "-l", "k=v", "-w", "/old", "app",
    ])
    .args(["sh", "-c", script])
    .run()
    .ok();
    let id = told(
        &env,
        &[
            "commit",
            "-m",
            "by hand",
            "-a",
            "me",
            "-c",
            "ENV D=5",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "box",
            "changed:1",
        ],
    );
    assert!(id.starts_with("sha256:"), "{id}");
    let shown = |template: &str| env.inspect("changed:1", template);
    assert_eq!(shown("{{.Id}}"), id);
    assert_eq!(
        shown("{{.Config.Env}}"),
        env.inspect("app", "{{.Config.Env}}")
            .replace("B=2]", "B=3 C=4 D=5]")
    );
    assert_eq!(
        shown("{{.Config.Cmd}} {{.Config.WorkingDir}} {{.Config.Labels}} {{.Author}} {{.Comment}}"),
        "[cat /new] /old map[k:v] me by hand"
    );
    assert_eq!(
        shown("{{len .RootFS.Layers}}"),
        (env.inspect("app", "{{len .RootFS.Layers}}")
            .parse::<u32>()
            .unwrap()
            + 1)
        .to_string()
    );
    env.rbuild(["run", "--rm", "changed:1"])
        .run()
        .ok()
        .prints("new\n");
    let look = "stat -c '%u %h' /new; ls -A /old /vol; ls /gone";
    env.rbuild(["run", "--rm", "changed:1", "sh", "-c", look])
        .run()
        .exits(1)
        .prints("5 2\n/old:\n\n/vol:\n");
    let history = told(
        &env,
        &[
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}|{{.Comment}}",
            "changed:1",
        ],
    );
    assert!(history.starts_with("sh -c echo new"), "{history}");
    assert!(
        history.lines().next().unwrap().ends_with("|by hand"),
        "{history}"
    );
    // The container is as it was.
    assert!(told(&env, &["diff", "box"]).contains("D /gone"));
    env.rbuild(["commit", "-c", "NONSENSE x", "box"])
        .run()
        .fails_with("NONSENSE");
    env.rbuild(["commit", "nobox"])
        .run()
        .fails_with("No such container: nobox");
    told(&env, &["rm", "-v", "box"]);
    env.assert_sound_store();
}

#[test]
fn disk_usage_tells_containers_and_volumes_and_pruning_removes_what_is_not_used() {
    let env = with_busybox();
    let row = |kind: &str| -> Vec<String> {
        let format = "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}";
        let rows = told(&env, &["system", "df", "--format", format]);
        let row = rows.lines().find(|row| row.starts_with(kind)).unwrap();
        row.split('|').skip(1).map(str::to_owned).collect()
    };
    env.rbuild([
        "run", "--name", "stopped", "-l", "keep", "-v", "data:/d", "-v", "/own", "busybox",
    ])
    .args([
        "sh",
        "-c",
        "head -c 1000 /dev/zero >/file; head -c 500 /dev/zero >/d/f; echo x >/own/x",
    ])
    .run()
    .ok();
    env.rbuild(["run", "-d", "--name", "runs", "busybox", "sleep", "1000"])
        .run()
        .ok();
    told(&env, &["volume", "create", "idle"]);
    assert_eq!(row("Containers"), ["2", "1", "1kB", "1kB (100%)"]);
    assert_eq!(row("Local Volumes"), ["3", "2", "502B", "0B (0%)"]);
    let verbose = told(&env, &["system", "df", "-v"]);
    assert!(
        verbose.contains("Containers space usage:") && verbose.contains("data"),
        "{verbose}"
    );
    let prune = |args: &[&str]| told(&env, &[&["container", "prune", "-f"], args].concat());
    assert_eq!(
        prune(&["--filter", "label!=keep"]),
        "Total reclaimed space: 0B"
    );
    assert_eq!(
        prune(&["--filter", "until=1h"]),
        "Total reclaimed space: 0B"
    );
    env.rbuild(["container", "prune", "--filter", "x=y"])
        .run()
        .fails_with("invalid filter");
    env.rbuild(["container", "prune"])
        .stdin("n\n")
        .run()
        .exits(1)
        .says("nothing was removed");
    let pruned = told(&env, &["system", "prune", "-a", "--volumes", "-f"]);
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert!(pruned.contains("Deleted Volumes:\n"), "{pruned}");
    assert_eq!(told(&env, &["ps", "-a", "--format", "{{.Names}}"]), "runs");
    assert_eq!(told(&env, &["volume", "ls", "-q"]), "data\nidle");
    // Its image is in use.
    assert_eq!(
        told(&env, &["images", "--format", "{{.Repository}}"]),
        "busybox"
    );
    assert_eq!(row("Containers"), ["1", "1", "0B", "0B"]);
    told(&env, &["rm", "-f", "runs"]);
    told(&env, &["volume", "rm", "data", "idle"]);
    env.assert_sound_store();
}

#[test]
fn limits_and_restarts_are_changed() {
    let env = with_busybox();
    env.rbuild([
        "run",
        "-d",
        "--name",
        "box",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "busybox",
    ])
    .args(["sleep", "1000"])
    .run()
    .ok();
    let shown =
        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    let change = [
        "update",
        "-m",
        "128m",
        "--pids-limit",
        "40",
        "--restart",
        "always",
        "box",
    ];
    assert_eq!(told(&env, &change), "box");
    assert_eq!(
        told(&env, &["inspect", "-f", shown, "box"]),
        "134217728 40 always"
    );
    // In force, by whichever version of control groups there is.
    let read =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
    let seen = env.rbuild(["exec", "box", "sh", "-c", read]).run().out();
    assert_eq!(seen, "134217728\n");
    told(&env, &["update", "-m", "32m", "box"]);
    let seen = env.rbuild(["exec", "box", "sh", "-c", read]).run().out();
    assert_eq!(seen, "33554432\n");
    told(&env, &["update", "--memory-reservation", "16m", "box"]);
    let kept = "cat /sys/fs/cgroup/memory.low /sys/fs/cgroup/memory/memory.soft_limit_in_bytes \
                2>/dev/null";
    let seen = env.rbuild(["exec", "box", "sh", "-c", kept]).run().out();
    assert_eq!(seen, "16777216\n");
    let shown_kept = "{{.HostConfig.MemoryReservation}}";
    assert_eq!(
        told(&env, &["inspect", "-f", shown_kept, "box"]),
        "16777216"
    );
    let update = |args: &[&str]| env.rbuild(["update"]).args(args).run();
    update(&["--cpus", "1", "box"]).fails_with("started without a limit of cpu");
    update(&["--pids-limit", "-1", "box"]).fails_with("not taken away");
    update(&["--cgroup-parent", "x", "box"]).fails_with("cannot be changed");
    update(&["box"]).fails_with("you must provide one or more flags");
    update(&["--restart", "sometimes", "box"]).fails_with("invalid restart policy");
    assert_eq!(
        told(&env, &["inspect", "-f", shown, "box"]),
        "33554432 40 always"
    );
    told(&env, &["stop", "-t", "0", "box"]);
    told(
        &env,
        &[
            "update",
            "--cpus",
            "0.5",
            "--pids-limit",
            "-1",
            "--restart",
            "no",
            "box",
        ],
    );
    let shown =
        "{{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(
        told(&env, &["inspect", "-f", shown, "box"]),
        "500000000 0 no"
    );
    told(&env, &["start", "box"]);
    told(&env, &["rm", "-f", "box"]);
}

#[test]
fn what_is_listed_tells_mounts_and_sizes() {
    let env = with_busybox();
    env.rbuild([
        "run", "--name", "box", "-v", "data:/d", "--tmpfs", "/t", "busybox",
    ])
    .args(["sh", "-c", "head -c 1000 /dev/zero >/file"])
    .run()
    .ok();
    let shown = "{{.Names}} {{.Mounts}} {{.LocalVolumes}} {{.Size}}";
    assert_eq!(
        told(&env, &["ps", "-a", "--format", shown]),
        "box data 1 1kB"
    );
    assert!(told(&env, &["ps", "-as"]).contains("SIZE"));
    let names = |filter: &str| told(&env, &["ps", "-a", "-f", filter, "--format", "{{.Names}}"]);
    assert_eq!(
        (names("volume=data"), names("volume=/d"), names("volume=x")),
        ("box".into(), "box".into(), String::new())
    );
    let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}";
    assert_eq!(told(&env, &["info", "-f", counts]), "1 0 1 1");
    told(&env, &["rm", "box"]);
}

#[test]
fn devices_groups_and_settings_of_the_kernel_are_given() {
    let env = with_busybox();
    let run = |options: &[&str], script: &str| {
        env.rbuild(["run", "--rm"])
            .args(options)
            .args(["busybox", "sh", "-c", script])
            .run()
    };
    run(
        &["--device", "/dev/zero:/dev/nothing"],
        "head -c 3 /dev/nothing | od -An -tx1",
    )
    .ok()
    .prints(" 00 00 00\n");
    run(&["--device", "/dev/zero:r"], "")
        .exits(125)
        .says("the right `r` of a device");
    run(&["--device", "/etc/passwd"], "")
        .exits(125)
        .says("it is no device");
    run(
        &["--group-add", "12345", "--group-add", "root", "-u", "7:8"],
        "id -G",
    )
    .ok()
    .prints("8 0 12345\n");
    run(&["--group-add", "nosuch"], "")
        .exits(125)
        .says("unable to find group nosuch");
    run(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj")
        .ok()
        .prints("500\n");
    run(&["--oom-score-adj", "5000"], "")
        .exits(125)
        .says("[-1000, 1000]");
    let script =
        "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmni /proc/sys/kernel/domainname";
    run(
        &[
            "--sysctl",
            "net.ipv4.ip_default_ttl=33",
            "--sysctl",
            "kernel.shmmni=77",
            "--domainname",
            "here",
        ],
        script,
    )
    .ok()
    .prints("33\n77\nhere\n");
    run(&["--sysctl", "kernel.pid_max=77"], "")
        .exits(125)
        .says("not in a separate kernel namespace");
    let of_host = ["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"];
    run(&of_host, "")
        .exits(125)
        .says("not in a separate kernel namespace");
    run(&["--pid", "host"], "").exits(125).says("not supported");
}
