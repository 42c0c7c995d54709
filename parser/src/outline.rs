//! What `--call=targets` and `--call=outline` show, as far as the tree gives it.

use crate::{Dockerfile, LineRange};

/// A stage in the list of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Position of the stage.
    pub index: usize,
    /// Name, lower-cased.
    pub name: Option<String>,
    /// Unexpanded base.
    pub base: String,
    /// Unexpanded platform.
    pub platform: Option<String>,
    /// Description from the comment above.
    pub description: Option<String>,
    /// Whether it is built when no target is asked for.
    pub default: bool,
    /// Lines of the `FROM`.
    pub lines: LineRange,
}

/// Lists the stages as targets.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    dockerfile
        .stages
        .iter()
        .map(|stage| Target {
            index: stage.index,
            name: stage.name.clone(),
            base: stage.base().image.value.clone(),
            platform: stage
                .base()
                .platform
                .as_ref()
                .map(|platform| platform.value.clone()),
            description: None,
            default: stage.index + 1 == dockerfile.stages.len(),
            lines: stage.from.lines,
        })
        .collect()
}
