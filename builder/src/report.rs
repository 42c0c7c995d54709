//! What a build did, step by step, and why: told by `rbuild explain`.
//!
//! The report of a build is kept in the store under the image that it gave, and as the last one.
//! The values of secrets are in no part of a key and so in no report.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rbuild_cache::{Digest, Store};
use serde::{Deserialize, Serialize};

use crate::event::VertexId;
use crate::key::Change;

/// Largest report that is read.
const LIMIT: u64 = 64 * 1024 * 1024;

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

/// A whole build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReport {
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

    /// Keeps it as the last one, and under its image.
    pub(crate) fn keep(&self, store: &Store) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        for name in self.image.iter().map(String::as_str).chain(["last"]) {
            let path = place(store, name);
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&temporary, &text)?;
            fs::rename(temporary, path)?;
        }
        Ok(())
    }
}

fn place(store: &Store, name: &str) -> std::path::PathBuf {
    store.memo_path(&format!("report {name}"))
}

fn read(store: &Store, name: &str) -> io::Result<Option<BuildReport>> {
    let path = place(store, name);
    let text = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > LIMIT => {
            return Err(io::Error::other("the report of the build is too large"));
        }
        Ok(_) => fs::read(&path)?,
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
    steps: Mutex<BTreeMap<VertexId, StepReport>>,
}

impl Recorder {
    /// Begins now.
    pub(crate) fn new() -> Recorder {
        Recorder {
            began: Timestamp::now(),
            steps: Mutex::default(),
        }
    }

    /// A step that will have to be done.
    pub(crate) fn planned(&self, id: VertexId, name: &str, line: Option<u32>) {
        let step = StepReport {
            name: name.to_owned(),
            line,
            state: StepState::NotReached,
            reason: None,
            changes: Vec::new(),
            elapsed_ms: None,
            key: None,
            layer: None,
            size: None,
            error: None,
        };
        self.lock().insert(id, step);
    }

    /// Changes what is known of a step; steps that nobody is shown are not planned and not kept.
    pub(crate) fn step(&self, id: VertexId, change: impl FnOnce(&mut StepReport)) {
        if let Some(step) = self.lock().get_mut(&id) {
            change(step);
        }
    }

    /// The whole.
    pub(crate) fn finish(
        self,
        dockerfile: &str,
        result: Result<(&Digest, &[String]), &str>,
    ) -> BuildReport {
        let elapsed = Timestamp::now().duration_since(self.began).as_millis();
        let steps = self
            .steps
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        BuildReport {
            dockerfile: dockerfile.to_owned(),
            started: self.began.to_string(),
            elapsed_ms: u64::try_from(elapsed).unwrap_or(0),
            image: result.ok().map(|(image, _)| image.to_string()),
            names: result.map(|(_, names)| names.to_vec()).unwrap_or_default(),
            error: result.err().map(str::to_owned),
            steps: steps.into_values().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VertexId, StepReport>> {
        // Each change is made in one go.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
