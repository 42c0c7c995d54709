//! `--reproducible` and `rbuild repro`: the same image whenever and wherever it is built.

use std::fs::{self, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::args;
use crate::support::process::with_path;
use crate::support::{TestEnv, base};

/// Makes links, directories, deletions, files that the base has and the time of a source visible.
const DETERMINISTIC: &str = "\
FROM busybox AS made
WORKDIR /work
COPY . /work/
RUN stat -c '%Y %n' /work/a > /times && mkdir -p /x/y && ln -s y /x/link && echo z > /x/y/z
FROM busybox
ARG SOURCE_DATE_EPOCH
ADD a /deep/er/a
COPY --from=made /x /x
RUN rm /bin/sort && echo changed >> /etc/passwd && mv /x/y/z /z && echo $SOURCE_DATE_EPOCH > /epoch
COPY --link a /linked/a
COPY <<END /here
text
END
LABEL a=b
";

fn context_of(env: &TestEnv, dockerfile: &str, age: u64) -> std::path::PathBuf {
    let context = env.files(
        "c",
        &[
            ("Dockerfile", dockerfile),
            ("a", "A"),
            ("d/b", "B"),
            (".dockerignore", "Dockerfile\n"),
        ],
    );
    let time = SystemTime::now() - Duration::from_secs(age);
    for path in ["a", "d/b", "d"] {
        let path = context.join(path);
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    context
}

fn archive(env: &TestEnv, context: &Path, more: &[&str]) -> Vec<u8> {
    let target = env.join("image.tar");
    let base = with_path("busybox=oci-layout://", &base::bb_layout());
    env.rbuild(args!["--reproducible", "--build-context", base, context])
        .args(more)
        .arg("-o")
        .arg(with_path("type=oci,dest=", &target))
        .run()
        .ok();
    fs::read(target).unwrap()
}

#[test]
fn two_stores_at_two_times_give_the_same_bytes() {
    let build = |age: u64, more: &[&str]| {
        let env = TestEnv::new();
        let context = context_of(&env, DETERMINISTIC, age);
        let bytes = archive(&env, &context, more);
        // The second time everything comes from the cache, and blobs are there already.
        assert!(bytes == archive(&env, &context, more), "from the cache");
        bytes
    };
    let first = build(0, &[]);
    let second = build(86_400 * 365, &["--jobs", "1"]);
    assert!(first == second, "the archives differ");
    let later = build(5, &["--source-date-epoch", "1700000000"]);
    assert!(first != later, "the time counts for nothing");
    let same = build(86_400 * 365 * 20, &["--source-date-epoch", "1700000000"]);
    assert!(later == same, "older files keep their times");
}

#[test]
fn the_time_is_that_of_source_date_epoch_else_the_second_day_of_1980() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = context_of(&env, DETERMINISTIC, 0);
    let listed = |more: &[&str]| {
        env.rbuild(args!["-q", "-t", "x", "--reproducible", &context])
            .args(more)
            .run()
            .ok();
        let stat = "stat -c '%Y' /x /z /x/link /here /linked; cat /epoch";
        let outcome = env
            .rbuild(args!["run", "--rm", "x", "sh", "-c", stat])
            .run();
        let created = env.inspect("x", "{{.Created}}");
        (outcome.ok().out(), created)
    };
    let (times, created) = listed(&[]);
    assert_eq!(times, "315619200\n".repeat(6));
    assert_eq!(created, "1980-01-02T00:00:00Z");
    let (times, created) = listed(&["--build-arg", "SOURCE_DATE_EPOCH=1700000000"]);
    assert_eq!(times, "1700000000\n".repeat(6));
    assert_eq!(created, "2023-11-14T22:13:20Z");
    // buildah's spelling.
    let id = env.inspect("x", "{{.Id}}");
    env.rbuild(args![
        "-q",
        "-t",
        "y",
        "--timestamp",
        "1700000000",
        &context
    ])
    .run()
    .ok();
    assert_eq!(env.inspect("y", "{{.Id}}"), id);
}

#[test]
fn repro_says_that_a_build_is_reproducible_and_stores_it_then() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = context_of(&env, DETERMINISTIC, 0);
    let outcome = env.rbuild(args!["repro", "-t", "x", &context]).run().ok();
    let id = env.inspect("x", "{{.Id}}");
    let said = format!("reproducible: both builds gave {id}\n");
    assert!(outcome.out().starts_with(&said), "{}", outcome.out());
    let plain = env.rbuild(args!["repro", &context]).run().ok();
    assert_eq!(plain.out(), said);
}

#[test]
fn repro_names_the_step_the_file_and_the_place() {
    let env = TestEnv::new();
    env.import_busybox();
    let repro = |run: &str| {
        let dockerfile = format!(
            "FROM busybox\nRUN echo same > /same\nRUN {run}\nRUN --mount=type=cache,target=/c \
             wc -c < /out > /size && ls /c > /list && touch /c/left\n"
        );
        let context = context_of(&env, &dockerfile, 0);
        let outcome = env.rbuild(args!["repro", "-t", "never", context]).run();
        assert_eq!(outcome.code(), 3, "{}", outcome.stderr);
        outcome.out()
    };
    let said = repro("echo 0123456789 $(date +%s.%N) > /out; echo later > /zzz");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("not reproducible: linux/"), "{said}");
    assert!(
        lines[1].starts_with("  layer 3 of 4: RUN /bin/sh -c echo 0123456789"),
        "{said}"
    );
    assert!(
        lines[2].starts_with("    /out: content differs from byte "),
        "{said}"
    );
    assert_eq!(lines.len(), 3, "{said}");
    // Cache mounts are empty in both builds, so only the owner differs.
    let said = repro("echo x > /out; chown $(($(date +%s) % 60000)) /out");
    assert!(said.contains("/out: owner "), "{said}");
    let said = repro("touch /out /made-$(date +%s%N)");
    assert!(said.contains(": only in the first build\n"), "{said}");
    assert!(said.contains(": only in the second build\n"), "{said}");
    let images = env.rbuild(args!["images", "-q", "never"]).run().ok();
    assert_eq!(images.out(), "", "an image was stored");
}

#[test]
fn repro_fails_like_a_build_when_a_step_fails() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN exit 7\n");
    let outcome = env.rbuild(args!["repro", &context]).run();
    assert_eq!(outcome.code(), 1);
    outcome.fails_with("exit code: 7");
    env.rbuild(args!["repro", "--check", context])
        .run()
        .exits(2)
        .says("do not go with it");
}
