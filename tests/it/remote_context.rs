//! Contexts that are no directory of this machine, and mistakes with them.

use std::io::Write as _;
use std::path::PathBuf;

use crate::args;
use crate::support::git::{GitServer, Repository};
use crate::support::process::{Invocation, Outcome};
use crate::support::tree::read_directory;
use crate::support::web::{Answer, WebServer};
use crate::support::{TestEnv, needs};

/// A tar with a Dockerfile that copies everything, another in a directory, and a file of a user.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_mtime(86_400);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    };
    add("Dockerfile", "FROM scratch\nCOPY . /all\n");
    add("docker/D", "FROM scratch\nCOPY f /only\n");
    add(".dockerignore", "f\n");
    add("f", "F");
    tar.into_inner().unwrap()
}

fn compressed(program: &str, package: &str) -> Vec<u8> {
    Invocation::new(needs::program(program, package))
        .arg("-c")
        .stdin(tar())
        .run()
        .ok()
        .stdout
}

struct Built {
    names: Vec<String>,
    output: PathBuf,
}

fn build(env: &TestEnv, flags: &[&str], context: &str, stdin: &[u8]) -> Result<Built, Outcome> {
    let output = env.join("out");
    let _ = std::fs::remove_dir_all(&output);
    let outcome = env
        .rbuild(args!["-o", output])
        .args(flags)
        .arg(context)
        .env("PATH", needs::PROGRAM_PATH)
        .stdin(stdin)
        .run();
    if outcome.code() != 0 {
        return Err(outcome);
    }
    let names = read_directory(&output).keys().cloned().collect();
    Ok(Built { names, output })
}

#[track_caller]
fn names(built: Result<Built, Outcome>) -> Vec<String> {
    match built {
        Ok(built) => built.names,
        Err(outcome) => panic!("{}", outcome.text()),
    }
}

const ALL: [&str; 6] = [
    "all",
    "all/.dockerignore",
    "all/Dockerfile",
    "all/docker",
    "all/docker/D",
    "all/f",
];

#[test]
fn an_archive_of_any_compression_comes_from_standard_input() {
    let env = TestEnv::new();
    for archive in [
        tar(),
        compressed("gzip", "gzip"),
        compressed("bzip2", "bzip2"),
        compressed("xz", "xz-utils"),
        compressed("zstd", "zstd"),
    ] {
        assert_eq!(names(build(&env, &[], "-", &archive)), ALL);
    }
    // As for any archive, its times are kept; the second build found the first one's steps.
    let built = build(&env, &["-f", "docker/D"], "-", &tar()).ok().unwrap();
    assert_eq!(built.names, ["only"]);
    let time = built.output.join("only").metadata().unwrap().modified();
    let since = time.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 86_400);
    env.assert_sound_store();
}

#[test]
fn mistakes_on_standard_input_are_told() {
    let env = TestEnv::new();
    let fails = |flags: &[&str], stdin: &[u8], text: &str| {
        let outcome = build(&env, flags, "-", stdin).err().unwrap();
        outcome.fails_with(text);
        env.assert_sound_store();
        let left = std::fs::read_dir(env.store().join("tmp")).unwrap().count();
        assert_eq!(left, 0, "left in the store's tmp");
    };
    fails(
        &["-f", "nope"],
        &tar(),
        "open nope: no such file or directory",
    );
    let gzip = compressed("gzip", "gzip");
    fails(
        &[],
        &gzip[..gzip.len() / 2],
        "could not read the build context",
    );
    let plain = tar();
    fails(&[], &plain[..1100], "could not read the build context");
    let mut bad = tar();
    bad[600] ^= 1;
    bad[1024 + 148] ^= 1;
    fails(&[], &bad, "could not read the build context");
}

#[test]
fn the_web_gives_an_archive_or_a_dockerfile() {
    let env = TestEnv::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar()).unwrap();
    let archive = gzip.finish().unwrap();
    let web = WebServer::start(move |asked| match asked.target.as_str() {
        "/context.tgz" => Answer::ok(archive.clone()).header("ETag", "\"1\""),
        "/Dockerfile" => Answer::ok("FROM scratch\nCOPY <<E /inline\nx\nE\n"),
        _ => Answer::new(404),
    });
    assert_eq!(names(build(&env, &[], &web.url("/context.tgz"), b"")), ALL);
    let other = build(&env, &["-f", "docker/D"], &web.url("/context.tgz"), b"");
    assert_eq!(names(other), ["only"]);
    let stdin = b"FROM scratch\nCOPY f /from-stdin\n";
    let given = build(&env, &["-f", "-"], &web.url("/context.tgz"), stdin);
    assert_eq!(names(given), ["from-stdin"]);
    assert_eq!(
        names(build(&env, &[], &web.url("/Dockerfile"), b"")),
        ["inline"]
    );
    let outcome = build(&env, &[], &web.url("/nothing"), b"").err().unwrap();
    outcome.fails_with("invalid response status 404");
    env.assert_sound_store();
}

#[test]
fn named_contexts_come_from_git_and_the_web() {
    let env = TestEnv::new();
    let path = env.join("git/r.git");
    let repository = Repository::new(&path);
    std::fs::create_dir(path.join("d")).unwrap();
    std::fs::write(path.join("d/g"), "G").unwrap();
    repository.commit("a");
    let git = GitServer::start(&env.join("git"));
    let archive = tar();
    let web = WebServer::start(move |asked| match asked.target.as_str() {
        "/a.tar" => Answer::ok(archive.clone()),
        _ => Answer::ok("one file"),
    });
    let context = env.dockerfile(
        "c",
        "FROM base.invalid/x AS files\nFROM scratch\nCOPY --from=web f /f\n\
         COPY --from=one file /one\nCOPY --from=files g /g\n",
    );
    let contexts = [
        format!("web={}", web.url("/a.tar")),
        format!("one={}", web.url("/file")),
        format!("base.invalid/x={}#main:d", git.url("r.git")),
    ];
    let flags: Vec<&str> = contexts
        .iter()
        .flat_map(|context| ["--build-context", context.as_str()])
        .collect();
    let built = build(&env, &flags, context.to_str().unwrap(), b"");
    assert_eq!(names(built), ["f", "g", "one"]);
}

#[test]
fn a_context_from_git_keeps_its_history_only_when_asked() {
    let env = TestEnv::new();
    let path = env.join("git/r.git");
    let repository = Repository::new(&path);
    std::fs::write(path.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    repository.commit("a");
    let git = GitServer::start(&env.join("git"));
    let url = git.url("r.git");
    assert_eq!(names(build(&env, &[], &url, b"")), ["Dockerfile"]);
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    assert!(names(build(&env, &keep, &url, b"")).contains(&".git/HEAD".to_owned()));
    let outcome = build(&env, &[], &format!("{url}#nope"), b"").err().unwrap();
    outcome.fails_with("repository does not contain ref nope");
    // `rbuild check` reads the same contexts.
    let outcome = env
        .rbuild(["check", url.as_str()])
        .env("PATH", needs::PROGRAM_PATH)
        .run()
        .ok();
    assert!(outcome.text().contains("no warnings"), "{}", outcome.text());
}
