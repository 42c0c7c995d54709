//! What to move in a Dockerfile so that the next build is shorter, and by how much.

use rbuild_builder::report::StepState;

use super::{Item, Kind};
use crate::ui::control::visible;
use crate::ui::explanation::seconds;

/// Less than this is not worth a word, in milliseconds.
const WORTH_IT: u64 = 500;

/// Most pieces of advice.
const MOST: usize = 5;

/// One thing to change.
#[derive(Debug, Clone)]
pub(super) struct Advice {
    /// What it would have saved, in milliseconds.
    pub(super) gain_ms: u64,
    /// What and why.
    pub(super) text: String,
}

impl Advice {
    /// As one line.
    pub(super) fn line(&self) -> String {
        format!("saves about {}: {}", seconds(self.gain_ms), self.text)
    }
}

/// The best advice first.
pub(super) fn of(items: &[Item<'_>]) -> Vec<Advice> {
    let mut advice: Vec<Advice> = (0..items.len())
        .flat_map(|index| {
            [
                spoils_the_cache(items, index),
                waits(items, index),
                idles(items, index),
            ]
        })
        .flatten()
        .filter(|advice| advice.gain_ms >= WORTH_IT)
        .collect();
    advice.sort_by_key(|advice| std::cmp::Reverse(advice.gain_ms));
    advice.truncate(MOST);
    advice
}

fn name(item: &Item<'_>) -> String {
    visible(item.name)
}

fn is_run(item: &Item<'_>) -> bool {
    let text = item
        .name
        .split_once("] ")
        .map_or(item.name, |(_, text)| text);
    text.starts_with("RUN ")
}

/// Steps of one stage that come behind `index`, directly and one behind the other.
fn behind(items: &[Item<'_>], index: usize) -> Vec<usize> {
    let stage = |index: usize| items[index].step.and_then(|step| step.stage.as_deref());
    let mut chain = Vec::new();
    let mut at = index;
    loop {
        let next = (0..items.len()).find(|other| {
            stage(*other).is_some()
                && stage(*other) == stage(at)
                && items[*other].inputs.contains(&at)
        });
        match next {
            Some(next) if !chain.contains(&next) && next != index => {
                chain.push(next);
                at = next;
            }
            _ => return chain,
        }
    }
}

/// A step whose own input changed, above commands that ran again for nothing else.
fn spoils_the_cache(items: &[Item<'_>], index: usize) -> Option<Advice> {
    let changed = items[index].step?;
    let own = changed
        .changes
        .iter()
        .any(|change| change.part.starts_with("files "));
    if changed.state != StepState::Ran || !own {
        return None;
    }
    let innocent: Vec<usize> = behind(items, index)
        .into_iter()
        .take_while(|other| {
            items[*other].step.is_some_and(|step| {
                step.state == StepState::Ran
                    && !step.changes.is_empty()
                    && step.changes.iter().all(|change| change.part == "parent")
            })
        })
        .filter(|other| is_run(&items[*other]))
        .collect();
    let slowest = innocent
        .iter()
        .copied()
        .max_by_key(|other| items[*other].length())?;
    let gain_ms = innocent.iter().map(|other| items[*other].length()).sum();
    let others = match innocent.len() {
        1 => String::new(),
        2 => " (and one more step)".to_owned(),
        count => format!(" (and {} more steps)", count - 1),
    };
    Some(Advice {
        gain_ms,
        text: format!(
            "{}{others} ran again only because {} changed: copy before it only the files that it needs, \
             and the rest below it",
            name(&items[slowest]),
            name(&items[index]),
        ),
    })
}

/// A step that waited for another stage while commands behind it could have run.
fn waits(items: &[Item<'_>], index: usize) -> Option<Advice> {
    let step = items[index].step?;
    let stage = step.stage.as_deref()?;
    let (mut own, mut other) = (0, None);
    for input in &items[index].inputs {
        let item = &items[*input];
        match item.step {
            Some(step) if step.stage.as_deref() != Some(stage) => {
                if other.is_none_or(|known: usize| items[known].end < item.end) {
                    other = Some(*input);
                }
            }
            _ => own = own.max(item.end),
        }
    }
    let other = other?;
    let wait = items[other].end.saturating_sub(own);
    let movable: Vec<usize> = behind(items, index)
        .into_iter()
        .filter(|index| is_run(&items[*index]) && items[*index].kind == Kind::Step(StepState::Ran))
        .collect();
    let work: u64 = movable.iter().map(|index| items[*index].length()).sum();
    let slowest = movable
        .into_iter()
        .max_by_key(|index| items[*index].length())?;
    Some(Advice {
        gain_ms: wait.min(work),
        text: format!(
            "{} waited {} for {}: move above it what does not need its files, such as {}",
            name(&items[index]),
            seconds(wait),
            name(&items[other]),
            name(&items[slowest]),
        ),
    })
}

/// A long command on the critical path that left processors idle.
fn idles(items: &[Item<'_>], index: usize) -> Option<Advice> {
    const LONG: u64 = 5000;
    let item = &items[index];
    let cpu = item.step?.cpu_ms?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let busy = cpu * 10 >= item.length() * 9 && cpu * 10 <= item.length() * 12;
    if !item.critical || !is_run(item) || item.length() < LONG || processors < 2 || !busy {
        return None;
    }
    Some(Advice {
        gain_ms: item.length() - item.length() / processors,
        text: format!(
            "{} kept one of {processors} processors busy: if its work can be divided, let it (for \
             example `make -j{processors}`)",
            name(item)
        ),
    })
}
