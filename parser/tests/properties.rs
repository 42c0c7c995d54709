//! What must hold for any input.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rbuild_parser::{
    ChmodMode, ChownSpec, IgnoreMatcher, ImageReference, Instruction, Parsed, Platform, expand,
    expand_heredoc, expand_words, fix, format, format_duration, glob_match, lint::rules, outline,
    parse, parse_device, parse_duration, parse_mount, parse_port_spec, parse_size, parse_trigger,
    print, source_kind,
};

/// Pieces that Dockerfiles are made of, and pieces that make trouble.
const PIECES: [&str; 80] = [
    "FROM ",
    "from ",
    "RUN ",
    "run ",
    "COPY ",
    "ADD ",
    "ENV ",
    "LABEL ",
    "ARG ",
    "CMD ",
    "ENTRYPOINT ",
    "SHELL ",
    "WORKDIR ",
    "USER ",
    "EXPOSE ",
    "VOLUME ",
    "STOPSIGNAL ",
    "HEALTHCHECK ",
    "ONBUILD ",
    "MAINTAINER ",
    "FOO ",
    "\n",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\r",
    " \r \n",
    "\\\n",
    "\\ \n",
    "`\n",
    "\\",
    "`",
    " ",
    "  ",
    "\t",
    "\u{a0}",
    "\u{feff}",
    "\u{b}",
    "#",
    "# ",
    "#!",
    "# escape=`\n",
    "# check=skip=all\n",
    "# syntax=a b\n",
    "a",
    "b c",
    "a=b",
    "a=\"x y\"",
    "=",
    "'",
    "\"",
    "$",
    "$a",
    "${a}",
    "${a:-",
    "${a#",
    "${a/",
    "}",
    "/",
    ":",
    "?",
    "*",
    "[",
    "]",
    "[\"a\",\"b\"]",
    "[1]",
    "--",
    "--from=a ",
    "--mount=type=cache,target=/a ",
    "--link ",
    "AS ",
    "as x",
    "<<",
    "<<EOF",
    "<<-EOF",
    "EOF\n",
    "\tEOF\n",
    "ü",
    "\0",
];

fn dockerfile() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40);
    (pieces, any::<bool>()).prop_map(|(pieces, with_from)| {
        let head = if with_from { "FROM a\n" } else { "" };
        format!("{head}{}", pieces.concat())
    })
}

/// Instructions that parse, mostly, with room for anything in their arguments.
const INSTRUCTIONS: [(&str, &str); 26] = [
    ("FROM a", "\n"),
    ("from a AS ", "x\n"),
    ("FROM a as y", "\n"),
    ("RUN ", "\n"),
    ("run --network=none ", "\n"),
    ("RUN --mount=type=cache,target=/x ", " \\\n\n y\n"),
    ("RUN cat <<EOF ", "\nbody\n\tEOF\nEOF\n"),
    ("RUN <<-'EOF' ", "\n\tbody\n\tEOF\n"),
    ("COPY a ", " /x/\n"),
    ("COPY --chown=1:2 <<A <<A ", " /x/\none\nA\ntwo\nA\n"),
    ("ADD --link ", " a /\n"),
    ("ENV a=", "\n"),
    ("ENV a ", "\n"),
    ("Label b=\"", "\" c=d\n"),
    ("ARG a=", "\n"),
    ("CMD ", "\n"),
    ("CMD [\"a\", \"b\"]", "\n"),
    ("ENTRYPOINT ", "\n"),
    ("SHELL [\"a\"]", "\n"),
    ("WORKDIR /", "\n"),
    ("EXPOSE 80 ", "\n"),
    ("ONBUILD RUN ", "  \n"),
    ("ONBUILD COPY <<E ", " /\nb\nE\n"),
    ("HEALTHCHECK --retries=3 CMD ", "x\n"),
    ("# comment ", "\n"),
    ("\n  \n#x", "\n"),
];

