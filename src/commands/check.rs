//! `rbuild check`: what a build would warn of or fail with before its first step.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rbuild_builder::error::SourceFile;
use rbuild_builder::{BuildError, BuildRequest, CheckReport};
use rbuild_parser::{LintFinding, parse};

use super::build::{Requested, WhatArgs, what};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::outfile;
use crate::ui;
use crate::ui::excerpt::Source;
use crate::ui::findings::{Findings, FindingsFormat};
use crate::ui::style::Palette;

/// Check a Dockerfile without building it
///
/// Shows all errors and what the build checks find, in all stages or those that `--target` needs.
/// PATH is the build context, `.` unless given. Base images are not fetched: what only they could tell
/// is not checked if they are not in the store.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild check [OPTIONS] [PATH]\n       rbuild check [OPTIONS] - < Dockerfile",
    after_help = "Examples:
  rbuild check
  rbuild check --fix
  rbuild check -f docker/app.Dockerfile .
  rbuild check --format github .

`# check=skip=RULE` at the top of the Dockerfile switches a rule off; above an instruction, for this
instruction.

Exit status: 0 when nothing was found, 1 when something was found, 2 for a wrong command line."
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// Show findings as `text`, `json` (as BuildKit), `sarif`, or `github` (annotations)
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: FindingsFormat,
    /// Fix in the file what can be fixed without a decision
    #[arg(long)]
    fix: bool,
}

/// Checks.
pub(crate) fn run(settings: &Settings, args: &CheckArgs) -> Result<u8, Failure> {
    let mut what_args = args.what.clone();
    what_args.context.get_or_insert_with(|| ".".to_owned());
    let mut requested = what(settings, &what_args)?;
    let fixed_in = match (&requested.dockerfile, args.fix) {
        (_, false) => None,
        (Some(path), true) => Some(path.clone()),
        (None, true) => {
            return Err(
                Failure::new("`--fix` needs a file, not standard input").with_status(status::USAGE)
            );
        }
    };
    let store = super::open_store(settings)?;
    let mut report = rbuild_builder::check(&store, &requested.request);
    if let Some(path) = fixed_in
        && let Some(text) = fix(settings, &path, &requested.request, &report)?
    {
        requested.request.dockerfile.text = text;
        report = rbuild_builder::check(&store, &requested.request);
    }
    show(settings, &requested, args.format, report)
}

/// Checks for `rbuild build --call=check`.
pub(super) fn call(
    settings: &Settings,
    requested: &Requested,
    format: FindingsFormat,
) -> Result<u8, Failure> {
    let store = super::open_store(settings)?;
    let report = rbuild_builder::check(&store, &requested.request);
    show(settings, requested, format, report)
}

/// Shows a report; the exit status says whether there was anything.
fn show(
    settings: &Settings,
    requested: &Requested,
    format: FindingsFormat,
    report: CheckReport,
) -> Result<u8, Failure> {
    let error = report.error.or(report.verdict.map(BuildError::user));
    let dockerfile = &requested.request.dockerfile;
    let source = Source::new(&dockerfile.name, &dockerfile.text);
    let path = requested.dockerfile.as_deref().map(Path::to_string_lossy);
    let path = path.as_deref().unwrap_or(&dockerfile.name);
    let findings = Findings::new(source, path, &report.findings, error.as_ref());
    let text = match format {
        FindingsFormat::Text => findings.text(&out_palette(settings)),
        FindingsFormat::Json => findings.json(),
        FindingsFormat::Sarif => findings.sarif(),
        FindingsFormat::Github => findings.github(),
    };
    ui::print(&text)?;
    // On GitHub the annotations are in the log themselves.
    if format != FindingsFormat::Github {
        // As in `docker build`, what a build would fail with goes to standard error in any form.
        ui::message(&findings.errors_text(&settings.palette));
    }
    Ok(if findings.is_empty() {
        0
    } else {
        status::ERROR
    })
}

