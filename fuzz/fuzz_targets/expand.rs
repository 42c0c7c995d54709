//! Any word expands or fails; nothing panics, hangs or grows without bound.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{
    MAX_EXPANDED, expand, expand_for_display, expand_heredoc, expand_mount, expand_words,
};

fuzz_target!(|word: &str| {
    let variables: BTreeMap<String, String> = [("a", "x*y"), ("b", ""), ("c", "1 2\n3"), ("d", "\\$")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for escape in ['\\', '`'] {
        let expanded = expand(word, escape, &variables);
        if let Ok(expansion) = &expanded {
            assert!(expansion.value.len() <= MAX_EXPANDED);
            assert!(expansion.undefined.iter().all(|name| !variables.contains_key(name)));
        }
        let words = expand_words(word, escape, &variables);
        assert_eq!(words.is_ok(), expanded.is_ok());
        let _ = expand_for_display(word, escape, &variables);
        let _ = expand_mount(word, &mut |text| {
            expand(text, escape, &variables).map(|expansion| expansion.value)
        });
    }
    let _ = expand_heredoc(word, &variables);
});
