//! Sources outside this machine: files at web addresses and git repositories.
//!
//! What comes in becomes a layer of the store, found again by a record as that of any step. Whoever
//! copies from it is keyed by the content, so that a new time stamp or entity tag alone changes
//! nothing.

pub(crate) mod git;
pub(crate) mod http;

mod agent;
mod command;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;
use rbuild_cache::{BuildRecord, DiffId, Layer, Lease, Store};
use rbuild_registry::ClientOptions;

use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::event::{Event, EventSink, VertexId};
use crate::key::Parts;
use crate::request::{SecretSource, SshSource};

pub(crate) use agent::AgentSocket;

/// How sources outside this machine are reached.
#[derive(Debug, Clone)]
pub struct Remote {
    /// How files are downloaded.
    pub web: ClientOptions,
    /// Most bytes of one download.
    pub download_limit: u64,
    /// Fetches repositories.
    pub git: GitProgram,
}

impl Remote {
    /// Most bytes of one download, unless something else is asked for.
    pub const DOWNLOAD_LIMIT: u64 = 64 << 30;
}

/// The `git` program of this machine.
#[derive(Debug, Clone, Default)]
pub struct GitProgram {
    /// Where it is; nothing if it is not installed.
    pub program: Option<PathBuf>,
    /// The environment that it runs in: where its settings are and how the network is reached.
    pub environment: Vec<(OsString, OsString)>,
}

/// What fetching needs.
pub(crate) struct SourceContext<'a> {
    pub(crate) store: &'a Store,
    /// Keeps what is fetched from being pruned meanwhile.
    pub(crate) lease: &'a Lease,
    pub(crate) remote: &'a Remote,
    pub(crate) secrets: &'a BTreeMap<String, SecretSource>,
    pub(crate) ssh: &'a BTreeMap<String, SshSource>,
    pub(crate) events: &'a dyn EventSink,
    pub(crate) cancel: &'a Cancel,
    pub(crate) vertex: VertexId,
    /// Progress name.
    pub(crate) name: &'a str,
}

/// A source that is in the store.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// Its files.
    pub(crate) layer: DiffId,
    /// When the layer was made (RFC 3339).
    pub(crate) created: String,
    /// It was there.
    pub(crate) cached: bool,
    /// Time of the source itself, in seconds since 1970: of the commit, or `Last-Modified`.
    pub(crate) time: Option<i64>,
    /// It is a single file, and this is its name.
    pub(crate) file: Option<String>,
}

impl SourceContext<'_> {
    pub(crate) fn started(&self) {
        self.events.event(Event::Started {
            vertex: self.vertex,
            name: self.name.to_owned(),
        });
    }

    fn cached(&self) {
        self.events.event(Event::Cached {
            vertex: self.vertex,
            name: self.name.to_owned(),
        });
    }

    fn progress(&self, what: &str, current: u64, total: Option<u64>) {
        self.events.event(Event::Progress {
            vertex: self.vertex,
            what: what.to_owned(),
            current,
            total,
        });
    }

    /// The records of a source whose layers are there, most recent first.
    fn known(&self, step: &str) -> Result<Vec<BuildRecord>, BuildError> {
        let records = self.store.records_by_name(step).map_err(|error| {
            BuildError::io("could not look for a known source in the store", &error)
        })?;
        let mut whole = Vec::with_capacity(records.len());
        for record in records {
            let [layer] = record.layers.as_slice() else {
                continue;
            };
            let there = self
                .lease
                .protect_layer(layer)
                .and_then(|()| self.store.layer(layer))
                .map_err(|error| BuildError::io("could not open a layer", &error))?;
            if there.is_some() {
                whole.push(record);
            }
        }
        Ok(whole)
    }

    /// Remembers a fetched source and tells that it is there.
    pub(crate) fn remember(
        &self,
        step: &str,
        parts: &Parts,
        layer: &Layer,
        mut detail: serde_json::Value,
        started: std::time::Instant,
    ) -> Result<Fetched, BuildError> {
        let created = Timestamp::now();
        detail["created"] = serde_json::Value::from(created.to_string());
        let elapsed = started.elapsed();
        let record = BuildRecord {
            key: parts.digest(),
            step: step.to_owned(),
            name: self.name.to_owned(),
            layers: vec![*layer.diff_id()],
            parts: parts.to_stored(),
            detail,
            created_unix: created.as_second(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        self.lease
            .protect_layer(layer.diff_id())
            .and_then(|()| self.store.put_record(&record))
            .map_err(|error| BuildError::io("could not remember a source", &error))?;
        self.events.event(Event::Finished {
            vertex: self.vertex,
            elapsed,
            layer: Some(*layer.diff_id()),
        });
        let mut fetched = Fetched::from_record(&record)
            .ok_or_else(|| BuildError::user("the record of a source has no layer"))?;
        fetched.cached = false;
        Ok(fetched)
    }

    /// Uses what is known.
    fn reuse(&self, record: &BuildRecord) -> Result<Fetched, BuildError> {
        self.cached();
        Fetched::from_record(record)
            .ok_or_else(|| BuildError::user("the record of a source has no layer"))
    }
}

impl Fetched {
    fn from_record(record: &BuildRecord) -> Option<Fetched> {
        let text = |name: &str| record.detail.get(name)?.as_str().map(str::to_owned);
        Some(Fetched {
            layer: *record.layers.first()?,
            created: text("created").unwrap_or_else(|| {
                Timestamp::from_second(record.created_unix)
                    .unwrap_or(Timestamp::UNIX_EPOCH)
                    .to_string()
            }),
            cached: true,
            time: record
                .detail
                .get("time")
                .and_then(serde_json::Value::as_i64),
            file: text("file"),
        })
    }
}
