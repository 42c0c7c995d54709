//! `--ssh` and `--secret`: what a step is given, and what it cannot do with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::args;
use crate::support::process::{Invocation, with_path};
use crate::support::{TestEnv, base, needs};

/// A context with OpenSSH's programs for keys and what they need of the host, for an image with a shell.
fn context(env: &TestEnv, dockerfile: &str) -> PathBuf {
    let context = env.dockerfile("c", dockerfile);
    let programs = ["ssh-add", "ssh-keygen"].map(|name| needs::program(name, "openssh-client"));
    let listed = Invocation::new(needs::program("ldd", "libc-bin"))
        .args(&programs)
        .run()
        .ok()
        .out();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from);
    for file in libraries.chain(programs) {
        let copy = context.join("root").join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&file, &copy).unwrap();
    }
    context
}

fn key(env: &TestEnv, kind: &str) -> PathBuf {
    let path = env.join(kind);
    Invocation::new(needs::program("ssh-keygen", "openssh-client"))
        .args(args![
            "-q",
            "-t",
            kind,
            "-N",
            "",
            "-C",
            "of the test",
            "-f",
            path
        ])
        .run()
        .ok();
    path
}

/// An agent of the host; ends with the value.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(env: &TestEnv, key: &Path) -> Agent {
        let socket = env.join("agent.sock");
        let child = Command::new(needs::program("ssh-agent", "openssh-client"))
            .args(args!["-D", "-a", socket])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Agent { child, socket };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&agent.socket).is_err() {
            assert!(Instant::now() < deadline, "ssh-agent does not listen");
            std::thread::yield_now();
        }
        agent.add(&["-q".as_ref(), key]);
        agent
    }

    fn add(&self, arguments: &[&Path]) -> String {
        Invocation::new(needs::program("ssh-add", "openssh-client"))
            .env("SSH_AUTH_SOCK", &self.socket)
            .args(arguments)
            .run()
            .ok()
            .out()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn build(env: &TestEnv, context: &Path) -> Invocation {
    env.rbuild(args![
        "--progress",
        "plain",
        "--build-context",
        with_path("bb=oci-layout://", &base::bb_layout()),
        context
    ])
}

#[test]
fn a_forwarded_agent_lists_and_signs_and_nothing_else() {
    let env = TestEnv::new();
    let key = key(&env, "ed25519");
    let agent = Agent::start(&env, &key);
    let context = context(
        &env,
        "FROM bb\nENV PATH=/usr/bin:/bin\nCOPY root /\nCOPY key.pub /\n\
         RUN --mount=type=ssh,mode=0666 ls -l $SSH_AUTH_SOCK && ssh-add -l && ssh-add -T key.pub\n\
         RUN --mount=type=ssh,id=other,target=/s ! ssh-add -D && test $SSH_AUTH_SOCK = /s\n\
         RUN test ! -e /run/buildkit && test ! -e /s\n",
    );
    std::fs::copy(key.with_extension("pub"), context.join("key.pub")).unwrap();
    let outcome = build(&env, &context)
        .args(args![
            "--ssh",
            "default",
            "--ssh",
            with_path("other=", &agent.socket)
        ])
        .env("SSH_AUTH_SOCK", &agent.socket)
        .run()
        .ok();
    assert!(outcome.stderr.contains("of the test"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("srw-rw-rw-"), "{}", outcome.stderr);
    assert!(
        agent.add(&["-l".as_ref()]).contains("of the test"),
        "keys are still there"
    );
}

#[test]
fn keys_are_served_without_an_agent() {
    let env = TestEnv::new();
    let kinds = ["ed25519", "ecdsa", "rsa"];
    let context = context(
        &env,
        "FROM bb\nENV PATH=/usr/bin:/bin\nCOPY root /\nCOPY keys /keys\n\
         RUN --mount=type=ssh,id=k ssh-add -l && for k in /keys/*; do \
         ssh-keygen -q -Y sign -f $k -n test /etc/passwd && \
         ssh-keygen -Y check-novalidate -n test -s /etc/passwd.sig </etc/passwd && \
         rm /etc/passwd.sig || exit 9; done\n",
    );
    std::fs::create_dir(context.join("keys")).unwrap();
    let mut flag = String::from("k=");
    for kind in kinds {
        let key = key(&env, kind);
        let public = key.with_extension("pub");
        std::fs::copy(public, context.join("keys").join(kind)).unwrap();
        flag.push_str(&format!("{},", key.display()));
    }
    let flag = flag.trim_end_matches(',');
    let outcome = build(&env, &context).args(["--ssh", flag]).run().ok();
    for kind in ["(ED25519)", "(ECDSA)", "(RSA)"] {
        assert!(outcome.stderr.contains(kind), "{}", outcome.stderr);
    }
}

#[test]
fn what_cannot_be_forwarded_is_told() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM bb\nRUN --mount=type=ssh true\n");
    let fails = |flags: &[&str], text: &str| {
        build(&env, &context)
            .args(flags)
            .env("SSH_AUTH_SOCK", env.join("nobody"))
            .run()
            .fails_with(text)
    };
    fails(&["--ssh", "default"], "could not reach the SSH agent").says("   2 | >>> RUN");
    std::fs::write(env.join("no-key"), "hello").unwrap();
    let flag = format!("default={}", env.join("no-key").display());
    fails(&["--ssh", &flag], "could not use the SSH key").says("OpenSSH's format");
    fails(
        &["--ssh", "default=/no/such/file"],
        "could not use `/no/such/file`",
    );
    let required = env.dockerfile("d", "FROM bb\nRUN --mount=type=ssh,required true\n");
    build(&env, &required)
        .run()
        .fails_with("no SSH key \"\" forwarded")
        .says("--ssh default");
}

#[test]
fn values_of_secrets_are_hidden_in_the_output_and_not_in_files() {
    let env = TestEnv::new();
    let context = env.dockerfile(
        "c",
        "FROM bb\n\
         RUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B \
         cat /run/secrets/a; echo \"<$B>\" >&2; echo $B >/kept\n\
         RUN --mount=type=secret,id=a cat /run/secrets/a; exit 3\n",
    );
    let outcome = build(&env, &context)
        .args([
            "--secret",
            "id=a,env=FIRST",
            "--secret",
            "type=env,id=b,env=SECOND",
        ])
        .env("FIRST", "line one\nline two\n")
        .env("SECOND", "hunter2")
        .run()
        .exits(1);
    for value in ["line one", "line two", "hunter2"] {
        assert!(!outcome.text().contains(value), "{}", outcome.text());
    }
    assert!(outcome.stderr.contains("<****>"), "{}", outcome.stderr);
    let kept = env.dockerfile(
        "d",
        "FROM bb AS x\nRUN --mount=type=secret,id=b,env=B echo $B >/kept\n\
         FROM scratch\nCOPY --from=x /kept /\n",
    );
    let output = env.join("out");
    build(&env, &kept)
        .args(args!["--secret", "id=b,env=SECOND", "-o", output])
        .env("SECOND", "hunter2")
        .run()
        .ok();
    assert_eq!(
        std::fs::read_to_string(output.join("kept")).unwrap(),
        "hunter2\n"
    );
}

#[test]
fn git_over_ssh_uses_the_forwarded_agent_and_never_asks() {
    use std::os::unix::fs::PermissionsExt as _;
    let env = TestEnv::new();
    let repository = crate::support::git::Repository::new(&env.join("r.git"));
    std::fs::write(env.join("r.git/f"), "F").unwrap();
    repository.commit("a");
    // Stands for the way to another machine: notes how it was called, and runs the command here.
    let (programs, log) = (env.join("programs"), env.join("log"));
    std::fs::create_dir(&programs).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"agent=$SSH_AUTH_SOCK $*\" >>{}\nfor last; do :; done\neval \"$last\"\n",
        log.display()
    );
    std::fs::write(programs.join("ssh"), script).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(programs.join("ssh"), executable).unwrap();
    let path = format!("{}:{}", programs.display(), needs::PROGRAM_PATH);
    let url = format!("ssh://git@far.invalid{}", env.join("r.git").display());
    let context = env.dockerfile("c", &format!("FROM scratch\nADD {url} /\n"));
    let key = key(&env, "ed25519");
    let agent = Agent::start(&env, &key);
    let built = |flags: &[&str]| {
        let _ = std::fs::remove_file(&log);
        let output = env.join("out");
        let invocation = env.rbuild(args!["-o", output]).args(flags).arg(&context);
        let variables = invocation
            .env("PATH", &path)
            .env("SSH_AUTH_SOCK", &agent.socket);
        variables.run().ok();
        assert_eq!(std::fs::read_to_string(output.join("f")).unwrap(), "F");
        std::fs::read_to_string(&log).unwrap()
    };
    let without = built(&[]);
    assert!(without.starts_with("agent= -o BatchMode=yes"), "{without}");
    let with = built(&["--ssh", "default"]);
    let want = format!("agent={} -o BatchMode=yes", agent.socket.display());
    assert!(with.starts_with(&want), "{with}");
}
