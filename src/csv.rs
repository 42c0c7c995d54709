//! One line of comma-separated fields, as `--output`, `--secret` and `--mount` take them.

/// Why a line cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsvError {
    /// A quote inside a field that does not begin with one.
    #[error("bare \" in non-quoted field, column {0}")]
    BareQuote(usize),
    /// Something other than a comma behind a closing quote, or no closing quote.
    #[error("extraneous or missing \" in quoted field, column {0}")]
    Quote(usize),
}

/// Splits a line into fields.
///
/// A field that begins with `"` reaches to the closing `"` and may hold commas; `""` in it stands
/// for one quote.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, CsvError> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let column = line.len() - rest.len() + 1;
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_field(quoted, column)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..end].find('"') {
                return Err(CsvError::BareQuote(column + quote));
            }
            (rest[..end].to_owned(), &rest[end..])
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(CsvError::Quote(line.len() - after.len() + 1)),
        }
    }
}

/// Reads a field behind its opening quote; returns what stands behind the closing one.
fn quoted_field(quoted: &str, column: usize) -> Result<(String, &str), CsvError> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some(end) = rest.find('"') else {
            return Err(CsvError::Quote(column));
        };
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_split_at_commas_outside_quotes() {
        for (line, want) in [
            ("a=b,c=d", vec!["a=b", "c=d"]),
            (
                "type=image,\"name=a,b\",push=false",
                vec!["type=image", "name=a,b", "push=false"],
            ),
            ("\"say \"\"hi\"\"\",x", vec!["say \"hi\"", "x"]),
            ("", vec![""]),
            ("a,,b,", vec!["a", "", "b", ""]),
            ("ü,\"ß,ä\"", vec!["ü", "ß,ä"]),
        ] {
            assert_eq!(fields(line).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn stray_quotes_are_errors() {
        for (line, want) in [
            ("a=\"b,c\"", CsvError::BareQuote(3)),
            ("\"a\"b", CsvError::Quote(4)),
            ("x,\"open", CsvError::Quote(3)),
        ] {
            assert_eq!(fields(line).unwrap_err(), want, "{line}");
        }
    }
}
