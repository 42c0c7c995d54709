//! Names of containers: which are allowed, and made-up ones.

/// First words.
const QUALITIES: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clever", "crisp", "daring", "eager", "early", "fair",
    "gentle", "glad", "golden", "happy", "humble", "jolly", "keen", "kind", "lively", "lucid",
    "mellow", "merry", "noble", "patient", "quick", "quiet", "rapid", "silver", "steady", "sunny",
    "tidy", "wise",
];

/// Second words: people whom computing owes something.
const PEOPLE: [&str; 32] = [
    "allen",
    "babbage",
    "backus",
    "berners",
    "boole",
    "cerf",
    "church",
    "codd",
    "conway",
    "curry",
    "dijkstra",
    "easley",
    "engelbart",
    "floyd",
    "goldberg",
    "hamilton",
    "hamming",
    "hoare",
    "hopper",
    "kernighan",
    "knuth",
    "lamarr",
    "lamport",
    "liskov",
    "lovelace",
    "mccarthy",
    "neumann",
    "perlman",
    "ritchie",
    "shannon",
    "turing",
    "wirth",
];

/// Whether a text may be a name: it becomes a file name.
pub(super) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() > 1
        && name.len() <= 200
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A name for the container with this ID; another one for every try.
pub(super) fn generate(id: &str, tries: usize) -> String {
    let digits = |from: usize| {
        id.get(from..from + 4)
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .unwrap_or(0)
    };
    let quality = QUALITIES[(digits(0) + tries) % QUALITIES.len()];
    let person = PEOPLE[(digits(4) + tries / QUALITIES.len()) % PEOPLE.len()];
    if tries < QUALITIES.len() {
        format!("{quality}_{person}")
    } else {
        format!("{quality}_{person}{tries}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_made_up_are_valid_and_do_not_end() {
        let id = "00ff".repeat(16);
        let mut seen = std::collections::BTreeSet::new();
        for tries in 0..500 {
            let name = generate(&id, tries);
            assert!(is_valid(&name), "{name}");
            assert!(seen.insert(name), "a name came twice");
        }
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        for name in ["a1", "A.b-c_d", "0x"] {
            assert!(is_valid(name), "{name}");
        }
        for name in [
            "",
            "a",
            ".",
            "..",
            ".a",
            "a/b",
            "-a",
            "_a",
            "a b",
            "ä1",
            &"a".repeat(201),
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
