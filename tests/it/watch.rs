//! `rbuild watch`, completions and manual pages.

use std::fs;

use rustix::process::Signal;

use crate::args;
use crate::support::TestEnv;

#[test]
fn a_change_builds_and_runs_again() {
    let env = TestEnv::new();
    env.import_busybox();
    let text =
        "FROM busybox\nCOPY . /app\nCMD [\"sh\", \"-c\", \"cat /app/word >&2; exec sleep 1000\"]\n";
    let context = env.files(
        "c",
        &[
            ("Dockerfile", text),
            ("word", "one-word\n"),
            (".dockerignore", "*.tmp\n"),
        ],
    );
    let watch = env
        .rbuild(args![
            "watch",
            "--progress",
            "plain",
            "-t",
            "x",
            context,
            "--run"
        ])
        .spawn();
    watch.wait_for_line("one-word");
    // What is ignored changes nothing.
    fs::write(context.join("a.tmp"), "x").unwrap();
    fs::create_dir(context.join("new")).unwrap();
    watch.wait_for_line("watch: new changed");
    watch.wait_for_line("one-word");
    // A directory that was made meanwhile is watched, too.
    fs::write(context.join("new/file"), "y").unwrap();
    watch.wait_for_line("watch: new/file changed");
    watch.wait_for_line("one-word");
    fs::write(context.join("word"), "other-word\n").unwrap();
    watch.wait_for_line("watch: word changed");
    watch.wait_for_line("other-word");
    fs::write(context.join("Dockerfile"), "FROM busybox\nCPOY a /\n").unwrap();
    watch.wait_for_line("watch: Dockerfile changed");
    watch.wait_for_line("watch: the build failed; waiting for changes");
    fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nCMD [\"false\"]\n",
    )
    .unwrap();
    watch.wait_for_line("watch: the container ended (exit code 1); waiting for changes");
    watch.signal(Signal::INT);
    watch.wait().exits(130);
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let env = TestEnv::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = env.rbuild(["completions", shell]).run().ok().out();
        for word in ["debug", "timeline", "build-arg", "imagetools"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let bash = env.join("rbuild.bash");
    fs::write(&bash, env.rbuild(["completions", "bash"]).run().ok().stdout).unwrap();
    let script = "source \"$1\"; COMP_WORDS=(rbuild tim); COMP_CWORD=1; _rbuild rbuild tim rbuild; \
                  echo \"${COMPREPLY[@]}\"";
    let outcome = env
        .host("bash")
        .args(args!["-c", script, "bash", bash])
        .run()
        .ok();
    assert_eq!(outcome.out(), "timeline\n");
    let page = env.rbuild(["man", "build"]).run().ok().out();
    assert!(
        page.contains(".TH ") && page.contains("no\\-cache"),
        "{page}"
    );
    env.rbuild(["man", "nonsense"])
        .run()
        .fails_with("no such command: nonsense");
    let pages = env.join("man1");
    env.rbuild(args!["man", "--output", pages]).run().ok();
    for name in ["rbuild.1", "rbuild-build.1", "rbuild-history-builds.1"] {
        assert!(pages.join(name).is_file(), "{name}");
    }
}
