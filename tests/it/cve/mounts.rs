//! Mounts of steps, cache directories, cleaning up, rights.

use std::fs;
use std::os::unix::fs::symlink;

use super::Canary;
use crate::args;

#[test]
fn cve_2024_1753_a_link_as_source_stays_in_its_stage() {
    let canary = Canary::new();
    let outside = canary.outside.display();
    let text = format!(
        "FROM busybox AS evil\nRUN ln -s / /rootdir\nFROM busybox\n\
         RUN --mount=type=bind,from=evil,source=/rootdir,target=/m,rw \
         touch /m/touched; ls /m{outside}; true\n"
    );
    let context = canary.env.dockerfile("c", &text);
    let told = canary.build(&context, &[]).ok();
    assert!(!told.stderr.contains(" canary\n"), "{}", told.stderr);
    assert!(!std::path::Path::new("/touched").exists());
    let text = format!(
        "FROM busybox AS evil\nRUN ln -s {outside} /out\nFROM busybox\n\
         RUN --mount=type=bind,from=evil,source=/out,target=/m,rw touch /m/touched\n"
    );
    let context = canary.env.dockerfile("c", &text);
    canary.build(&context, &[]).exits(1).says("not found");
}

#[test]
fn cve_2024_9675_cve_2026_33747_names_of_caches_are_no_paths() {
    let canary = Canary::new();
    let long = "x".repeat(5000);
    for id in [
        "../../x",
        "/abs",
        "a/../../b",
        "..",
        "%2e%2e/x",
        long.as_str(),
    ] {
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/c touch /c/touched && ls /c\n"
        );
        let context = canary.env.dockerfile("c", &text);
        canary.build(&context, &[]).ok();
    }
    let text =
        "FROM busybox\nRUN --mount=type=cache,from=busybox,source=../../../,target=/c ls /c\n";
    let context = canary.env.dockerfile("c", text);
    let told = canary.build(&context, &[]).text();
    assert!(
        !told.contains("canary") && !told.contains("store"),
        "{told}"
    );
    let found = walkdir::WalkDir::new(canary.env.path()).into_iter();
    for found in found.map(Result::unwrap) {
        let inside = found.path().starts_with(canary.env.store().join("mounts"));
        assert!(inside || found.file_name() != "touched", "{found:?}");
    }
}

