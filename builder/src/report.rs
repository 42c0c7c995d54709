//! What a build did, step by step, and why: told by `rbuild explain`.
//!
//! The report of a build is kept in the directory of the build, under the image that it gave, and as
//! the last one. The values of secrets are in no part of a key and so in no report.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use rbuild_cache::{BuildDirectory, Digest, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::VertexId;
use crate::key::Change;
use crate::ops::VertexMeta;
use crate::recipe::{self, Recipe, Recipes};

/// Largest report that is read.
const LIMIT: u64 = 64 * 1024 * 1024;

/// Builds whose reports and logs are kept.
const KEPT_BUILDS: usize = 100;

/// Name of the report in a build's directory.
const FILE: &str = "report.json";

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// Its result was known.
    Hit,
    /// It ran.
    Ran,
    /// It ran and failed.
    Failed,
    /// It began and was stopped, because another step failed or the build was cancelled.
    Cancelled,
    /// The build ended before it could begin.
    NotReached,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Number of its vertex.
    #[serde(default)]
    pub vertex: u32,
    /// The steps and downloads whose results it uses, by vertex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<u32>,
    /// Name of its stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Progress name, such as `[2/7] RUN make`.
    pub name: String,
    /// First line of the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// How it went.
    pub state: StepState,
    /// Why it was not in the cache, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// All parts of its key that are not what they were when the step last ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How long it took; of a hit, how long it took when it ran. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// When it was looked at first and when it was done with, in milliseconds since the build began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_ms: Option<(u64, u64)>,
    /// Processor time of its command in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The layer it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Bytes of the layer's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that a build brought from elsewhere, or wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferReport {
    /// Number of its vertex; the output has one beyond all steps.
    pub vertex: u32,
    /// What it was, such as `[1/4] FROM debian` or `exporting to image`.
    pub name: String,
    /// When it began and ended, in milliseconds since the build began.
    pub span_ms: (u64, u64),
}

/// A whole build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReport {
    /// Name of the build in its store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The project: the context's directory or address, and the target if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The Dockerfile as it was named.
    pub dockerfile: String,
    /// When the build began, RFC 3339.
    pub started: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Digest of the image config; none if the build failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Names that the image got.
    pub names: Vec<String>,
    /// What the build failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The steps in the order of the Dockerfile.
    pub steps: Vec<StepReport>,
    /// Downloads, unpacking of base images, and the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transfers: Vec<TransferReport>,
}

impl BuildReport {
    /// The report of the last build on this store; none if there was none.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is damaged.
    pub fn last(store: &Store) -> io::Result<Option<BuildReport>> {
        read(store, "last")
    }

    /// The report of the build that gave the image with this config.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is damaged.
    pub fn of_image(store: &Store, config: &Digest) -> io::Result<Option<BuildReport>> {
        read(store, &config.to_string())
    }

    /// The report of the build with this name.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is damaged.
    pub fn of_build(store: &Store, id: &str) -> io::Result<Option<BuildReport>> {
        match store.build_path(id) {
            Some(directory) => read_document(&directory.join(FILE)),
            None => Ok(None),
        }
    }

    /// The output of a step's command, every byte of it; none if it had none or is not kept.
    pub fn log(&self, store: &Store, step: &StepReport) -> Option<PathBuf> {
        let path = log_path(&store.build_path(self.id.as_ref()?)?, VertexId(step.vertex));
        path.is_file().then_some(path)
    }

