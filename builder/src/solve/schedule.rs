//! The pool that runs vertices when their inputs are ready.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::ahead::look_ahead;
use super::vertex::run_vertex;
use super::{SolveContext, VertexOutput};
use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, VertexId};
use crate::ops::{Op, Vertex};
use crate::report::StepState;

/// So many steps run at once on the smallest machine: many of them wait, for the network or for others.
const LEAST_JOBS: usize = 16;

/// Runs everything that `roots` need and returns the outputs by vertex number.
pub(crate) fn solve(
    context: &SolveContext<'_>,
    roots: &[VertexId],
) -> Result<Vec<Option<VertexOutput>>, BuildError> {
    let needed = needed(context, roots);
    let vertices = needed
        .iter()
        .filter(|&&id| is_step(context.graph.vertex(id)))
        .count();
    context.events.event(Event::Planned { vertices });
    for (id, vertex) in context.graph.vertices() {
        if needed.contains(&id) && !vertex.meta.internal {
            let inputs = context.graph.told_inputs(id);
            context.recorder.planned(id, &vertex.meta, inputs);
        }
    }
    context.ahead.get_or_init(|| look_ahead(context));
    let pool = Pool::new(context, &needed);
    thread::scope(|scope| {
        let workers = Workers {
            scope,
            jobs: context.request.jobs.filter(|jobs| *jobs > 0),
            needed: needed.len(),
        };
        pool.work(context, workers);
    });
    pool.finish(context)
}

/// Says whether a vertex tells of itself: instructions do, not contexts and what only joins layers.
fn is_step(vertex: &Vertex) -> bool {
    match vertex.op {
        Op::Exec(_) | Op::File(_) | Op::Http(_) | Op::Git(_) => true,
        _ => vertex.meta.lines.is_some(),
    }
}

/// Everything the roots depend on.
fn needed(context: &SolveContext<'_>, roots: &[VertexId]) -> HashSet<VertexId> {
    let mut needed = HashSet::new();
    let mut open = roots.to_vec();
    while let Some(vertex) = open.pop() {
        if needed.insert(vertex) {
            open.extend(&context.graph.vertex(vertex).inputs);
        }
    }
    needed
}

/// Where more workers come from.
#[derive(Clone, Copy)]
struct Workers<'scope, 'env> {
    scope: &'scope thread::Scope<'scope, 'env>,
    /// How many there may be at most, with the first one, if the user says so.
    jobs: Option<usize>,
    /// How many vertices there are in all.
    needed: usize,
}

impl Workers<'_, '_> {
    /// Whether there may be one more.
    fn are_fewer(&self, workers: usize) -> bool {
        // The kernel is asked in a dozen calls, and most builds never have so much to do at once.
        let jobs = match self.jobs {
            Some(jobs) => jobs,
            None if workers < LEAST_JOBS => LEAST_JOBS,
            None => thread::available_parallelism().map_or(LEAST_JOBS, usize::from),
        };
        workers < jobs.min(self.needed)
    }
}

struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    priorities: Vec<u64>,
    consumers: Vec<Vec<VertexId>>,
}

struct State {
    /// Inputs that are not ready yet, by vertex; `None` for vertices that are not needed.
    waiting: Vec<Option<usize>>,
    ready: BinaryHeap<(u64, Reverse<VertexId>)>,
    outputs: Vec<Option<VertexOutput>>,
    left: usize,
    error: Option<BuildError>,
    /// Workers that were started.
    workers: usize,
    /// Those of them that wait for something to do.
    idle: usize,
}

