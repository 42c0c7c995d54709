//! `graph`, `context`, `layers`, `diff` and `history builds`: answers about Dockerfiles, images and
//! past builds.

use serde_json::Value;

use crate::args;
use crate::support::TestEnv;

const STAGES: &str = "FROM busybox AS build
WORKDIR /src
COPY main.c .
RUN echo compiled >/app
FROM scratch AS final
COPY --from=build /app /app
FROM build AS unused
RUN echo never
";

#[test]
fn a_graph_has_the_stages_and_what_they_use() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files("c", &[("Dockerfile", STAGES), ("main.c", "int main;")]);
    let graph = |more: &[&str]| {
        let invocation = env
            .rbuild(["graph"].iter().chain(more))
            .args(args![context]);
        invocation.run().ok().out()
    };
    assert_eq!(
        graph(&["--target", "final"]),
        "build\n\
         \x20 1  [build 1/4] FROM busybox\n\
         \x20 2  [build 2/4] WORKDIR /src  ← 1\n\
         \x20 3  [build 3/4] COPY main.c .  ← 2\n\
         \x20 4  [build 4/4] RUN echo compiled >/app  ← 3\n\
         final\n\
         \x20 5  [final 1/1] COPY --from=build /app /app  ← 4\n"
    );
    assert!(
        graph(&[]).contains("unused\n"),
        "all stages without a target"
    );
    let dot = graph(&["--format", "dot"]);
    assert!(
        dot.starts_with("digraph build {") && dot.contains(" -> "),
        "{dot}"
    );
    assert!(graph(&["--format", "mermaid"]).starts_with("flowchart TB\n"));
    let json: Value = serde_json::from_str(&graph(&["--format", "json"])).unwrap();
    assert_eq!(json["steps"][0]["stage"], "build");
    let svg = env.join("graph.svg");
    env.rbuild(args!["graph", "--format", "svg", "-o", svg, context])
        .run()
        .ok();
    let svg = std::fs::read_to_string(svg).unwrap();
    assert_eq!(svg.matches("class=\"step\"").count(), 6, "{svg}");
    // Of a build that was made, with how it went.
    env.rbuild(args!["--target", "final", "-t", "x", context])
        .run()
        .ok();
    let made = env.rbuild(["graph", "--build"]).run().ok().out();
    assert!(
        made.contains("[build 4/4] RUN echo compiled >/app  (miss, "),
        "{made}"
    );
    let broken = env.dockerfile("broken", "FROM scratch\nCPOY a /\n");
    env.rbuild(args!["graph", broken])
        .run()
        .fails_with("unknown instruction: CPOY")
        .says("   2 | >>> CPOY a /");
}

#[test]
fn a_context_tells_what_is_used_unused_and_ignored() {
    let env = TestEnv::new();
    let text = "FROM scratch\nCOPY src/ /src/\nCOPY *.json /\n";
    let big = "x".repeat(5000);
    let context = env.files(
        "c",
        &[
            ("Dockerfile", text),
            (".dockerignore", "node_modules\n*.log\n!keep.log\n"),
            ("src/main.js", &big),
            ("package.json", "{}"),
            ("docs/manual.txt", "read me"),
            ("node_modules/a/index.js", "1234"),
            ("node_modules/b/index.js", "1234"),
            ("x.log", "log"),
            ("keep.log", "log"),
        ],
    );
    let outcome = env.rbuild(args!["context", context]).run().ok();
    let text = outcome.out();
    for part in [
        ": 9 files, 5.",
        "\nused: 4 files, 5.07kB\n",
        "  src/main.js  ← COPY src/ /src/ (line 2)\n",
        "  package.json  ← COPY *.json / (line 3)\n",
        "\nseen, but used by no instruction: 2 files, ",
        "  docs/manual.txt\n",
        "  keep.log\n",
        "\nignored: 3 files, 11B\n",
        "  node_modules/ (2 files)  (line 1: node_modules)\n",
        "  x.log  (line 2: *.log)\n",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let why = |path: &str| env.rbuild(args!["context", "--why", path, context]).run();
    assert_eq!(
        why("node_modules/a/index.js").ok().out(),
        "node_modules/a/index.js is ignored by line 1 of .dockerignore: node_modules\n"
    );
    assert_eq!(
        why("src").ok().out(),
        "src is used by COPY src/ /src/ (line 2)\n"
    );
    assert_eq!(
        why("docs").ok().out(),
        "docs is seen, but no instruction uses it\n"
    );
    why("nothing").fails_with("nothing is not in the context");
    let json = env
        .rbuild(args!["context", "--format", "json", context])
        .run()
        .ok();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["ignored"][0]["ignored"]["line"], 1);
}

