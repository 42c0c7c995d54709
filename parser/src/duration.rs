//! Durations as Go writes them.

/// Parses a duration such as `1m30s` to nanoseconds. The error is Go's text.
pub fn parse_duration(_text: &str) -> Result<i64, String> {
    Err("durations cannot be read yet".to_owned())
}

/// Formats nanoseconds as Go does: `5m0s`, `1.5s`, `0s`.
pub fn format_duration(ns: i64) -> String {
    format!("{ns}ns")
}
