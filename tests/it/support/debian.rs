//! A Debian base made by debootstrap from the host's own mirror, and the host's way to the network.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::base::made_once;
use super::needs;

const SUITE: &str = "bookworm";

/// A tar of a minimal Debian bookworm, made once.
pub(crate) fn rootfs() -> PathBuf {
    let debootstrap = needs::program("debootstrap", "debootstrap");
    let tar = needs::program("tar", "tar");
    let directory = made_once("debian-bookworm-minbase", |draft| {
        let root = draft.join("root");
        let made = Command::new(&debootstrap)
            .env("PATH", needs::PROGRAM_PATH)
            .args(["--variant=minbase", SUITE])
            .arg(&root)
            .arg(mirror())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "debootstrap failed, is the mirror within reach?\n{}",
            String::from_utf8_lossy(&made.stdout)
        );
        fs::remove_dir_all(root.join("var/cache/apt/archives")).unwrap();
        let packed = Command::new(&tar)
            .args(["--numeric-owner", "--one-file-system", "-C"])
            .arg(&root)
            .arg("-cf")
            .arg(draft.join("rootfs.tar"))
            .arg(".")
            .status()
            .unwrap();
        assert!(packed.success(), "tar: {packed}");
        fs::remove_dir_all(&root).unwrap();
    });
    directory.join("rootfs.tar")
}

/// The mirror of Debian that the host's apt uses.
fn mirror() -> String {
    let apt_get = needs::program("apt-get", "apt");
    let listed = Command::new(apt_get)
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        ])
        .arg("Created-By: Packages")
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let wanted = |line: &&str| line.ends_with(&format!(" {SUITE} main"));
    let line = listed.lines().find(wanted).unwrap_or_else(|| {
        panic!(
            "this test needs an apt source for Debian {SUITE} main on the host \
             (and `apt-get update` run once); apt knows:\n{listed}"
        )
    });
    line.split(' ').next().unwrap().to_owned()
}

/// Build arguments that carry the host's proxy settings into `RUN`, where the host has any.
pub(crate) fn proxy_build_args() -> Vec<String> {
    let mut args = Vec::new();
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        let value = std::env::var(name).or_else(|_| std::env::var(name.to_uppercase()));
        if let Ok(value) = value {
            args.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
    }
    args
}

/// The certificate bundle that the host trusts beyond what programs bring along, if it has one.
///
/// Someone behind a company proxy names it in one of these places.
pub(crate) fn certificate_bundle() -> Option<PathBuf> {
    let named = ["PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
        .iter()
        .find_map(std::env::var_os)
        .map(PathBuf::from);
    named
        .or_else(pip_configured_bundle)
        .filter(|path| path.is_file())
}

fn pip_configured_bundle() -> Option<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/pip.conf")];
    if let Some(home) = std::env::var_os("HOME") {
        files.push(PathBuf::from(&home).join(".config/pip/pip.conf"));
        files.push(PathBuf::from(&home).join(".pip/pip.conf"));
    }
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let value = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "cert").then(|| value.trim().to_owned())
        })?;
        Some(PathBuf::from(value))
    })
}
