//! How the steps of a build can be looked into afterwards: what each had below it, what it ran, and
//! with what.
//!
//! Kept in the build's directory apart from its report. Values of secrets and of proxy variables are
//! not in it: whoever looks into a step gives them again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rbuild_cache::DiffId;
use serde::{Deserialize, Serialize};

use crate::ops::{ExecOp, Setting};
use crate::report::read_document;

/// Name of the file in a build's directory.
const FILE: &str = "recipes.json";

/// What a step worked on and did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// The layers below it, bottom first.
    pub below: Vec<DiffIdText>,
    /// The layers of each of its inputs; the first one is its root.
    pub inputs: Vec<Vec<DiffIdText>>,
    /// The layer that it gave.
    pub layer: Option<DiffIdText>,
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

/// A diff ID in its usual form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DiffIdText(String);

impl From<&DiffId> for DiffIdText {
    fn from(diff_id: &DiffId) -> DiffIdText {
        DiffIdText(diff_id.to_string())
    }
}

impl DiffIdText {
    /// The diff ID; none if the file was damaged.
    pub(crate) fn parse(&self) -> Option<DiffId> {
        self.0.parse().ok().map(DiffId::from_digest)
    }
}

/// The recipes of a build by vertex.
pub(crate) type Recipes = BTreeMap<u32, Recipe>;

/// Writes the recipes of a build into its directory.
pub(crate) fn write(directory: &Path, recipes: &Recipes) -> io::Result<()> {
    std::fs::write(directory.join(FILE), serde_json::to_vec(recipes)?)
}

/// Reads the recipes of a build; none if it has none.
pub(crate) fn read(directory: &Path) -> io::Result<Option<Recipes>> {
    read_document(&directory.join(FILE))
}