/// One step exchanges a directory and a link as fast as it can, another mounts what it believes to be
/// the directory. `RBUILD_RACES=2000` tries as often as in the advisories.
fn race(mount: &str) {
    let canary = Canary::new();
    let rounds: usize = std::env::var("RBUILD_RACES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(20);
    let swap = "end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do \
         mkdir -p /c/sub; rm -rf /c/sub; ln -s $OUT /c/sub; rm -f /c/sub; done";
    let mut text = format!(
        "FROM busybox AS swap\nARG OUT\nRUN --mount=type=cache,id=c,target=/c {swap}; true\n"
    );
    for round in 0..rounds {
        text.push_str(&format!(
            "FROM busybox AS m{round}\nRUN --mount=type=cache,id=c,target=/c {mount} \
             (echo {round} >/c/sub/evil; ls /c/sub/ /m) 2>/dev/null | grep canary; true\n"
        ));
    }
    text.push_str("FROM scratch\nCOPY --from=swap /etc/passwd /\n");
    for round in 0..rounds {
        text.push_str(&format!("COPY --from=m{round} /etc/passwd /\n"));
    }
    let context = canary.env.dockerfile("c", &text);
    let flag = format!("OUT={}", canary.outside.display());
    let told = canary.build(&context, &["--build-arg", &flag, "--jobs", "4"]);
    assert!(!told.text().contains(" canary\n"), "{}", told.text());
}

#[test]
fn cve_2021_30465_cve_2024_45310_a_target_that_is_exchanged_meanwhile_stays_inside() {
    race("--mount=type=tmpfs,target=/c/sub/m");
}

#[test]
fn cve_2024_23651_cve_2024_11218_a_source_that_is_exchanged_meanwhile_stays_inside() {
    race("--mount=type=cache,id=c,source=sub,target=/m");
}

#[test]
fn cve_2024_9407_unknown_options_of_mounts_are_refused() {
    let canary = Canary::new();
    for options in [
        "type=bind,target=/m,bind-propagation=shared",
        "type=bind,target=/m,propagation=rshared",
        "type=cache,target=/m,sharing=rshared",
        "type=tmpfs,target=/m,size=junk",
        "type=bind,target=/m,ro=perhaps",
        "type=secret,id=x,mode=rshared",
        "type=unheard,target=/m",
        "type=bind,target=/m,dev,suid",
    ] {
        let text = format!("FROM busybox\nRUN --mount={options} true\n");
        let context = canary.env.dockerfile("c", &text);
        let told = canary.build(&context, &[]).exits(1);
        assert!(
            !told
                .stderr
                .contains("RUN --mount=type=bind,target=/m,dev,suid true\n#2 DONE")
        );
    }
}

#[test]
fn cve_2024_23652_mount_points_are_removed_where_they_were_made() {
    let canary = Canary::new();
    fs::write(canary.outside.join("point"), "").unwrap();
    fs::create_dir(canary.outside.join("empty")).unwrap();
    let before = super::listing(&canary.outside);
    let text = format!(
        "FROM busybox\nRUN mkdir /d\n\
         RUN --mount=type=tmpfs,target=/d/e/empty --mount=type=secret,id=s,target=/d/e/point \
         mv /d/e /gone 2>/dev/null; rm -rf /d 2>/dev/null; mv /d /elsewhere; ln -s {} /d; true\n",
        canary.outside.display()
    );
    let context = canary.env.dockerfile("c", &text);
    let secret = canary.env.files("s", &[("s", "SECRET")]).join("s");
    canary
        .env
        .rbuild(args![
            "build",
            "--secret",
            format!("id=s,src={}", secret.display()),
            &context
        ])
        .run();
    assert_eq!(super::listing(&canary.outside), before);
}

#[test]
fn cve_2025_4953_what_is_written_to_the_context_is_thrown_away() {
    let canary = Canary::new();
    let text = "FROM busybox\nRUN --mount=type=bind,rw,target=/c touch /c/new && rm /c/f\n\
         RUN --mount=type=bind,target=/c ls /c\n";
    let context = canary.env.files("c", &[("Dockerfile", text), ("f", "f")]);
    let told = canary.build(&context, &[]).ok();
    assert!(!told.stderr.contains(" new\n"), "{}", told.stderr);
    assert!(context.join("f").exists() && !context.join("new").exists());
}

#[test]
fn cve_2024_23653_rights_are_given_by_the_caller_only() {
    let canary = Canary::new();
    for run in ["--security=insecure", "--network=host"] {
        let text =
            format!("# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN true\nRUN {run} true\n");
        let context = canary.env.dockerfile("c", &text);
        let told = canary.build(&context, &[]).exits(1).says("--allow");
        assert!(!told.stderr.contains("RUN true\n#2"), "{}", told.stderr);
    }
}

#[test]
fn cve_2021_3602_the_environment_of_the_builder_stays_outside() {
    let canary = Canary::new();
    let context = canary
        .env
        .dockerfile("c", "FROM busybox\nRUN env | sort; cat /proc/1/environ\n");
    let told = canary
        .env
        .rbuild(args!["build", "--progress", "plain", &context])
        .env("SECRET", "TOP-SECRET")
        .env("GITHUB_TOKEN", "TOP-SECRET")
        .env("AWS_SECRET_ACCESS_KEY", "TOP-SECRET")
        .run()
        .ok();
    assert!(!told.stderr.contains("TOP-SECRET"), "{}", told.stderr);
}

#[test]
fn cve_2024_9676_files_of_users_are_small_and_regular() {
    let canary = Canary::new();
    fs::write(canary.outside.join("passwd"), "evil:x:7:7::/:/bin/sh\n").unwrap();
    let outside = canary.outside.join("passwd");
    let targets = [
        "/dev/zero",
        outside.to_str().unwrap(),
        "../../../../../../dev/zero",
    ];
    for target in targets {
        let context = canary.env.files(
            "c",
            &[
                (
                    "Dockerfile",
                    "FROM busybox\nCOPY etc/ /etc/\nUSER evil\nRUN id\n",
                ),
                ("etc/x", ""),
            ],
        );
        symlink(target, context.join("etc/passwd")).unwrap();
        let told = canary
            .env
            .rbuild(args!["build", &context])
            .timeout(60)
            .run()
            .exits(1);
        assert!(!told.text().contains("uid=7"), "{}", told.text());
        fs::remove_dir_all(context).unwrap();
    }
    for make in [
        "rm /etc/passwd && mkfifo /etc/passwd",
        "rm /etc/passwd && mkdir /etc/passwd",
        "dd if=/dev/zero of=/etc/passwd bs=1M seek=1000 count=0",
    ] {
        let text = format!("FROM busybox\nRUN {make}\nUSER evil\nRUN id\n");
        let context = canary.env.dockerfile("c", &text);
        canary
            .env
            .rbuild(args!["build", &context])
            .timeout(60)
            .run()
            .exits(1)
            .says("could not read /etc/passwd");
    }
}

#[test]
fn cve_2021_41091_the_store_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let canary = Canary::new();
    let mode = fs::metadata(canary.env.store())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn cve_2023_26054_passwords_in_addresses_are_kept_nowhere() {
    use crate::support::web::{Answer, WebServer};
    let canary = Canary::new();
    let web = WebServer::start(|_| Answer::ok("text"));
    let url = web.url("/f").replace("http://", "http://user:TOP-SECRET@");
    let context = canary
        .env
        .dockerfile("c", &format!("FROM busybox\nADD {url} /f\n"));
    let told = canary
        .env
        .rbuild(args!["build", "--progress", "plain", "-t", "x", &context])
        .run();
    let history = canary.env.rbuild(["history", "--no-trunc", "x"]).run();
    // The Dockerfile itself says it; what is made of it does not.
    assert!(!history.text().contains("TOP-SECRET"), "{}", history.text());
    assert!(
        !told.stderr.contains("load http://user:TOP-SECRET"),
        "{}",
        told.stderr
    );
}
