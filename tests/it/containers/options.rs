//! Options of `run` that say what a container has in common with this machine and with others, and how
//! `inspect` shows what was asked for.

use std::fs;

use super::{told, with_busybox};
use crate::args;
use crate::rootless::User;

/// What `hostname` and the links of its namespaces say, here and in containers.
const WHOSE: &str = "hostname; readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc";

fn here() -> Vec<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut lines = vec![name.trim().to_owned()];
    for kind in ["uts", "ipc"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        lines.push(link.display().to_string());
    }
    lines
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_container_may_have_the_names_and_the_memory_of_this_machine() {
    let env = with_busybox();
    let run = ["run", "--rm", "--uts", "host", "--ipc", "host", "busybox"];
    let own = |more: &[&str]| lines(&told(&env, &[&run[..], more].concat()));
    assert_eq!(own(&["sh", "-c", WHOSE]), here());
    // Its shared memory is that of the machine.
    let shared = format!("/dev/shm/rbuild-test-{}", std::process::id());
    fs::write(&shared, "from here").unwrap();
    let seen = own(&[
        "sh",
        "-c",
        &format!("cat {shared}; echo; echo from there >{shared}"),
    ]);
    let written = fs::read_to_string(&shared).unwrap();
    fs::remove_file(&shared).unwrap();
    assert_eq!(
        (seen, written.as_str()),
        (vec!["from here".to_owned()], "from there\n")
    );
    // So it is for what joins a container that runs.
    let start = [
        "run", "-d", "--name", "box", "--uts", "host", "--ipc", "host",
    ];
    told(&env, &[&start[..], &["busybox", "sleep", "1000"]].concat());
    assert_eq!(
        lines(&told(&env, &["exec", "box", "sh", "-c", WHOSE])),
        here()
    );
    let modes = "{{.HostConfig.IpcMode}} {{.HostConfig.UTSMode}}";
    assert_eq!(env.inspect("box", modes), "host host");
    told(&env, &["rm", "-f", "box"]);
    for (options, why) in [
        (
            &["--uts", "host", "-h", "x"][..],
            "--uts host has this machine's name",
        ),
        (
            &["--ipc", "host", "--shm-size", "1m"],
            "conflicting options: --shm-size",
        ),
        (
            &["--ipc", "container:x"],
            "`--ipc container:x` is not supported yet",
        ),
        (&["--pid", "host"], "`rbuild top` look into a container"),
        (&["--gpus", "all"], "`--device /dev/nvidia0`"),
        (&["--tz", "UTC"], "`-e TZ=ZONE`"),
    ] {
        let run = [&["run", "--rm"], options, &["busybox", "true"]].concat();
        env.rbuild(run).run().exits(125).says(why);
    }
}

#[test]
fn so_may_one_without_root() {
    let user = User::new("rbuild-test:300000:65536\n");
    user.import_busybox();
    let rbuild = |args: Vec<std::ffi::OsString>| user.rbuild(args).run().ok().out();
    let run = args![
        "run",
        "--rm",
        "--network",
        "host",
        "--uts",
        "host",
        "--ipc",
        "host",
        "busybox",
        "sh",
        "-c",
        WHOSE
    ];
    assert_eq!(lines(&rbuild(run.into())), here());
    let start = args![
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "host",
        "--uts",
        "host",
        "--ipc",
        "host",
        "busybox",
        "sleep",
        "1000"
    ];
    rbuild(start.into());
    assert_eq!(
        lines(&rbuild(args!["exec", "box", "sh", "-c", WHOSE].into())),
        here()
    );
    rbuild(args!["rm", "-f", "box"].into());
}

#[test]
fn a_linked_container_is_found_by_its_alias() {
    let env = with_busybox();
    for network in ["bridge", "back"] {
        if network == "back" {
            told(&env, &["network", "create", "back"]);
        }
        let start = ["run", "-d", "--network", network, "--name"];
        let sleep = ["busybox", "sleep", "1000"];
        told(&env, &[&start[..], &["db"], &sleep].concat());
        told(
            &env,
            &[&start[..], &["web", "--link", "db:data"], &sleep].concat(),
        );
        let place = format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}");
        let found = |name: &str| told(&env, &["exec", "web", "ping", "-c", "1", "-w", "60", name]);
        let address = env.inspect("db", &place);
        for name in ["data", "db"] {
            assert!(
                found(name).contains(&format!("({address})")),
                "{network} {name}"
            );
        }
        assert_eq!(
            env.inspect("web", "{{.HostConfig.Links}}"),
            "[/db:/web/data]"
        );
        // Where it is now counts.
        told(&env, &["stop", "-t", "0", "db"]);
        env.rbuild(["exec", "web", "nslookup", "-type=a", "data"])
            .run()
            .exits(1);
        told(&env, &["start", "db"]);
        let address = env.inspect("db", &place);
        assert!(found("data").contains(&format!("({address})")), "{network}");
        told(&env, &["rm", "-f", "db"]);
        env.rbuild(["restart", "-t", "0", "web"])
            .run()
            .fails_with("No such container");
        told(&env, &["rm", "-f", "web"]);
    }
    told(&env, &["create", "--name", "db", "busybox", "true"]);
    let linked = ["run", "--rm", "--link", "db:data", "busybox", "true"];
    env.rbuild(linked)
        .run()
        .exits(125)
        .says("Cannot link to a non running container: /db AS /");
    env.rbuild(["run", "--rm", "--link", "nobody", "busybox", "true"])
        .run()
        .exits(125)
        .says("could not get container for nobody");
    told(&env, &["rm", "db"]);
}

