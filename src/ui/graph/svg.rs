//! The graph as a picture: a column for each stage, steps from top to bottom, lines from what is used
//! to what uses it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rbuild_builder::graph::{BuildGraph, GraphStep};
use rbuild_builder::report::StepState;

use super::{outcome, short};
use crate::ui::markup::escaped;

/// Sizes in pixels.
const BOX: (u32, u32) = (330, 34);
const GAP: (u32, u32) = (60, 26);
const MARGIN: u32 = 30;
const TITLE: u32 = 30;

/// Draws it.
pub(crate) fn svg(graph: &BuildGraph) -> String {
    let places = places(graph);
    let columns = places.values().map(|place| place.0 + 1).max().unwrap_or(1);
    let rows = places.values().map(|place| place.1 + 1).max().unwrap_or(1);
    let width = 2 * MARGIN + columns * BOX.0 + (columns - 1) * GAP.0;
    let height = 2 * MARGIN + TITLE + rows * BOX.1 + (rows - 1) * GAP.1;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    frames(&mut text, graph, &places);
    for step in &graph.steps {
        for input in &step.inputs {
            if let (Some(from), Some(to)) = (places.get(input), places.get(&step.id)) {
                edge(&mut text, *from, *to);
            }
        }
    }
    for step in &graph.steps {
        if let Some(place) = places.get(&step.id) {
            node(&mut text, step, *place);
        }
    }
    text.push_str("</svg>\n");
    text
}

/// Column and row of every step: its stage, and how many steps must come before it. In a column,
/// each row has one step.
fn places(graph: &BuildGraph) -> BTreeMap<u32, (u32, u32)> {
    let stages = graph.stages();
    let mut places: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let mut next_row: BTreeMap<u32, u32> = BTreeMap::new();
    for step in &graph.steps {
        let stage = step.stage.as_deref();
        let column = stage
            .and_then(|stage| stages.iter().position(|known| *known == stage))
            .unwrap_or(stages.len()) as u32;
        let below = step.inputs.iter().filter_map(|input| places.get(input));
        let row = below.map(|place| place.1 + 1).max().unwrap_or(0);
        let row = row.max(next_row.get(&column).copied().unwrap_or(0));
        next_row.insert(column, row + 1);
        places.insert(step.id, (column, row));
    }
    places
}

fn corner((column, row): (u32, u32)) -> (u32, u32) {
    (
        MARGIN + column * (BOX.0 + GAP.0),
        MARGIN + TITLE + row * (BOX.1 + GAP.1),
    )
}

/// A frame around each stage, with its name.
fn frames(text: &mut String, graph: &BuildGraph, places: &BTreeMap<u32, (u32, u32)>) {
    for stage in graph.stages() {
        let of_stage = graph
            .steps
            .iter()
            .filter(|s| s.stage.as_deref() == Some(stage));
        let corners: Vec<(u32, u32)> = of_stage
            .filter_map(|step| places.get(&step.id))
            .map(|place| corner(*place))
            .collect();
        let (Some(x), Some(top), Some(bottom)) = (
            corners.iter().map(|corner| corner.0).min(),
            corners.iter().map(|corner| corner.1).min(),
            corners.iter().map(|corner| corner.1).max(),
        ) else {
            continue;
        };
        let (x, y) = (x - 14, top - TITLE);
        let (width, height) = (BOX.0 + 28, bottom + BOX.1 + 14 - y);
        let _ = writeln!(
            text,
            "<rect class=\"stage\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"8\" \
             fill=\"#f4f6f8\" stroke=\"#c9d1d9\"/>\n\
             <text x=\"{}\" y=\"{}\" font-weight=\"bold\" fill=\"#57606a\">{}</text>",
            x + 14,
            y + 19,
            escaped(&short(stage))
        );
    }
}

fn edge(text: &mut String, from: (u32, u32), to: (u32, u32)) {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    if from.0 != to.0 {
        // From side to side, so that it does not cross the boxes of its own column.
        let right = x1 < x2;
        let (y1, y2) = (y1 + BOX.1 / 2, y2 + BOX.1 / 2);
        let (x1, x2) = if right {
            (x1 + BOX.0, x2)
        } else {
            (x1, x2 + BOX.0)
        };
        let middle = x1.midpoint(x2);
        curve(text, (x1, y1), (middle, y1), (middle, y2), (x2, y2));
        return;
    }
    let (x1, y1, x2) = (x1 + BOX.0 / 2, y1 + BOX.1, x2 + BOX.0 / 2);
    let bend = GAP.1.max((y2.saturating_sub(y1)) / 2);
    let (down, up) = ((x1, y1 + bend), (x2, y2.saturating_sub(bend)));
    curve(text, (x1, y1), down, up, (x2, y2));
}

/// A curve over two points that bend it, with a dot at its end.
fn curve(text: &mut String, from: (u32, u32), a: (u32, u32), b: (u32, u32), to: (u32, u32)) {
    let point = |(x, y): (u32, u32)| format!("{x} {y}");
    let _ = writeln!(
        text,
        "<path d=\"M{} C{} {} {}\" fill=\"none\" stroke=\"#8c959f\" stroke-width=\"1.5\"/>\n\
         <circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"#57606a\"/>",
        point(from),
        point(a),
        point(b),
        point(to),
        to.0,
        to.1
    );
}

fn node(text: &mut String, step: &GraphStep, place: (u32, u32)) {
    let (x, y) = corner(place);
    let colour = match step.state {
        None => "#ffffff",
        Some(StepState::Hit) => "#d2f4d9",
        Some(StepState::Ran) => "#d7e8ff",
        Some(StepState::Failed) => "#ffd8d3",
        Some(StepState::Cancelled | StepState::NotReached) => "#eceff1",
    };
    let label = format!("{}{}", short(&step.name), outcome(step));
    let _ = writeln!(
        text,
        "<g class=\"step\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" \
         rx=\"6\" fill=\"{colour}\" stroke=\"#57606a\"/><text x=\"{}\" y=\"{}\" \
         fill=\"#1f2328\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\">{}</text></g>",
        escaped(&step.name),
        BOX.0,
        BOX.1,
        x + 10,
        y + BOX.1 / 2 + 4,
        text_length(&label),
        escaped(&label)
    );
}

/// Room for a label: its natural width, or the box when that is too small.
fn text_length(label: &str) -> u32 {
    (label.chars().count() as u32 * 62 / 10).min(BOX.0 - 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_place_of_its_own_below_what_it_uses() {
        let graph = super::super::tests::graph();
        let places = places(&graph);
        assert_eq!(places[&1], (0, 0));
        assert_eq!(places[&3], (0, 1));
        assert_eq!(places[&4], (2, 0));
        assert_eq!(places[&6], (1, 2));
        let text = svg(&graph);
        assert_eq!(text.matches("class=\"step\"").count(), 4);
        assert_eq!(text.matches("class=\"stage\"").count(), 2);
        assert_eq!(text.matches("<path").count(), 3);
        assert!(
            text.contains("&lt;b&gt;") && !text.contains("<b>"),
            "{text}"
        );
    }
}
