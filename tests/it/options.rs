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
