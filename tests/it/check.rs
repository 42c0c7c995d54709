//! `rbuild check`, `rbuild fmt`, `--check` and `--call`: what is told of a Dockerfile without a build.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::args;
use crate::support::TestEnv;
use crate::support::process::{Invocation, Outcome};

/// Breaks rules of BuildKit and of our own, and has no error.
const SLOPPY: &str = "\
FROM scratch as Base
env  NAME some value
EXPOSE 80/TCP
COPY <<A <<A /f
one
A
two
A
CMD top -b
";

/// What `--fix` makes of it.
const FIXED: &str = "\
FROM scratch AS base
ENV  NAME=\"some value\"
EXPOSE 80/tcp
COPY <<A <<A /f
one
A
two
A
CMD [\"top\", \"-b\"]
";

/// Names of the rules that [`SLOPPY`] breaks, by line.
const BROKEN: [(&str, u64); 8] = [
    ("StageNameCasing", 1),
    ("FromAsCasing", 1),
    ("ConsistentInstructionCasing", 2),
    ("LegacyKeyValueFormat", 2),
    ("ExposeProtoCasing", 3),
    ("rbuild/CopyDestination", 4),
    ("rbuild/DuplicateHeredocName", 4),
    ("JSONArgsRecommended", 9),
];

/// `rbuild check ARGS…` in the directory of the Dockerfile.
fn check<const N: usize>(env: &TestEnv, context: &Path, flags: [&str; N]) -> Invocation {
    env.rbuild(["check"]).args(flags).current_dir(context)
}

/// Headings of the findings in the text form: the rules' names.
fn rules(outcome: &Outcome) -> Vec<String> {
    let text = outcome.out();
    let heads = text
        .lines()
        .filter_map(|line| line.strip_prefix("WARNING: "));
    heads
        .map(|head| head.split(" - ").next().unwrap().to_owned())
        .collect()
}

/// Panics unless the texts stand in `text` in this order.
#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(position) = rest.find(part) else {
            panic!("no {part:?} behind the parts before it in:\n{text}")
        };
        rest = &rest[position + part.len()..];
    }
}

#[test]
fn findings_are_told_with_their_places() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", SLOPPY);
    let outcome = check(&env, &context, []).run().exits(1);
    let names: Vec<&str> = BROKEN.iter().map(|(name, _)| *name).collect();
    assert_eq!(rules(&outcome), names);
    assert_in_order(
        &outcome.out(),
        &[
            "Check complete, 8 warnings have been found!\n",
            "\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n\
             Stage name 'Base' should be lowercase\nDockerfile:1\n--------------------\n",
            "   1 | >>> FROM scratch as Base\n     |                     ^^^^\n",
            "WARNING: rbuild/DuplicateHeredocName\n",
            "   4 | >>> COPY <<A <<A /f\n     |              ^^^\n",
        ],
    );
    assert_eq!(outcome.stderr, "");
}

#[test]
fn nothing_found_is_told_too() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY Dockerfile /\n");
    let outcome = check(&env, &context, []).run().ok();
    assert_eq!(outcome.out(), "Check complete, no warnings found.\n");
    let outcome = check(&env, &context, ["--format=github"]).run().ok();
    assert_eq!(outcome.text(), "");
    // The same question, as docker has it.
    for flags in [&["--check"][..], &["--call=check"], &["--call", "lint"]] {
        let outcome = env
            .rbuild(["build"])
            .args(flags)
            .args(args![context])
            .run()
            .ok();
        assert_eq!(outcome.out(), "Check complete, no warnings found.\n");
    }
}

