//! Go's `print`, `println` and `printf`, as far as formats use them.

use super::value::{Value, shortest_float};

/// Widest field and longest precision; a slip must not fill the memory.
const MAX_WIDTH: usize = 10_000;

/// Joins the values; a blank goes between two neighbours of which neither is a string.
pub(super) fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        let both_plain = index > 0
            && !matches!(values[index - 1], Value::Text(_))
            && !matches!(value, Value::Text(_));
        if both_plain {
            text.push(' ');
        }
        text.push_str(&value.to_string());
    }
    text
}

/// Joins the values with blanks and ends the line.
pub(super) fn println(values: &[Value]) -> String {
    let mut text = values
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    text.push('\n');
    text
}

/// One `%` directive.
#[derive(Debug, Default)]
struct Directive {
    left: bool,
    plus: bool,
    blank: bool,
    zero: bool,
    alternate: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats the values as Go's `fmt.Sprintf`.
pub(super) fn printf(format: &str, values: &[Value]) -> String {
    let mut text = String::new();
    let mut letters = format.chars().peekable();
    let mut values = values.iter();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let directive = directive(&mut letters);
        let Some(verb) = letters.next() else {
            text.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            text.push('%');
            continue;
        }
        match values.next() {
            Some(value) => text.push_str(&one(&directive, verb, value)),
            None => text.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    let extra: Vec<String> = values
        .map(|value| format!("{}={value}", value.kind()))
        .collect();
    if !extra.is_empty() {
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

fn directive(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Directive {
    let mut directive = Directive::default();
    while let Some(flag) = letters.peek() {
        match flag {
            '-' => directive.left = true,
            '+' => directive.plus = true,
            ' ' => directive.blank = true,
            '0' => directive.zero = true,
            '#' => directive.alternate = true,
            _ => break,
        }
        letters.next();
    }
    directive.width = number(letters);
    if letters.peek() == Some(&'.') {
        letters.next();
        directive.precision = Some(number(letters).unwrap_or(0));
    }
    directive
}

fn number(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        value = Some((value.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
        letters.next();
    }
    value
}

fn one(directive: &Directive, verb: char, value: &Value) -> String {
    let body = match (verb, value) {
        ('v' | 'd', Value::Int(_)) => signed(directive, &value.to_string()),
        ('v' | 's', Value::Text(text)) => cut(directive, text),
        ('v' | 's', _) if verb == 'v' || matches!(value, Value::List(_)) => value.to_string(),
        ('q', Value::Text(text)) => format!("{text:?}"),
        ('q', Value::List(items)) => {
            let quoted: Vec<String> = items
                .iter()
                .map(|item| one(&Directive::default(), 'q', item))
                .collect();
            format!("[{}]", quoted.join(" "))
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('x', Value::Int(number)) => {
            let prefix = if directive.alternate { "0x" } else { "" };
            signed(directive, &in_base(*number, prefix, |n| format!("{n:x}")))
        }
        ('X', Value::Int(number)) => {
            let prefix = if directive.alternate { "0X" } else { "" };
            signed(directive, &in_base(*number, prefix, |n| format!("{n:X}")))
        }
        ('o', Value::Int(number)) => {
            let prefix = if directive.alternate { "0" } else { "" };
            signed(directive, &in_base(*number, prefix, |n| format!("{n:o}")))
        }
        ('b', Value::Int(number)) => {
            let prefix = if directive.alternate { "0b" } else { "" };
            signed(directive, &in_base(*number, prefix, |n| format!("{n:b}")))
        }
        ('c', Value::Int(number)) => u32::try_from(*number)
            .ok()
            .and_then(char::from_u32)
            .map_or_else(|| "\u{fffd}".into(), String::from),
        ('x', Value::Text(text)) => hex(text, "0123456789abcdef"),
        ('X', Value::Text(text)) => hex(text, "0123456789ABCDEF"),
        ('f' | 'F', Value::Float(number)) => signed(
            directive,
            &format!("{number:.*}", directive.precision.unwrap_or(6)),
        ),
        ('g', Value::Float(number)) => signed(directive, &shortest_float(*number)),
        ('T', _) => value.kind().to_owned(),
        _ => return format!("%!{verb}({}={value})", value.kind()),
    };
    padded(
        directive,
        body,
        matches!(value, Value::Int(_) | Value::Float(_)),
    )
}

/// The bytes of a text, two digits each.
fn hex(text: &str, digits: &str) -> String {
    let digit = |value: u8| char::from(digits.as_bytes()[usize::from(value)]);
    text.bytes()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn in_base(number: i64, prefix: &str, digits: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{prefix}{}", digits(number.unsigned_abs()))
}

fn signed(directive: &Directive, text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'-') => text.to_owned(),
        _ if directive.plus => format!("+{text}"),
        _ if directive.blank => format!(" {text}"),
        _ => text.to_owned(),
    }
}

fn cut(directive: &Directive, text: &str) -> String {
    match directive.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text.to_owned(),
    }
}

fn padded(directive: &Directive, body: String, numeric: bool) -> String {
    let missing = directive
        .width
        .unwrap_or(0)
        .saturating_sub(body.chars().count());
    if missing == 0 {
        return body;
    }
    if directive.left {
        return format!("{body}{}", " ".repeat(missing));
    }
    if directive.zero && numeric {
        let (sign, digits) = match body.as_bytes().first() {
            Some(b'-' | b'+' | b' ') => body.split_at(1),
            _ => ("", body.as_str()),
        };
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{body}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_show_as_in_go() {
        assert_eq!(printf("%d", &["x".into()]), "%!d(string=x)");
        assert_eq!(printf("%s", &[]), "%!s(MISSING)");
        assert_eq!(printf("a", &[Value::Int(1)]), "a%!(EXTRA int=1)");
        assert_eq!(printf("%", &[]), "%!(NOVERB)");
    }

    #[test]
    fn widths_and_flags() {
        assert_eq!(
            printf("%+d|% d|%06d", &[5.into(), 5.into(), (-42).into()]),
            "+5| 5|-00042"
        );
        assert_eq!(
            printf("%.2s|%#x|%o", &["abc".into(), 255.into(), 8.into()]),
            "ab|0xff|10"
        );
        assert_eq!(printf("%q", &[Value::strings(["a", "b"])]), "[\"a\" \"b\"]");
    }
}