#[test]
fn layers_tell_what_was_in_vain_and_who_is_to_blame() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\n\
                RUN dd if=/dev/zero of=/big bs=1000 count=50 && echo small >/small\n\
                RUN rm /big && echo longer-than-small >/small\n";
    let context = env.dockerfile("c", text);
    env.build("x", &context);
    let text = env.rbuild(["layers", "x"]).run().ok().out();
    for part in [
        "layer 2       50kB  +5 ~0 -0  RUN dd if=/dev/zero",
        "              50kB  /big\n",
        "layer 3        18B  +0 ~1 -1  RUN rm /big && echo longer-than-small >/small\n",
        " in 3 layers, 50kB of it in vain\n",
        "  50kB of layer 2 are deleted or overwritten in layer 3, such as /big\n    by RUN rm /big",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let json = env.rbuild(["layers", "--format", "json", "x"]).run().ok();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["waste"][0]["bytes"], 50_006);
    assert_eq!(json["layers"][1]["wasted"], 50_006);
    assert!(text.contains("  Imported from "), "{text}");
    env.rbuild(["biuld", "-t", "x", "."])
        .run()
        .exits(2)
        .says("hint: did you mean the command `build`?");
    env.rbuild(["layers", "nothing"])
        .run()
        .fails_with("No such image: nothing");
}

#[test]
fn two_images_are_compared_file_by_file() {
    let env = TestEnv::new();
    env.import_busybox();
    let build = |name: &str, text: &str| {
        let context = env.dockerfile(name, text);
        env.build(name, &context);
    };
    build(
        "one",
        "FROM busybox\nENV a=1\nRUN echo old >/same-size; echo x >/gone; touch /mode; echo k >/kept\n",
    );
    build(
        "two",
        "FROM busybox\nENV a=2\nRUN echo new >/same-size; echo y >/more; touch /mode; chmod 600 /mode; \
         echo k >/kept\n",
    );
    let text = env.rbuild(["diff", "one", "two"]).run().exits(1).out();
    assert!(
        text.starts_with("layers: 1 shared, then 1 and 1 of their own\nEnv: "),
        "{text}"
    );
    assert!(
        text.ends_with(
            "files: 1 added (2B), 1 removed (2B), 2 changed\n\
             - /gone  2B\n~ /mode  mode 0644 → 0600\n+ /more  2B\n~ /same-size  content\n"
        ),
        "{text}"
    );
    let same = env.rbuild(["diff", "one", "one"]).run().ok().out();
    assert!(
        same.ends_with("files: 0 added (0B), 0 removed (0B), 0 changed\n"),
        "{same}"
    );
    let json = env
        .rbuild(["diff", "--format", "json", "one", "two"])
        .run()
        .exits(1);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["added"][0]["path"], "more");
}

#[test]
fn past_builds_are_listed_with_what_changed() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nARG V\nRUN echo $V\nRUN echo second\n");
    let build = |version: &str| {
        let version = format!("V={version}");
        env.rbuild(args!["-t", "x", "--build-arg", version, context])
            .run()
            .ok();
    };
    build("1");
    build("2");
    build("2");
    let failing = env.dockerfile("d", "FROM busybox\nRUN exit 3\n");
    env.rbuild(args![failing]).run().exits(1);
    let list = |more: &[&str]| {
        let invocation = env.rbuild(["history", "builds"].iter().chain(more));
        invocation.run().ok().out()
    };
    let format = "{{.Hits}} {{.Result}} {{.Changed}}";
    assert_eq!(
        list(&["--format", format]),
        "0/1 failed [2/2] RUN exit 3\n\
         2/2 x:latest nothing\n\
         0/2 x:latest ARG V \"1\" → \"2\"\n\
         0/2 x:latest first build of this step\n"
    );
    assert!(list(&[]).starts_with("BUILD "), "{}", list(&[]));
    let project = context.to_str().unwrap();
    assert_eq!(list(&["-q", "--project", project]).lines().count(), 3);
    let ids = list(&["-q", "-n", "4"]);
    let second = ids.lines().nth(2).unwrap();
    let explained = env.rbuild(["explain", second]).run().ok().out();
    assert!(explained.contains("ARG V \"1\" → \"2\""), "{explained}");
    env.rbuild(["explain", "0000000000-000000"])
        .run()
        .fails_with("no such build or image: 0000000000-000000");
}
