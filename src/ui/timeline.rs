//! Where the time of a build went: what ran beside what, what everything waited for, and what to
//! change.

mod advice;
mod html;
mod trace;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rbuild_builder::report::{BuildReport, StepReport, StepState};

use super::control::visible;
use super::explanation::seconds;
use super::units;

use advice::Advice;

/// What an item of the timeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A step, and how it went.
    Step(StepState),
    /// A download, an unpacking, the output.
    Transfer,
}

/// A bar.
#[derive(Debug, Clone)]
struct Item<'r> {
    vertex: u32,
    name: &'r str,
    kind: Kind,
    /// Milliseconds since the build began.
    begin: u64,
    end: u64,
    /// Items that it waited for, by position.
    inputs: Vec<usize>,
    /// Which of the bars at once it is, from 0.
    lane: usize,
    /// It is a part of the longest chain.
    critical: bool,
    step: Option<&'r StepReport>,
}

impl Item<'_> {
    fn length(&self) -> u64 {
        self.end - self.begin
    }

    /// A word for what it is, also its class in the page.
    fn word(&self) -> &'static str {
        match self.kind {
            Kind::Transfer => "transfer",
            Kind::Step(StepState::Hit) => "hit",
            Kind::Step(StepState::Ran) => "ran",
            Kind::Step(StepState::Failed) => "failed",
            Kind::Step(_) => "stopped",
        }
    }
}

/// A build, in order of time.
pub(crate) struct Timeline<'r> {
    report: &'r BuildReport,
    items: Vec<Item<'r>>,
    lanes: usize,
}

