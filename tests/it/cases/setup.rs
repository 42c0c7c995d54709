//! Puts a case's files on disk and runs the build.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::data::{Case, FileObject, FileSpec, Member};
use crate::support::process::with_path;
use crate::support::{TestEnv, base, layout};

/// What came out of a case's build.
pub(super) struct Run {
    pub(super) code: i32,
    /// Standard output and standard error.
    pub(super) text: String,
    /// Seconds since 1970 before and after the build.
    pub(super) started: i64,
    pub(super) ended: i64,
    /// The directory of this case's files and store, which no message should show.
    pub(super) directory: PathBuf,
    /// The image, if the build succeeded.
    pub(super) image: Option<layout::Image>,
}

/// Builds a case in a store of its own. `attest` passes on the attestation it asks for.
pub(super) fn run(env: &TestEnv, case: &Case, attest: bool) -> Run {
    let directory = tempfile::Builder::new()
        .prefix("case")
        .tempdir_in(env.path())
        .unwrap();
    let root = directory.path();
    let args = prepare(case, root, attest);
    let started = unix_time();
    let outcome = env
        .rbuild(args)
        .env("RBUILD_ROOT", root.join("store"))
        .run();
    let ended = unix_time();
    let code = outcome.code();
    let image = (code == 0).then(|| layout::read(&root.join("out")));
    Run {
        code,
        text: outcome.text(),
        started,
        ended,
        directory: root.to_owned(),
        image,
    }
}

pub(super) fn unix_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .cast_signed()
}

/// Writes everything the case needs below `root` and returns the command line.
fn prepare(case: &Case, root: &Path, attest: bool) -> Vec<OsString> {
    let context = root.join("ctx");
    fs::create_dir(&context).unwrap();
    if let Some(text) = &case.dockerfile {
        let path = context.join(case.dockerfile_name());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, unabridged(text)).unwrap();
    }
    write_files(&context, &case.files);
    let mut args: Vec<OsString> = ["build", "--progress", "plain"].map(Into::into).into();
    let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
    // The default name is left to be found: one case has a `dockerfile` instead.
    if case.dockerfile_name() != "Dockerfile" {
        flag("-f", context.join(case.dockerfile_name()).into());
    }
    for (name, value) in &case.args {
        flag("--build-arg", format!("{name}={value}").into());
    }
    if let Some(target) = &case.target {
        flag("--target", target.into());
    }
    for (name, value) in &case.opt {
        match name.split_once(':') {
            None if name == "platform" => flag("--platform", value.into()),
            Some(("label", key)) => flag("--label", format!("{key}={value}").into()),
            Some(("attest", kind)) => {
                if attest {
                    flag("--attest", format!("type={kind},{value}").into());
                }
            }
            _ => panic!("{}: unknown option {name}", case.id),
        }
    }
    for (id, content) in &case.secrets {
        let path = root.join(format!("sec_{id}"));
        fs::write(&path, content).unwrap();
        flag("--secret", with_path(&format!("id={id},src="), &path));
    }
    if case.base.as_deref() == Some("bb") {
        flag(
            "--build-context",
            with_path("bb=oci-layout://", &base::bb_layout()),
        );
    }
    for (name, files) in &case.contexts {
        let path = root.join(format!("nc_{name}"));
        fs::create_dir(&path).unwrap();
        write_files(&path, files);
        flag("--build-context", with_path(&format!("{name}="), &path));
    }
    let mut output = with_path("type=oci,tar=false,dest=", &root.join("out"));
    if let Some(options) = &case.outopts {
        output.push(format!(",{options}"));
    }
    flag("--output", output);
    args.push(context.into());
    args
}

/// The data abridges one Dockerfile: `xxx…(70000 x)` stands for 70,000 times `x`.
fn unabridged(text: &str) -> String {
    match text.split_once('…') {
        Some((before, "(70000 x)\n")) => {
            format!("{}{}\n", before.trim_end_matches('x'), "x".repeat(70_000))
        }
        Some(_) => panic!("unknown abridgement in {text:?}"),
        None => text.to_owned(),
    }
}

