//! Options of a build that change little and are easily forgotten.

use std::fs;

use crate::args;
use crate::support::TestEnv;
use crate::support::process::with_path;

#[test]
fn build_arguments_come_from_files_too_and_the_command_line_wins() {
    let env = TestEnv::new();
    let text = "FROM scratch\nARG one\nARG two\nARG three\nLABEL all=\"$one $two $three\"\n";
    let arguments = "# a comment\n\none=1\n  two=with = and blanks \nthree=3\n";
    let context = env.files("c", &[("Dockerfile", text), ("arguments", arguments)]);
    let build = |file: &str| {
        let file = context.join(file);
        env.rbuild(args![
            "-t",
            "x",
            "--build-arg-file",
            file,
            "--build-arg",
            "three=III",
            context
        ])
        .run()
    };
    build("arguments").ok();
    assert_eq!(
        env.inspect("x", "{{.Config.Labels.all}}"),
        "1 with = and blanks  III"
    );
    fs::write(context.join("bad"), "one=1\ntwo\n").unwrap();
    build("bad").fails_with("bad`, line 2: expected NAME=VALUE");
    build("none").fails_with("could not read");
}

#[test]
fn a_fixed_time_makes_two_builds_of_the_same_files_the_same() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY a /d/a\nWORKDIR /w\n"),
            ("a", "A"),
        ],
    );
    let (id, raw) = (env.join("id"), env.join("raw"));
    let build = |archive: &str| {
        let archive = env.join(archive);
        let output = with_path("type=oci,dest=", &archive);
        env.rbuild(args![
            "--no-cache",
            "--source-date-epoch",
            "1000",
            "--rewrite-timestamp",
            "--iidfile",
            &id,
            "--iidfile-raw",
            &raw,
            "-o",
            output,
            context
        ])
        .run()
        .ok();
        fs::read(archive).unwrap()
    };
    let first = build("1.tar");
    let first_id = fs::read_to_string(&id).unwrap();
    fs::write(context.join("a"), "A").unwrap();
    assert!(first == build("2.tar"), "the archives differ");
    assert_eq!(fs::read_to_string(&id).unwrap(), first_id);
    let digits = fs::read_to_string(&raw).unwrap();
    assert_eq!(format!("sha256:{digits}"), first_id);
    env.rbuild(args!["--source-date-epoch", "soon", context])
        .run()
        .fails_with("invalid SOURCE_DATE_EPOCH: soon");
}

#[test]
fn the_format_chooses_the_media_types() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY Dockerfile /\n");
    let build = |format: &str| {
        let metadata = env.join("metadata");
        let outcome = env
            .rbuild(args![
                "--format",
                format,
                "--metadata-file",
                &metadata,
                context
            ])
            .run();
        (outcome, fs::read_to_string(metadata).unwrap_or_default())
    };
    let (outcome, metadata) = build("docker");
    outcome.ok();
    assert!(
        metadata.contains("application/vnd.docker.distribution.manifest.v2+json"),
        "{metadata}"
    );
    let (outcome, metadata) = build("oci");
    outcome.ok();
    assert!(
        metadata.contains("application/vnd.oci.image.manifest.v1+json"),
        "{metadata}"
    );
    build("squashfs").0.fails_with("is not known");
}

#[test]
fn the_platform_can_be_given_in_parts() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY Dockerfile /\n");
    let build = |more: &[&str]| {
        env.rbuild(args!["-q", "-t", "x", &context])
            .args(more)
            .run()
    };
    build(&["--arch", "arm", "--variant", "v6"]).ok();
    let shown = env.inspect("x", "{{.Os}}/{{.Architecture}}/{{.Variant}}");
    assert_eq!(shown, "linux/arm/v6");
    build(&["--os", "windows", "--arch", "amd64"]).ok();
    assert_eq!(
        env.inspect("x", "{{.Os}}/{{.Architecture}}"),
        "windows/amd64"
    );
    build(&["--arch", "arm", "--platform", "linux/arm64"])
        .exits(2)
        .says("cannot be used together");
}