impl Pool {
    fn new(context: &SolveContext<'_>, needed: &HashSet<VertexId>) -> Pool {
        let count = context.graph.len();
        let mut consumers: Vec<Vec<VertexId>> = vec![Vec::new(); count];
        let mut waiting = vec![None; count];
        for (id, vertex) in context
            .graph
            .vertices()
            .filter(|(id, _)| needed.contains(id))
        {
            let inputs: HashSet<&VertexId> = vertex.inputs.iter().collect();
            waiting[id.0 as usize] = Some(inputs.len());
            for input in inputs {
                consumers[input.0 as usize].push(id);
            }
        }
        let priorities = priorities(context, &consumers);
        let ready = waiting
            .iter()
            .enumerate()
            .filter(|(_, inputs)| **inputs == Some(0))
            .map(|(index, _)| (priorities[index], Reverse(VertexId(index as u32))))
            .collect();
        let state = State {
            waiting,
            ready,
            outputs: vec![None; count],
            left: needed.len(),
            error: None,
            workers: 1,
            idle: 0,
        };
        Pool {
            state: Mutex::new(state),
            changed: Condvar::new(),
            priorities,
            consumers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking worker propagates through the scope; the state itself stays consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes vertices until none is left or one has failed.
    fn work<'scope>(&'scope self, context: &'scope SolveContext<'_>, workers: Workers<'scope, '_>) {
        while let Some((id, inputs)) = self.take(context, workers) {
            let result = run_vertex(context, id, &inputs);
            let mut state = self.lock();
            match result {
                Ok(output) => {
                    context.beside.finished(id, &output);
                    self.done(&mut state, id, output);
                }
                Err(error) => failed(&mut state, context, id, error),
            }
        }
        // The others have nothing to wait for, either.
        self.changed.notify_all();
    }

    /// Waits for a ready vertex and returns it with the outputs of its inputs.
    ///
    /// Whoever takes one sees to it that somebody takes the next: in a chain of steps one worker does
    /// them all, and the others are never started, nor woken for nothing.
    fn take<'scope>(
        &'scope self,
        context: &'scope SolveContext<'_>,
        workers: Workers<'scope, '_>,
    ) -> Option<(VertexId, Vec<VertexOutput>)> {
        let mut state = self.lock();
        loop {
            if state.left == 0 || state.error.is_some() || context.cancel.is_cancelled() {
                return None;
            }
            if let Some((_, Reverse(id))) = state.ready.pop() {
                if !state.ready.is_empty() {
                    self.call_another(&mut state, context, workers);
                }
                let inputs = context.graph.vertex(id).inputs.iter();
                let outputs = inputs.filter_map(|input| state.outputs[input.0 as usize].clone());
                return Some((id, outputs.collect()));
            }
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Wakes a worker that waits, or starts one more.
    fn call_another<'scope>(
        &'scope self,
        state: &mut State,
        context: &'scope SolveContext<'_>,
        workers: Workers<'scope, '_>,
    ) {
        if state.idle > 0 {
            self.changed.notify_one();
        } else if workers.are_fewer(state.workers) {
            let work = move || self.work(context, workers);
            // Without it, those that are there do its work.
            let started = thread::Builder::new().spawn_scoped(workers.scope, work);
            state.workers += usize::from(started.is_ok());
        }
    }

    fn done(&self, state: &mut State, id: VertexId, output: VertexOutput) {
        state.outputs[id.0 as usize] = Some(output);
        state.left -= 1;
        for consumer in &self.consumers[id.0 as usize] {
            let index = consumer.0 as usize;
            if let Some(waiting) = &mut state.waiting[index] {
                *waiting -= 1;
                if *waiting == 0 {
                    state
                        .ready
                        .push((self.priorities[index], Reverse(*consumer)));
                }
            }
        }
    }

    fn finish(self, context: &SolveContext<'_>) -> Result<Vec<Option<VertexOutput>>, BuildError> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.error {
            return Err(error);
        }
        if state.left > 0 || context.cancel.is_cancelled() {
            return Err(BuildError::cancelled());
        }
        Ok(state.outputs)
    }
}

fn failed(state: &mut State, context: &SolveContext<'_>, id: VertexId, error: BuildError) {
    context.recorder.step(id, |step| {
        if error.kind == BuildErrorKind::Cancelled {
            step.state = StepState::Cancelled;
        } else {
            step.state = StepState::Failed;
            step.error = Some(error.message.clone());
        }
    });
    if error.kind == BuildErrorKind::CacheLost {
        // The build will go on without the cache: what runs is let run, its result will be needed.
        context.events.event(Event::Cancelled { vertex: id });
        state.error.get_or_insert(error);
        return;
    }
    if error.kind == BuildErrorKind::Cancelled {
        context.events.event(Event::Cancelled { vertex: id });
    } else {
        context.events.event(Event::Failed {
            vertex: id,
            message: error.message.clone(),
        });
    }
    // Steps that were stopped because of the first failure are not what went wrong.
    if state.error.is_none() {
        state.error = Some(error);
    }
    context.cancel.cancel();
}

/// Weight of the longest way from each vertex to a result, in milliseconds.
fn priorities(context: &SolveContext<'_>, consumers: &[Vec<VertexId>]) -> Vec<u64> {
    let vertices = || context.graph.vertices();
    // Each waits for the one before: there is nothing to choose, and nobody need be asked.
    let is_chain = consumers.iter().all(|after| after.len() <= 1)
        && vertices().all(|(_, vertex)| vertex.inputs.len() <= 1);
    if is_chain {
        return vec![0; consumers.len()];
    }
    let weights: Vec<u64> = vertices()
        .map(|(_, vertex)| weight(context, vertex))
        .collect();
    longest_ways(&weights, consumers)
}

/// How long a step took when it last ran, or what its kind usually takes.
fn weight(context: &SolveContext<'_>, vertex: &Vertex) -> u64 {
    const COMMAND: u64 = 1000;
    const FILES: u64 = 20;
    let usual = match vertex.op {
        Op::Exec(_) | Op::Http(_) | Op::Git(_) => COMMAND,
        Op::File(_) => FILES,
        _ => return 1,
    };
    // Only the order of the work depends on it: a store that cannot tell is no reason to fail.
    let last = context
        .store
        .last_duration(&vertex.meta.step)
        .ok()
        .flatten();
    last.unwrap_or(usual).max(1)
}

/// Inputs have smaller numbers than what uses them, so one pass from the end is enough.
fn longest_ways(weights: &[u64], consumers: &[Vec<VertexId>]) -> Vec<u64> {
    let mut ways = vec![0; weights.len()];
    for index in (0..weights.len()).rev() {
        let after = consumers[index].iter().map(|id| ways[id.0 as usize]).max();
        ways[index] = weights[index] + after.unwrap_or(0);
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_way_counts_not_the_number_of_steps() {
        // 0 → 1 → 2 → 5 are short, 3 → 5 is long, 4 leads nowhere.
        let to = |ids: &[u32]| ids.iter().map(|id| VertexId(*id)).collect::<Vec<_>>();
        let consumers = [to(&[1]), to(&[2]), to(&[5]), to(&[5]), to(&[]), to(&[])];
        let ways = longest_ways(&[10, 10, 10, 500, 100, 1], &consumers);
        assert_eq!(ways, [31, 21, 11, 501, 100, 1]);
    }
}
