//! The stages and steps of a Dockerfile as a graph for people, without building anything.

use serde::Serialize;

use crate::error::BuildError;
use crate::image::BaseImage;
use crate::ops::{Op, OpGraph};
use crate::report::BuildReport;
use crate::request::BuildRequest;
use crate::resolve::ImageResolver;
use crate::{Prepared, report};
use rbuild_cache::Store;

/// A node of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphStep {
    /// Its number; inputs have smaller ones.
    pub id: u32,
    /// What it does, such as `[build 2/4] RUN make`.
    pub name: String,
    /// The stage it belongs to; none for images and sources that stages copy from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// First line of its instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The nodes whose results it uses.
    pub inputs: Vec<u32>,
    /// How it went, in a past build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<report::StepState>,
    /// How long it took, in a past build, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
}

/// Stages and steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildGraph {
    /// The nodes, inputs first.
    pub steps: Vec<GraphStep>,
}

impl BuildGraph {
    /// The graph of a build that was made.
    pub fn of_report(report: &BuildReport) -> BuildGraph {
        let mut steps: Vec<GraphStep> = report
            .steps
            .iter()
            .map(|step| GraphStep {
                id: step.vertex,
                name: step.name.clone(),
                stage: step.stage.clone(),
                line: step.line,
                inputs: step.inputs.clone(),
                state: Some(step.state),
                elapsed_ms: step.elapsed_ms,
            })
            .collect();
        let used: Vec<u32> = steps.iter().flat_map(|step| step.inputs.clone()).collect();
        for transfer in &report.transfers {
            let known = steps.iter().any(|step| step.id == transfer.vertex);
            if used.contains(&transfer.vertex) && !known {
                steps.push(GraphStep {
                    id: transfer.vertex,
                    name: transfer.name.clone(),
                    stage: None,
                    line: None,
                    inputs: Vec::new(),
                    // A download is neither hit nor miss.
                    state: None,
                    elapsed_ms: Some(transfer.span_ms.1.saturating_sub(transfer.span_ms.0)),
                });
            }
        }
        steps.sort_by_key(|step| step.id);
        let known: Vec<u32> = steps.iter().map(|step| step.id).collect();
        for step in &mut steps {
            step.inputs.retain(|input| known.contains(input));
        }
        BuildGraph { steps }
    }

    fn of_ops(graph: &OpGraph) -> BuildGraph {
        let told = graph.vertices().filter(|(_, vertex)| {
            !vertex.meta.internal || matches!(vertex.op, Op::Image(_) | Op::Http(_) | Op::Git(_))
        });
        let steps = told.map(|(id, vertex)| GraphStep {
            id: id.0,
            name: match &vertex.op {
                Op::Image(image) if vertex.meta.stage.is_none() => name_of(image),
                _ => vertex.meta.name.clone(),
            },
            stage: vertex.meta.stage.clone(),
            line: vertex.meta.lines.map(|lines| lines.first),
            inputs: graph.told_inputs(id),
            state: None,
            elapsed_ms: None,
        });
        BuildGraph {
            steps: steps.collect(),
        }
    }

    /// The stages in the order of their first steps.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for stage in self.steps.iter().filter_map(|step| step.stage.as_deref()) {
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        stages
    }
}

fn name_of(image: &BaseImage) -> String {
    format!("image {}", image.name)
}

/// The graph of a Dockerfile: of all stages, or of those that the request's target needs.
///
/// Base images that are not in the store are left out; nothing is asked of any registry.
///
/// # Errors
///
/// What a build would fail with before its first step.
pub fn graph(store: &Store, request: &BuildRequest) -> Result<BuildGraph, BuildError> {
    let mut prepared = Prepared::new(request)?;
    let resolver = ImageResolver::new(store, None);
    let (graph, _, _) = prepared.lower(request, &resolver, true)?;
    Ok(BuildGraph::of_ops(&graph))
}
