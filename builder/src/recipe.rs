//! How the steps of a build can be looked into afterwards: what each had below it, what it ran, and
//! with what.
//!
//! Kept in the build's directory apart from its report. Values of secrets and of proxy variables are
//! not in it: whoever looks into a step gives them again.
//!
//! Each step has the layers of all steps before it below it. So a list of layers is written as its last one
//! and the number of the list before that: what is kept grows with the steps, not with their square.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use rbuild_cache::DiffId;
use serde::{Deserialize, Serialize};

use crate::ops::{ExecOp, Setting};
use crate::report::read_document;

/// Name of the file in a build's directory.
const FILE: &str = "steps.json";

/// What a step worked on and did.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The layers below it, bottom first.
    pub below: Vec<DiffId>,
    /// The layers of each of its inputs; the first one is its root.
    pub inputs: Vec<Vec<DiffId>>,
    /// The layer that it gave.
    pub layer: Option<DiffId>,
    /// What it did.
    pub work: Work,
}

/// What a step did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// It ran a command.
    Command(Box<ExecOp>),
    /// It changed files; a command there would run with these.
    Files(Setting),
}

/// The recipes of a build by vertex.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recipes {
    lists: Lists,
    steps: BTreeMap<u32, Step>,
}

/// A recipe with the numbers of its lists; none is the empty list.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    below: Option<u32>,
    inputs: Vec<Option<u32>>,
    layer: Option<DiffId>,
    work: Work,
}

impl Recipes {
    /// Adds the recipe of a vertex.
    pub(crate) fn add(&mut self, vertex: u32, recipe: Recipe) {
        let below = self.lists.number(&recipe.below);
        let inputs = recipe.inputs.iter().map(|list| self.lists.number(list));
        let step = Step {
            below,
            inputs: inputs.collect(),
            layer: recipe.layer,
            work: recipe.work,
        };
        self.steps.insert(vertex, step);
    }

    /// Notes the layer that a vertex gave.
    pub(crate) fn result(&mut self, vertex: u32, layer: DiffId) {
        if let Some(step) = self.steps.get_mut(&vertex) {
            step.layer = Some(layer);
        }
    }

    /// The recipe of a vertex; none if it has none, or one that was damaged.
    pub(crate) fn get(&self, vertex: u32) -> Option<Recipe> {
        let step = self.steps.get(&vertex)?;
        let inputs = step.inputs.iter().map(|list| self.lists.get(*list));
        Some(Recipe {
            below: self.lists.get(step.below)?,
            inputs: inputs.collect::<Option<_>>()?,
            layer: step.layer,
            work: step.work.clone(),
        })
    }
}

/// Lists of layers, each of which continues another one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Lists {
    /// The number of the list without the last layer, and that layer.
    entries: Vec<(Option<u32>, DiffId)>,
    #[serde(skip)]
    numbers: HashMap<(Option<u32>, DiffId), u32>,
    /// The list that was asked for last, each layer with the number of the list that ends there.
    #[serde(skip)]
    last: Vec<(DiffId, u32)>,
}

impl Lists {
    /// The number of a list, which is added if it is new.
    fn number(&mut self, layers: &[DiffId]) -> Option<u32> {
        // Most lists continue the one before.
        let same = self.last.iter().zip(layers);
        let same = same.take_while(|((known, _), layer)| known == *layer);
        let same = same.count();
        self.last.truncate(same);
        let mut number = self.last.last().map(|(_, number)| *number);
        for layer in &layers[same..] {
            let next = u32::try_from(self.entries.len()).ok()?;
            let found = *self.numbers.entry((number, *layer)).or_insert(next);
            if found == next {
                self.entries.push((number, *layer));
            }
            self.last.push((*layer, found));
            number = Some(found);
        }
        number
    }

    /// The list with a number; none if the file was damaged.
    fn get(&self, mut number: Option<u32>) -> Option<Vec<DiffId>> {
        let mut layers = Vec::new();
        while let Some(this) = number {
            let (before, layer) = self.entries.get(this as usize)?;
            if before.is_some_and(|before| before >= this) {
                return None;
            }
            layers.push(*layer);
            number = *before;
        }
        layers.reverse();
        Some(layers)
    }
}

/// Writes the recipes of a build into its directory.
pub(crate) fn write(directory: &Path, recipes: &Recipes) -> io::Result<()> {
    std::fs::write(directory.join(FILE), serde_json::to_vec(recipes)?)
}

/// Reads the recipes of a build; none if it has none.
pub(crate) fn read(directory: &Path) -> io::Result<Option<Recipes>> {
    read_document(&directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use rbuild_cache::Digest;

    use super::*;

    fn layer(number: u8) -> DiffId {
        DiffId::from_digest(Digest::of(&[number]))
    }

    fn recipe(below: &[u8], other: &[u8]) -> Recipe {
        let layers = |numbers: &[u8]| numbers.iter().map(|n| layer(*n)).collect::<Vec<_>>();
        Recipe {
            below: layers(below),
            inputs: vec![layers(below), layers(other)],
            layer: None,
            work: Work::Files(Setting {
                env: Vec::new(),
                cwd: "/".to_owned(),
                user: String::new(),
            }),
        }
    }

    #[test]
    fn lists_come_back_and_common_beginnings_are_kept_once() {
        let given = [
            recipe(&[1], &[]),
            recipe(&[1, 2, 3], &[1, 4]),
            recipe(&[1, 2], &[5, 2]),
            recipe(&[1, 2, 3], &[1, 2, 6]),
        ];
        let mut recipes = Recipes::default();
        for (vertex, recipe) in (0..).zip(&given) {
            recipes.add(vertex, recipe.clone());
            recipes.result(vertex, layer(9));
        }
        // [1], [1 2], [1 2 3], [1 4], [5], [5 2], [1 2 6]
        assert_eq!(recipes.lists.entries.len(), 7);
        let text = serde_json::to_string(&recipes).unwrap();
        let read: Recipes = serde_json::from_str(&text).unwrap();
        for (vertex, recipe) in (0..).zip(&given) {
            let found = read.get(vertex).unwrap();
            assert_eq!(found.below, recipe.below);
            assert_eq!(found.inputs, recipe.inputs);
            assert_eq!(found.layer, Some(layer(9)));
        }
        assert!(read.get(7).is_none());
    }

    #[test]
    fn damaged_lists_are_no_lists() {
        let mut recipes = Recipes::default();
        recipes.add(0, recipe(&[1, 2], &[]));
        for before in [1, 7] {
            recipes.lists.entries[1].0 = Some(before);
            assert!(recipes.get(0).is_none());
        }
        recipes.steps.get_mut(&0).unwrap().below = Some(9);
        assert!(recipes.get(0).is_none());
    }
}
