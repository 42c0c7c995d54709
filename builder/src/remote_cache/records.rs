//! rbuild's own records: for each step one small artifact in a repository of a registry.
//!
//! An artifact is an OCI manifest with one layer, the step's, and with the keys under which the step
//! is known. It stands under one tag for each key, `step-` and the key's digest, so looking a step up
//! is one request and there is nothing to import. It is written while the build goes on, first the
//! layer, then the manifest, then the tags: what a tag points to is whole.
//!
//! A step has up to three keys: the key by content, as in the local cache; the early key (see the
//! module above); and a *foreseen* key, which names the inputs by their own foreseen keys instead of
//! by their results. Foreseen keys need no result of any step, so all of a build can be asked for at
//! once. They only find records: one counts when it also bears a key that is made of results, so a
//! step whose input came out differently is not mistaken for one that it was like before.

mod document;
mod look;
mod send;

pub(in crate::remote_cache) use document::expired;
pub(crate) use look::Records;
pub(crate) use send::{RecordTarget, record_targets, send_step};
