//! The build context: ignore files, other Dockerfiles, named contexts, standard input.

use std::fs;
use std::io::Read as _;

use crate::args;
use crate::support::TestEnv;
use crate::support::process::with_path;
use crate::support::tree::Tree;

fn names(tree: &Tree) -> Vec<&str> {
    tree.keys().map(String::as_str).collect()
}

#[test]
fn dockerignore_keeps_files_out() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY . /\n"),
            (
                ".dockerignore",
                "# comment\n*.log\n!keep.log\n**/cache\nDockerfile\n.dockerignore\n",
            ),
            ("a.log", "1"),
            ("keep.log", "2"),
            ("src/main.c", "3"),
            ("src/cache/x", "4"),
        ],
    );
    let image = env.build_layout("ignore", &context);
    assert_eq!(names(&image.tree), ["keep.log", "src", "src/main.c"]);
}

#[test]
fn an_ignored_file_does_not_rebuild() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY . /\n"),
            (".dockerignore", "notes\n"),
            ("notes", "1"),
            ("a", "A"),
        ],
    );
    env.build("x", &context);
    std::fs::write(context.join("notes"), "changed").unwrap();
    let again = env.build("x", &context);
    let (ran, cached) = crate::support::progress::ran_and_cached(&again.stderr);
    assert_eq!((ran.len(), cached.len()), (0, 1), "{}", again.stderr);
}

#[test]
fn the_ignore_file_beside_the_dockerfile_wins() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            (".dockerignore", "a\n"),
            ("docker/app.Dockerfile", "FROM scratch\nCOPY . /\n"),
            (
                "docker/app.Dockerfile.dockerignore",
                "b\ndocker\n.dockerignore\n",
            ),
            ("a", "A"),
            ("b", "B"),
        ],
    );
    let output = env.join("out");
    let dockerfile = context.join("docker/app.Dockerfile");
    env.rbuild(args!["-f", dockerfile, "-o", output, context])
        .run()
        .ok();
    assert_eq!(names(&crate::support::tree::read_directory(&output)), ["a"]);
}

#[test]
fn the_dockerfile_may_lie_outside_the_context_or_have_another_name() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[("a", "A"), ("Containerfile", "FROM scratch\nCOPY a /c\n")],
    );
    env.files("elsewhere", &[("D", "FROM scratch\nCOPY a /outside\n")]);
    let build = |args: &[&str], output: &str| {
        let invocation = env
            .rbuild(args)
            .args(args!["-o", env.join(output), context]);
        invocation.current_dir(env.path()).run().ok();
        crate::support::tree::read_directory(&env.join(output))
    };
    assert_eq!(names(&build(&[], "o1")), ["c"]);
    assert_eq!(names(&build(&["-f", "elsewhere/D"], "o2")), ["outside"]);
    std::fs::write(context.join("dockerfile"), "FROM scratch\nCOPY a /lower\n").unwrap();
    assert_eq!(names(&build(&[], "o3")), ["lower"]);
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY a /upper\n").unwrap();
    assert_eq!(names(&build(&[], "o4")), ["upper"]);
}

#[test]
fn the_dockerfile_may_come_from_standard_input() {
    let env = TestEnv::new();
    let context = env.files("c", &[("a", "A")]);
    let with_context = env.join("with-context");
    env.rbuild(args!["-f", "-", "-o", with_context, context])
        .stdin("FROM scratch\nCOPY a /from-context\n")
        .run()
        .ok();
    assert_eq!(
        names(&crate::support::tree::read_directory(&with_context)),
        ["from-context"]
    );
    let without = env.join("without");
    env.rbuild(args!["-o", without, "-"])
        .stdin("FROM scratch\nCOPY <<EOF /inline\nx\nEOF\n")
        .run()
        .ok();
    assert_eq!(
        names(&crate::support::tree::read_directory(&without)),
        ["inline"]
    );
}

#[test]
fn a_named_context_replaces_an_image() {
    let env = TestEnv::new();
    let context = env.dockerfile(
        "c",
        "FROM example.invalid/base AS base\nFROM scratch\nCOPY --from=base /bin/busybox /b\n\
         COPY --from=files f /f\n",
    );
    let files = env.files("files", &[("f", "F"), ("g", "G")]);
    let base = with_path(
        "example.invalid/base=oci-layout://",
        &crate::support::base::bb_layout(),
    );
    let output = env.join("out");
    env.rbuild(args![
        "--build-context",
        base,
        "--build-context",
        with_path("files=", &files),
        "-o",
        output,
        context
    ])
    .run()
    .ok();
    assert_eq!(
        names(&crate::support::tree::read_directory(&output)),
        ["b", "f"]
    );
}

#[test]
fn nothing_outside_the_context_can_be_copied() {
    let env = TestEnv::new();
    env.files("outside", &[("secret", "S")]);
    let context = env.dockerfile("c", "FROM scratch\nCOPY link/secret /x\n");
    std::os::unix::fs::symlink("../outside", context.join("link")).unwrap();
    env.rbuild(args![context])
        .run()
        .fails_with("\"/link/secret\": not found");
    let context = env.dockerfile("d", "FROM scratch\nCOPY ../outside/secret /x\n");
    env.rbuild(args![context])
        .run()
        .fails_with("\"/outside/secret\": not found");
}

#[test]
fn a_stream_that_stalls_is_given_up_at_the_first_interrupt() {
    use std::io::Write as _;

    let env = TestEnv::new();
    let pipe = env.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(10 << 20);
    header.set_cksum();
    tar.append_data(&mut header, "large", std::io::repeat(7).take(10 << 20))
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let build = env
        .host("/bin/sh")
        .args([
            "-c",
            "exec \"$0\" --progress plain - < \"$1\"",
            env!("CARGO_BIN_EXE_rbuild"),
        ])
        .arg(&pipe)
        .spawn();
    let mut writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    writer.write_all(&tar[..1 << 20]).unwrap();
    build.wait_for_line("load build context from a stream");
    build.signal(rustix::process::Signal::INT);
    build.wait().exits(130).says("the build was cancelled");
    drop(writer);
}
