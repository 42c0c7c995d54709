//! The functions that templates may call: Go's own and Docker's.

use std::cmp::Ordering;

use super::printf;
use super::value::{NilKind, Value};

/// Which function is called, and how.
pub(super) struct Call<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The data are column names.
    pub(super) header: bool,
}

const NAMES: &[&str] = &[
    "and", "eq", "ge", "gt", "html", "index", "join", "json", "le", "len", "lower", "lt", "ne",
    "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

/// Says whether there is a function of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}

/// Calls a function; the error is the text behind the place.
pub(super) fn call(call: &Call<'_>, args: Vec<Value>) -> Result<Value, String> {
    let name = call.name;
    let shapes_text = matches!(
        name,
        "join" | "json" | "lower" | "pad" | "split" | "title" | "truncate" | "upper"
    );
    if call.header && shapes_text {
        return args
            .into_iter()
            .next()
            .ok_or_else(|| count_error(name, "at least 1", 0));
    }
    match name {
        "print" => Ok(printf::print(&args).into()),
        "println" => Ok(printf::println(&args).into()),
        "printf" => match args.split_first() {
            Some((Value::Text(format), rest)) => Ok(printf::printf(format, rest).into()),
            Some((other, _)) => Err(type_error(name, "string", other)),
            None => Err(count_error(name, "at least 1", 0)),
        },
        "html" => Ok(escape_html(&printf::print(&args)).into()),
        "urlquery" => Ok(escape_query(&printf::print(&args)).into()),
        "index" => index(args),
        "slice" => slice(args),
        "eq" => equal_to_any(&args),
        "ne" => two(name, args).and_then(|(a, b)| Ok((!equal(&a, &b)?).into())),
        "lt" => compare(name, args, &[Ordering::Less]),
        "le" => compare(name, args, &[Ordering::Less, Ordering::Equal]),
        "gt" => compare(name, args, &[Ordering::Greater]),
        "ge" => compare(name, args, &[Ordering::Greater, Ordering::Equal]),
        "not" => one(name, args).map(|value| (!value.is_true()).into()),
        "len" => one(name, args).and_then(|value| length(&value)),
        "json" => one(name, args).map(|value| value.to_json().into()),
        "lower" => one_text(name, args).map(|text| text.to_lowercase().into()),
        "upper" => one_text(name, args).map(|text| text.to_uppercase().into()),
        "title" => one_text(name, args).map(|text| title(&text).into()),
        "join" => join(args),
        "split" => {
            let (whole, separator) = two(name, args)?;
            let (whole, separator) = (text(name, whole)?, text(name, separator)?);
            Ok(Value::List(
                split(&whole, &separator)
                    .into_iter()
                    .map(Value::from)
                    .collect(),
            ))
        }
        "truncate" => truncate(args),
        "pad" => pad(args),
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn count_error(name: &str, want: &str, got: usize) -> String {
    format!("wrong number of args for {name}: want {want} got {got}")
}

fn type_error(name: &str, want: &str, got: &Value) -> String {
    format!(
        "wrong type for value in call of {name}; expected {want}; got {}",
        got.kind()
    )
}

fn exactly<const N: usize>(name: &str, args: Vec<Value>) -> Result<[Value; N], String> {
    let got = args.len();
    args.try_into()
        .map_err(|_| count_error(name, &N.to_string(), got))
}

fn one(name: &str, args: Vec<Value>) -> Result<Value, String> {
    exactly::<1>(name, args).map(|[value]| value)
}

fn two(name: &str, args: Vec<Value>) -> Result<(Value, Value), String> {
    exactly::<2>(name, args).map(|[first, second]| (first, second))
}

fn text(name: &str, value: Value) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text),
        // A string that is not there is Go's empty one.
        Value::Nil(NilKind::Missing) => Ok(String::new()),
        other => Err(type_error(name, "string", &other)),
    }
}

fn one_text(name: &str, args: Vec<Value>) -> Result<String, String> {
    text(name, one(name, args)?)
}

fn int(name: &str, value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(number) => usize::try_from(*number)
            .map_err(|_| format!("error calling {name}: index out of range: {number}")),
        other => Err(type_error(name, "int", other)),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        Value::Nil(NilKind::List | NilKind::Map) => 0,
        other => return Err(format!("error calling len: len of type {}", other.kind())),
    };
    Ok(Value::Int(length as i64))
}