/// Dockerfiles that parse often enough.
fn good_dockerfile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => Just(String::new()),
        2 => "[a-z ]{1,6}",
        3 => prop::sample::select(&PIECES[30..]).prop_map(str::to_owned),
    ];
    let instruction = (prop::sample::select(&INSTRUCTIONS[..]), piece)
        .prop_map(|((head, tail), piece)| format!("{head}{piece}{tail}"));
    (prop::collection::vec(instruction, 0..8), any::<bool>()).prop_map(|(list, last_line_end)| {
        let text = format!("FROM a\n{}", list.concat());
        if last_line_end {
            text
        } else {
            text.trim_end_matches('\n').to_owned()
        }
    })
}

fn word() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[30..]), 0..15).prop_map(|p| p.concat())
}

fn variables() -> BTreeMap<String, String> {
    [("a", "x*y"), ("b", ""), ("c", "1 2")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What a tree says, without places, layout and the case of the words of the language.
fn meaning(parsed: &Parsed, with_comments: bool) -> String {
    let file = &parsed.dockerfile;
    let check = file
        .check
        .as_ref()
        .map(|check| check.value.as_str())
        .filter(|v| !v.is_empty());
    let syntax = file.syntax.as_ref().map(|syntax| &syntax.value);
    let mut text = format!("{:?} {check:?} {syntax:?}\n", file.escape);
    let mut stage = 0;
    for instruction in file.instructions() {
        let Instruction {
            comments,
            flags,
            kind,
            heredocs,
            ..
        } = instruction;
        let comments: Vec<&str> = comments
            .iter()
            .map(|comment| comment.value.as_str())
            .collect();
        if matches!(kind, rbuild_parser::InstructionKind::From(_)) {
            stage += 1;
        }
        let comments = if with_comments { comments } else { Vec::new() };
        text.push_str(&format!(
            "{stage} {comments:?} {flags:?} {kind:?} {heredocs:?}\n"
        ));
    }
    without_places(&text)
}

/// Drops the spans that derived debug texts contain, and the case of `AS`.
fn without_places(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find("Span { start: ") {
        result.push_str(&rest[..position]);
        let end = rest[position..].find('}').unwrap();
        rest = &rest[position + end + 1..];
    }
    result.push_str(rest);
    result
        .replace(
            "as_keyword: Some(Spanned { value: \"as\"",
            "as_keyword: Some(Spanned { value: \"AS\"",
        )
        .replace(
            "as_keyword: Some(Spanned { value: \"As\"",
            "as_keyword: Some(Spanned { value: \"AS\"",
        )
}

fn check_places(source: &[u8], parsed: &Parsed) -> Result<(), TestCaseError> {
    let lines = source.split(|byte| *byte == b'\n').count() as u32;
    for instruction in parsed.dockerfile.instructions() {
        let span = instruction.span;
        prop_assert!(
            span.start < span.end && span.end <= source.len(),
            "{instruction:?}"
        );
        prop_assert!(instruction.lines.first >= 1 && instruction.lines.last <= lines);
        prop_assert!(instruction.lines.first <= instruction.lines.last);
        let keyword = &source[instruction.keyword.span.start..];
        prop_assert!(keyword.first() == instruction.keyword.value.as_bytes().first());
        for comment in &instruction.comments {
            prop_assert!(comment.span.end <= source.len());
        }
    }
    for diagnostic in &parsed.diagnostics {
        prop_assert!(diagnostic.span.start <= diagnostic.span.end);
        prop_assert!(diagnostic.span.end <= source.len());
        prop_assert!(
            diagnostic.lines.first <= diagnostic.lines.last && diagnostic.lines.last <= lines
        );
    }
    for finding in &parsed.lint {
        prop_assert!(finding.span.start <= finding.span.end && finding.span.end <= source.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_parses_to_places_inside_of_it(source in dockerfile()) {
        let parsed = parse(source.as_bytes());
        check_places(source.as_bytes(), &parsed)?;
        let has_stage = !parsed.dockerfile.stages.is_empty();
        prop_assert!(has_stage || !parsed.diagnostics.is_empty());
    }

    #[test]
    fn any_bytes_parse(source in prop::collection::vec(any::<u8>(), 0..200)) {
        check_places(&source, &parse(&source))?;
        let _ = IgnoreMatcher::parse(&source);
    }

    #[test]
    fn printing_loses_nothing(source in good_dockerfile()) {
        let parsed = parse(source.as_bytes());
        prop_assume!(parsed.diagnostics.is_empty());
        let printed = print(&parsed.dockerfile);
        let again = parse(printed.as_bytes());
        prop_assert_eq!(&again.diagnostics, &[]);
        prop_assert_eq!(meaning(&again, true), meaning(&parsed, true), "printed {:?}", printed);
        prop_assert_eq!(print(&again.dockerfile), printed);
    }

    #[test]
    fn formatting_keeps_the_meaning_and_is_stable(
        source in prop_oneof![dockerfile(), good_dockerfile()],
    ) {
        let formatted = format(&source);
        prop_assert_eq!(&format(&formatted), &formatted);
        let (before, after) = (parse(source.as_bytes()), parse(formatted.as_bytes()));
        let messages = |parsed: &Parsed| -> Vec<String> {
            let text = parsed.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str());
            // Line numbers move with blank lines.
            text.map(|text| text.split(": ").last().unwrap_or_default().to_owned()).collect()
        };
        // A file of blank lines becomes empty, which is another error.
        if !formatted.is_empty() {
            prop_assert_eq!(messages(&before), messages(&after), "formatted {:?}", formatted);
        }
        prop_assert_eq!(meaning(&before, true), meaning(&after, true), "formatted {:?}", formatted);
    }

    #[test]
    fn fixing_keeps_the_values(source in good_dockerfile()) {
        let parsed = parse(source.as_bytes());
        prop_assume!(parsed.diagnostics.is_empty());
        let mut findings = parsed.lint.clone();
        for instruction in parsed.dockerfile.instructions() {
            findings.extend(rules::legacy_key_value(instruction));
        }
        let (fixed, _) = fix(&source, &findings);
        let again = parse(fixed.as_bytes());
        prop_assert_eq!(&again.diagnostics, &[], "fixed {:?}", fixed);
        prop_assert_eq!(values(&parsed), values(&again), "fixed {:?}", fixed);
    }

    #[test]
    fn expansion_never_panics(text in word(), escape in prop::sample::select(&['\\', '`'][..])) {
        let variables = variables();
        if let Ok(expansion) = expand(&text, escape, &variables) {
            let words = expand_words(&text, escape, &variables);
            prop_assert!(words.is_ok());
            prop_assert!(expansion.undefined.iter().all(|name| !variables.contains_key(name)));
        }
        let _ = expand_heredoc(&text, &variables);
    }

    #[test]
    fn quoted_text_expands_to_itself(text in "[^'\u{feff}]{0,40}") {
        let quoted = format!("'{text}'");
        prop_assert_eq!(expand(&quoted, '\\', &variables()).unwrap().value, text.clone());
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(expand(&escaped, '\\', &variables()).unwrap().value, text);
    }

    #[test]
    fn values_never_panic(text in word(), other in ".{0,30}") {
        for text in [&text, &other] {
            let _ = parse_trigger(text, '\\');
            let _ = parse_mount(text);
            let _ = parse_device(text);
            let _ = parse_port_spec(text);
            let _ = parse_size(text);
            let _ = parse_duration(text);
            let _ = ChmodMode::parse(text).map(|mode| mode.apply(0o644, false));
            let _ = ChownSpec::parse(text);
            let _ = glob_match(text, &other);
            let _ = source_kind(text);
            let _ = Platform::parse(text);
            let _ = ImageReference::parse(text);
        }
    }

    #[test]
    fn outlines_never_panic(source in dockerfile()) {
        let parsed = parse(source.as_bytes());
        for index in 0..=parsed.dockerfile.stages.len() {
            let known = outline::outline(&parsed.dockerfile, index).is_some();
            prop_assert_eq!(known, index < parsed.dockerfile.stages.len());
        }
    }

    #[test]
    fn durations_survive(ns in any::<i64>()) {
        prop_assert_eq!(parse_duration(&format_duration(ns)), Ok(ns));
    }

    #[test]
    fn references_survive(text in "([a-z.:]{1,8}/)?[a-z0-9._-]{1,8}(/[a-z]{1,3})?(:[a-zA-Z0-9]{1,5})?") {
        if let Ok(reference) = ImageReference::parse(&text) {
            let full = ImageReference::parse(&reference.canonical());
            prop_assert_eq!(full, Ok(reference.clone().with_default_tag()));
            prop_assert_eq!(ImageReference::parse(&reference.familiar()), Ok(reference));
        }
    }

    #[test]
    fn platforms_survive(text in "(linux|windows|macos)/(arm|arm64|amd64|x86_64|386|s390x)(/v[1-9])?") {
        let platform = Platform::parse(&text).unwrap();
        prop_assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }

    #[test]
    fn ignore_patterns_match_as_their_definition_says(
        pattern in "([ab?*]|\\*\\*/|/|\\[ab\\]){1,6}",
        path in "[abc]{1,3}(/[abc]{1,2}){0,3}",
    ) {
        // A class or star run whose meaning depends on how the pattern was cleaned is left out.
        prop_assume!(!pattern.starts_with('/') && !pattern.ends_with('/') && !pattern.contains("//"));
        prop_assume!(!pattern.contains("***") && !has_inner_double_star(&pattern));
        let matcher = IgnoreMatcher::from_patterns(std::slice::from_ref(&pattern)).unwrap();
        let chars: Vec<char> = pattern.chars().collect();
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        let expected = ends.into_iter().any(|end| {
            defined_match(&chars, &path[..end].chars().collect::<Vec<_>>())
        });
        prop_assert_eq!(matcher.ignored(&path), expected);
    }
}

/// What the pairs of ENV and LABEL expand to.
fn values(parsed: &Parsed) -> Vec<(Option<String>, Option<String>)> {
    let escape = parsed.dockerfile.escape;
    let value = |word: &str| expand(word, escape, &variables()).ok().map(|e| e.value);
    parsed
        .dockerfile
        .instructions()
        .flat_map(|instruction| match &instruction.kind {
            rbuild_parser::InstructionKind::Env(values)
            | rbuild_parser::InstructionKind::Label(values) => values.pairs.as_slice(),
            _ => &[],
        })
        .map(|(name, word)| (value(&name.value), value(&word.value)))
        .collect()
}

/// Tells whether `**` stands next to other characters of a component.
fn has_inner_double_star(pattern: &str) -> bool {
    pattern
        .split('/')
        .any(|part| part.contains("**") && part != "**")
}

/// The definition of a pattern, straight and slow.
fn defined_match(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*'] => true,
        ['*', '*', '/', rest @ ..] => {
            defined_match(rest, path)
                || (0..path.len())
                    .any(|end| path[end] == '/' && defined_match(rest, &path[end + 1..]))
        }
        ['*', rest @ ..] => (0..=path.len())
            .take_while(|end| *end == 0 || path[end - 1] != '/')
            .any(|end| defined_match(rest, &path[end..])),
        ['[', 'a', 'b', ']', rest @ ..] => {
            matches!(path.first(), Some('a' | 'b')) && defined_match(rest, &path[1..])
        }
        ['?', rest @ ..] => {
            path.first().is_some_and(|c| *c != '/') && defined_match(rest, &path[1..])
        }
        [c, rest @ ..] => path.first() == Some(c) && defined_match(rest, &path[1..]),
    }
}

#[test]
fn no_input_takes_more_than_linear_work() {
    // The depth is what a recursive or quadratic reader would not survive.
    let depth = 300_000;
    for source in [
        format!("FROM a\nENV x={}", "${y:-".repeat(depth / 100)),
        format!("FROM a\nRUN [{}", "[".repeat(60_000)),
        format!("FROM a\n{}", "ONBUILD ".repeat(8_000)),
        format!("FROM a\nRUN x \\\n{}", "y \\\n".repeat(depth)),
        format!("FROM a\nENV x={}", "\"'".repeat(30_000)),
        format!("FROM a\nRUN {}\n", "<<A ".repeat(10_000)),
        format!("FROM a\nCOPY {}/x\n", "a ".repeat(30_000)),
        "\n".repeat(depth),
        "#\n".repeat(depth),
    ] {
        let parsed = parse(source.as_bytes());
        assert!(parsed.diagnostics.len() <= 100);
        let _ = format(&source);
    }
}
