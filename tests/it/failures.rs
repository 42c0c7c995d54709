//! Builds that fail in the ways people meet: the message alone is enough to mend them.
//!
//! Every expectation was read as somebody would who sees it for the first time: it must say what
//! failed, why, and what to change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::args;
use crate::support::{Outcome, TestEnv, needs};

fn build(env: &TestEnv, context: &Path) -> Outcome {
    env.rbuild(args!["build", "-t", "x", context]).run()
}

/// Fails with `error`, saying every one of `parts` in lines of their own.
#[track_caller]
fn fails(outcome: Outcome, error: &str, parts: &[&str]) {
    let outcome = outcome.fails_with(error);
    for part in parts {
        assert!(
            outcome.stderr.contains(part),
            "no {part:?} in:\n{}",
            outcome.stderr
        );
    }
    for noise in ["panicked", "Some(", "Err(", "os error"] {
        assert!(!outcome.stderr.contains(noise), "{}", outcome.stderr);
    }
}

#[test]
fn a_typo_in_an_instruction() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\nCPOY a /\n");
    fails(
        build(&env, &context),
        "dockerfile parse error on line 3: unknown instruction: CPOY (did you mean COPY?)",
        &["Dockerfile:3\n", "   3 | >>> CPOY a /\n     |     ^^^^\n"],
    );
}

#[test]
fn a_missing_file() {
    let env = TestEnv::new();
    let text = "FROM scratch\nCOPY packge.json /\n";
    let context = env.files("c", &[("Dockerfile", text), ("package.json", "{}")]);
    fails(
        build(&env, &context),
        "\"/packge.json\": not found",
        &[
            "   2 | >>> COPY packge.json /\n",
            "hint: did you mean /package.json?\n",
        ],
    );
}

#[test]
fn an_ignored_file() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY dist/app.js /\n"),
            ("dist/app.js", ""),
            (".dockerignore", "node_modules\ndist\n"),
        ],
    );
    fails(
        build(&env, &context),
        "\"/dist/app.js\": not found",
        &[
            "hint: /dist/app.js exists but is left out by pattern `dist` on line 2 of the ignore file: change that \
           line, or add `!dist/app.js` below it\n",
        ],
    );
}

#[test]
fn a_missing_package() {
    let env = TestEnv::new();
    env.import_busybox();
    // A stand-in says what apt says; the real one needs a network.
    let text = "FROM busybox\nCOPY --chmod=755 apt-get /usr/bin/apt-get\n\
                RUN apt-get install -y pythn3\n";
    let script = "#!/bin/sh\necho 'Reading package lists...'\n\
                  echo \"E: Unable to locate package $3\" >&2\nexit 100\n";
    let context = env.files("c", &[("Dockerfile", text), ("apt-get", script)]);
    fails(
        build(&env, &context),
        "process \"/bin/sh -c apt-get install -y pythn3\" did not complete successfully: exit code: 100",
        &[
            "E: Unable to locate package pythn3\n",
            "hint: apt knows no such package: check its name, and run `apt-get update` in the same RUN, \
             before the installation\n",
        ],
    );
    // A program of a package that is not there.
    let text = "FROM busybox\nCOPY --chmod=755 apt-get /usr/bin/apt-get\nRUN git clone x\n";
    let context = env.files("d", &[("Dockerfile", text), ("apt-get", script)]);
    fails(
        build(&env, &context),
        "exit code: 127",
        &[
            "hint: exit code 127: `git` is in no directory of PATH (/usr/local/sbin:/usr/local/bin:",
            "install the package that has it before (`RUN apt-get update && apt-get install -y PACKAGE`)\n",
        ],
    );
}

#[test]
fn the_network_is_off() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN --network=none wget http://example.org/file\n",
    );
    fails(
        build(&env, &context),
        "exit code: 1",
        &[
            "wget: bad address 'example.org'\n",
            "note: ran as root in /, without network\n",
            "hint: the step has no network: remove `--network=none` from it, or from the command line\n",
        ],
    );
}

#[test]
fn no_space() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN dd if=/dev/zero of=/dev/shm/big bs=1M count=70\n",
    );
    fails(
        build(&env, &context),
        "exit code: 1",
        &[
            "No space left on device\n",
            "hint: the disk is full: `rbuild du` shows what the store holds, `rbuild prune` makes room; or \
             the step filled a tmpfs or `/dev/shm` (`--shm-size`)\n",
        ],
    );
}

