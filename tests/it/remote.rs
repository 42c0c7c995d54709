//! `ADD` from the web when something is wrong, and what holds all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::args;
use crate::support::git::{GitServer, Repository};
use crate::support::process::Outcome;
use crate::support::web::{Answer, Manner, WebServer};
use crate::support::{TestEnv, needs};

/// Builds `FROM scratch` and one more line.
fn add(env: &TestEnv, line: &str) -> Outcome {
    let context = env.dockerfile("c", &format!("FROM scratch\n{line}\n"));
    env.rbuild(args!["--progress", "plain", context]).run()
}

/// What every failure must have: the line, and a store without half of anything.
#[track_caller]
fn fails_at_line_2(env: &TestEnv, outcome: Outcome, text: &str) -> Outcome {
    let outcome = outcome.fails_with(text).says("   2 | >>> ADD");
    env.assert_sound_store();
    let left = std::fs::read_dir(env.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "left in the store's tmp");
    outcome
}

#[test]
fn what_a_server_refuses_is_told_with_the_line() {
    let env = TestEnv::new();
    let web = WebServer::start(|asked| match asked.target.as_str() {
        "/gone" => Answer::new(410),
        "/private" => Answer::new(401),
        _ => Answer::new(404),
    });
    for (path, status) in [("/gone", 410), ("/private", 401), ("/nothing", 404)] {
        let outcome = add(&env, &format!("ADD {} /", web.url(path)));
        let text = format!("invalid response status {status}");
        let outcome = fails_at_line_2(&env, outcome, &text);
        assert!(outcome.stderr.contains("hint:"), "{}", outcome.stderr);
        assert_eq!(web.asked().len(), 1, "asking again would not help");
    }
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let env = TestEnv::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let web = WebServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503),
        1 => Answer::new(500),
        _ => Answer::ok("content"),
    });
    add(&env, &format!("ADD {} /f", web.url("/f"))).ok();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let broken = WebServer::start(|_| Answer::new(500));
    let outcome = add(&env, &format!("ADD {} /", broken.url("/f")));
    fails_at_line_2(&env, outcome, "invalid response status 500");
    assert!(broken.asked().len() > 1);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let env = TestEnv::new();
    let web = WebServer::start(|asked| {
        let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let range = asked.header("range").and_then(|range| {
            let first = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            first.parse::<usize>().ok()
        });
        match range {
            Some(first) if asked.header("if-range") == Some("\"e\"") => Answer {
                body: body[first..].to_vec(),
                ..Answer::new(206)
            }
            .header("Content-Range", format!("bytes {first}-399999/400000")),
            _ => Answer::ok(body)
                .header("ETag", "\"e\"")
                .manner(Manner::CutAfter(150_000)),
        }
    });
    let digest = "sha256:9d6fc0a2f7f3a1c6f6f3c1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6";
    let outcome = add(
        &env,
        &format!("ADD --checksum={digest} {} /f", web.url("/f")),
    );
    // The checksum is a wrong one: the error tells the digest of what was put together.
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = crate::support::layout::sha256(&content);
    fails_at_line_2(&env, outcome, &format!("digest mismatch {whole}: {digest}"));
    let ranges = web.asked();
    assert!(ranges[1].header("range").is_some(), "{ranges:?}");
}

#[test]
fn what_is_always_cut_short_fails_in_the_end() {
    let env = TestEnv::new();
    let web = WebServer::start(|_| Answer::ok("12345").manner(Manner::CutAfter(3)));
    let outcome = add(&env, &format!("ADD {} /", web.url("/f")));
    let text = format!("could not download `{}`", web.url("/f"));
    fails_at_line_2(&env, outcome, &text).says("gave up after 5 tries");
}

#[test]
fn an_endless_answer_ends_at_the_limit() {
    let env = TestEnv::new();
    let web = WebServer::start(|_| Answer::ok(vec![b'x'; 65536]).manner(Manner::Endless));
    let context = env.dockerfile("c", &format!("FROM scratch\nADD {} /\n", web.url("/f")));
    let outcome = env.rbuild(args!["--download-limit", "1m", context]).run();
    fails_at_line_2(&env, outcome, "over the limit of 1048576 bytes").says("--download-limit");
}

#[test]
fn redirections_in_a_circle_end() {
    let env = TestEnv::new();
    let web = WebServer::start(|_| Answer::new(302).header("Location", "/round"));
    let outcome = add(&env, &format!("ADD {} /", web.url("/f")));
    fails_at_line_2(&env, outcome, "too many redirections");
}

#[test]
fn a_host_that_is_not_there_is_told() {
    let env = TestEnv::new();
    let outcome = add(&env, "ADD http://nowhere.invalid/f /");
    fails_at_line_2(&env, outcome, "nowhere.invalid").says("host name could not be resolved");
}

#[test]
fn proxies_are_used_and_bypassed() {
    let env = TestEnv::new();
    let proxy = WebServer::start(|asked| match asked.method.as_str() {
        "CONNECT" => Answer::ok(""),
        _ => Answer::ok(format!("{} of {:?}", asked.target, asked.header("host"))),
    });
    let context = env.dockerfile("c", "FROM scratch\nADD http://files.invalid/a/f /\n");
    let output = env.join("out");
    let build = |no_proxy: &str| {
        let invocation = env.rbuild(args!["-o", output, context]);
        invocation
            .env("http_proxy", proxy.url(""))
            .env("NO_PROXY", no_proxy)
            .run()
    };
    build("").ok();
    let file = std::fs::read_to_string(output.join("f")).unwrap();
    assert_eq!(file, "/a/f of Some(\"files.invalid\")");
    assert_eq!(proxy.asked()[0].target, "files.invalid:80");
    std::fs::remove_dir_all(env.store()).unwrap();
    build(".invalid").fails_with("files.invalid");
}

