//! The changes, one a rule.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::Rule;

/// `FROM busybox`, the given lines, and a step that tells its case.
macro_rules! run_after {
    ($lines:literal) => {
        concat!("FROM busybox\n", $lines, "RUN echo ID\n")
    };
}

fn write(context: &Path, name: &str, text: &str) {
    fs::write(context.join(name), text).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = of_files();
    rules.extend(of_instructions());
    rules.extend(of_mounts_and_options());
    rules.extend(of_stages_and_the_rest());
    rules
}

fn of_files() -> Vec<Rule> {
    vec![
        Rule::new("C01", run_after!("COPY a /\n")),
        Rule::new("C02", run_after!("COPY a /\n")).change(|c| write(c, "a", "changed")),
        Rule::new("C03", run_after!("COPY a /\n")).change(|c| write(c, "b", "changed")),
        Rule::new("C04", run_after!("COPY a /\n")).change(|c| {
            let time = UNIX_EPOCH + Duration::from_secs(1_234_567_890);
            fs::File::open(c.join("a"))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }),
        Rule::new("C05", run_after!("COPY a /\n")).change(|c| set_mode(&c.join("a"), 0o600)),
        Rule::new("C06", run_after!("COPY a /\n"))
            .change(|c| chown(c.join("a"), Some(123), Some(456)).unwrap()),
        Rule::new("C07", run_after!("COPY a /\n"))
            .change(|c| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(c.join("a"), "user.note", b"x", flags).unwrap();
            })
            .better("layers keep no user.* attributes, so the copied file is the same"),
        Rule::new("C08", run_after!("COPY a /c\n"))
            .then(run_after!("COPY a2 /c\n"))
            .change(|c| fs::rename(c.join("a"), c.join("a2")).unwrap())
            .better("the copied file is the same"),
        Rule::new("C09", run_after!("COPY a /\n")).change(|c| {
            fs::rename(c.join("a"), c.join("real")).unwrap();
            symlink("real", c.join("a")).unwrap();
        }),
        Rule::new("C10", run_after!("COPY d /d\n"))
            .change(|c| fs::create_dir(c.join("d/empty")).unwrap()),
        Rule::new("C11", run_after!("COPY d /d\n")).change(|c| set_mode(&c.join("d"), 0o700)),
        Rule::new("C12", run_after!("COPY . /c/\n")).change(|c| write(c, "ignored", "x")),
    ]
}

fn of_instructions() -> Vec<Rule> {
    vec![
        Rule::new("C13", "FROM busybox\nRUN echo ID\n").then("FROM busybox\nRUN    echo ID   \n"),
        Rule::new("C14", "FROM busybox\nRUN echo ID x\n").then("FROM busybox\nRUN echo ID  x\n"),
        Rule::new("C15", "FROM busybox\nRUN echo ID x\n").then("FROM busybox\nRUN echo ID \\\nx\n"),
        Rule::new("C16", run_after!("ARG v\n"))
            .options(&["--build-arg", "v=1"], &["--build-arg", "v=2"]),
        Rule::new("C17", "FROM busybox\nRUN echo ID\nARG v\n")
            .options(&["--build-arg", "v=1"], &["--build-arg", "v=2"]),
        Rule::new("C18", run_after!("")).options(&["--build-arg", "v=1"], &["--build-arg", "v=2"]),
        Rule::new("C19", run_after!("ENV a=1\n")).then(run_after!("ENV a=2\n")),
        Rule::new("C20", "FROM busybox\nENV x=1\nCOPY a /ID\n")
            .then("FROM busybox\nENV x=2\nCOPY a /ID\n"),
        Rule::new("C21", run_after!("LABEL a=1\n")).then(run_after!("LABEL a=2\n")),
        Rule::new(
            "C22",
            run_after!("CMD [\"a\"]\nEXPOSE 1\nVOLUME /v\nHEALTHCHECK CMD x\n"),
        )
        .then(run_after!(
            "CMD [\"b\"]\nEXPOSE 2\nVOLUME /w\nHEALTHCHECK CMD y\n"
        )),
        Rule::new("C23", run_after!("USER 1\n")).then(run_after!("USER 2\n")),
        Rule::new("C24", "FROM busybox\nUSER 1\nCOPY a /ID\n")
            .then("FROM busybox\nUSER 2\nCOPY a /ID\n"),
        Rule::new("C25", "FROM busybox\nWORKDIR /w1\nCOPY a /ID\n")
            .then("FROM busybox\nWORKDIR /w2\nCOPY a /ID\n"),
        Rule::new("C26", run_after!("SHELL [\"/bin/sh\", \"-c\"]\n"))
            .then(run_after!("SHELL [\"/bin/sh\", \"-ec\"]\n")),
        Rule::new("C27", run_after!("")).options(
            &["--build-arg", "HTTP_PROXY=http://one"],
            &["--build-arg", "HTTP_PROXY=http://two"],
        ),
    ]
}