    /// Keeps it as the last one, under its image, and in the directory of the build.
    pub(crate) fn keep(&self, store: &Store, build: Option<&BuildDirectory>) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        if let Some(build) = build {
            fs::write(build.path().join(FILE), &text)?;
        }
        for name in self.image.iter().map(String::as_str).chain(["last"]) {
            let kept = store.write_memo(&memo_name(name), &text);
            kept.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn memo_name(name: &str) -> String {
    format!("report {name}")
}

/// Where the output of a step is written.
pub(crate) fn log_path(build: &Path, vertex: VertexId) -> PathBuf {
    build.join(format!("step-{}.log", vertex.0))
}

fn read(store: &Store, name: &str) -> io::Result<Option<BuildReport>> {
    read_document(&store.memo_path(&memo_name(name)))
}

/// Reads a document that builds write; none if it is not there.
pub(crate) fn read_document<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > LIMIT => {
            return Err(io::Error::other("the report of the build is too large"));
        }
        Ok(_) => fs::read(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(io::Error::other)
}

/// Collects the report while the build runs.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Timestamp,
    clock: Instant,
    steps: Mutex<BTreeMap<VertexId, StepReport>>,
    transfers: Mutex<Vec<TransferReport>>,
    recipes: Mutex<Recipes>,
    /// Where logs and reports go; none where that could not be made.
    build: Option<BuildDirectory>,
}

impl Recorder {
    /// Begins now; makes room for the build by forgetting what is old.
    pub(crate) fn new(store: &Store) -> Recorder {
        // A build is not to fail for want of its own history.
        let build = store
            .forget_builds(KEPT_BUILDS - 1)
            .and_then(|()| store.new_build())
            .map_err(|error| tracing::warn!(%error, "no logs and no report of this build are kept"))
            .ok();
        Recorder {
            began: Timestamp::now(),
            clock: Instant::now(),
            steps: Mutex::default(),
            transfers: Mutex::default(),
            recipes: Mutex::default(),
            build,
        }
    }

    /// Where the logs go.
    pub(crate) fn build(&self) -> Option<&BuildDirectory> {
        self.build.as_ref()
    }

    /// Milliseconds since the build began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes that something was brought or written between two times.
    pub(crate) fn transfer(&self, vertex: VertexId, name: &str, span_ms: (u64, u64)) {
        lock(&self.transfers).push(TransferReport {
            vertex: vertex.0,
            name: name.to_owned(),
            span_ms,
        });
    }

    /// Notes how a step can be looked into.
    pub(crate) fn recipe(&self, id: VertexId, recipe: Recipe) {
        lock(&self.recipes).add(id.0, recipe);
    }

    /// Notes the layer that a step gave.
    pub(crate) fn result(&self, id: VertexId, layer: &rbuild_cache::DiffId) {
        lock(&self.recipes).result(id.0, *layer);
    }

    /// A step that will have to be done.
    pub(crate) fn planned(&self, id: VertexId, meta: &VertexMeta, inputs: Vec<u32>) {
        let step = StepReport {
            vertex: id.0,
            inputs,
            stage: meta.stage.clone(),
            name: meta.name.clone(),
            line: meta.lines.map(|lines| lines.first),
            state: StepState::NotReached,
            reason: None,
            changes: Vec::new(),
            elapsed_ms: None,
            span_ms: None,
            cpu_ms: None,
            key: None,
            layer: None,
            size: None,
            error: None,
        };
        lock(&self.steps).insert(id, step);
    }

    /// Changes what is known of a step; steps that nobody is shown are not planned and not kept.
    pub(crate) fn step(&self, id: VertexId, change: impl FnOnce(&mut StepReport)) {
        if let Some(step) = lock(&self.steps).get_mut(&id) {
            change(step);
        }
    }

    /// Makes the report and keeps it in the store.
    pub(crate) fn finish(
        self,
        store: &Store,
        dockerfile: &str,
        project: String,
        result: Result<(&Digest, &[String]), &str>,
    ) -> BuildReport {
        let elapsed_ms = self.now();
        let report = BuildReport {
            id: self.build.as_ref().map(|build| build.name().to_owned()),
            project: Some(project),
            dockerfile: dockerfile.to_owned(),
            started: self.began.to_string(),
            elapsed_ms,
            image: result.ok().map(|(image, _)| image.to_string()),
            names: result.map(|(_, names)| names.to_vec()).unwrap_or_default(),
            error: result.err().map(str::to_owned),
            steps: std::mem::take(&mut *lock(&self.steps))
                .into_values()
                .collect(),
            transfers: std::mem::take(&mut *lock(&self.transfers)),
        };
        let recipes = std::mem::take(&mut *lock(&self.recipes));
        let kept = match &self.build {
            Some(build) => recipe::write(build.path(), &recipes),
            None => Ok(()),
        };
        if let Err(error) = kept.and_then(|()| report.keep(store, self.build.as_ref())) {
            tracing::debug!(%error, "the report of the build was not kept");
        }
        report
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is made in one go.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
