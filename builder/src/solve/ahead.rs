//! Looks for the results of all steps at once, before the first one is reached.
//!
//! Each look-up of its own takes locks in the database, and another one for the lease that keeps what was
//! found. Here one look at the database and one line of the lease serve a whole chain of steps that are
//! known. What is found is only taken when its step is reached and has that very key.

use std::collections::HashMap;

use rbuild_cache::{BuildRecord, Digest, RecordReader};

use super::keys::key;
use super::vertex::{base_layers, plain};
use super::{LayerRef, SolveContext, Value, VertexOutput};
use crate::ops::{CopySource, ExecMountKind, FileAction, Op, Vertex};

/// What the store knows, by key.
#[derive(Debug, Default)]
pub(crate) struct Ahead(HashMap<Digest, Option<BuildRecord>>);

/// What was found of a key.
pub(super) enum Foreknown<'a> {
    /// This record.
    Hit(&'a BuildRecord),
    /// There is none.
    Miss,
    /// It was not looked for.
    Unknown,
}

impl Ahead {
    /// What was found of a key.
    pub(super) fn get(&self, key: &Digest) -> Foreknown<'_> {
        match self.0.get(key) {
            Some(Some(record)) => Foreknown::Hit(record),
            Some(None) => Foreknown::Miss,
            None => Foreknown::Unknown,
        }
    }
}

/// Looks, and protects what is found; what goes wrong is told when a step is reached.
pub(super) fn look_ahead(context: &SolveContext<'_>) -> Ahead {
    let found = context
        .store
        .look_up_records(|reader| look(context, reader))
        .and_then(|(records, layers)| {
            context.lease.protect_all(&layers)?;
            Ok(Ahead(records))
        });
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, "the steps were not looked up ahead");
        Ahead::default()
    })
}

type Records = HashMap<Digest, Option<BuildRecord>>;

fn look(context: &SolveContext<'_>, reader: &RecordReader<'_>) -> (Records, Vec<Digest>) {
    let mut records = Records::new();
    let mut protect: Vec<Digest> = Vec::new();
    let mut results: Vec<Option<VertexOutput>> = Vec::with_capacity(context.graph.len());
    for (_, vertex) in context.graph.vertices() {
        let inputs = vertex.inputs.iter();
        let inputs: Option<Vec<VertexOutput>> =
            inputs.map(|id| results[id.0 as usize].clone()).collect();
        let value = match (&vertex.op, inputs) {
            (Op::Image(image), _) => {
                let layers = image.layers.iter().map(|layer| &layer.diff_id);
                protect.extend(layers.clone().map(|layer| *layer.digest()));
                Some(Value::Rootfs(layers.copied().map(layer).collect()))
            }
            (Op::Local(index), _) => Some(Value::Local(*index)),
            (Op::Merge, Some(inputs)) => {
                let layers = inputs.iter().flat_map(|input| input.layers().to_vec());
                Some(Value::Rootfs(layers.collect()))
            }
            (Op::Exec(_) | Op::File(_), Some(inputs)) if !vertex.meta.ignore_cache => {
                let record = if reads_files(&vertex.op) {
                    // Its files shall be looked at once only. Most likely they are what they were.
                    let last = reader.last(&vertex.meta.step);
                    last.inspect(|record| {
                        records.insert(record.key, Some(record.clone()));
                    })
                } else {
                    look_up(context, reader, vertex, &inputs, &mut records)
                };
                record.map(|record| {
                    protect.extend(record.layers.iter().map(|layer| *layer.digest()));
                    let mut layers = base_layers(&vertex.op, &inputs);
                    layers.extend(record.layers.into_iter().map(layer));
                    Value::Rootfs(layers)
                })
            }
            _ => None,
        };
        results.push(value.map(plain));
    }
    (records, protect)
}

fn look_up(
    context: &SolveContext<'_>,
    reader: &RecordReader<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
    records: &mut Records,
) -> Option<BuildRecord> {
    // No files, so nothing that could be wrong.
    let key = key(context, vertex, inputs).ok()?.parts.digest();
    let record = reader.record(&key);
    records.insert(key, record.clone());
    record
}

/// Whether files are in the key.
fn reads_files(op: &Op) -> bool {
    match op {
        Op::Exec(exec) => exec.mounts.iter().any(|mount| {
            matches!(
                mount.kind,
                ExecMountKind::Bind { input: Some(_), .. }
                    | ExecMountKind::Cache { seed: Some(_), .. }
            )
        }),
        Op::File(file) => file.actions.iter().any(|action| match action {
            FileAction::Copy(copy) => {
                let mut sources = copy.sources.iter();
                sources.any(|source| matches!(source, CopySource::Path { .. }))
            }
            FileAction::MakeDirectory { .. } => false,
        }),
        _ => false,
    }
}

fn layer(diff_id: rbuild_cache::DiffId) -> LayerRef {
    LayerRef {
        diff_id,
        origin: None,
    }
}