#[test]
fn json_is_what_docker_gives() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", SLOPPY);
    let outcome = check(&env, &context, ["--format=json"]).run().exits(1);
    let json: Value = serde_json::from_str(&outcome.out()).unwrap();
    let warnings = json["warnings"].as_array().unwrap();
    let found: Vec<(&str, u64)> = warnings
        .iter()
        .map(|warning| {
            let line = &warning["location"]["ranges"][0]["start"]["line"];
            (
                warning["ruleName"].as_str().unwrap(),
                line.as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, BROKEN);
    assert_eq!(
        warnings[0]["detail"],
        "Stage name 'Base' should be lowercase"
    );
    assert_eq!(
        warnings[0]["location"]["ranges"],
        serde_json::json!([{"start": {"line": 1, "character": 16}, "end": {"line": 1, "character": 20}}])
    );
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert!(json.get("buildError").is_none(), "{json}");

    // The same through `--call`, whose status can be ignored.
    let called = env
        .rbuild(args![
            "build",
            "--call=check,format=json,ignorestatus=true",
            context
        ])
        .run()
        .ok();
    assert_eq!(called.out(), outcome.out());
}

#[test]
fn an_error_is_in_the_json_and_on_standard_error() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCPOY a /\n");
    let outcome = check(&env, &context, ["--format=json"]).run().exits(1);
    let outcome = outcome.says("unknown instruction: CPOY (did you mean COPY?)");
    let json: Value = serde_json::from_str(&outcome.out()).unwrap();
    let error = &json["buildError"];
    assert_eq!(
        error["message"],
        "dockerfile parse error on line 2: unknown instruction: CPOY (did you mean COPY?)"
    );
    assert_eq!(error["location"]["ranges"][0]["start"]["line"], 2);
    assert!(json.get("buildErrors").is_none(), "{json}");
}

#[test]
fn sarif_names_every_rule_and_place() {
    let env = TestEnv::new();
    let context = env.files("c", &[("docker/App.Dockerfile", SLOPPY)]);
    let outcome = check(
        &env,
        &context,
        ["--format=sarif", "-f", "./docker/App.Dockerfile"],
    )
    .run()
    .exits(1);
    let log: Value = serde_json::from_str(&outcome.out()).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(
        log["$schema"]
            .as_str()
            .unwrap()
            .ends_with("sarif-2.1.0.json")
    );
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), BROKEN.len());
    for (result, (name, line)) in results.iter().zip(BROKEN) {
        assert_eq!(result["ruleId"], name);
        assert_eq!(result["level"], "warning");
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(rules[index]["id"], name);
        assert_ne!(result["message"]["text"], "");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "docker/App.Dockerfile");
        let region = &place["region"];
        assert_eq!(region["startLine"], line);
        assert!(region["startColumn"].as_u64().unwrap() >= 1);
        assert!(region["endLine"].as_u64().unwrap() >= line);
    }
}

#[test]
fn github_annotations_name_the_file_as_the_repository_does() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch AS A\nCPOY 100% a, b\n");
    let outcome = check(&env, &context, ["--format=github", "."])
        .run()
        .exits(1);
    assert_eq!(
        outcome.out(),
        "::warning file=Dockerfile,line=1,endLine=1,col=17,endColumn=18,title=StageNameCasing::\
         Stage name 'A' should be lowercase\n\
         ::error file=Dockerfile,line=2,endLine=2,col=1,endColumn=5,title=Dockerfile::\
         dockerfile parse error on line 2: unknown instruction: CPOY (did you mean COPY?)\n"
    );
    // They are the whole answer: the log shows them as errors.
    assert_eq!(outcome.stderr, "");
}

#[test]
fn all_errors_of_a_file_come_in_one_run() {
    let env = TestEnv::new();
    let context = env.dockerfile(
        "c",
        "FROM scratch\nCPOY a /\nCOPY --chwon=1 a /\nRUN [\"a\", 1]\nHEALTHCHECK --interval=5 CMD x\n\
         COPY <<A; /x\n",
    );
    let outcome = check(&env, &context, []).run().exits(1);
    assert_in_order(
        &outcome.stderr,
        &[
            // As BuildKit reads: the shape of the file first.
            "ERROR: when using JSON array syntax, arrays must be comprised of strings only\n",
            "   4 | >>> RUN [\"a\", 1]\n     |         ^^^^^^^^\n",
            "help: put every element in double quotes\n",
            "also: unterminated heredoc\n",
            "help: the delimiter reaches to the next blank: put a blank behind `<<A`\n",
            "also: dockerfile parse error on line 2: unknown instruction: CPOY (did you mean COPY?)\n",
            "     |     ^^^^\n",
            "also: dockerfile parse error on line 3: unknown flag: --chwon (did you mean chown?)\n",
            "help: COPY has the flags --chown, ",
            "also: dockerfile parse error on line 5: time: missing unit in duration \"5\"\n",
            "     |                            ^\n",
        ],
    );
}

