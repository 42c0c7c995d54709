//! The manual's page of failures: every build on it fails as it says.
//!
//! `RBUILD_UPDATE_MANUAL=1` writes the outputs anew; then they are to be read as a user would.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::args;
use crate::support::TestEnv;

const PAGE: &str = "docs/manual/errors.md";

/// A block between fences: its info string and its lines.
struct Block<'a> {
    info: &'a str,
    text: String,
}

/// The blocks of a section of the page.
fn blocks(section: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for line in section.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let text = String::new();
                open = Some(Block { info, text });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Runs the build of a section; what it says, without progress and with steady times and places.
fn said(blocks: &[Block<'_>]) -> String {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files("context", &[]);
    let mut command = String::new();
    for block in blocks {
        let name = match block.info {
            "dockerfile" => "Dockerfile",
            "sh" => {
                command.clone_from(&block.text);
                continue;
            }
            info => match info.strip_prefix("text,file=") {
                Some(name) => name,
                None => continue,
            },
        };
        let path = context.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &block.text).unwrap();
    }
    let words = command.split_whitespace().skip(1).map(str::to_owned);
    let outcome = env
        .rbuild(words)
        .args(args!["--progress", "plain"])
        .current_dir(&context)
        .run()
        .exits(1);
    let shown = outcome
        .stderr
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut text = String::new();
    let mut in_warnings = false;
    for line in shown {
        // Warnings have a page of their own.
        in_warnings = line.ends_with(" found:") || (in_warnings && line.starts_with(" - "));
        if !in_warnings {
            let _ = writeln!(text, "{}", steady(line, env.path()));
        }
    }
    text
}

fn steady(line: &str, directory: &Path) -> String {
    let line = match line.split_once(' ') {
        Some((time, rest)) if time.len() == 5 && time.parse::<f64>().is_ok() => {
            format!("0.123 {rest}")
        }
        _ => line.to_owned(),
    };
    match line.split_once(&format!("{}/store/builds/", directory.display())) {
        Some((before, after)) => {
            let name = after.rsplit('/').next().unwrap_or_default();
            format!("{before}/var/lib/rbuild/builds/19a3f0c27b1-5e0d/{name}")
        }
        None => line.trim_end().to_owned(),
    }
}

#[test]
fn every_failure_on_the_page_reads_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let update = std::env::var_os("RBUILD_UPDATE_MANUAL").is_some();
    let mut sections = page.split("\n## ");
    let mut fresh = sections.next().unwrap().to_owned();
    let (mut count, mut wrong) = (0, String::new());
    for section in sections {
        let blocks = blocks(section);
        let want = &blocks.last().unwrap().text;
        let title = section.lines().next().unwrap();
        let got = said(&blocks);
        count += 1;
        if got != *want {
            let _ = writeln!(wrong, "## {title}\n--- got\n{got}--- want\n{want}");
        }
        let end = section.rfind("```text\n").unwrap();
        let _ = write!(fresh, "\n## {}```text\n{got}```\n", &section[..end]);
    }
    assert!(count >= 16, "{count} failures on the page");
    if update {
        fs::write(&path, fresh).unwrap();
        return;
    }
    assert!(
        wrong.is_empty(),
        "{PAGE} is stale, write it with RBUILD_UPDATE_MANUAL=1:\n{wrong}"
    );
}