fn of_mounts_and_options() -> Vec<Rule> {
    vec![
        Rule::new(
            "C28",
            "FROM busybox\nRUN --mount=type=secret,id=s echo ID\n",
        )
        .options(
            &["--secret", "id=s,src=CONTEXT/a"],
            &["--secret", "id=s,src=CONTEXT/b"],
        ),
        Rule::new(
            "C29",
            "FROM busybox\nRUN --mount=type=secret,id=s echo ID\n",
        )
        .options(&["--secret", "id=s,src=CONTEXT/a"], &[]),
        Rule::new(
            "C30",
            "FROM busybox\nRUN --mount=type=cache,id=i1,target=/c echo ID\n",
        )
        .then("FROM busybox\nRUN --mount=type=cache,id=i2,target=/c echo ID\n"),
        Rule::new(
            "C31",
            "FROM busybox\nRUN --mount=type=cache,id=i,target=/c1 echo ID\n",
        )
        .then("FROM busybox\nRUN --mount=type=cache,id=i,target=/c2 echo ID\n"),
        Rule::new(
            "C32",
            "FROM busybox\nRUN --mount=type=bind,source=a,target=/a echo ID\n",
        )
        .change(|c| write(c, "a", "changed")),
        Rule::new(
            "C33",
            "FROM busybox\nRUN --mount=type=bind,source=a,target=/a echo ID\n",
        )
        .change(|c| write(c, "b", "changed")),
        Rule::new("C34", run_after!(""))
            .options(&["--add-host", "n:10.0.0.1"], &["--add-host", "n:10.0.0.2"]),
        Rule::new("C35", "FROM busybox\nRUN echo ID\n")
            .then("FROM busybox\nRUN --network=none echo ID\n"),
        Rule::new("C36", "FROM busybox\nRUN <<EOF\necho ID 1\nEOF\n")
            .then("FROM busybox\nRUN <<EOF\necho ID 2\nEOF\n"),
        Rule::new("C37", run_after!("")).then(run_after!("# a comment\n\n")),
    ]
}

fn of_stages_and_the_rest() -> Vec<Rule> {
    vec![
        Rule::new("C38", "FROM busybox AS one\nRUN echo ID\nFROM one\n")
            .then("FROM busybox AS two\nRUN echo ID\nFROM two\n"),
        Rule::new("C39", run_after!("RUN true\nRUN touch -d @1 /f /\n"))
            .then(run_after!("RUN true\nRUN touch -d @1 / /f\n"))
            .better("the files below are the same"),
        Rule::new(
            "C40",
            "FROM busybox AS s\nRUN echo 1 >/other; touch -d @1 /f\n\
             FROM busybox\nCOPY --from=s /f /ID\nRUN echo z\n",
        )
        .then(
            "FROM busybox AS s\nRUN echo 2 >/other; touch -d @1 /f\n\
             FROM busybox\nCOPY --from=s /f /ID\nRUN echo z\n",
        ),
        Rule::new(
            "C41",
            "FROM busybox\nRUN echo '#1' >>/etc/passwd\nCOPY --chown=app a /ID\n",
        )
        .then("FROM busybox\nRUN echo '#2' >>/etc/passwd\nCOPY --chown=app a /ID\n"),
        Rule::new("C42", "FROM busybox\nRUN echo 1 >/x\nCOPY --link a /ID\n")
            .then("FROM busybox\nRUN echo 2 >/x\nCOPY --link a /ID\n"),
        Rule::new("C43", run_after!("")).options(&[], &["--no-cache"]),
        Rule::new(
            "C44",
            "FROM busybox AS s\nRUN touch /f\nFROM busybox AS t\nCOPY --from=s /f /\nRUN echo ID\n",
        )
        .options(&[], &["--no-cache-filter", "s"]),
        Rule::new("C45", run_after!("COPY a* /ID/\n")).change(|c| write(c, "a2", "new")),
        Rule::new("C46", run_after!("COPY a* /ID/\n")).change(|c| write(c, "c", "new")),
        Rule::new("C47", run_after!("")).options(&[], &["--platform", HOST_PLATFORM]),
        Rule::new("C48", run_after!("")).options(
            &["--build-arg", "SOURCE_DATE_EPOCH=1000"],
            &["--build-arg", "SOURCE_DATE_EPOCH=2000"],
        ),
        Rule::new("C49", run_after!("COPY d /ID/\n"))
            .files(&[("d/one", "same"), ("d/two", "same")])
            .change(|c| {
                fs::remove_file(c.join("d/two")).unwrap();
                fs::hard_link(c.join("d/one"), c.join("d/two")).unwrap();
            }),
        Rule::new("C50", "FROM busybox\nCOPY a /ID\n")
            .then("FROM busybox\nCOPY --chmod=644 a /ID\n"),
        Rule::new("C51", run_after!("")).options(&[], &["--shm-size", "32m"]),
        Rule::new(
            "C52",
            "FROM busybox\nRUN --mount=type=secret,id=s echo ID\n",
        )
        .then("FROM busybox\nRUN --mount=type=secret,id=s,required=true echo ID\n")
        .options(
            &["--secret", "id=s,src=CONTEXT/a"],
            &["--secret", "id=s,src=CONTEXT/a"],
        )
        .better("the secret is there both times"),
        Rule::new("C53", run_after!(""))
            .options(&[], &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]),
    ]
}

#[cfg(target_arch = "x86_64")]
const HOST_PLATFORM: &str = "linux/amd64";
#[cfg(target_arch = "aarch64")]
const HOST_PLATFORM: &str = "linux/arm64";