#[test]
fn out_of_memory() {
    let env = TestEnv::new();
    env.import_busybox();
    // What is left to see when the kernel has killed a part of a command.
    let context = env.dockerfile("c", "FROM busybox\nRUN sh -c 'kill -9 $$' || exit $?\n");
    fails(
        build(&env, &context),
        "exit code: 137",
        &[
            "hint: exit code 137: a process was killed (SIGKILL): by the kernel when the machine ran out of \
           memory (`dmesg` tells), by a memory limit around rbuild, or by a `kill -9`; let the step do less \
           at once (for example `make -j1`), or give it more memory\n",
        ],
    );
}

#[test]
fn no_permission() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN mkdir /data\nUSER 1000\nRUN touch /data/file\n",
    );
    fails(
        build(&env, &context),
        "exit code: 1",
        &[
            "touch: /data/file: Permission denied\n",
            "note: ran as user 1000:0 in /\n",
            "hint: the step ran as user 1000 and may not do that: put `USER root` before it and switch back \
             after, or change the owner of the files (`COPY --chown`)\n",
        ],
    );
    let text = "FROM busybox\nCOPY run.sh /app/run.sh\nRUN /app/run.sh\n";
    let context = env.files("d", &[("Dockerfile", text), ("run.sh", "#!/bin/sh\n")]);
    fs::set_permissions(context.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    fails(
        build(&env, &context),
        "exit code: 126",
        &[
            "hint: exit code 126: /app/run.sh is not marked as executable (mode 0644): add `RUN chmod +x \
           /app/run.sh`, or `--chmod=755` to the COPY that brings it\n",
        ],
    );
}

#[test]
fn the_wrong_architecture() {
    let env = TestEnv::new();
    env.import_busybox();
    // The header of a program for a processor that no test machine has.
    let mut foreign = fs::read(needs::program("busybox", "busybox-static")).unwrap();
    foreign.truncate(4096);
    foreign[18..20].copy_from_slice(&22_u16.to_le_bytes());
    let text = "FROM busybox\nCOPY --chmod=755 tool /bin/tool\nRUN [\"tool\", \"x\"]\n";
    let context = env.dockerfile("c", text);
    fs::write(context.join("tool"), &foreign).unwrap();
    let host = env.rbuild(["info", "-f", "{{.Platform}}"]).run().ok().out();
    let host = host.trim().split('/').nth(1).unwrap().to_owned();
    let hint = format!(
        "hint: exec format error: /bin/tool is a program for s390x, and this machine is {host}: the base \
         image or the file is for the wrong platform; choose with `--platform linux/{host}`, or let this host run \
         foreign programs (Debian: `apt install qemu-user-static`)\n"
    );
    fails(build(&env, &context), "exit code: 1", &[&hint]);
    let text = "FROM busybox\nCOPY --chmod=755 tool /bin/tool\nRUN tool x\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    fails(build(&env, &context), "exit code: ", &[&hint]);
}

#[test]
fn what_leads_to_no_program_is_told() {
    let env = TestEnv::new();
    env.import_busybox();
    let cases = [
        (
            "rm /bin/sh && ln -s sh /bin/sh",
            "true",
            "/bin/sh is a symbolic link that leads back to itself",
        ),
        (
            "ln -s b /bin/a && ln -s a /bin/b",
            "[\"/bin/a\"]",
            "/bin/a is a symbolic link that leads back to itself",
        ),
        (
            "ln -s a /bin/a && printf '#!/bin/a\\n' >/bin/b && chmod +x /bin/b",
            "[\"b\"]",
            "/bin/b is there, but /bin/a of its `#!` line is a link that leads back to itself",
        ),
        (
            "true",
            "[\"/etc/passwd/sh\"]",
            "/etc/passwd/sh leads through something that is there, but is no directory",
        ),
        (
            "echo text >/bin/text && chmod +x /bin/text",
            "[\"text\"]",
            "exec format error: /bin/text is neither a program nor a script",
        ),
        (
            "printf '#!/no/such\\n' >/bin/b && chmod +x /bin/b",
            "[\"b\"]",
            "/bin/b is there, but /no/such of its `#!` line is not",
        ),
        (
            "mkdir /program",
            "[\"/program\"]",
            "/program is a directory, not a program",
        ),
    ];
    for (before, command, hint) in cases {
        let text = format!("FROM busybox\nRUN {before}\nRUN {command}\n");
        let context = env.dockerfile("c", &text);
        fails(
            build(&env, &context),
            "exit code: 1",
            &[&format!("hint: {hint}")],
        );
    }
    let context = env.dockerfile("c", "FROM busybox\nRUN ln -s loop /bin/loop\n");
    env.rbuild(args!["-t", "x", context]).run().ok();
    for (command, code, says) in [
        ("loop", 126, "too many levels of symbolic links"),
        ("/etc/passwd/sh", 126, "not a directory"),
        ("/etc/none", 127, "no such file or directory"),
    ] {
        let run = env.rbuild(["run", "--rm", "--network=none", "x", command]);
        run.run().exits(code).says(says);
    }
}

