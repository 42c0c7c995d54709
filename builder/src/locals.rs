//! The directories of this machine that a build reads, with their ignore rules and digest memo.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rbuild_cache::{Digest, Layer, RootView, Store};
use rbuild_parser::IgnoreMatcher;

use crate::error::BuildError;
use crate::lower::LocalSource;
use crate::request::{BuildRequest, ContextSource, FetchedContext, NamedContext};
use crate::tree::{FileMemo, SourceTree};

/// Largest ignore file that is read.
const IGNORE_LIMIT: u64 = 16 * 1024 * 1024;

/// Local sources by number.
pub(crate) struct Locals {
    entries: Vec<Entry>,
    memo: FileMemo,
    /// Under which the store keeps the memo.
    memo_name: String,
}

struct Entry {
    /// None: an empty context, or one in the store.
    path: Option<PathBuf>,
    /// The layer of a context that was fetched.
    layer: Option<Layer>,
    ignore: Option<Arc<IgnoreMatcher>>,
    label: String,
}

impl Locals {
    /// Opens the sources that lowering met.
    pub(crate) fn open(
        store: &Store,
        request: &BuildRequest,
        context_ignore: Option<&Arc<IgnoreMatcher>>,
        sources: &[LocalSource],
        stop: Arc<AtomicBool>,
    ) -> Result<Locals, BuildError> {
        let mut entries = Vec::with_capacity(sources.len());
        let mut identity = String::new();
        for source in sources {
            let entry = match source {
                LocalSource::Context => Entry {
                    path: match &request.context {
                        ContextSource::Directory { path, .. } => Some(path.clone()),
                        ContextSource::Fetched(_) | ContextSource::Empty => None,
                    },
                    layer: match &request.context {
                        ContextSource::Fetched(fetched) => Some(layer_of(store, fetched)?),
                        _ => None,
                    },
                    ignore: context_ignore.cloned(),
                    label: "context".to_owned(),
                },
                LocalSource::Named(name) => named(name, request)?,
            };
            identity.push_str(&format!("{:?}\n", entry.path));
            entries.push(entry);
        }
        // One memo for each set of directories; stages share the table, inodes tell them apart.
        let name = format!("context-{}", Digest::of(identity.as_bytes()).hex());
        Ok(Locals {
            entries,
            memo: FileMemo::load(&store.memo_path(&name)).stopped_by(stop),
            memo_name: name,
        })
    }

    /// The tree with this number.
    pub(crate) fn tree(&self, index: usize) -> Result<SourceTree, BuildError> {
        let Some(entry) = self.entries.get(index) else {
            return Err(BuildError::user("unknown build context"));
        };
        Ok(match (&entry.path, &entry.layer) {
            (Some(path), _) => {
                SourceTree::directory(path, entry.ignore.clone(), entry.label.clone())
            }
            (None, Some(layer)) => {
                let view = RootView::new(std::slice::from_ref(layer));
                SourceTree::rootfs(view, entry.label.clone())
            }
            (None, None) => SourceTree::rootfs(RootView::new(&[]), "the empty context"),
        })
    }

    /// Remembered file digests.
    pub(crate) fn memo(&self) -> &FileMemo {
        &self.memo
    }

    /// Keeps what was learned about files; a failure only costs time in the next build.
    pub(crate) fn keep_memo(&self, store: &Store) {
        let Some(bytes) = self.memo.encoded() else {
            return;
        };
        if let Err(error) = store.write_memo(&self.memo_name, &bytes) {
            tracing::debug!(%error, "the memo of file digests was not kept");
        }
    }
}

/// What tells a project from others on this machine: where its context lies.
pub(crate) fn project(request: &BuildRequest) -> String {
    match &request.context {
        ContextSource::Directory { path, .. } => {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let digest = Digest::of(path.as_os_str().as_encoded_bytes());
            digest.hex().chars().take(16).collect()
        }
        ContextSource::Fetched(_) | ContextSource::Empty => String::new(),
    }
}

/// The project of a request for people: its context, and its target if it has one.
pub(crate) fn project_name(request: &BuildRequest) -> String {
    let context = match &request.context {
        ContextSource::Directory { path, .. } => {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            path.to_string_lossy().into_owned()
        }
        ContextSource::Fetched(_) => "(fetched)".to_owned(),
        ContextSource::Empty => "(no context)".to_owned(),
    };
    match &request.target {
        Some(target) => format!("{context} {target}"),
        None => context,
    }
}

/// Parses the ignore file of the build context.
pub(crate) fn context_ignore(
    request: &BuildRequest,
) -> Result<Option<Arc<IgnoreMatcher>>, BuildError> {
    let ContextSource::Directory {
        ignore: Some((name, text)),
        ..
    } = &request.context
    else {
        return Ok(None);
    };
    parse(name, text).map(Some)
}

fn layer_of(store: &Store, fetched: &FetchedContext) -> Result<Layer, BuildError> {
    store
        .layer(&fetched.layer)
        .map_err(|error| BuildError::io("could not open the build context", &error))?
        .ok_or_else(|| {
            BuildError::user("the build context is not in the store any more: build again")
        })
}

fn parse(name: &str, text: &[u8]) -> Result<Arc<IgnoreMatcher>, BuildError> {
    IgnoreMatcher::parse(text)
        .map(Arc::new)
        .map_err(|message| BuildError::user(message).with_help(format!("the pattern is in {name}")))
}

fn named(name: &str, request: &BuildRequest) -> Result<Entry, BuildError> {
    let Some(NamedContext::Directory(path)) = request.named_contexts.get(name) else {
        return Err(BuildError::user(format!(
            "named context {name:?} is not a directory"
        )));
    };
    let file = path.join(".dockerignore");
    let size = fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let ignore = if size > IGNORE_LIMIT {
        return Err(BuildError::user(format!(
            "`{}` is too large",
            file.display()
        )));
    } else {
        match fs::read(&file) {
            Ok(text) => Some(parse(&file.display().to_string(), &text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(BuildError::io(
                    format!("could not read `{}`", file.display()),
                    &error,
                ));
            }
        }
    };
    Ok(Entry {
        path: Some(path.clone()),
        layer: None,
        ignore,
        label: name.to_owned(),
    })
}