#[test]
fn variables_labels_and_history_are_changed_from_outside() {
    let env = TestEnv::new();
    let base = "FROM scratch\nLABEL from=base\nENV KEPT=base GONE=base\nCOPY Dockerfile /\n";
    env.build("base", &env.dockerfile("base", base));
    let text = "FROM base\nENV OVER=file GONE=again\nLABEL own=yes out=yes copy=$GIVEN\n";
    let context = env.dockerfile("c", text);
    let build = |more: &[&str]| {
        env.rbuild(args!["-q", "-t", "x", &context])
            .args(more)
            .env("FROM_HERE", "here")
            .run()
            .ok();
    };
    build(&[
        "--env=GIVEN=1",
        "--env=OVER=flag",
        "--env=FROM_HERE",
        "--unsetenv=GONE",
        "--unsetlabel=out",
    ]);
    let mut variables: Vec<String> = env
        .inspect("x", "{{range .Config.Env}}{{println .}}{{end}}")
        .lines()
        .map(str::to_owned)
        .collect();
    variables.sort();
    variables.retain(|variable| !variable.starts_with("PATH=") && !variable.is_empty());
    assert_eq!(
        variables,
        ["FROM_HERE=here", "GIVEN=1", "KEPT=base", "OVER=file"]
    );
    let labels = env.inspect("x", "{{json .Config.Labels}}");
    assert_eq!(labels, r#"{"copy":"1","from":"base","own":"yes"}"#);
    build(&[
        "--inherit-labels=false",
        "--label",
        "from=flag",
        "--omit-history",
    ]);
    let labels = env.inspect("x", "{{.Config.Labels.from}} {{.Config.Labels.own}}");
    assert_eq!(labels, "flag yes");
    let history = env.rbuild(["history", "-q", "x"]).run().ok().out();
    assert_eq!(history, "");
}

#[test]
fn the_first_base_image_can_be_replaced() {
    let env = TestEnv::new();
    for name in ["one", "two"] {
        let text = format!("FROM scratch\nLABEL name={name}\nCOPY Dockerfile /\n");
        env.build(name, &env.dockerfile(name, &text));
    }
    let text = "FROM missing.invalid/x AS a\nLABEL a=a\nFROM one\nCOPY --from=a /Dockerfile /y\n";
    let context = env.dockerfile("c", text);
    let build = |more: &[&str]| {
        env.rbuild(args!["-q", "-t", "x", &context])
            .args(more)
            .run()
    };
    build(&["--from", "two", "--target", "a"]).ok();
    assert_eq!(env.inspect("x", "{{.Config.Labels.name}}"), "two");
    build(&["--from", "two"]).ok();
    assert_eq!(env.inspect("x", "{{.Config.Labels.name}}"), "one");
}

#[test]
fn run_sees_volumes_name_servers_and_proxies_that_were_given() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN cat /etc/resolv.conf /etc/hosts; cat /v/file; echo p=$http_proxy; \
                echo new > /w/new; ! touch /v/x; ! ls /v/x\n";
    let context = env.dockerfile("c", text);
    let volume = env.files("volume", &[("file", "from this machine\n")]);
    let build = |more: &[&str]| {
        let mut readonly = with_path("", &volume);
        readonly.push(":/v:ro");
        env.rbuild(args!["--progress=plain", "-t", "x", "-v", readonly, "-v"])
            .arg(with_path("", &volume).into_string().unwrap() + ":/w")
            .args(more)
            .arg(&context)
            .env("http_proxy", "http://proxy.invalid:1")
            .run()
    };
    let outcome = build(&[
        "--dns=192.0.2.1",
        "--dns-search=a.example",
        "--dns-option=ndots:3",
        "--http-proxy=true",
        "--add-host=h.example:192.0.2.9",
    ])
    .ok();
    for line in [
        "nameserver 192.0.2.1",
        "search a.example",
        "options ndots:3",
        "192.0.2.9\th.example",
        "from this machine",
        "p=http://proxy.invalid:1",
    ] {
        assert!(outcome.stderr.contains(line), "{line}: {}", outcome.stderr);
    }
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    let files = env
        .rbuild(args!["run", "--rm", "x", "ls", "/v", "/w"])
        .run();
    assert!(
        !files.out().contains("file"),
        "the image has {}",
        files.out()
    );
    // Other volumes are other steps, their content is not looked at.
    fs::write(volume.join("file"), "other").unwrap();
    let again = build(&["--dns=192.0.2.2"]).ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    let own = build(&["--no-cache", "--dns=none", "--no-hosts"]).ok();
    assert!(!own.stderr.contains("localhost"), "{}", own.stderr);
    build(&["--no-hosts", "--add-host=a:192.0.2.1"])
        .exits(2)
        .says("cannot be used together");
    build(&["--dns=name"]).fails_with("is not an IP address");
    build(&["-v", "/no/such/place:/x"]).fails_with("could not mount `/no/such/place`");
    build(&["-v", "named:/x"]).fails_with("a build has no volumes of its own");
}

#[test]
fn progress_goes_to_a_file_and_compression_is_chosen_by_flags() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY Dockerfile /\n");
    let (log, layout) = (env.join("log"), env.join("layout"));
    let build = |more: &[&str]| {
        let output = with_path("type=oci,tar=false,dest=", &layout);
        let outcome = env
            .rbuild(args!["--logfile", &log, "-o", output, &context])
            .args(more)
            .run()
            .ok();
        assert!(!outcome.stderr.contains("COPY"), "{}", outcome.stderr);
        assert!(
            fs::read_to_string(&log)
                .unwrap()
                .contains("] COPY Dockerfile /")
        );
        let manifest = crate::support::layout::read(&layout).manifest;
        fs::remove_dir_all(&layout).unwrap();
        manifest["layers"][0]["mediaType"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(build(&[]), format!("{layer}+gzip"));
    assert_eq!(build(&["--disable-compression"]), layer);
    let zstd = build(&["--compression-format=zstd", "--compression-level=9"]);
    assert_eq!(zstd, format!("{layer}+zstd"));
    env.rbuild(args!["--compression-format=lzma", &context])
        .run()
        .fails_with("compression format \"lzma\" is not known");
    env.rbuild(args!["--logfile", "/no/such/place/log", &context])
        .run()
        .fails_with("could not write the log");
}
