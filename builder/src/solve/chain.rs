//! Identity of a root file system: a digest over its diff IDs, bottom first.

use std::sync::{Mutex, PoisonError};

use rbuild_cache::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

use super::LayerRef;
use crate::key::part;

/// Makes identities; goes on from the last one where it can, since each step adds a layer to those before.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<Chain>);

/// Layers, and the digest as far as that.
#[derive(Debug, Default)]
struct Chain {
    layers: Vec<DiffId>,
    hasher: Sha256,
}

impl Chains {
    /// The identity of these layers.
    pub(super) fn identity(&self, layers: &[LayerRef]) -> String {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = chain.layers.iter().zip(layers);
        let goes_on = chain.layers.len() <= layers.len()
            && same.all(|(known, layer)| *known == layer.diff_id);
        if !goes_on {
            *chain = Chain::default();
        }
        for layer in &layers[chain.layers.len()..] {
            part(&mut chain.hasher, "layer", &layer.diff_id.to_string());
            chain.layers.push(layer.diff_id);
        }
        let digest = chain.hasher.clone().finalize();
        Digest::from_bytes(digest.into()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Parts;

    #[test]
    fn it_is_the_digest_of_the_layers_whatever_was_asked_before() {
        let layer = |number: u8| LayerRef {
            diff_id: DiffId::from_digest(Digest::of(&[number])),
            origin: None,
        };
        let chains = Chains::default();
        let lists: [&[u8]; 7] = [&[1], &[1, 2], &[1, 2, 3], &[1, 2], &[4], &[], &[4, 1]];
        for numbers in lists {
            let layers: Vec<LayerRef> = numbers.iter().map(|number| layer(*number)).collect();
            let mut parts = Parts::new();
            for layer in &layers {
                parts.push("layer", layer.diff_id.to_string());
            }
            assert_eq!(chains.identity(&layers), parts.digest().to_string());
        }
    }
}
