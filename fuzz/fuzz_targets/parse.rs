//! Any bytes parse; what parses prints and formats to the same meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{Linter, Parsed, fix, format, outline, parse, print};

/// What a tree says, without places and layout.
fn meaning(parsed: &Parsed) -> Vec<String> {
    parsed
        .dockerfile
        .instructions()
        .map(|instruction| {
            let comments: Vec<&str> =
                instruction.comments.iter().map(|comment| comment.value.as_str()).collect();
            let upper = instruction.text.trim().to_uppercase();
            let words: Vec<&str> = upper.split_whitespace().collect();
            let bodies: Vec<&str> =
                instruction.heredocs.iter().map(|heredoc| &*heredoc.raw).collect();
            format!("{} {words:?} {comments:?} {bodies:?}", instruction.kind.name())
        })
        .collect()
}

fuzz_target!(|source: &[u8]| {
    let parsed = parse(source);
    for instruction in parsed.dockerfile.instructions() {
        assert!(instruction.span.end <= source.len());
    }
    for diagnostic in &parsed.diagnostics {
        assert!(diagnostic.span.end <= source.len());
    }
    let _ = Linter::new(&parsed.dockerfile, None);
    for index in 0..parsed.dockerfile.stages.len() {
        assert!(outline::outline(&parsed.dockerfile, index).is_some());
    }
    if parsed.diagnostics.is_empty() {
        let printed = print(&parsed.dockerfile);
        let again = parse(printed.as_bytes());
        assert_eq!(again.diagnostics, []);
        assert_eq!(meaning(&again), meaning(&parsed));
    }
    if let Ok(text) = std::str::from_utf8(source) {
        let formatted = format(text);
        assert_eq!(format(&formatted), formatted);
        if !formatted.is_empty() {
            assert_eq!(meaning(&parse(formatted.as_bytes())), meaning(&parsed));
        }
        let _ = fix(text, &parsed.lint);
    }
});
