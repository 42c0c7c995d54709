//! Two builds of the same thing beside each other: where their images first differ.

use rbuild_cache::{LayerDifference, Store};

use crate::error::BuildError;
use crate::image::ImageConfig;
use crate::output::Finished;

/// How two images of one platform differ.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ImageDifference {
    /// In a layer: the lowest one that differs.
    Layer {
        /// The instruction that made it, as the history has it.
        step: String,
        /// Which layer it is, counted from 1.
        number: usize,
        /// How many layers there are.
        of: usize,
        /// Its first files that differ.
        files: Vec<LayerDifference>,
        /// How many more files differ.
        more: usize,
        /// How many layers above it differ, too.
        above: usize,
    },
    /// One image has more layers than the other.
    LayerCount(usize, usize),
    /// In a field of the config, such as `config.Env` or `history[2].created`.
    Config {
        /// The path of the field.
        field: String,
        /// Its value in the first image, as JSON; none if it is not there.
        first: Option<String>,
        /// Its value in the second image.
        second: Option<String>,
    },
}

/// The first difference of two images; none if they are the same.
///
/// `named` is the number of files that are named.
pub fn compare_images(
    store: &Store,
    first: &Finished,
    second: &Finished,
    named: usize,
) -> Result<Option<ImageDifference>, BuildError> {
    let (a, b) = (&first.layers, &second.layers);
    let differs = |index: &usize| a.get(*index) != b.get(*index);
    if a.len() != b.len() {
        return Ok(Some(ImageDifference::LayerCount(a.len(), b.len())));
    }
    let mut differing = (0..a.len()).filter(differs);
    let Some(index) = differing.next() else {
        return Ok(config_difference(&first.config, &second.config));
    };
    let (mut files, mut more) = (Vec::new(), 0);
    store
        .compare_layers(&a[index], &b[index], &mut |difference| {
            if files.len() < named {
                files.push(difference);
            } else {
                more += 1;
            }
            true
        })
        .map_err(|error| BuildError::io("could not compare two layers", &error))?;
    let history = &first.config.history;
    let mut with_layer = history.iter().filter(|entry| !entry.empty_layer);
    let step = with_layer.nth(index);
    Ok(Some(ImageDifference::Layer {
        step: step.map_or_else(String::new, |entry| entry.created_by.clone()),
        number: index + 1,
        of: a.len(),
        files,
        more,
        above: differing.count(),
    }))
}

/// The first field in which two configs differ.
fn config_difference(first: &ImageConfig, second: &ImageConfig) -> Option<ImageDifference> {
    let parse = |config: &ImageConfig| serde_json::from_slice(&config.to_bytes()).ok();
    let (a, b): (serde_json::Value, serde_json::Value) = (parse(first)?, parse(second)?);
    value_difference(String::new(), Some(&a), Some(&b))
}

fn value_difference(
    field: String,
    first: Option<&serde_json::Value>,
    second: Option<&serde_json::Value>,
) -> Option<ImageDifference> {
    use serde_json::Value;
    match (first, second) {
        (first, second) if first == second => None,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.into_iter().find_map(|name| {
                let dot = if field.is_empty() { "" } else { "." };
                value_difference(format!("{field}{dot}{name}"), a.get(name), b.get(name))
            })
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => (0..a.len().max(b.len()))
            .find_map(|i| value_difference(format!("{field}[{i}]"), a.get(i), b.get(i))),
        (first, second) => Some(ImageDifference::Config {
            field,
            first: first.map(Value::to_string),
            second: second.map(Value::to_string),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_is_named() {
        let a = serde_json::json!({"config": {"Env": ["A=1", "B=2"]}, "os": "linux"});
        let b = serde_json::json!({"config": {"Env": ["A=1", "B=3"]}, "os": "linux", "z": 1});
        let Some(ImageDifference::Config {
            field,
            first,
            second,
        }) = value_difference(String::new(), Some(&a), Some(&b))
        else {
            panic!("they differ");
        };
        assert_eq!(field, "config.Env[1]");
        assert_eq!(
            (first.as_deref(), second.as_deref()),
            (Some("\"B=2\""), Some("\"B=3\""))
        );
        assert!(value_difference(String::new(), Some(&a), Some(&a)).is_none());
    }
}
