//! Stages and steps drawn: as lines, for Graphviz, for Mermaid, as a picture.

mod svg;

use std::fmt::Write as _;

use rbuild_builder::graph::{BuildGraph, GraphStep};
use rbuild_builder::report::StepState;

use super::control::visible;
use super::explanation;

pub(crate) use svg::svg;

/// Longest label in pictures, in characters.
const LABEL: usize = 48;

/// One line a step, below its stage, with the numbers of what it uses.
pub(crate) fn text(graph: &BuildGraph) -> String {
    let number = |id: u32| graph.steps.iter().position(|step| step.id == id);
    let width = graph.steps.len().to_string().len();
    let mut text = String::new();
    let line = |step: &GraphStep| {
        let own = number(step.id).unwrap_or(0) + 1;
        let uses: Vec<String> = step
            .inputs
            .iter()
            .filter_map(|input| number(*input))
            .map(|index| (index + 1).to_string())
            .collect();
        let arrow = if uses.is_empty() {
            String::new()
        } else {
            format!("  ← {}", uses.join(", "))
        };
        format!(
            "  {own:>width$}  {}{}{arrow}\n",
            visible(&step.name),
            outcome(step)
        )
    };
    for stage in graph.stages() {
        let _ = writeln!(text, "{}", visible(stage));
        for step in graph
            .steps
            .iter()
            .filter(|s| s.stage.as_deref() == Some(stage))
        {
            text.push_str(&line(step));
        }
    }
    let mut outside = graph
        .steps
        .iter()
        .filter(|step| step.stage.is_none())
        .peekable();
    if outside.peek().is_some() {
        text.push_str("from outside\n");
        outside.for_each(|step| text.push_str(&line(step)));
    }
    text
}

/// How a step went, if that is known: `  (hit)`, `  (miss, 1.2s)`.
fn outcome(step: &GraphStep) -> String {
    let Some(state) = step.state else {
        return String::new();
    };
    let word = explanation::state(state);
    match (state, step.elapsed_ms) {
        (StepState::Ran | StepState::Failed, Some(ms)) => {
            format!("  ({word}, {})", explanation::seconds(ms))
        }
        _ => format!("  ({word})"),
    }
}

/// For Graphviz.
pub(crate) fn dot(graph: &BuildGraph) -> String {
    let quoted = |text: &str| {
        let text = visible(text).replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{text}\"")
    };
    let mut text = String::from(
        "digraph build {\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", \
         fillcolor=white, fontname=\"sans-serif\", fontsize=11];\n",
    );
    let node = |step: &GraphStep| {
        let label = format!("{}{}", short(&step.name), outcome(step));
        format!("s{} [label={}];\n", step.id, quoted(&label))
    };
    for (index, stage) in graph.stages().into_iter().enumerate() {
        let _ = writeln!(text, "  subgraph cluster_{index} {{");
        let _ = writeln!(text, "    label={};", quoted(stage));
        for step in graph
            .steps
            .iter()
            .filter(|s| s.stage.as_deref() == Some(stage))
        {
            let _ = write!(text, "    {}", node(step));
        }
        text.push_str("  }\n");
    }
    for step in graph.steps.iter().filter(|step| step.stage.is_none()) {
        let _ = write!(text, "  {}", node(step));
    }
    for step in &graph.steps {
        for input in &step.inputs {
            let _ = writeln!(text, "  s{input} -> s{};", step.id);
        }
    }
    text.push_str("}\n");
    text
}

/// For Mermaid, as GitHub and GitLab draw it in Markdown.
pub(crate) fn mermaid(graph: &BuildGraph) -> String {
    let quoted = |text: &str| {
        let text = visible(text)
            .replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        format!("\"{text}\"")
    };
    let node = |step: &GraphStep| {
        let label = format!("{}{}", short(&step.name), outcome(step));
        format!("s{}[{}]\n", step.id, quoted(&label))
    };
    let mut text = String::from("flowchart TB\n");
    for (index, stage) in graph.stages().into_iter().enumerate() {
        let _ = writeln!(text, "  subgraph g{index}[{}]", quoted(stage));
        for step in graph
            .steps
            .iter()
            .filter(|s| s.stage.as_deref() == Some(stage))
        {
            let _ = write!(text, "    {}", node(step));
        }
        text.push_str("  end\n");
    }
    for step in graph.steps.iter().filter(|step| step.stage.is_none()) {
        let _ = write!(text, "  {}", node(step));
    }
    for step in &graph.steps {
        for input in &step.inputs {
            let _ = writeln!(text, "  s{input} --> s{}", step.id);
        }
    }
    text
}

/// A name that fits into a box.
fn short(name: &str) -> String {
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.chars().count() <= LABEL {
        return name;
    }
    name.chars().take(LABEL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn graph() -> BuildGraph {
        let step = |id, name: &str, stage: Option<&str>, inputs: &[u32]| GraphStep {
            id,
            name: name.into(),
            stage: stage.map(str::to_owned),
            line: None,
            inputs: inputs.to_vec(),
            state: None,
            elapsed_ms: None,
        };
        BuildGraph {
            steps: vec![
                step(1, "[build 1/2] FROM base", Some("build"), &[]),
                step(3, "[build 2/2] RUN echo \"a\" <b>", Some("build"), &[1]),
                step(4, "image tools", None, &[]),
                GraphStep {
                    state: Some(StepState::Ran),
                    elapsed_ms: Some(1200),
                    ..step(
                        6,
                        "[final 1/1] COPY --from=build /a /",
                        Some("final"),
                        &[3, 4],
                    )
                },
            ],
        }
    }

    #[test]
    fn lines_name_what_they_use() {
        assert_eq!(
            text(&graph()),
            "build\n\
             \x20 1  [build 1/2] FROM base\n\
             \x20 2  [build 2/2] RUN echo \"a\" <b>  ← 1\n\
             final\n\
             \x20 4  [final 1/1] COPY --from=build /a /  (miss, 1.2s)  ← 2, 3\n\
             from outside\n\
             \x20 3  image tools\n"
        );
    }

    #[test]
    fn graphviz_and_mermaid_get_quoted_labels() {
        let dot = dot(&graph());
        assert!(
            dot.contains("s3 [label=\"[build 2/2] RUN echo \\\"a\\\" <b>\"];"),
            "{dot}"
        );
        assert!(dot.contains("  s3 -> s6;\n  s4 -> s6;\n"), "{dot}");
        let mermaid = mermaid(&graph());
        assert!(
            mermaid.contains("s3[\"[build 2/2] RUN echo &quot;a&quot; &lt;b&gt;\"]"),
            "{mermaid}"
        );
        assert!(mermaid.contains("  s3 --> s6\n"), "{mermaid}");
    }
}
