//! The graph of stages: what needs what, what the target needs, and that no stage needs itself.

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Dfs;
use rbuild_parser::{CopyAdd, Instruction, InstructionKind, Linter, Run, closest, parse_mount};

use super::{Base, FromTarget, PlannedStage, Planner};
use crate::error::BuildError;

impl<'a> Planner<'a, '_> {
    pub(super) fn choose_target(&mut self) -> Result<(), BuildError> {
        let Some(last) = self.plan.stages.len().checked_sub(1) else {
            return Err(BuildError::user("dockerfile contains no stages to build"));
        };
        self.plan.target = match &self.input.request.target {
            None => last,
            Some(name) => self.plan.stage_by_name(name).ok_or_else(|| {
                let names = self
                    .plan
                    .stages
                    .iter()
                    .filter_map(|s| s.source.name.as_deref());
                let mut message = format!("target stage {name:?} could not be found");
                if let Some(close) = closest(name, names) {
                    message.push_str(&format!(" (did you mean {close}?)"));
                }
                let mut error = BuildError::user(message);
                if name.parse::<u64>().is_ok() {
                    error = error.with_help("stages are chosen by name: add `AS name` to its FROM");
                }
                error
            })?,
        };
        Ok(())
    }

    /// Every `--from` of the file must point somewhere, and stages must not depend on themselves.
    pub(super) fn check_references(&mut self) -> Result<(), BuildError> {
        let graph = self.graph();
        // Stages are taken away when all they need is gone; those that stay lead to a cycle. There is no
        // recursion, since stages can be many.
        let edges = |node, direction| graph.neighbors_directed(node, direction);
        let mut open: Vec<usize> = graph
            .node_indices()
            .map(|node| edges(node, Direction::Outgoing).count())
            .collect();
        let mut done: Vec<NodeIndex> = graph
            .node_indices()
            .filter(|node| open[node.index()] == 0)
            .collect();
        while let Some(node) = done.pop() {
            for user in edges(node, Direction::Incoming) {
                open[user.index()] -= 1;
                if open[user.index()] == 0 {
                    done.push(user);
                }
            }
        }
        let Some(index) = open.iter().position(|needed| *needed > 0) else {
            return Ok(());
        };
        let stage = &self.plan.stages[index];
        let from = &stage.source.from;
        let location = self.input.file.location(from.lines, Some(from.span));
        let message = format!("circular dependency detected on stage: {}", stage.name);
        Err(BuildError::user(message).at(&location))
    }

    /// Edges lead from a stage to what it needs.
    ///
    /// What points nowhere becomes a problem of the plan.
    fn graph(&mut self) -> DiGraph<(), ()> {
        let mut graph = DiGraph::new();
        for _ in &self.plan.stages {
            graph.add_node(());
        }
        let mut problems = Vec::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            for needed in self.needs(stage, &mut problems) {
                graph.add_edge(NodeIndex::new(index), NodeIndex::new(needed), ());
            }
        }
        self.plan.problems.append(&mut problems);
        graph
    }

    /// The stages that a stage needs.
    fn needs(&self, stage: &PlannedStage<'a>, problems: &mut Vec<BuildError>) -> Vec<usize> {
        let mut needed = Vec::new();
        if let Base::Stage(index) = stage.base {
            needed.push(index);
        }
        let contexts = &self.input.request.named_contexts;
        for (instruction, _) in stage.instructions() {
            for from in references(instruction) {
                match self.plan.target_of_from(&from, contexts) {
                    Ok(FromTarget::Stage(index)) => needed.push(index),
                    Ok(_) => {}
                    Err(error) => problems.push(self.input.file.at_part(error, instruction, &from)),
                }
            }
        }
        needed
    }

    /// Marks what the target needs, resolves its base images and attaches triggers.
    ///
    /// Triggers may need further stages, so the reachable set is taken again until it is stable.
    pub(super) fn cut_to_target(&mut self, linter: &mut Linter) -> Result<(), BuildError> {
        loop {
            let graph = self.graph();
            let mut fresh = Vec::new();
            let mut search = Dfs::empty(&graph);
            for root in self.roots() {
                search.move_to(NodeIndex::new(root));
                while let Some(node) = search.next(&graph) {
                    if !self.plan.stages[node.index()].needed {
                        fresh.push(node.index());
                    }
                }
            }
            if fresh.is_empty() {
                return self.check_references();
            }
            fresh.sort_unstable();
            fresh.dedup();
            self.prefetch(&fresh);
            for index in fresh {
                self.plan.stages[index].needed = true;
                self.resolve_base(index, linter)?;
                self.attach_triggers(index)?;
            }
        }
    }

    /// The stages that something is wanted of.
    fn roots(&self) -> Vec<usize> {
        if self.input.check_only && self.input.request.target.is_none() {
            (0..self.plan.stages.len()).collect()
        } else {
            vec![self.plan.target]
        }
    }
}

/// Values of the `--from`s of an instruction.
pub(super) fn references(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        InstructionKind::Copy(CopyAdd {
            from: Some(from), ..
        }) => vec![from.value.clone()],
        InstructionKind::Run(Run { mounts, .. }) => mounts
            .iter()
            .filter_map(|mount| parse_mount(&mount.value).ok().and_then(|spec| spec.from))
            .collect(),
        _ => Vec::new(),
    }
}