/// Colours for standard output: those for standard error, if it is a terminal too.
pub(super) fn out_palette(settings: &Settings) -> Palette {
    if settings.stdout_terminal {
        settings.palette
    } else {
        Palette::default()
    }
}

/// Fixes what can be fixed in the file, tells what that was, and returns the new text.
fn fix(
    settings: &Settings,
    path: &Path,
    request: &BuildRequest,
    report: &CheckReport,
) -> Result<Option<Vec<u8>>, Failure> {
    let name = &request.dockerfile.name;
    let Ok(source) = std::str::from_utf8(&request.dockerfile.text) else {
        return Err(Failure::new(format!(
            "could not fix `{name}`: it is not UTF-8 text"
        )));
    };
    let (text, applied) = rbuild_parser::fix(source, &report.findings);
    if text == source {
        return Ok(None);
    }
    // Whatever is fixed, the file must stay readable.
    if parse(source.as_bytes()).diagnostics.is_empty()
        && let Some(broken) = parse(text.as_bytes()).diagnostics.first()
    {
        return Err(Failure::new(format!(
            "could not fix `{name}`: it would not parse any more: {}",
            broken.message
        )));
    }
    outfile::replace(path, text.as_bytes())
        .map_err(|error| Failure::new(format!("could not write `{name}`")).because(&error))?;
    for line in told(&report.findings, &applied) {
        ui::message(&format!(
            "{} {name}: {line}\n",
            ui::style::paint(settings.palette.strong, "fixed")
        ));
    }
    Ok(Some(text.into_bytes()))
}

/// Names each fix, with its line where all findings of its rule were fixed.
fn told(findings: &[LintFinding], applied: &[String]) -> Vec<String> {
    let mut findings: Vec<&LintFinding> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.lines.first);
    let mut fixes: BTreeMap<&str, usize> = BTreeMap::new();
    for rule in applied {
        *fixes.entry(rule).or_default() += 1;
    }
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &findings {
        *places.entry(finding.rule.name).or_default() += 1;
    }
    let mut seen = HashSet::new();
    let mut told = Vec::new();
    for finding in &findings {
        let rule = finding.rule.name;
        let found = places[rule];
        let line = match fixes.get(rule) {
            None => continue,
            Some(all) if *all == found => format!("{rule} (line {})", finding.lines.first),
            Some(some) => format!("{rule} ({some} of {found})"),
        };
        if seen.insert(line.clone()) {
            told.push(line);
        }
    }
    told
}

/// Errors of a Dockerfile in the form of a check, for commands that only parse.
pub(super) fn parse_errors(name: &str, text: &[u8], palette: &Palette) -> Option<String> {
    let parsed = parse(text);
    let file = SourceFile {
        name: name.to_owned(),
        text: text.into(),
    };
    let mut errors = parsed
        .diagnostics
        .iter()
        .map(|diagnostic| file.diagnostic(diagnostic));
    let mut first = errors.next()?;
    first.others = errors.collect();
    let findings = Findings::new(Source::new(name, text), name, &[], Some(&first));
    Some(findings.errors_text(palette))
}

#[cfg(test)]
mod tests {
    use rbuild_parser::{LineRange, RULES, Span};

    use super::*;

    fn finding(rule: &str, line: u32) -> LintFinding {
        LintFinding {
            rule: RULES.iter().find(|known| known.name == rule).unwrap(),
            message: String::new(),
            lines: LineRange::new(line, line),
            span: Span::default(),
            help: None,
        }
    }

    #[test]
    fn fixes_are_told_one_by_one() {
        let findings = [
            finding("FromAsCasing", 9),
            finding("UndefinedVar", 3),
            finding("FromAsCasing", 1),
            finding("JSONArgsRecommended", 4),
            finding("JSONArgsRecommended", 5),
        ];
        let applied = ["FromAsCasing", "FromAsCasing", "JSONArgsRecommended"].map(str::to_owned);
        assert_eq!(
            told(&findings, &applied),
            [
                "FromAsCasing (line 1)",
                "JSONArgsRecommended (1 of 2)",
                "FromAsCasing (line 9)"
            ]
        );
    }
}
