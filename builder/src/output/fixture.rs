//! A request and results for tests.

use std::collections::BTreeMap;
use std::path::Path;

use rbuild_cache::{CommitOptions, DiffId, Store, StoreOptions};
use rbuild_parser::Platform;

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
        network: NetworkDefault::Default,
        extra_hosts: vec![],
        entitlements: vec![],
        shm_size: None,
        ulimits: vec![],
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
