//! What a build tells the outside while it runs: one stream of plain values, rendered elsewhere.

use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::DiffId;

use crate::report::BuildReport;

/// Number of a vertex within one build; stable for the whole build, dense from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// Which of a step's two output streams a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output of the command.
    Stdout,
    /// Standard error of the command.
    Stderr,
}

/// Why a step had to run, in words a person can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissReason {
    /// For example `ARG VERSION "1.2" → "1.3"` or `2 of 1,204 files changed: src/main.rs`.
    pub text: String,
    /// Nothing was compared: it is the first build of the step, or the cache was not to be used.
    pub ordinary: bool,
}

/// One thing that happened during a build.
///
/// Events of one vertex arrive in order; events of different vertices interleave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The plan is known: how many vertices there will be.
    Planned {
        /// Number of vertices that the target needs.
        vertices: usize,
    },
    /// A vertex began. Its name is in the form `[stage 2/7] RUN make`.
    Started {
        /// The vertex.
        vertex: VertexId,
        /// Progress name as in BuildKit (language reference, section 14).
        name: String,
    },
    /// The step's result came from the cache; a `Started` precedes it only if another build had to be
    /// waited for.
    Cached {
        /// The vertex.
        vertex: VertexId,
        /// Progress name.
        name: String,
    },
    /// The step was not found in the cache, and why.
    CacheMiss {
        /// The vertex.
        vertex: VertexId,
        /// The reason in words.
        reason: MissReason,
    },
    /// A vertex that has begun cannot go on yet.
    Waiting {
        /// The vertex.
        vertex: VertexId,
        /// For what, for example `waiting for another build that runs the same step`.
        what: String,
    },
    /// Output of the step's command, as read (not line-buffered, not necessarily UTF-8).
    Output {
        /// The vertex.
        vertex: VertexId,
        /// Which stream.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes (or items) moved so far by a vertex, for bars.
    Progress {
        /// The vertex.
        vertex: VertexId,
        /// What is counted, for example `transferring context` or a digest.
        what: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// A vertex ended well.
    Finished {
        /// The vertex.
        vertex: VertexId,
        /// Wall time it took.
        elapsed: Duration,
        /// The layer it made, if it made one.
        layer: Option<DiffId>,
    },
    /// A vertex failed; the build's error follows as the result of `build`.
    Failed {
        /// The vertex.
        vertex: VertexId,
        /// One line, for example `process "/bin/sh -c x" did not complete successfully: exit code: 1`.
        message: String,
    },
    /// A vertex was stopped or never run because another one failed.
    Cancelled {
        /// The vertex.
        vertex: VertexId,
    },
    /// Something that passes by itself, such as a failed transfer that is tried again.
    Notice {
        /// One line.
        text: String,
    },
    /// The build has ended, well or not: what it did and why.
    Reported(Arc<BuildReport>),
    /// A build check or a host limitation worth telling.
    Warning(Warning),
}

/// A warning of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Name of the build check, e.g. `LegacyKeyValueFormat`; none for warnings about the host.
    pub rule: Option<String>,
    /// The message without rule and line.
    pub message: String,
    /// First Dockerfile line it is about.
    pub line: Option<u32>,
    /// Where the rule is explained.
    pub url: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// Receives the events of a build, from several threads.
pub trait EventSink: Sync {
    /// Takes one event; must not block for long.
    fn event(&self, event: Event);
}

impl<F: Fn(Event) + Sync> EventSink for F {
    fn event(&self, event: Event) {
        self(event);
    }
}