#[test]
fn a_password_in_an_address_is_sent_and_not_in_the_name_of_the_source() {
    let env = TestEnv::new();
    let web = WebServer::start(|asked| match asked.header("authorization") {
        Some("Basic dXNlcjpnZWhlaW0=") => Answer::ok("in"),
        _ => Answer::new(401),
    });
    let url = format!("http://user:geheim@{}/f", web.host());
    let outcome = add(&env, &format!("ADD {url} /")).ok();
    let name = format!("load {}\n", web.url("/f"));
    assert!(outcome.stderr.contains(&name), "{}", outcome.stderr);
    let outcome = add(&env, &format!("ADD {} /", url.replace("geheim", "falsch")));
    let outcome = outcome.says("refused the credentials").exits(1);
    let after = outcome.stderr.rsplit_once("ERROR:").unwrap().1;
    assert!(!after.contains("falsch"), "{after}");
}

#[test]
fn ctrl_c_ends_a_download_that_says_nothing() {
    let env = TestEnv::new();
    let web = WebServer::start(|_| Answer::ok("12345").manner(Manner::Silent));
    let context = env.dockerfile("c", &format!("FROM scratch\nADD {} /\n", web.url("/f")));
    let running = env.rbuild(args!["--progress", "plain", context]).spawn();
    running.wait_for_line("load http");
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    env.assert_sound_store();
}

fn repository(env: &TestEnv) -> GitServer {
    let path = env.join("git/r.git");
    let repository = Repository::new(&path);
    std::fs::write(path.join("f"), "1").unwrap();
    std::os::unix::fs::symlink("/etc", path.join("out")).unwrap();
    repository.commit("a");
    GitServer::start(&env.join("git"))
}

#[test]
fn without_git_the_way_out_is_told() {
    let env = TestEnv::new();
    let outcome = add(&env, "ADD git://127.0.0.1:1/r.git /");
    fails_at_line_2(&env, outcome, "there is no `git` program").says("install git");
}

#[test]
fn mistakes_with_git_are_told_with_the_line() {
    let env = TestEnv::new();
    let git = repository(&env);
    for (source, text) in [
        (git.url("r.git#nope"), "does not contain ref nope"),
        (
            git.url("r.git#0123456789012345678901234567890123456789"),
            "does not contain ref 0123456789012345678901234567890123456789",
        ),
        (git.url("r.git#main:nope"), "subdir not found: nope"),
        // A link in the repository leads nowhere outside of it.
        (git.url("r.git#main:out"), "subdir not found: out"),
        (git.url("other.git"), "listing the references"),
        (git.url("r.git?ref=--upload-pack=x"), "does not contain ref"),
    ] {
        let context = env.dockerfile("c", &format!("FROM scratch\nADD {source} /d\n"));
        let invocation = env.rbuild(args![context]);
        let outcome = invocation.env("PATH", needs::PROGRAM_PATH).run();
        fails_at_line_2(&env, outcome, text);
    }
}

#[test]
fn submodules_come_along_unless_they_are_not_wanted() {
    let env = TestEnv::new();
    let inner = Repository::new(&env.join("git/inner.git"));
    std::fs::write(env.join("git/inner.git/i"), "inner").unwrap();
    inner.commit("a");
    let outer = Repository::new(&env.join("git/r.git"));
    std::fs::write(env.join("git/r.git/o"), "outer").unwrap();
    let git = GitServer::start(&env.join("git"));
    outer.git(&["submodule", "--quiet", "add", &git.url("inner.git"), "sub"]);
    outer.commit("a");
    let names = |source: &str| {
        let context = env.dockerfile("c", &format!("FROM scratch\nADD {source} /\n"));
        let output = env.join("out");
        let _ = std::fs::remove_dir_all(&output);
        let invocation = env.rbuild(args!["-o", output, context]);
        invocation.env("PATH", needs::PROGRAM_PATH).run().ok();
        let tree = crate::support::tree::read_directory(&output);
        tree.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        names(&git.url("r.git")),
        [".gitmodules", "o", "sub", "sub/i"]
    );
    let without = names(&git.url("r.git?submodules=0"));
    assert_eq!(without, [".gitmodules", "o", "sub"]);
}

#[test]
fn a_new_commit_is_seen_and_an_old_one_is_not_fetched_again() {
    let env = TestEnv::new();
    let path = env.join("git/r.git");
    let git = repository(&env);
    let context = env.dockerfile("c", &format!("FROM scratch\nADD {} /d\n", git.url("r.git")));
    let build = || {
        let invocation = env.rbuild(args!["--progress", "plain", "-t", "x", context]);
        let outcome = invocation.env("PATH", needs::PROGRAM_PATH).run().ok();
        crate::support::progress::ran_and_cached(&outcome.stderr)
            .0
            .len()
    };
    assert_eq!((build(), build()), (1, 0));
    std::fs::write(path.join("f"), "2").unwrap();
    Repository::new(&path).commit("b");
    assert_eq!((build(), build()), (1, 0));
}
