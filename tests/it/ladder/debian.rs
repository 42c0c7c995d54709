//! Package managers, compilers and users on every rung: the same owners, modes and capabilities as
//! root's.
//!
//! By default a small compiler is installed. `RBUILD_LADDER=full` builds the fixtures of the Debian
//! tests, too: gcc, and an application of Python with pip.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::container::Container;
use crate::args;
use crate::rootless::User;
use crate::support::debian::{certificate_bundle, proxy_build_args, rootfs};
use crate::support::process::{Invocation, with_path};
use crate::support::tree::tar_xattrs;
use crate::support::{TestEnv, layout};

const DOCKERFILE: &str = "\
FROM debian:bookworm
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends tcc libc6-dev libcap2-bin
RUN useradd -m -s /bin/sh worker && install -d -o worker -g staff -m 2775 /srv/work && \\
    printf 'int main(void) { return 0; }' >/hello.c && tcc -o /usr/local/bin/hello /hello.c && \\
    hello && setcap cap_net_raw+ep /usr/local/bin/hello && chgrp mail /hello.c && \\
    cp -a /srv/work /srv/copy && ln -s work /srv/link && chown -h worker /srv/link
USER worker
WORKDIR /home/worker
RUN hello && mkdir made && echo text >made/file && test \"$(id -un)\" = worker
";

/// Paths whose presence or attributes differ from one run to the next anywhere.
const VOLATILE: [&str; 3] = ["var/log/", "var/cache/", "var/lib/apt/"];

/// Files to which `useradd` gives the owner that it sees them have, which is root with a single id.
const GIVEN_BACK: [&str; 4] = ["etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-"];

/// What counts: kind, mode, owner, link, capability.
type Rights = BTreeMap<String, String>;

fn rights(output: &Path) -> Rights {
    let image = layout::read(output);
    let mut rights = Rights::new();
    for (members, tar) in image.layers.iter().zip(&image.layer_tars).skip(1) {
        let attributes = tar_xattrs(tar.as_slice());
        for (name, entry) in members {
            if VOLATILE.iter().any(|volatile| name.starts_with(volatile)) {
                continue;
            }
            let text = format!(
                "{} {:o} {}:{} {:?} {:?}",
                entry.kind,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.link,
                attributes.get(name)
            );
            rights.insert(name.clone(), text);
        }
    }
    rights
}

/// One rung: its world, and how the binary is run there.
struct Rung<'a> {
    env: &'a TestEnv,
    rbuild: &'a dyn Fn(Vec<OsString>) -> Invocation,
}

impl Rung<'_> {
    fn build(&self) -> Rights {
        let archive = self.env.join("debian.tar");
        fs::copy(rootfs(), &archive).unwrap();
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
        (self.rbuild)(args!["import", &archive, "debian:bookworm"].into())
            .timeout(300)
            .run()
            .ok();
        fs::remove_file(archive).unwrap();
        let context = self.env.dockerfile("context", DOCKERFILE);
        let output = self.env.join("out");
        let flag = with_path("type=oci,tar=false,dest=", &output);
        let mut all: Vec<OsString> = args!["build", "-o", flag].into();
        all.extend(proxy_build_args().into_iter().map(OsString::from));
        all.push(context.into());
        (self.rbuild)(all).timeout(600).run().ok();
        if std::env::var("RBUILD_LADDER").is_ok_and(|value| value == "full") {
            self.build_fixtures();
        }
        rights(&output)
    }

    fn build_fixtures(&self) {
        for name in ["cprogram", "python"] {
            let context = self.env.fixture(name);
            let mut all: Vec<OsString> = args!["build", "-t", name].into();
            all.extend(proxy_build_args().into_iter().map(OsString::from));
            if let Some(bundle) = certificate_bundle() {
                let copy = self.env.join("bundle");
                fs::copy(bundle, &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
                all.extend(args!["--secret", with_path("id=ca,src=", &copy)]);
            }
            if let Some(index) = std::env::var_os("PIP_INDEX_URL") {
                let mut argument = OsString::from("PIP_INDEX_URL=");
                argument.push(index);
                all.extend(args!["--build-arg", argument]);
            }
            all.push(context.into());
            (self.rbuild)(all).timeout(900).run().ok();
            (self.rbuild)(args!["run", "--rm", name].into()).run().ok();
        }
    }
}

#[track_caller]
fn assert_rights(rung: &str, found: &Rights, expected: &Rights) {
    let mut differences: Vec<String> = Vec::new();
    for name in found.keys().chain(expected.keys()) {
        let (ours, roots) = (found.get(name), expected.get(name));
        if ours != roots {
            differences.push(format!("{name}: {ours:?}, root's: {roots:?}"));
        }
    }
    differences.sort();
    differences.dedup();
    assert!(
        differences.is_empty(),
        "{rung}:\n{}",
        differences.join("\n")
    );
}

fn as_root() -> Rights {
    let env = TestEnv::new();
    let rbuild = |args: Vec<OsString>| env.rbuild(args);
    let rung = Rung {
        env: &env,
        rbuild: &rbuild,
    };
    rung.build()
}

fn as_user(ranges: &str) -> Rights {
    let user = User::new(ranges);
    let rbuild = |args: Vec<OsString>| user.rbuild(args);
    let rung = Rung {
        env: &user.env,
        rbuild: &rbuild,
    };
    rung.build()
}

fn in_container(container: &Container) -> Rights {
    let rbuild = |args: Vec<OsString>| container.rbuild(args);
    let rung = Rung {
        env: &container.env,
        rbuild: &rbuild,
    };
    rung.build()
}

#[test]
fn packages_are_installed_with_the_same_rights_on_every_rung() {
    let expected = as_root();
    assert!(
        expected["srv/work"].contains("2775 1000:50"),
        "{expected:#?}"
    );
    assert_rights(
        "rootless",
        &as_user("rbuild-test:300000:65536\n"),
        &expected,
    );
    let mut single = as_user("somebody:1000:10\n");
    for name in GIVEN_BACK {
        assert!(single[name].contains("640 0:0"), "{name}: {}", single[name]);
        single.insert(name.to_owned(), expected[name].clone());
    }
    assert_rights("single-id", &single, &expected);
    let open = Container::new(&["--security-opt=seccomp=unconfined"]);
    assert_rights("nested", &in_container(&open), &expected);
    let closed = Container::like_docker(&["--cap-add=MKNOD", "--cap-add=NET_RAW"]);
    assert_rights("chroot", &in_container(&closed), &expected);
}