/// Errors that only the meaning of a file shows do not hide one another either.
#[test]
fn a_stage_is_read_on_behind_an_error() {
    let env = TestEnv::new();
    let context = env.dockerfile(
        "c",
        "FROM scratch\nENV a=\"x\nEXPOSE 99999\nSTOPSIGNAL FOO\nCOPY --chmod=$a a /\n\
         RUN --mount=type=cach,target=/x true\nFROM Foo\nCOPY --from=7 a /\n",
    );
    let outcome = check(&env, &context, []).run().exits(1);
    assert_in_order(
        &outcome.stderr,
        &[
            "ERROR: failed to parse stage name \"Foo\"",
            "also: invalid stage index 7\n",
            "   8 | >>> COPY --from=7 a /\n     |                 ^\n",
            "also: failed to process \"\\\"x\": unexpected end of statement while looking for matching \
             double-quote\n",
            "   2 | >>> ENV a=\"x\n     |           ^^\n",
            "also: invalid containerPort: 99999\n",
            "     |            ^^^^^\n",
            "also: invalid signal: FOO\n",
            "also: unsupported mount type \"cach\" (did you mean cache?)\n",
        ],
    );
    // The variable is unset because of an error that is told.
    assert!(
        !outcome.stderr.contains("chmod parameter"),
        "{}",
        outcome.stderr
    );
    // A build says the same of a file whose stages are found.
    let context = env.dockerfile("d", "FROM scratch\nEXPOSE 99999\nSTOPSIGNAL FOO\n");
    env.rbuild(args![context])
        .run()
        .fails_with("invalid containerPort: 99999")
        .says("also: invalid signal: FOO");
}

#[test]
fn rules_are_switched_off_in_the_file() {
    let env = TestEnv::new();
    let all = BROKEN.map(|(name, _)| name);
    let context = env.dockerfile("c", &format!("# check=skip={}\n{SLOPPY}", all.join(",")));
    let outcome = check(&env, &context, []).run().ok();
    assert_eq!(outcome.out(), "Check complete, no warnings found.\n");

    let context = env.dockerfile("c", &format!("# check=skip=all\n{SLOPPY}"));
    check(&env, &context, []).run().ok();

    // Above an instruction, for this one.
    let text = "FROM scratch AS A\n# check=skip=rbuild/IgnoredFlag\nSTOPSIGNAL --x=1 9\nSTOPSIGNAL --x=1 9\n";
    let context = env.dockerfile("c", &format!("# check=skip=StageNameCasing\n{text}"));
    let outcome = check(&env, &context, []).run().exits(1);
    assert_eq!(rules(&outcome), ["rbuild/IgnoredFlag"]);
    assert!(
        outcome.out().contains("Dockerfile:5\n"),
        "{}",
        outcome.out()
    );

    // From outside, in place of what the file says.
    let flag = "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=rbuild/IgnoredFlag";
    let outcome = check(&env, &context, [flag]).run().exits(1);
    assert_eq!(rules(&outcome), ["StageNameCasing"]);
}

#[test]
fn a_rule_that_is_misspelt_is_told() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "# check=skip=StageNameCasin\nFROM scratch\n");
    let outcome = check(&env, &context, []).run().exits(1);
    assert_eq!(rules(&outcome), ["rbuild/UnknownCheckRule"]);
    assert!(outcome.out().contains("did you mean `StageNameCasing`?"));
    let context = env.dockerfile("c", "# check=foo\nFROM scratch\n");
    check(&env, &context, [])
        .run()
        .exits(1)
        .says("failed to parse check options: invalid check option \"foo\"");
}