fn write_files(root: &Path, files: &BTreeMap<String, FileSpec>) {
    let mut hard_links = Vec::new();
    for (name, spec) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match spec {
            FileSpec::Text(text) => fs::write(&path, text).unwrap(),
            FileSpec::Object(object) => match object.kind.as_deref().unwrap_or("file") {
                "hard" => hard_links.push((root.join(object.to.as_ref().unwrap()), path)),
                kind => write_object(&path, kind, object),
            },
        }
    }
    for (target, path) in hard_links {
        fs::hard_link(target, path).unwrap();
    }
}

fn write_object(path: &Path, kind: &str, object: &FileObject) {
    match kind {
        "file" => {
            let bytes = match &object.b64 {
                Some(text) => base64(text),
                None => object.data.clone().into_bytes(),
            };
            fs::write(path, bytes).unwrap();
            if let Some(uid) = object.uid {
                chown(path, Some(uid), Some(object.gid.unwrap_or(uid))).unwrap();
            }
            set_mode(path, object.mode.unwrap_or(0o644));
        }
        "dir" => {
            fs::create_dir_all(path).unwrap();
            set_mode(path, object.mode.unwrap_or(0o755));
        }
        "link" => symlink(object.to.as_ref().unwrap(), path).unwrap(),
        "fifo" => {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        }
        kind => fs::write(path, compress(kind, archive(&object.members))).unwrap(),
    }
    for (name, value) in &object.xattr {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, name.as_str(), value.as_bytes(), flags).unwrap();
    }
    if let Some(mtime) = object.mtime
        && kind != "link"
    {
        let time = UNIX_EPOCH + Duration::from_secs(mtime);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        let (kind, mode) = match member.kind.as_deref().unwrap_or("file") {
            "dir" => (tar::EntryType::Directory, 0o755),
            "link" => (tar::EntryType::Symlink, 0o644),
            "file" => (tar::EntryType::Regular, 0o644),
            other => panic!("unknown member type {other}"),
        };
        let data = if kind == tar::EntryType::Regular {
            member.data.as_bytes()
        } else {
            &[]
        };
        header.set_entry_type(kind);
        header.set_mode(member.mode.unwrap_or(mode));
        header.set_uid(member.uid);
        header.set_gid(member.gid);
        header.set_mtime(member.mtime.unwrap_or(1000));
        header.set_size(data.len() as u64);
        // Written field by field: the names are meant to be hostile (`../x`, `/x`), which the
        // path methods refuse.
        let fields = header.as_ustar_mut().unwrap();
        fill(&mut fields.name, &member.name);
        fill(&mut fields.linkname, member.to.as_deref().unwrap_or(""));
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap()
}

fn fill(field: &mut [u8], text: &str) {
    assert!(
        text.len() <= field.len(),
        "{text:?} is too long for a plain tar header"
    );
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// Compresses with the same programs that people use.
fn compress(kind: &str, tar: Vec<u8>) -> Vec<u8> {
    let (program, package) = match kind {
        "tar" => return tar,
        "tar.gz" => ("gzip", "gzip"),
        "tar.bz2" => ("bzip2", "bzip2"),
        "tar.xz" => ("xz", "xz-utils"),
        "tar.zst" => ("zstd", "zstd"),
        other => panic!("unknown file type {other}"),
    };
    let program = crate::support::needs::program(program, package);
    crate::support::process::Invocation::new(program)
        .arg("-c")
        .stdin(tar)
        .run()
        .ok()
        .stdout
}

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for character in text.bytes().filter(|b| *b != b'=') {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other} is no base64 character"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.write_all(&[(bits >> count) as u8]).unwrap();
        }
    }
    bytes
}
