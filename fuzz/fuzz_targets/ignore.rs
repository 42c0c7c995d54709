//! Any ignore file is read or refused, and a walk agrees with a question about one path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{IgnoreMatcher, glob_match};

fuzz_target!(|input: (&[u8], &str)| {
    let (file, path) = input;
    let Ok(matcher) = IgnoreMatcher::parse(file) else { return };
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != "." && *part != "..").collect();
    let mut state = matcher.root();
    let mut read = true;
    for (index, part) in parts.iter().enumerate() {
        read &= !state.ignored || state.may_reinclude_below;
        state = matcher.enter(&state, part);
        let reached = parts[..=index].join("/");
        assert_eq!(state.ignored, matcher.ignored(&reached));
        assert_eq!(state.ignored, matcher.reason(&reached).is_some());
        assert!(read || state.ignored, "kept below a directory that is not read");
    }
    if let Ok(pattern) = std::str::from_utf8(file) {
        let _ = glob_match(pattern, path);
    }
});