#[test]
fn a_bad_base() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM Debian:12\nRUN true\n");
    fails(
        build(&env, &context),
        "invalid reference format: repository name (library/Debian) must be lowercase",
        &[
            "   1 | >>> FROM Debian:12\n",
            "hint: names of images are in lower case: debian:12\n",
        ],
    );
    let context = env.dockerfile("d", "FROM registry.invalid/team/base:1\nRUN true\n");
    fails(
        build(&env, &context),
        "registry.invalid/team/base:1",
        &[
            "   1 | >>> FROM registry.invalid/team/base:1\n",
            "hint: check the name `registry.invalid`, and this machine's connection and name servers\n",
        ],
    );
}

#[test]
fn a_stage_that_is_not_there() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox AS build\nFROM scratch\nCOPY --from=biuld /bin /\n";
    let context = env.dockerfile("c", text);
    fails(
        build(&env, &context),
        "biuld",
        &[
            "   3 | >>> COPY --from=biuld /bin /\n",
            "hint: no stage is called biuld, so an image of that name was looked for: did you mean build?\n",
        ],
    );
}

#[test]
fn a_missing_secret() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN --mount=type=secret,id=token,required cat /run/secrets/token\n";
    let context = env.dockerfile("c", text);
    fails(
        build(&env, &context),
        "secret token: not found",
        &[
            "   2 | >>> RUN --mount=type=secret,id=token,required",
            "hint: give it with `--secret id=token,src=FILE` or `--secret id=token,env=NAME`\n",
        ],
    );
}

#[test]
fn a_broken_pipe() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nSHELL [\"/bin/sh\", \"-o\", \"pipefail\", \"-c\"]\nRUN yes | head -n 1\n",
    );
    fails(
        build(&env, &context),
        "exit code: 141",
        &[
            "hint: exit code 141: SIGPIPE: a program wrote to a pipe whose reader had ended, as in `… | head` \
           with `set -o pipefail`: let the reader read everything (`… | sed -n 1p`), or allow this status\n",
        ],
    );
    // Whoever reads our own output may go away, too.
    let script = format!(
        "'{}' build --help | head -n 1 >/dev/null; echo ended",
        env!("CARGO_BIN_EXE_rbuild")
    );
    let outcome = env.host("sh").args(["-c", &script]).run().ok();
    assert_eq!(outcome.out(), "ended\n");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn programs_that_are_there_and_yet_do_not_start() {
    let env = TestEnv::new();
    env.import_busybox();
    for (content, command, hint) in [
        (
            "#!/bin/bash\necho hi\n",
            "/run.sh",
            "/run.sh is there, but /bin/bash of its `#!` line is not: install that, or change the line",
        ),
        (
            "#!/bin/sh\r\necho hi\r\n",
            "/run.sh",
            "/run.sh has Windows line ends, so its `#!` line names a program that is not there",
        ),
        (
            "",
            "/runsh",
            "/runsh is not in the image: did you mean /run.sh?",
        ),
    ] {
        let text = format!("FROM busybox\nCOPY --chmod=755 run.sh /run.sh\nRUN {command}\n");
        let context = env.files("c", &[("Dockerfile", &text), ("run.sh", content)]);
        fails(build(&env, &context), "exit code: 127", &[hint]);
        let text = format!("FROM busybox\nCOPY --chmod=755 run.sh /run.sh\nRUN [\"{command}\"]\n");
        let context = env.files("c", &[("Dockerfile", &text), ("run.sh", content)]);
        fails(build(&env, &context), "exit code: 1", &[hint]);
    }
    // Where PATH does not lead.
    let text = "FROM busybox\nCOPY --chmod=755 tool /opt/bin/tool\nENV PATH=/bin\nRUN tool\n";
    let context = env.files("d", &[("Dockerfile", text), ("tool", "#!/bin/sh\n")]);
    fails(
        build(&env, &context),
        "exit code: 127",
        &[
            "`tool` is in /opt/bin, which is not in PATH (/bin): write the whole path, or add it with `ENV PATH`\n",
        ],
    );
    let text = "FROM busybox\nRUN gerp x /etc/passwd\n";
    let context = env.dockerfile("e", text);
    fails(
        build(&env, &context),
        "exit code: 127",
        &["did you mean `grep`?\n"],
    );
}