#[test]
fn findings_are_errors_where_the_file_says_so() {
    let env = TestEnv::new();
    let text = "# check=error=true\nFROM scratch AS A\nCOPY Dockerfile /\n";
    let error = "lint violation found for rules: StageNameCasing";
    let context = env.dockerfile("c", text);
    env.rbuild(args!["-t", "x", context])
        .run()
        .fails_with(error);
    check(&env, &context, []).run().exits(1).says(error);
    // Rules that BuildKit does not have fail no build.
    let context = env.dockerfile(
        "c",
        "# check=error=true\nFROM scratch\nSTOPSIGNAL --x=1 9\nCOPY Dockerfile /\n",
    );
    env.rbuild(args!["-t", "x", context])
        .run()
        .ok()
        .says("The flag --x has no effect here");
    let outcome = check(&env, &context, []).run().exits(1);
    assert_eq!(rules(&outcome), ["rbuild/IgnoredFlag"]);
}

/// What only the files show is told by builds, also when all steps come from the cache.
#[test]
fn rules_that_need_the_files_are_told_by_builds() {
    let env = TestEnv::new();
    let copies = "FROM scratch\nCOPY <<P /etc/passwd\nroot:x:0:0::/:/bin/sh\nP\n\
                  COPY a b /one\nCOPY *.none /x/\nCOPY --chown=nobody a /y\n";
    let files = [("a", "1"), ("b", "2")];
    let told = [
        "Several files are written to /one: only the last one is kept (line 5)",
        "The wildcard *.none matches no file: nothing is copied (line 6)",
        "There is no user or group nobody in the stage: 0 is used (line 7)",
    ];
    let context = env.files("c", &files);
    fs::write(context.join("Dockerfile"), copies).unwrap();
    for _ in 0..2 {
        let outcome = env.build("x", &context);
        for text in told {
            assert!(
                outcome.stderr.contains(text),
                "no {text:?} in:\n{}",
                outcome.stderr
            );
        }
    }
    let skip =
        "# check=skip=rbuild/CopyDestination,rbuild/WildcardWithoutMatch,rbuild/UnknownOwner\n";
    fs::write(context.join("Dockerfile"), format!("{skip}{copies}")).unwrap();
    let outcome = env.build("x", &context);
    assert!(!outcome.stderr.contains("rbuild/"), "{}", outcome.stderr);
    for text in ["Several files", "The wildcard", "There is no user"] {
        assert!(
            !outcome.stderr.contains(text),
            "{text} in:\n{}",
            outcome.stderr
        );
    }
}

#[test]
fn fixes_are_made_in_place() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", SLOPPY);
    let file = context.join("Dockerfile");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = config(&env, "before", &context);

    let outcome = check(&env, &context, ["--fix"]).run().exits(1);
    assert_eq!(fs::read_to_string(&file).unwrap(), FIXED);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_in_order(
        &outcome.stderr,
        &[
            "fixed Dockerfile: StageNameCasing (line 1)\n",
            "fixed Dockerfile: FromAsCasing (line 1)\n",
            "fixed Dockerfile: ConsistentInstructionCasing (line 2)\n",
            "fixed Dockerfile: LegacyKeyValueFormat (line 2)\n",
            "fixed Dockerfile: ExposeProtoCasing (line 3)\n",
            "fixed Dockerfile: JSONArgsRecommended (line 9)\n",
        ],
    );
    // What needs a decision is left.
    assert_eq!(
        rules(&outcome),
        ["rbuild/CopyDestination", "rbuild/DuplicateHeredocName"]
    );

    // The image is the same but for the command, which no shell runs now.
    let after = config(&env, "after", &context);
    let cmd = |config: &Value| config["config"]["Cmd"].clone();
    assert_eq!(cmd(&before), serde_json::json!(["/bin/sh", "-c", "top -b"]));
    assert_eq!(cmd(&after), serde_json::json!(["top", "-b"]));
    for key in ["Env", "ExposedPorts", "Labels"] {
        assert_eq!(before["config"][key], after["config"][key], "{key}");
    }
    assert_eq!(before["rootfs"], after["rootfs"]);
    // A second run finds nothing to do.
    check(&env, &context, ["--fix"]).run().exits(1);
    assert_eq!(fs::read_to_string(&file).unwrap(), FIXED);
}

