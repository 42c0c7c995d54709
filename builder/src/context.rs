//! Build contexts that are not a directory of this machine: from git, from the web, from a stream.
//!
//! They are brought into the store before the Dockerfile, which may lie in them, is read.

use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use rbuild_cache::{
    CommitOptions, ExtractOptions, FileKind, Follow, Limits, RootView, Store,
    detect_and_decompress, extract, looks_like_tar,
};
use rbuild_parser::GitUrl;

use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::event::{Event, EventSink, VertexId};
use crate::image::pump::pump;
use crate::key::Parts;
use crate::request::FetchedContext;
use crate::source::git::{self, GitSource};
use crate::source::http::{self, HttpSource, public};
use crate::source::{Fetched, Remote, SourceContext};

/// Number of the step that loads the context: it comes before those of the graph are known.
const VERTEX: VertexId = VertexId(u32::MAX);

/// A tar header is one block.
const TAR_BLOCK: usize = 512;

/// Where a context is.
pub enum ContextAddress<'a> {
    /// In a git repository.
    Git {
        /// The repository.
        url: GitUrl,
        /// Keep `.git` (`BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
        keep_git_dir: bool,
        /// Files get the time of the commit.
        commit_times: bool,
    },
    /// At a web address: an archive, or a Dockerfile without files.
    Http(String),
    /// In a stream: an archive of any compression, or a Dockerfile without files.
    Stream(&'a mut dyn Read),
}

/// What was found there.
pub enum OpenedContext {
    /// A tree of files.
    Tree(ContextTree),
    /// A Dockerfile alone.
    Dockerfile(Vec<u8>),
}

/// The files of a context in the store.
pub struct ContextTree {
    /// For the request.
    pub source: FetchedContext,
    view: RootView,
}

impl ContextTree {
    /// Reads a file of the context; nothing if there is none. Links lead nowhere outside.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, BuildError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            BuildError::io(
                format!("could not read `{path}` of the build context"),
                error,
            )
        };
        let absolute = crate::tree::clean(path);
        let entry = self
            .view
            .lookup(&absolute, Follow::Last)
            .map_err(|error| failed(&error))?;
        let Some(entry) = entry.filter(|entry| entry.metadata.kind == FileKind::File) else {
            return Ok(None);
        };
        let file = self.view.open(&entry).map_err(|error| failed(&error))?;
        read_limited(file, limit)
            .map(Some)
            .map_err(|error| failed(&error))
    }
}

fn read_limited(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Brings a context into the store. `limit` is the size of the largest Dockerfile in bytes.
///
/// # Errors
///
/// What went wrong on the way; nothing half there stays behind.
pub fn open_context(
    store: &Store,
    remote: &Remote,
    address: ContextAddress<'_>,
    access: &ContextAccess<'_>,
    limit: u64,
) -> Result<OpenedContext, BuildError> {
    let name = match &address {
        ContextAddress::Git { url, .. } => {
            format!("[internal] load build context from {}", public(&url.remote))
        }
        ContextAddress::Http(url) => format!("[internal] load build context from {}", public(url)),
        ContextAddress::Stream(_) => "[internal] load build context from a stream".to_owned(),
    };
    let lease = store
        .lease()
        .map_err(|error| BuildError::io("could not begin to use the store", &error))?;
    let context = SourceContext {
        store,
        lease: &lease,
        remote,
        secrets: access.secrets,
        ssh: access.ssh,
        events: access.events,
        cancel: access.cancel,
        vertex: VERTEX,
        name: &name,
    };
    let opened = match address {
        ContextAddress::Git {
            url,
            keep_git_dir,
            commit_times,
        } => {
            let mut source = GitSource::new(&url);
            source.keep_git_dir |= keep_git_dir;
            source.commit_times |= commit_times;
            git::fetch(&context, &source).and_then(|fetched| tree(store, &fetched))
        }
        ContextAddress::Http(url) => from_web(&context, url, limit),
        ContextAddress::Stream(stream) => from_stream(&context, stream, limit),
    };
    opened.inspect_err(|error| {
        access.events.event(Event::Failed {
            vertex: VERTEX,
            message: error.message.clone(),
        });
    })
}

/// What opening a context may use, and who hears of it.
pub struct ContextAccess<'a> {
    /// `--secret`, by id.
    pub secrets: &'a std::collections::BTreeMap<String, crate::request::SecretSource>,
    /// `--ssh`, by id.
    pub ssh: &'a std::collections::BTreeMap<String, crate::request::SshSource>,
    /// Receives events.
    pub events: &'a dyn EventSink,
    /// Stops it.
    pub cancel: &'a Cancel,
}

fn tree(store: &Store, fetched: &Fetched) -> Result<OpenedContext, BuildError> {
    let layer = store
        .layer(&fetched.layer)
        .map_err(|error| BuildError::io("could not open the build context", &error))?
        .ok_or_else(|| BuildError::user("the build context is not in the store any more"))?;
    Ok(OpenedContext::Tree(ContextTree {
        source: FetchedContext {
            layer: fetched.layer,
            time: fetched.time,
        },
        view: RootView::new(std::slice::from_ref(&layer)),
    }))
}

fn from_web(
    context: &SourceContext<'_>,
    url: String,
    limit: u64,
) -> Result<OpenedContext, BuildError> {
    let source = HttpSource {
        url,
        checksum: None,
        name: "context".to_owned(),
        unpack: true,
    };
    let fetched = http::fetch(context, &source)?;
    let opened = tree(context.store, &fetched)?;
    match (&fetched.file, opened) {
        (Some(file), OpenedContext::Tree(tree)) => {
            let text = tree.read(file, limit)?.unwrap_or_default();
            Ok(OpenedContext::Dockerfile(text))
        }
        (_, opened) => Ok(opened),
    }
}

fn from_stream(
    context: &SourceContext<'_>,
    stream: &mut dyn Read,
    limit: u64,
) -> Result<OpenedContext, BuildError> {
    context.started();
    let started = Instant::now();
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io("could not read the build context from the stream", error)
    };
    let draft = context
        .store
        .draft()
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let upper = draft.upper().to_path_buf();
    let taken: Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> =
        pump(stream, |stream| {
            let (_, mut plain) = detect_and_decompress(stream)?;
            let mut start = Vec::with_capacity(TAR_BLOCK);
            plain
                .by_ref()
                .take(TAR_BLOCK as u64)
                .read_to_end(&mut start)?;
            let is_archive = looks_like_tar(&start);
            let mut whole = io::Cursor::new(start).chain(plain);
            if !is_archive {
                return Ok(Some(read_limited(whole, limit)?));
            }
            let options = ExtractOptions {
                view: None,
                upper: &upper,
                into: Path::new("/"),
                chown: None,
                limits: Limits::default(),
            };
            extract(&mut whole, &options)?;
            Ok(None)
        });
    if let Some(text) = taken.map_err(|error| failed(&*error))? {
        context.events.event(Event::Finished {
            vertex: context.vertex,
            elapsed: started.elapsed(),
            layer: None,
        });
        return Ok(OpenedContext::Dockerfile(text));
    }
    let time = http::newest(draft.upper()).map_err(|error| failed(&error))?;
    let layer = draft
        .commit(&[], &CommitOptions::default())
        .map_err(|error| BuildError::io("could not store the build context", &error))?;
    let mut parts = Parts::new();
    parts.push("op", "stream");
    parts.push("layer", layer.diff_id().to_string());
    let detail = serde_json::json!({ "time": time });
    let fetched = context.remember("context:stream", &parts, &layer, detail, started)?;
    tree(context.store, &fetched)
}