fn index(args: Vec<Value>) -> Result<Value, String> {
    let mut args = args.into_iter();
    let mut value = args
        .next()
        .ok_or_else(|| count_error("index", "at least 1", 0))?;
    for key in args {
        value = match value {
            Value::List(mut items) => {
                let position = int("index", &key)?;
                if position >= items.len() {
                    return Err(format!(
                        "error calling index: index out of range: {position}"
                    ));
                }
                items.swap_remove(position)
            }
            Value::Map(mut entries) => {
                let name = text("index", key)?;
                entries
                    .remove(&name)
                    .unwrap_or(Value::Nil(NilKind::Missing))
            }
            Value::Text(whole) => {
                let position = int("index", &key)?;
                let byte = whole.as_bytes().get(position).ok_or_else(|| {
                    format!("error calling index: index out of range: {position}")
                })?;
                Value::Int(i64::from(*byte))
            }
            Value::Nil(NilKind::Map) => Value::Nil(NilKind::Missing),
            Value::Nil(NilKind::List) => {
                return Err(format!("error calling index: index out of range: {key}"));
            }
            Value::Nil(_) => return Err("error calling index: index of untyped nil".into()),
            other => {
                return Err(format!(
                    "error calling index: can't index item of type {}",
                    other.kind()
                ));
            }
        };
    }
    Ok(value)
}

fn slice(args: Vec<Value>) -> Result<Value, String> {
    let mut args = args.into_iter();
    let whole = args
        .next()
        .ok_or_else(|| count_error("slice", "at least 1", 0))?;
    let bounds: Vec<usize> = args
        .map(|bound| int("slice", &bound))
        .collect::<Result<_, _>>()?;
    if bounds.len() > 2 {
        return Err("error calling slice: too many slice indexes".into());
    }
    let Value::Int(length) = length(&whole)? else {
        return Ok(whole);
    };
    let start = bounds.first().copied().unwrap_or(0);
    let end = bounds.get(1).copied().unwrap_or(length as usize);
    let out_of_range = || format!("error calling slice: index out of range: {start}:{end}");
    match whole {
        Value::Text(text) => text
            .get(start..end)
            .map(Value::from)
            .ok_or_else(out_of_range),
        Value::List(items) => items
            .get(start..end)
            .map(|part| Value::List(part.to_vec()))
            .ok_or_else(out_of_range),
        other => Err(format!(
            "error calling slice: can't slice item of type {}",
            other.kind()
        )),
    }
}

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Nil(_), Value::Nil(_)) => Ok(true),
        // A missing string equals the empty one, as Go's zero values do.
        (Value::Nil(_), Value::Text(text)) | (Value::Text(text), Value::Nil(_)) => {
            Ok(text.is_empty())
        }
        (Value::Nil(_), _) | (_, Value::Nil(_)) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            Ok(number(left) == number(right))
        }
        _ => Err("error calling eq: incompatible types for comparison".into()),
    }
}

fn equal_to_any(args: &[Value]) -> Result<Value, String> {
    let (first, rest) = match args {
        [first, rest @ ..] if !rest.is_empty() => (first, rest),
        _ => return Err("error calling eq: missing argument for comparison".into()),
    };
    for other in rest {
        if equal(first, other)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Go compares large numbers no better here"
)]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn compare(name: &str, args: Vec<Value>, wanted: &[Ordering]) -> Result<Value, String> {
    let (left, right) = two(name, args)?;
    let ordering = match (&left, &right) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        _ => match (number(&left), number(&right)) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => {
                return Err(format!(
                    "error calling {name}: incompatible types for comparison"
                ));
            }
        },
    };
    Ok(ordering
        .is_some_and(|ordering| wanted.contains(&ordering))
        .into())
}

fn join(args: Vec<Value>) -> Result<Value, String> {
    let (list, separator) = two("join", args)?;
    let separator = text("join", separator)?;
    match list {
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            Ok(items.join(&separator).into())
        }
        Value::Nil(_) => Ok("".into()),
        other => Err(type_error("join", "[]string", &other)),
    }
}

fn split(whole: &str, separator: &str) -> Vec<String> {
    if separator.is_empty() {
        return whole.chars().map(String::from).collect();
    }
    whole.split(separator).map(str::to_owned).collect()
}

fn title(text: &str) -> String {
    let mut at_start = true;
    text.chars()
        .flat_map(|letter| {
            let upper = at_start;
            at_start = !(letter.is_alphanumeric() || letter == '_' || letter == '\'');
            let letters: Vec<char> = if upper {
                letter.to_uppercase().collect()
            } else {
                vec![letter]
            };
            letters
        })
        .collect()
}

fn truncate(args: Vec<Value>) -> Result<Value, String> {
    let (whole, length) = two("truncate", args)?;
    let (whole, length) = (text("truncate", whole)?, int("truncate", &length)?);
    Ok(whole.chars().take(length).collect::<String>().into())
}

fn pad(args: Vec<Value>) -> Result<Value, String> {
    let [whole, before, after] = exactly::<3>("pad", args)?;
    let (whole, before, after) = (
        text("pad", whole)?,
        int("pad", &before)?,
        int("pad", &after)?,
    );
    if whole.is_empty() {
        return Ok(whole.into());
    }
    // Nobody pads wider than a screen; a slip must not fill the memory.
    let blanks = |count: usize| " ".repeat(count.min(10_000));
    Ok(format!("{}{whole}{}", blanks(before), blanks(after)).into())
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

fn escape_query(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(NAMES.is_sorted());
        assert!(exists("json") && exists("and") && exists("urlquery") && !exists("call"));
    }
}
