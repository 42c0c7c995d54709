//! The cache that builds on different machines share: `--cache-from` and `--cache-to`.
//!
//! The form is BuildKit's: a manifest whose layers are the layers of steps and whose config lists which
//! keys they are the results of. Keys are rbuild's own. Each step has up to two: the key by content, the
//! one of the local cache, and for steps that copy from other stages an *early* key, which names those
//! stages by their layers instead of by the files that are copied. It is known before any layer of
//! those stages is downloaded.
//!
//! A cache is a help and no source: one that cannot be read is a warning.

mod config;
mod export;
mod import;

pub(crate) use export::{export, inline};
pub(crate) use import::{Hit, Imports, import};
