//! Sizes with a unit.

/// Parses a size such as `64m`, `1.5GiB`, `10 kb` to bytes; units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let Some(last) = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ') else {
        return Err(invalid());
    };
    let number = if text[last..].starts_with(' ') {
        &text[..last]
    } else {
        &text[..=last]
    };
    let suffix = text[last + 1..].to_lowercase();
    let size: f64 = number.parse().map_err(|_| invalid())?;
    let factor = factor(&suffix).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?;
    let bytes = size * factor;
    // Also refuses NaN.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&bytes) {
        return Err(invalid());
    }
    Ok(bytes as u64)
}

/// Returns the bytes of a unit: nothing, `b`, or a letter with `b` or `ib`.
fn factor(suffix: &str) -> Option<f64> {
    let mut chars = suffix.chars();
    let exponent = match chars.next() {
        None => return Some(1.0),
        Some('b') => 0,
        Some(letter) => 1 + "kmgtp".find(letter)? as i32,
    };
    match chars.as_str() {
        "" => {}
        "b" | "ib" if exponent > 0 => {}
        _ => return None,
    }
    Some(1024_f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("1m", 1 << 20),
            ("1.5GiB", 3 << 29),
            ("10 KB", 10 << 10),
            ("2P", 2 << 50),
            ("1e3", 1000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "m",
            "1x",
            "1bb",
            "1kbb",
            "-1m",
            "1..2",
            "999999999999P",
            "1kü",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_size("1xx"), Err("invalid suffix: 'xx'".to_owned()));
    }
}