impl<'r> Timeline<'r> {
    /// Arranges a build.
    pub(crate) fn of(report: &'r BuildReport) -> Timeline<'r> {
        let mut items = items(report);
        let lanes = lanes(&mut items);
        critical_path(&mut items);
        Timeline {
            report,
            items,
            lanes,
        }
    }

    fn total(&self) -> u64 {
        let last = self.items.iter().map(|item| item.end).max().unwrap_or(0);
        last.max(self.report.elapsed_ms).max(1)
    }

    fn count(&self, state: StepState) -> usize {
        self.report
            .steps
            .iter()
            .filter(|step| step.state == state)
            .count()
    }

    fn written(&self) -> u64 {
        let ran = self
            .report
            .steps
            .iter()
            .filter(|step| step.state == StepState::Ran);
        ran.filter_map(|step| step.size).sum()
    }

    fn cpu(&self) -> u64 {
        self.report
            .steps
            .iter()
            .filter_map(|step| step.cpu_ms)
            .sum()
    }

    fn advice(&self) -> Vec<Advice> {
        advice::of(&self.items)
    }

    /// What the build did, in one line.
    fn summary(&self) -> String {
        let (hits, ran) = (self.count(StepState::Hit), self.count(StepState::Ran));
        let mut text = format!(
            "{} in all: {hits} from the cache, {ran} run, {} written, {} of processor time",
            seconds(self.report.elapsed_ms),
            units::size(self.written()),
            seconds(self.cpu()),
        );
        if self.count(StepState::Failed) > 0 {
            text.push_str(", failed");
        }
        text
    }

    /// For people without a browser.
    pub(crate) fn text(&self) -> String {
        const WIDTH: usize = 40;
        let total = self.total();
        let column = |ms: u64| (ms as usize * WIDTH / total as usize).min(WIDTH - 1);
        let mut text = format!("{}\n\n", self.summary());
        for item in &self.items {
            let (from, to) = (column(item.begin), column(item.end));
            let mark = if item.critical { '█' } else { '▒' };
            let bar: String = (0..WIDTH)
                .map(|at| {
                    if (from..=to).contains(&at) {
                        mark
                    } else {
                        '·'
                    }
                })
                .collect();
            let _ = writeln!(
                text,
                "{bar} {:>8}  {:<8} {}",
                seconds(item.length()),
                item.word(),
                visible(item.name)
            );
        }
        text.push_str("\n█ the critical path: everything else waited for it or ran beside it\n");
        for advice in self.advice() {
            let _ = writeln!(text, "{}", advice.line());
        }
        text
    }
}

/// All that took time, in order of beginning.
fn items(report: &BuildReport) -> Vec<Item<'_>> {
    let steps = report.steps.iter().filter_map(|step| {
        let (begin, end) = step.span_ms?;
        Some((
            Item {
                vertex: step.vertex,
                name: &step.name,
                kind: Kind::Step(step.state),
                begin,
                end: end.max(begin),
                inputs: Vec::new(),
                lane: 0,
                critical: false,
                step: Some(step),
            },
            step.inputs.clone(),
        ))
    });
    let all: Vec<u32> = report.steps.iter().map(|step| step.vertex).collect();
    let last = all.iter().copied().max().unwrap_or(0);
    let transfers = report.transfers.iter().map(|transfer| {
        // The output has a number beyond all steps, and needs all of them.
        let output = transfer.vertex > last;
        (
            Item {
                vertex: transfer.vertex,
                name: &transfer.name,
                kind: Kind::Transfer,
                begin: transfer.span_ms.0,
                end: transfer.span_ms.1.max(transfer.span_ms.0),
                inputs: Vec::new(),
                lane: 0,
                critical: false,
                step: None,
            },
            if output { all.clone() } else { Vec::new() },
        )
    });
    let mut found: Vec<(Item<'_>, Vec<u32>)> = steps.chain(transfers).collect();
    found.sort_by_key(|(item, _)| (item.begin, item.vertex));
    let places: BTreeMap<u32, Vec<usize>> =
        found
            .iter()
            .enumerate()
            .fold(BTreeMap::new(), |mut places, (index, (item, _))| {
                places.entry(item.vertex).or_default().push(index);
                places
            });
    let inputs: Vec<Vec<usize>> = found
        .iter()
        .map(|(_, inputs)| {
            let known = inputs.iter().filter_map(|input| places.get(input));
            known.flatten().copied().collect()
        })
        .collect();
    found
        .into_iter()
        .zip(inputs)
        .map(|((item, _), inputs)| Item { inputs, ..item })
        .collect()
}

/// Gives each item the first lane that is free; returns how many there are.
fn lanes(items: &mut [Item<'_>]) -> usize {
    let mut free_at: Vec<u64> = Vec::new();
    for item in items {
        let lane = free_at.iter().position(|free| *free <= item.begin);
        item.lane = lane.unwrap_or(free_at.len());
        match free_at.get_mut(item.lane) {
            Some(free) => *free = item.end,
            None => free_at.push(item.end),
        }
    }
    free_at.len()
}

/// Marks the chain that decided how long the build took: from what ended last back over the input
/// that ended last.
fn critical_path(items: &mut [Item<'_>]) {
    let last = (0..items.len()).max_by_key(|index| items[*index].end);
    let mut next = last;
    while let Some(index) = next {
        if items[index].critical {
            return;
        }
        items[index].critical = true;
        let inputs = items[index].inputs.iter().copied();
        next = inputs.max_by_key(|input| items[*input].end);
    }
}

#[cfg(test)]
mod tests {
    use rbuild_builder::Change;
    use rbuild_builder::report::TransferReport;

    use super::*;

    fn step(vertex: u32, name: &str, stage: &str, span: (u64, u64), inputs: &[u32]) -> StepReport {
        StepReport {
            vertex,
            inputs: inputs.to_vec(),
            stage: Some(stage.into()),
            name: name.into(),
            line: None,
            state: StepState::Ran,
            reason: None,
            changes: Vec::new(),
            elapsed_ms: Some(span.1 - span.0),
            span_ms: Some(span),
            cpu_ms: Some(500),
            key: None,
            layer: None,
            size: Some(1000),
            error: None,
        }
    }

    /// Two stages at once; the second waits for the first and then does what it could have done
    /// before.
    fn report() -> BuildReport {
        BuildReport {
            id: None,
            project: None,
            dockerfile: "Dockerfile".into(),
            started: "2026-01-01T00:00:00Z".into(),
            elapsed_ms: 31_000,
            image: None,
            names: Vec::new(),
            error: None,
            steps: vec![
                step(1, "[build 2/2] RUN make", "build", (0, 20_000), &[]),
                step(2, "[final 2/4] WORKDIR /w", "final", (0, 100), &[]),
                step(
                    3,
                    "[final 3/4] COPY --from=build /a /",
                    "final",
                    (20_000, 20_100),
                    &[2, 1],
                ),
                step(
                    4,
                    "[final 4/4] RUN apt-get install x",
                    "final",
                    (20_100, 30_100),
                    &[3],
                ),
            ],
            transfers: vec![TransferReport {
                vertex: 9,
                name: "exporting to image".into(),
                span_ms: (30_100, 31_000),
            }],
        }
    }

    #[test]
    fn the_critical_path_is_what_everything_waited_for() {
        let report = report();
        let timeline = Timeline::of(&report);
        let critical: Vec<u32> = timeline
            .items
            .iter()
            .filter(|item| item.critical)
            .map(|item| item.vertex)
            .collect();
        assert_eq!(critical, [1, 3, 4, 9]);
        assert_eq!(timeline.lanes, 2);
        let text = timeline.text();
        assert!(
            text.starts_with("31.0s in all: 0 from the cache, 4 run, 4kB written, 2.0s of"),
            "{text}"
        );
    }

    #[test]
    fn what_could_have_run_during_a_wait_is_named_with_its_gain() {
        let report = report();
        let advice = Timeline::of(&report).advice();
        assert_eq!(advice[0].gain_ms, 10_000);
        let text = &advice[0].text;
        assert!(
            text.contains("[final 3/4] COPY --from=build /a / waited 19.9s"),
            "{text}"
        );
        assert!(text.contains("[final 4/4] RUN apt-get install x"), "{text}");
    }

    #[test]
    fn a_copy_that_spoils_the_cache_of_what_follows_is_named() {
        let mut report = report();
        let change = |part: &str| Change {
            part: part.into(),
            old: Some("1".into()),
            new: Some("2".into()),
            files: None,
        };
        report.steps = vec![
            step(1, "[1/3] COPY . .", "s", (0, 100), &[]),
            step(2, "[2/3] RUN npm ci", "s", (100, 12_100), &[1]),
            step(3, "[3/3] RUN npm test", "s", (12_100, 13_100), &[2]),
        ];
        report.steps[0].changes = vec![change("files .")];
        report.steps[1].changes = vec![change("parent")];
        report.steps[2].changes = vec![change("parent"), change("command")];
        let advice = Timeline::of(&report).advice();
        assert_eq!(advice[0].gain_ms, 12_000);
        let text = &advice[0].text;
        assert!(
            text.contains("[2/3] RUN npm ci ran again only because [1/3] COPY . . changed"),
            "{text}"
        );
    }

    #[test]
    fn the_page_and_the_trace_are_complete() {
        let mut report = report();
        report.steps[0].name = "[build 2/2] RUN echo '</script><b>'".into();
        let timeline = Timeline::of(&report);
        let page = timeline.html();
        assert_eq!(page.matches("class=\"bar ").count(), 5);
        assert!(!page.contains("</script><b>"), "{page}");
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "complete in itself"
        );
        let trace: serde_json::Value = serde_json::from_str(&timeline.trace()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let bars: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(bars.len(), 5);
        assert_eq!(bars[0]["dur"], 20_000_000);
        assert_eq!(bars[0]["args"]["critical"], true);
    }
}
