//! Requests, results and other tools for tests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rbuild_cache::{CommitOptions, DiffId, Store, StoreOptions};
use rbuild_parser::{ImageReference, Platform};

use super::Finished;
use crate::image::{History, ImageConfig, RootFs};
use crate::request::{
    BuildRequest, ContextSource, DockerfileSource, NetworkDefault, Output, OutputKind,
    OutputOptions,
};

/// A request without outputs.
pub(crate) fn request() -> BuildRequest {
    BuildRequest {
        dockerfile: DockerfileSource {
            name: "Dockerfile".into(),
            text: vec![],
        },
        context: ContextSource::Empty,
        named_contexts: BTreeMap::new(),
        target: None,
        build_args: BTreeMap::new(),
        platforms: vec![],
        labels: BTreeMap::new(),
        tags: vec![],
        outputs: vec![],
        no_cache: false,
        no_cache_filter: vec![],
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        network: NetworkDefault::Default,
        extra_hosts: vec![],
        entitlements: vec![],
        shm_size: None,
        ulimits: vec![],
        rights: None,
        limits: rbuild_runtime::Limits::default(),
        cache_from: vec![],
        cache_to: vec![],
        pull: crate::request::PullPolicy::Missing,
        first_base: None,
        config: crate::request::ConfigChanges::default(),
        names: crate::request::NameResolution::default(),
        volumes: vec![],
        squash: None,
        fresh_cache_mounts: false,
        reproducible: false,
        jobs: None,
    }
}

/// A request with one output.
pub(crate) fn request_for(kind: OutputKind, options: OutputOptions) -> BuildRequest {
    let mut request = request();
    request.outputs = vec![Output { kind, options }];
    request
}

/// A store in a fresh directory.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store"), &StoreOptions::default()).unwrap();
    (directory, store)
}

/// Makes a layer on top of others of what `fill` puts into a directory.
pub(crate) fn layer(store: &Store, below: &[DiffId], fill: &dyn Fn(&Path)) -> DiffId {
    let parents: Vec<_> = below
        .iter()
        .map(|diff_id| store.layer(diff_id).unwrap().unwrap())
        .collect();
    let draft = store.draft().unwrap();
    fill(draft.upper());
    *draft
        .commit(&parents, &CommitOptions::default())
        .unwrap()
        .diff_id()
}

/// A result made of these layers, none of them from a base image.
pub(crate) fn finished(layers: &[DiffId]) -> Finished {
    let created = Some("2020-09-13T12:26:40Z".to_owned());
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        created: created.clone(),
        history: layers
            .iter()
            .map(|_| History {
                created: created.clone(),
                created_by: "COPY a / # buildkit".into(),
                comment: Some("buildkit.dockerfile.v0".into()),
                ..History::default()
            })
            .collect(),
        rootfs: RootFs {
            diff_ids: layers.to_vec(),
        },
        ..ImageConfig::default()
    };
    Finished {
        platform: platform("amd64"),
        config,
        layers: layers.to_vec(),
        new_layers_from: 0,
        base_blobs: vec![],
        elsewhere: BTreeMap::new(),
        base_repository: None,
        source_date_epoch: None,
    }
}

/// A Linux platform.
pub(crate) fn platform(architecture: &str) -> Platform {
    Platform {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: None,
        ..Platform::host()
    }
}

/// A name that is right.
pub(crate) fn reference(text: &str) -> ImageReference {
    ImageReference::parse(text).unwrap()
}

/// Hears of progress.
pub(crate) fn silent(_: &str, _: u64, _: Option<u64>) {}

/// Two layers: files of several kinds, then a change on top with a whiteout.
pub(crate) fn two_layers(store: &Store) -> Vec<DiffId> {
    let below = layer(store, &[], &|root| {
        fs::create_dir_all(root.join("d/sub")).unwrap();
        fs::write(root.join("d/file"), "content\n").unwrap();
        fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::hard_link(root.join("d/file"), root.join("d/sub/again")).unwrap();
        symlink("../d/file", root.join("link")).unwrap();
        fs::write(root.join("gone"), "x").unwrap();
        std::os::unix::fs::chown(root.join("d"), Some(1000), Some(1001)).unwrap();
        set_times(root, 1_500_000_000);
    });
    let above = layer(store, &[below], &|root| {
        let mode = rustix::fs::Mode::empty();
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), kind, mode, 0).unwrap();
        fs::write(root.join("new"), vec![b'n'; 100_000]).unwrap();
    });
    vec![below, above]
}

/// Sets the times of the files of [`two_layers`].
pub(crate) fn set_times(root: &Path, seconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    for path in ["d/sub/again", "d/sub", "d", "link", "gone"] {
        rustix::fs::utimensat(rustix::fs::CWD, root.join(path), &times, flags).unwrap();
    }
}

/// Runs a program that has to be installed, and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("these tests need `{program}` installed: {error}"));
    let (out, err) = (output.stdout, output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&err)
    );
    String::from_utf8(out).unwrap()
}

/// Entries of a tar as Python sees them: type, mode, owner, size, link, name.
pub(crate) fn listing(tar: &Path) -> Vec<String> {
    let script = "
import sys, tarfile
kinds = {tarfile.REGTYPE: '-', tarfile.DIRTYPE: 'd', tarfile.SYMTYPE: 'l', tarfile.LNKTYPE: 'h'}
for m in tarfile.open(sys.argv[1]):
    link = ' -> ' + m.linkname if m.linkname else ''
    print(f'{kinds.get(m.type, m.type)}{m.mode:04o} {m.uid}:{m.gid} {m.size} {m.name}{link}')
";
    run("python3", &["-c", script, tar.to_str().unwrap()])
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What skopeo says about an image.
pub(crate) fn inspect(place: &str) -> serde_json::Value {
    serde_json::from_str(&run("skopeo", &["inspect", place])).unwrap()
}
