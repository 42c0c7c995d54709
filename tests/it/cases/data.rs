//! The build cases as typed data.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

/// One case: inputs, and what BuildKit made of them.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) dockerfile: Option<String>,
    #[serde(default)]
    pub(super) files: BTreeMap<String, FileSpec>,
    /// `bb` when the case needs the busybox base image.
    #[serde(default)]
    pub(super) base: Option<String>,
    /// Name of the Dockerfile, if another than `Dockerfile`.
    #[serde(default)]
    pub(super) dfname: Option<String>,
    #[serde(default)]
    pub(super) args: BTreeMap<String, String>,
    /// Options of the frontend: `platform`, `label:KEY`, `attest:provenance`.
    #[serde(default)]
    pub(super) opt: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) target: Option<String>,
    #[serde(default)]
    pub(super) contexts: BTreeMap<String, BTreeMap<String, FileSpec>>,
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, String>,
    /// More options of the output, comma separated.
    #[serde(default)]
    pub(super) outopts: Option<String>,
    pub(super) observed: Map<String, Value>,
}

/// A file of a context: plain text, or an object with more to say.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FileSpec {
    Text(String),
    Object(Box<FileObject>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileObject {
    /// `file`, `dir`, `link`, `hard`, `fifo`, `tar`, `tar.gz`, `tar.bz2`, `tar.xz`, `tar.zst`.
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) data: String,
    #[serde(default)]
    pub(super) b64: Option<String>,
    #[serde(default)]
    pub(super) mode: Option<u32>,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
    #[serde(default)]
    pub(super) mtime: Option<u64>,
    #[serde(default)]
    pub(super) to: Option<String>,
    #[serde(default)]
    pub(super) xattr: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) members: Vec<Member>,
}

/// A member of a tar in a context.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) name: String,
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) data: String,
    #[serde(default)]
    pub(super) mode: Option<u32>,
    #[serde(default)]
    pub(super) uid: u64,
    #[serde(default)]
    pub(super) gid: u64,
    #[serde(default)]
    pub(super) mtime: Option<u64>,
    #[serde(default)]
    pub(super) to: Option<String>,
}

impl Case {
    /// A case of which only the result is data.
    pub(super) fn observed(id: &str, observed: Map<String, Value>) -> Case {
        Case {
            id: id.to_owned(),
            title: String::new(),
            dockerfile: None,
            files: BTreeMap::new(),
            base: None,
            dfname: None,
            args: BTreeMap::new(),
            opt: BTreeMap::new(),
            target: None,
            contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            outopts: None,
            observed,
        }
    }

    /// The error text that is expected, without the client's prefix; `None` for success.
    pub(super) fn error(&self) -> Option<String> {
        let text = self.observed.get("err")?.as_str()?;
        Some(text.replacen("failed to solve: ", "", 1))
    }

    /// Name of the Dockerfile in the context.
    pub(super) fn dockerfile_name(&self) -> &str {
        self.dfname.as_deref().unwrap_or("Dockerfile")
    }
}

/// Reads all cases from `fixtures/`.
pub(super) fn load() -> Vec<Case> {
    #[derive(Deserialize)]
    struct Document {
        cases: Vec<Case>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/dockerfile-cases.json");
    let text = std::fs::read(path).unwrap();
    let document: Document = serde_json::from_slice(&text).unwrap();
    document.cases
}
