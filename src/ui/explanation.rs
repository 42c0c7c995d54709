//! The report of a build as text.

use std::time::Duration;

use rbuild_builder::report::{BuildReport, StepReport, StepState};
use rbuild_builder::{Change, FileChanges};

use super::control::visible_lines;
use super::units;

/// File names of one kind that are listed.
const LISTED: usize = 20;

/// Tells a whole build, a line or more a step.
pub(crate) fn text(report: &BuildReport) -> String {
    let mut text = head(report);
    for step in &report.steps {
        text.push_str(&line(step));
        if let Some(reason) = &step.reason {
            let instruction = instruction(&step.name);
            text.push_str(&format!("        miss: {instruction} — {reason}\n"));
        }
        // The reason names the first few; who asks for an explanation wants all of them.
        let told = step.changes.iter().filter(|change| change.part != "parent");
        for change in told {
            text.push_str(&indented(change));
        }
        if let Some(error) = &step.error {
            text.push_str(&format!("        error: {error}\n"));
        }
    }
    text.push_str(&summary(report));
    visible_lines(&text)
}

/// What a step is about, for a line below its name: the instruction, and what it copies.
pub(crate) fn subject(step: &str) -> String {
    let instruction = step.split_once("] ").map_or("", |(_, text)| text);
    let mut words: Vec<&str> = instruction.split(' ').collect();
    match words[0] {
        "COPY" | "ADD" => {
            words.pop();
            words.retain(|word| !word.starts_with("--"));
            shortened(&words.join(" "))
        }
        word => word.to_owned(),
    }
}

/// The instruction in the name of a step, cut where it gets long.
fn instruction(step: &str) -> String {
    shortened(step.split_once("] ").map_or("", |(_, text)| text))
}

fn head(report: &BuildReport) -> String {
    let what = match (&report.image, &report.error) {
        (Some(image), _) => {
            let id = image.strip_prefix("sha256:").unwrap_or(image);
            let names = report.names.join(", ");
            format!("image {} {names}", &id[..id.len().min(12)])
        }
        (None, Some(error)) => format!("failed: {error}"),
        (None, None) => "failed".to_owned(),
    };
    let dockerfile = &report.dockerfile;
    // To the second.
    let started = match report.started.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => report.started.clone(),
    };
    let took = seconds(report.elapsed_ms);
    format!("{dockerfile}, {started}, {took}: {}\n\n", what.trim_end())
}

/// How a step went, in a word.
pub(crate) fn state(state: StepState) -> &'static str {
    match state {
        StepState::Hit => "hit",
        StepState::Ran => "miss",
        StepState::Failed => "failed",
        StepState::Cancelled => "stopped",
        StepState::NotReached => "not run",
    }
}

fn line(step: &StepReport) -> String {
    let state = state(step.state);
    let time = step.elapsed_ms.map(seconds).unwrap_or_default();
    let size = step.size.map(units::size).unwrap_or_default();
    format!("{state:<7} {time:>8} {size:>8}  {}\n", step.name)
}

fn indented(change: &Change) -> String {
    let Some(files) = &change.files else {
        return format!("          {change}\n");
    };
    let FileChanges {
        source,
        changed,
        new,
        gone,
        ..
    } = files;
    let mut text = format!("          files of {source}\n");
    for (mark, paths) in [("~", changed), ("+", new), ("-", gone)] {
        for path in paths.iter().take(LISTED) {
            text.push_str(&format!("            {mark} {path}\n"));
        }
        if paths.len() > LISTED {
            let more = paths.len() - LISTED;
            text.push_str(&format!("            {mark} … and {more} more\n"));
        }
    }
    text
}

fn summary(report: &BuildReport) -> String {
    let of = |state: StepState| {
        let steps = report.steps.iter().filter(move |step| step.state == state);
        let times = steps.map(|step| step.elapsed_ms.unwrap_or(0));
        times.fold((0_usize, 0), |(count, sum), time| (count + 1, sum + time))
    };
    let (hits, saved) = of(StepState::Hit);
    let (ran, took) = of(StepState::Ran);
    format!(
        "\n{hits} from the cache, which took {} when they ran; {ran} run, which took {}\n",
        seconds(saved),
        seconds(took)
    )
}

/// The first line of an instruction, not longer than a line of a terminal has room for.
fn shortened(instruction: &str) -> String {
    const LIMIT: usize = 50;
    if instruction.chars().count() <= LIMIT {
        return instruction.to_owned();
    }
    let mut text: String = instruction.chars().take(LIMIT).collect();
    text.push('…');
    text
}

/// A time with one decimal.
pub(crate) fn seconds(milliseconds: u64) -> String {
    format!("{:.1}s", Duration::from_millis(milliseconds).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, state: StepState) -> StepReport {
        StepReport {
            vertex: 0,
            inputs: Vec::new(),
            stage: None,
            span_ms: None,
            cpu_ms: None,
            name: name.into(),
            line: Some(1),
            state,
            reason: None,
            changes: Vec::new(),
            elapsed_ms: Some(1500),
            key: None,
            layer: None,
            size: Some(2048),
            error: None,
        }
    }

    #[test]
    fn every_step_is_told_with_its_reason() {
        let files = FileChanges {
            source: "src/".into(),
            total: 3,
            changed: vec!["src/a".into()],
            new: vec!["src/b".into()],
            gone: Vec::new(),
        };
        let change = |part: &str, files: Option<FileChanges>| Change {
            part: part.into(),
            old: Some("1".into()),
            new: Some("2".into()),
            files,
        };
        let report = BuildReport {
            id: None,
            project: None,
            transfers: Vec::new(),
            dockerfile: "Dockerfile".into(),
            started: "2026-01-01T00:00:00.123456789Z".into(),
            elapsed_ms: 2000,
            image: Some("sha256:0123456789abcdef".into()),
            names: vec!["app:latest".into()],
            error: None,
            steps: vec![
                step("[2/3] WORKDIR /x", StepState::Hit),
                StepReport {
                    reason: Some("1 of 3 files changed: src/a (+1 new)".into()),
                    changes: vec![
                        change("files src/", Some(files)),
                        change("chown", None),
                        change("parent", None),
                    ],
                    ..step("[3/3] COPY src/ .", StepState::Ran)
                },
            ],
        };
        let want = "\
Dockerfile, 2026-01-01T00:00:00Z, 2.0s: image 0123456789ab app:latest

hit         1.5s   2.05kB  [2/3] WORKDIR /x
miss        1.5s   2.05kB  [3/3] COPY src/ .
        miss: COPY src/ . — 1 of 3 files changed: src/a (+1 new)
          files of src/
            ~ src/a
            + src/b
          chown \"1\" → \"2\"

1 from the cache, which took 1.5s when they ran; 1 run, which took 1.5s
";
        assert_eq!(text(&report), want);
    }
}
