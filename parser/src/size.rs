//! Sizes with a unit.

/// Parses a size such as `64m`, `1.5GiB` to bytes; units are powers of 1024.
pub fn parse_size(_text: &str) -> Result<u64, String> {
    Err("sizes cannot be read yet".to_owned())
}