/// The config of the image that a context gives.
#[track_caller]
fn config(env: &TestEnv, name: &str, context: &Path) -> Value {
    env.build(name, context);
    let json = env.inspect(name, "{{json .}}");
    let image: Value = serde_json::from_str(&json).unwrap();
    serde_json::json!({"config": image["Config"], "rootfs": image["RootFS"]})
}

#[test]
fn a_file_that_cannot_be_fixed_stays() {
    let env = TestEnv::new();
    let text = "FROM scratch AS A\nCPOY a /\n";
    let context = env.dockerfile("c", text);
    check(&env, &context, ["--fix", "."])
        .run()
        .exits(1)
        .says("CPOY");
    check(&env, &context, ["--fix", "-"])
        .stdin(text)
        .run()
        .exits(2)
        .says("`--fix` needs a file, not standard input");
}

#[test]
fn a_dockerfile_may_come_from_standard_input() {
    let env = TestEnv::new();
    let outcome = env.rbuild(["check", "-"]).stdin(SLOPPY).run().exits(1);
    assert_eq!(rules(&outcome).len(), BROKEN.len());
    let context = env.files("c", &[("a", "1"), (".dockerignore", "a\n")]);
    let outcome = env
        .rbuild(args!["check", "-f", "-", context])
        .stdin("FROM scratch\nCOPY a /\n")
        .run()
        .exits(1);
    assert_eq!(rules(&outcome), ["CopyIgnoredFile"]);
    env.rbuild(["build", "--check", "-"])
        .stdin("FROM scratch\n")
        .run()
        .ok();
    env.rbuild(["check", "-"])
        .run()
        .exits(1)
        .says("the Dockerfile cannot be empty");
}

#[test]
fn stages_that_the_target_does_not_need_are_left_out() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch AS a\nFROM scratch AS b\nWORKDIR x\n");
    let outcome = check(&env, &context, []).run().exits(1);
    assert_eq!(rules(&outcome), ["WorkdirRelativePath"]);
    check(&env, &context, ["--target=a", "."]).run().ok();
    check(&env, &context, ["--target=0", "."])
        .run()
        .exits(1)
        .says("target stage \"0\" could not be found")
        .says("stages are chosen by name: add `AS name` to its FROM");
}

const OUTLINED: &str = "\
ARG base=scratch
# tools what is needed to build
FROM ${base} AS tools
# version of the program
ARG version=1
ARG flavour
FROM tools AS app
RUN --mount=type=secret,id=token,required --mount=type=ssh true
FROM scratch
";

#[test]
fn outlines_tell_what_a_target_takes() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", OUTLINED);
    let call = |what: &str| {
        env.rbuild(args![
            "build",
            "--target=app",
            "--build-arg=flavour=plain",
            what,
            context
        ])
        .run()
        .ok()
        .out()
    };
    let text = call("--call=outline");
    for words in [
        &["TARGET:", "app"][..],
        &["version", "1", "of the program"],
        &["flavour", "plain"],
        &["token", "true"],
        &["default"],
    ] {
        let found = text.lines().any(|line| {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            line.starts_with(&words.join(" "))
        });
        assert!(found, "no line {words:?} in:\n{text}");
    }
    let json: Value = serde_json::from_str(&call("--call=outline,format=json")).unwrap();
    assert_eq!(json["name"], "app");
    let names: Vec<&Value> = json["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| &arg["name"])
        .collect();
    assert_eq!(names, ["base", "version", "flavour"]);
    assert_eq!(json["args"][1]["description"], "of the program");
    assert_eq!(json["args"][2]["value"], "plain");
    assert_eq!(json["secrets"][0]["name"], "token");
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["ssh"][0]["name"], "default");
    env.rbuild(args!["build", "--call=outline", "--target=ap", context])
        .run()
        .fails_with("target stage \"ap\" could not be found (did you mean app?)");
}

