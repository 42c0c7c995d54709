//! Keys that are known before any step has run.
//!
//! They are made like early keys, but the result of a step is named by its own foreseen key. What
//! is only known once it was fetched (web and git sources) has none, nor what builds on it.

use rbuild_cache::{DiffId, Digest};

use super::keys::early_parts;
use super::vertex::base_layers;
use super::{LayerRef, SolveContext, Value, VertexOutput};
use crate::ops::Op;

/// The foreseen key of each vertex; computed once.
pub(crate) fn foreseen<'c>(context: &'c SolveContext<'_>) -> &'c [Option<Digest>] {
    context.foreseen.get_or_init(|| foresee(context))
}

fn foresee(context: &SolveContext<'_>) -> Vec<Option<Digest>> {
    let mut results: Vec<Option<VertexOutput>> = Vec::with_capacity(context.graph.len());
    let mut keys = Vec::with_capacity(context.graph.len());
    for (_, vertex) in context.graph.vertices() {
        let inputs = vertex
            .inputs
            .iter()
            .map(|id| results[id.0 as usize].clone());
        let inputs: Option<Vec<VertexOutput>> = inputs.collect();
        let (mut key, mut result) = (None, None);
        match (&vertex.op, inputs) {
            (Op::Image(image), _) => {
                let layers = image.layers.iter().map(|layer| named(layer.diff_id));
                result = Some(Value::Rootfs(layers.collect()));
            }
            (Op::Local(index), _) => result = Some(Value::Local(*index)),
            (Op::Merge, Some(inputs)) => {
                let layers = inputs.iter().flat_map(|input| input.layers().to_vec());
                result = Some(Value::Rootfs(layers.collect()));
            }
            (Op::Exec(_) | Op::File(_), Some(inputs)) => {
                // What is wrong with a source is told when its step is reached.
                if let Ok(found) = early_parts(context, vertex, &inputs) {
                    let digest = found.parts.digest();
                    let mut layers = base_layers(&vertex.op, &inputs);
                    // The layer is not known: its name is the key that will give it.
                    layers.push(named(DiffId::from_digest(digest)));
                    (key, result) = (Some(digest), Some(Value::Rootfs(layers)));
                }
            }
            (Op::Exec(_) | Op::File(_) | Op::Merge | Op::Http(_) | Op::Git(_), _) => {}
        }
        keys.push(key);
        results.push(result.map(|value| VertexOutput {
            value,
            keys: Vec::new(),
            created: None,
            cached: true,
        }));
    }
    keys
}

fn named(diff_id: DiffId) -> LayerRef {
    LayerRef {
        diff_id,
        origin: None,
    }
}
