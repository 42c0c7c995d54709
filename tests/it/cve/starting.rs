//! Starting a sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use super::Canary;
use crate::args;

/// A context whose directory `root` is copied over the root file system.
fn over(canary: &Canary, links: &[(&str, &str)], rest: &str) -> std::path::PathBuf {
    let text = format!("FROM busybox\nCOPY root/ /\n{rest}\n");
    let context = canary
        .env
        .files("over", &[("Dockerfile", &text), ("root/x", "")]);
    for (name, target) in links {
        let path = context.join("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }
    context
}

#[test]
fn cve_2019_5736_the_binary_cannot_be_written_through_proc() {
    let canary = Canary::new();
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let before = fs::read(binary).unwrap();
    let text = "FROM busybox\nRUN printf '#!/proc/self/exe\\n' >/evil && chmod 755 /evil\n\
         RUN for i in 1 2 3 4 5 6 7 8; do \
           for exe in /proc/[0-9]*/exe; do (echo x >>$exe) 2>/dev/null; done; done; true\n\
         RUN [\"/evil\"]\n";
    let context = canary.env.dockerfile("c", text);
    canary.build(&context, &[]).exits(1);
    assert!(
        fs::read(binary).unwrap() == before,
        "the binary has changed"
    );
}

#[test]
fn cve_2016_9962_no_descriptor_of_the_host_is_in_sight() {
    let canary = Canary::new();
    let lines = canary.lines(
        "FROM busybox\nRUN ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o -e '-> .*' | grep -v -e pipe: -e '-> /proc/' -e /dev/null; \
         ls /proc/[0-9]*/root/ >/dev/null && echo seen\n",
        "RUN ls",
    );
    assert_eq!(lines, ["seen"]);
}

#[test]
fn cve_2024_21626_a_working_directory_in_proc_leads_nowhere() {
    let canary = Canary::new();
    for number in [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16] {
        let text = format!(
            "FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN cat ../../../{}/canary; ls ../../..\n",
            canary.outside.display()
        );
        let context = canary.env.dockerfile("c", &text);
        let told = canary.build(&context, &[]).text();
        assert!(!told.contains("untouched"), "{told}");
    }
}

#[test]
fn cve_2025_31133_masks_do_not_come_from_the_image() {
    let canary = Canary::new();
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let links = [("dev/null", "/proc/sys/kernel/core_pattern")];
    let context = over(
        &canary,
        &links,
        "RUN wc -c </proc/keys; (echo evil >/proc/sys/kernel/core_pattern) 2>/dev/null || echo no",
    );
    let told = canary.build(&context, &[]).ok();
    assert!(told.stderr.contains(" no\n"), "{}", told.stderr);
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

#[test]
fn cve_2025_52565_the_console_is_our_own() {
    let canary = Canary::new();
    let outside = canary.outside.to_str().unwrap().to_owned();
    let links = [
        ("dev/console", outside.as_str()),
        ("dev/pts", outside.as_str()),
    ];
    let context = over(&canary, &links, "RUN true");
    canary.build(&context, &[]).ok();
    let ran = canary
        .env
        .rbuild(args![
            "run",
            "--rm",
            "-t",
            "--network=none",
            "hostile",
            "sh",
            "-c",
            "ls -l /dev/console"
        ])
        .run();
    assert!(ran.ok().out().starts_with("crw"));
    canary.check("run -t");
    fs::remove_dir_all(context).unwrap();
    let context = over(&canary, &[("dev", &outside)], "RUN true");
    canary.build(&context, &[]).exits(1).says("symbolic link");
}

#[test]
fn cve_2025_52881_nothing_is_mounted_in_proc() {
    let canary = Canary::new();
    for target in ["/proc", "/proc/self/attr", "/proc/sys", "/x/../proc"] {
        let text = format!("FROM busybox\nRUN --mount=type=tmpfs,target={target} true\n");
        let context = canary.env.dockerfile("c", &text);
        canary.build(&context, &[]).exits(1);
    }
    for target in ["/proc/self/attr", "/proc"] {
        let flag = format!("--tmpfs={target}");
        canary
            .env
            .rbuild(["run", "--rm", "--network=none", &flag, "busybox", "true"])
            .run()
            .exits(125);
    }
}

#[test]
fn cve_2019_16884_cve_2019_19921_cve_2023_27561_kernel_trees_are_no_links() {
    let canary = Canary::new();
    for name in ["proc", "sys", "dev"] {
        let context = over(&canary, &[(name, "/tmp")], "RUN true");
        canary.build(&context, &[]).exits(1).says("symbolic link");
        fs::remove_dir_all(context).unwrap();
    }
    let context = canary
        .env
        .dockerfile("c", "FROM busybox\nVOLUME /proc\nRUN cat /proc/keys\n");
    let told = canary.build(&context, &[]).ok();
    assert!(!told.stderr.contains("keyring"), "{}", told.stderr);
}

#[test]
fn cve_2026_55686_a_working_directory_behind_a_link_stays_inside() {
    let canary = Canary::new();
    let outside = canary.outside.to_str().unwrap().to_owned();
    let context = over(
        &canary,
        &[("app", &outside)],
        "USER 1000\nWORKDIR /app/new\nRUN pwd",
    );
    // Where the link leads is made inside; a path in `/dev` is gone again when the step runs.
    canary.build(&context, &[]);
    assert!(!canary.outside.join("new").exists());
    fs::remove_dir_all(context).unwrap();
    let context = over(
        &canary,
        &[("app", "/srv/made")],
        "USER 1000\nWORKDIR /app/new\nRUN pwd",
    );
    let told = canary.build(&context, &[]).ok();
    assert!(told.stderr.contains("/srv/made/new"), "{}", told.stderr);
    assert!(!std::path::Path::new("/srv/made").exists());
}

#[test]
fn cve_2022_24769_cve_2022_27649_cve_2022_27651_cve_2022_29162_nothing_is_inheritable() {
    let canary = Canary::new();
    let show = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
    let sets = ["CapInh: 0000000000000000", "CapAmb: 0000000000000000"];
    for user in ["0", "1000"] {
        let text = format!("FROM busybox\nUSER {user}\nRUN {show}\n");
        let lines = canary.lines(&text, "RUN grep");
        let lines: Vec<_> = lines.iter().map(|line| line.replace('\t', " ")).collect();
        assert_eq!(lines, sets, "{user}");
        let ran = canary
            .env
            .rbuild([
                "run",
                "--rm",
                "--network=none",
                "--user",
                user,
                "busybox",
                "sh",
                "-c",
                show,
            ])
            .run();
        assert_eq!(ran.ok().out().replace('\t', " ").trim(), sets.join("\n"));
    }
}

#[test]
fn cve_2022_2989_cve_2022_2990_cve_2022_36109_cve_2023_25173_the_own_group_is_among_the_groups() {
    let canary = Canary::new();
    for (user, groups) in [
        ("app", "1002 50"),
        ("app:staff", "50"),
        ("1001", "1002 50"),
        ("4000:5000", "5000"),
    ] {
        let text = format!(
            "FROM busybox\nRUN echo secret >/f && chown 0:1002 /f && chmod 0604 /f\nUSER {user}\n\
             RUN grep ^Groups /proc/self/status; cat /f 2>/dev/null || echo refused\n"
        );
        let lines = canary.lines(&text, "RUN grep");
        // What `id -G` says would do without: it adds the primary group itself.
        let listed = |text: &str| -> BTreeSet<u32> {
            let numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
            numbers.collect()
        };
        assert_eq!(listed(&lines[0]), listed(groups), "{user}: {lines:?}");
        let may_not = groups.contains("1002");
        assert_eq!(lines[1] == "refused", may_not, "{user}: {lines:?}");
    }
}

#[test]
fn cve_2024_40635_user_numbers_do_not_wrap() {
    let canary = Canary::new();
    for user in ["2147483648", "4294967295", "4294967296", "-1", "0x0"] {
        let text = format!("FROM busybox\nUSER {user}\nRUN id -u\n");
        let context = canary.env.dockerfile("c", &text);
        canary.build(&context, &[]).exits(1);
    }
}

#[test]
fn cve_2023_25809_control_groups_cannot_be_written_without_root() {
    let user = crate::rootless::User::new("rbuild-test:300000:65536\n");
    user.import_busybox();
    let text = "FROM busybox\nRUN find /sys -maxdepth 4 -name cgroup.procs 2>/dev/null | \
         while read f; do (echo 1 >$f) 2>/dev/null && echo wrote $f; done; \
         (mkdir /sys/fs/cgroup/evil) 2>/dev/null && echo made; echo over\n";
    let context = user.env.dockerfile("c", text);
    let told = user
        .rbuild(args!["--progress", "plain", context])
        .run()
        .ok();
    let steps = crate::support::progress::parse(&told.stderr);
    let lines = &crate::support::progress::step(&steps, "RUN find").log;
    assert_eq!(lines, &["over"]);
}

#[test]
fn cve_2022_1227_cve_2019_14271_cve_2026_41567_programs_of_the_image_do_not_serve_us() {
    let canary = Canary::new();
    let evil = format!(
        "#!/bin/sh\necho evil >>{}/canary\n",
        canary.outside.display()
    );
    let context = canary.env.files("c", &[("f", "content")]);
    let bin = context.join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["tar", "xz", "gzip", "unpigz", "git", "newuidmap", "zstd"] {
        fs::write(bin.join(name), &evil).unwrap();
    }
    let packed = |program: &str, package: &str, flag: &str, name: &str| {
        let done = std::process::Command::new(crate::support::needs::program("tar", "tar"))
            .arg(format!(
                "--use-compress-program={}",
                crate::support::needs::program(program, package).display()
            ))
            .args([flag, name, "f"])
            .current_dir(&context)
            .status()
            .unwrap();
        assert!(done.success());
    };
    packed("xz", "xz-utils", "-cf", "a.tar.xz");
    packed("gzip", "gzip", "-cf", "a.tar.gz");
    fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nCOPY --chmod=755 bin/ /bin/\nADD a.tar.xz /x/\nADD a.tar.gz /z/\nRUN cat /x/f /z/f\n",
    )
    .unwrap();
    canary.build(&context, &[]).ok();
}