#[test]
fn a_container_takes_the_place_of_another_one() {
    let env = with_busybox();
    let start = |replace: &[&str]| {
        let run = [
            &["run", "-d", "--name", "box"],
            replace,
            &["busybox", "sleep", "1000"],
        ];
        env.rbuild(run.concat()).run()
    };
    let first = start(&[]).ok().out();
    start(&[]).exits(125).says("is already in use by container");
    let second = start(&["--replace"]).ok().out();
    assert_ne!(first, second);
    assert_eq!(told(&env, &["ps", "-aq", "--no-trunc"]), second.trim());
    start(&["--replace"]).ok();
    told(&env, &["create", "--name", "other", "busybox", "true"]);
    assert_eq!(told(&env, &["kill", "-a"]), "box");
    assert_eq!(told(&env, &["stop", "--all"]), "");
    let removed = told(&env, &["rm", "--all"]);
    assert_eq!(lines(&removed).len(), 2, "{removed}");
    assert_eq!(told(&env, &["ps", "-aq"]), "");
}

#[test]
fn the_platform_is_that_of_this_machine_or_refused() {
    let env = with_busybox();
    let own = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("not known to this test: {other}"),
    };
    let run = |platform: &str, pull: &str| {
        let run = ["run", "--rm", "--pull", pull, "--platform", platform];
        env.rbuild(run).args(["busybox", "echo", "runs"]).run()
    };
    assert_eq!(run(own, "missing").ok().out(), "runs\n");
    assert_eq!(run("linux", "never").ok().out(), "runs\n");
    run("linux/s390x", "never")
        .exits(125)
        .says("No such image: busybox");
    run("what/ever/is/this/now", "never")
        .exits(125)
        .says("invalid platform");
}

#[test]
fn what_was_asked_for_is_shown_as_docker_shows_it() {
    let env = with_busybox();
    let id_file = env.join("id").display().to_string();
    let options = [
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "MKNOD",
        "--security-opt",
        "no-new-privileges",
        "--group-add",
        "5",
        "--device",
        "/dev/null:/dev/nothing",
        "--tmpfs",
        "/t:size=1m",
        "--ulimit",
        "nofile=64:128",
        "--annotation",
        "a.b=c",
        "--cidfile",
        &id_file,
        "-m",
        "64m",
        "--memory-swap",
        "128m",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--oom-score-adj",
        "100",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--stop-signal",
        "INT",
        "-l",
        "k=v",
    ];
    told(
        &env,
        &[
            &["create", "--name", "box"],
            &options[..],
            &["busybox", "true"],
        ]
        .concat(),
    );
    let shown = |template: &str| env.inspect("box", template);
    for (template, want) in [
        (
            "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}",
            "[NET_ADMIN] [MKNOD]",
        ),
        (
            "{{.HostConfig.SecurityOpt}} {{.HostConfig.GroupAdd}}",
            "[no-new-privileges] [5]",
        ),
        (
            "{{range .HostConfig.Devices}}{{.PathOnHost}} {{.PathInContainer}} \
             {{.CgroupPermissions}}{{end}}",
            "/dev/null /dev/nothing rwm",
        ),
        ("{{index .HostConfig.Tmpfs \"/t\"}}", "size=1m"),
        (
            "{{range .HostConfig.Ulimits}}{{.Name}} {{.Soft}} {{.Hard}}{{end}}",
            "nofile 64 128",
        ),
        ("{{index .HostConfig.Annotations \"a.b\"}}", "c"),
        ("{{.HostConfig.ContainerIDFile}}", &id_file),
        (
            "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}",
            "67108864 134217728",
        ),
        (
            "{{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}",
            "512 0",
        ),
        (
            "{{.HostConfig.OomScoreAdj}} {{json .HostConfig.Sysctls}}",
            "100 {\"net.ipv4.ip_forward\":\"1\"}",
        ),
        (
            "{{.HostConfig.IpcMode}}|{{.HostConfig.PidMode}}|{{.HostConfig.UTSMode}}",
            "private||",
        ),
        ("{{.Config.StopSignal}} {{.Config.OpenStdin}}", "INT false"),
        (
            "{{.MountLabel}}{{.ProcessLabel}}{{.AppArmorProfile}}{{.ExecIDs}}",
            "[]",
        ),
        ("{{.GraphDriver.Name}}", "overlayfs"),
        (
            "{{json .HostConfig.Links}} {{json .HostConfig.VolumesFrom}}",
            "null null",
        ),
    ] {
        assert_eq!(shown(template), want, "{template}");
    }
    let ps = |format: &str| told(&env, &["ps", "-a", "--format", format]);
    let platform = ps("{{.Platform}}");
    assert_eq!(
        platform,
        env.inspect("busybox", "{{.Os}}/{{.Architecture}}")
    );
    assert_eq!(ps("{{.Label \"k\"}}{{.Label \"none\"}}"), "v");
    let table = ps("table {{.Names}}\\t{{.Label \"k\"}}");
    assert_eq!(table, "NAMES     k\nbox       v");
    env.rbuild(["ps", "-a", "--format", "{{.Label}}"])
        .run()
        .fails_with("wrong number of args");
    let json: serde_json::Value = serde_json::from_str(&ps("json")).unwrap();
    assert_eq!((&json["Labels"], json.get("Label")), (&"k=v".into(), None));
    let upper = shown("{{.GraphDriver.Data.UpperDir}}");
    assert!(fs::metadata(&upper).unwrap().is_dir());
    told(&env, &["rm", "box"]);
}