#[test]
fn targets_are_listed() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", OUTLINED);
    let call = |what: &str| env.rbuild(args!["build", what, context]).run().ok().out();
    let text = call("--call=targets");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "TARGET    DESCRIPTION",
            "tools     what is needed to build",
            "app",
            "(default)",
        ]
    );
    let json: Value = serde_json::from_str(&call("--call=targets,format=json")).unwrap();
    let targets = json["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 3);
    assert_eq!(targets[0]["name"], "tools");
    assert_eq!(targets[0]["description"], "what is needed to build");
    assert_eq!(targets[1]["base"], "tools");
    assert_eq!(targets[2]["default"], true);
    env.rbuild(args!["build", "--call=nonsense", context])
        .run()
        .exits(2)
        .says("methods are `build`, `check`, `outline` and `targets`");
}

const UNFORMATTED: &str =
    "from scratch  as  a\n\n\n\n  copy <<E /x\n  body \nE\nenv  A b\\\n\n\tc \n#note\n";
const FORMATTED: &str = "FROM scratch  AS  a\n\nCOPY <<E /x\n  body \nE\nENV A b\\\n\tc\n# note\n";

#[test]
fn files_are_formatted_in_place() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", UNFORMATTED),
            ("b.Dockerfile", FORMATTED),
            ("bad", "FROM a\nFOO\n"),
        ],
    );
    let file = context.join("Dockerfile");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let before = config(&env, "before", &context);
    let fmt = |args: &[&str]| env.rbuild(["fmt"]).args(args).current_dir(&context).run();

    let outcome = fmt(&["--check"]).exits(1);
    assert_in_order(
        &outcome.out(),
        &[
            "--- Dockerfile\n+++ Dockerfile\n@@ ",
            "\n-from scratch  as  a\n",
            "+FROM scratch  AS  a\n",
        ],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), UNFORMATTED);

    fmt(&[]).ok().says("formatted Dockerfile");
    assert_eq!(fs::read_to_string(&file).unwrap(), FORMATTED);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let outcome = fmt(&["--check"]).ok();
    assert_eq!(outcome.text(), "");
    assert_eq!(fmt(&[]).ok().text(), "");
    let layers_and_config = config(&env, "after", &context);
    assert_eq!(before, layers_and_config);

    // One file that cannot be formatted does not keep the others from it.
    fs::write(&file, UNFORMATTED).unwrap();
    let outcome = fmt(&["missing", "bad", "Dockerfile", "b.Dockerfile"]).exits(1);
    let outcome = outcome
        .says("could not read `missing`")
        .says("unknown instruction: FOO");
    assert!(
        !outcome.stderr.contains("formatted b.Dockerfile"),
        "{}",
        outcome.stderr
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), FORMATTED);
    assert_eq!(
        fs::read_to_string(context.join("bad")).unwrap(),
        "FROM a\nFOO\n"
    );
}

#[test]
fn standard_input_is_formatted_to_standard_output() {
    let env = TestEnv::new();
    let fmt = |text: &[u8]| env.rbuild(["fmt", "-"]).stdin(text).run();
    assert_eq!(fmt(UNFORMATTED.as_bytes()).ok().out(), FORMATTED);
    assert_eq!(fmt(FORMATTED.as_bytes()).ok().out(), FORMATTED);
    let outcome = fmt(b"FROM a\nFOO\n").exits(1).says("standard input:2");
    assert_eq!(outcome.out(), "");
    fmt(b"FROM a\xff\n").exits(1).says("it is not UTF-8 text");
    let directory = env.files("empty", &[]);
    env.rbuild(["fmt"])
        .current_dir(directory)
        .run()
        .fails_with("there is no Dockerfile in this directory");
}

/// Stages are put in order without recursion, and each is looked at once.
#[test]
fn a_long_chain_of_stages_needs_no_stack() {
    let env = TestEnv::new();
    let mut text = String::from("FROM scratch AS s0\n");
    for stage in 0..20_000 {
        text.push_str(&format!("FROM s{stage} AS s{}\n", stage + 1));
    }
    env.rbuild(["check", "-"]).stdin(text.as_str()).run().ok();
    // A cycle is told of the first stage that leads to it.
    text.push_str("COPY --from=last a /\nFROM s20000 AS last\n");
    env.rbuild(["check", "-"])
        .stdin(text)
        .run()
        .exits(1)
        .says("circular dependency detected on stage: s20000");
}
