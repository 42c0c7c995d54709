//! What a template sees: a value tree that prints and serialises as Go's would.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};

/// Which of Go's nothings a [`Value::Nil`] is; they print differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NilKind {
    /// An entry that a map does not have.
    Missing,
    /// A nil pointer, such as an image without health check.
    Pointer,
    /// A nil slice, such as an image without entrypoint.
    List,
    /// A nil map, such as an image without labels.
    Map,
}

/// A field that is called with a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    /// The value of the label with this name; empty if there is none.
    Label(BTreeMap<String, String>),
    /// The title of a column that shows the label with this name.
    LabelTitle,
}

impl Method {
    /// What it says to `text`.
    pub(crate) fn call(&self, text: &str) -> String {
        match self {
            Method::Label(labels) => labels.get(text).cloned().unwrap_or_default(),
            // As Docker: `com.example.some-name` is `some name`.
            Method::LabelTitle => {
                let last = text.rsplit('.').next().unwrap_or_default();
                last.replace(['-', '_'], " ")
            }
        }
    }
}

/// A value that templates work on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing; `null` in JSON.
    Nil(NilKind),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(String),
    /// A sequence.
    List(Vec<Value>),
    /// Entries by name, sorted; asking for another name gives nothing.
    Map(BTreeMap<String, Value>),
    /// What is only there to be called; no JSON has it.
    Method(Method),
    /// Fixed fields in their order; asking for another one is an error.
    Struct(Vec<(&'static str, Value)>),
}

impl Value {
    /// Returns a list of strings, nil if there are none: what Go makes of an absent JSON array.
    pub(crate) fn strings<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Value {
        let items: Vec<Value> = items
            .into_iter()
            .map(|item| Value::Text(item.into()))
            .collect();
        if items.is_empty() {
            Value::Nil(NilKind::List)
        } else {
            Value::List(items)
        }
    }

    /// Says whether a condition on this value holds: non-zero and not empty.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Nil(_) => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(value) => !value.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            Value::Struct(_) | Value::Method(_) => true,
        }
    }

    /// Names the kind of the value for error messages, in Go's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Nil(_) => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(_) => "slice",
            Value::Map(_) => "map",
            Value::Struct(_) => "struct",
            Value::Method(_) => "func",
        }
    }

    /// Returns the value as compact JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a value tree always serialises")
    }

    /// Returns the value as JSON indented by four blanks, as `docker inspect` prints it.
    pub(crate) fn to_pretty_json(&self) -> String {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.serialize(&mut serializer)
            .expect("a value tree always serialises");
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Nil(NilKind::Pointer),
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(Value::from).collect())
            }
            serde_json::Value::Object(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(name, value)| (name, Value::from(value)))
                    .collect(),
            ),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Nil(_) | Value::Method(_) => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    sequence.serialize_element(item)?;
                }
                sequence.end()
            }
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Value::Struct(fields) => {
                let shown = |(_, value): &&(&str, Value)| !matches!(value, Value::Method(_));
                let count = fields.iter().filter(shown).count();
                let mut map = serializer.serialize_map(Some(count))?;
                for (name, value) in fields.iter().filter(shown) {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Prints as Go's `%v` does.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil(NilKind::Missing) => f.write_str("<no value>"),
            Value::Nil(NilKind::Pointer) => f.write_str("<nil>"),
            Value::Nil(NilKind::List) => f.write_str("[]"),
            Value::Nil(NilKind::Map) => f.write_str("map[]"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => f.write_str(&shortest_float(*value)),
            Value::Text(text) => f.write_str(text),
            Value::Method(_) => Ok(()),
            Value::List(items) => separated(f, "[", items.iter(), "]"),
            Value::Struct(fields) => separated(f, "{", fields.iter().map(|(_, value)| value), "}"),
            Value::Map(entries) => {
                f.write_str("map[")?;
                for (index, (name, value)) in entries.iter().enumerate() {
                    let blank = if index == 0 { "" } else { " " };
                    write!(f, "{blank}{name}:{value}")?;
                }
                f.write_char(']')
            }
        }
    }
}

fn separated<'a>(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: impl Iterator<Item = &'a Value>,
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.enumerate() {
        let blank = if index == 0 { "" } else { " " };
        write!(f, "{blank}{item}")?;
    }
    f.write_str(close)
}

/// Prints a float as Go's `%v`: the shortest text that reads back, with an exponent when large.
pub(crate) fn shortest_float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) && value.is_finite() {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_in_go() {
        let map = BTreeMap::from([
            ("b".to_owned(), Value::Int(2)),
            ("a".to_owned(), Value::strings(["x", "y"])),
        ]);
        assert_eq!(Value::Map(map.clone()).to_string(), "map[a:[x y] b:2]");
        let fields = Value::Struct(vec![("Z", Value::Bool(true)), ("A", Value::Map(map))]);
        assert_eq!(fields.to_string(), "{true map[a:[x y] b:2]}");
        assert_eq!(fields.to_json(), r#"{"Z":true,"A":{"a":["x","y"],"b":2}}"#);
        assert_eq!(Value::Nil(NilKind::Missing).to_string(), "<no value>");
        assert_eq!(Value::strings::<String>([]).to_string(), "[]");
        assert_eq!(Value::strings::<String>([]).to_json(), "null");
    }

    #[test]
    fn floats_print_as_in_go() {
        for (value, text) in [
            (1.0, "1"),
            (2.5, "2.5"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-07"),
            (100_000.0, "100000"),
        ] {
            assert_eq!(shortest_float(value), text);
        }
    }
}
