//! `--secret`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use rbuild_builder::request::SecretSource;

use crate::csv;
use crate::failure::Failure;

/// Largest secret in bytes.
const LARGEST: u64 = 500 * 1024;

/// Looks variables up.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// As [`parse`], with the variables of our own environment.
pub(in crate::commands) fn from_environment(
    values: &[String],
) -> Result<BTreeMap<String, SecretSource>, Failure> {
    parse(values, &|name| crate::env::by_name(name))
}

/// Parses the values of `--secret`; a secret whose variable is not set is left out.
pub(super) fn parse(
    values: &[String],
    variables: Variables<'_>,
) -> Result<BTreeMap<String, SecretSource>, Failure> {
    let mut secrets = BTreeMap::new();
    for value in values {
        let failed = |reason: String| Failure::new(format!("invalid secret `{value}`: {reason}"));
        let secret = Secret::parse(value).map_err(failed)?;
        if let Some(source) = secret.source(variables)? {
            secrets.insert(secret.id, source);
        }
    }
    Ok(secrets)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Secret {
    id: String,
    file: Option<String>,
    variable: Option<String>,
}

impl Secret {
    fn parse(value: &str) -> Result<Secret, String> {
        let mut secret = Secret::default();
        let mut from_variable = false;
        for field in csv::fields(value).map_err(|error| error.to_string())? {
            let Some((key, value)) = field.split_once('=') else {
                return Err(format!("invalid field '{field}' must be a key=value pair"));
            };
            match key.to_ascii_lowercase().as_str() {
                "id" => value.clone_into(&mut secret.id),
                "src" | "source" => secret.file = Some(value.to_owned()),
                "env" => secret.variable = Some(value.to_owned()),
                "type" if value == "file" => {}
                "type" if value == "env" => from_variable = true,
                "type" => return Err(format!("unsupported secret type {value:?}")),
                _ => return Err(format!("unexpected key '{key}' in '{field}'")),
            }
        }
        if from_variable && secret.variable.is_none() {
            secret.variable = secret.file.take();
        }
        if secret.id.is_empty() {
            return Err("secret missing ID".to_owned());
        }
        Ok(secret)
    }

    /// Where the secret is; none if its variable is not set.
    fn source(&self, variables: Variables<'_>) -> Result<Option<SecretSource>, Failure> {
        if let Some(name) = &self.variable {
            return Ok(variables(name).map(|value| SecretSource::Value(bytes(value))));
        }
        if self.file.is_none()
            && let Some(value) = variables(&self.id)
        {
            return Ok(Some(SecretSource::Value(bytes(value))));
        }
        let path = PathBuf::from(self.file.as_deref().unwrap_or(&self.id));
        let metadata = std::fs::metadata(&path).map_err(|error| {
            Failure::new(format!(
                "failed to read secret `{}` from `{}`",
                self.id,
                path.display()
            ))
            .because(&error)
        })?;
        if metadata.is_file() && metadata.len() > LARGEST {
            return Err(Failure::new(format!(
                "invalid secret `{}`: `{}` is larger than 500 KB",
                self.id,
                path.display()
            )));
        }
        Ok(Some(SecretSource::File(path)))
    }
}

fn bytes(value: OsString) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(value: &str) -> Result<BTreeMap<String, SecretSource>, String> {
        let variables = |name: &str| (name == "TOKEN").then(|| OsString::from("value"));
        parse(&[value.to_owned()], &variables).map_err(|failure| failure.message.unwrap())
    }

    fn is_value(secrets: &BTreeMap<String, SecretSource>, id: &str) -> bool {
        matches!(secrets.get(id), Some(SecretSource::Value(value)) if value == b"value")
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        assert!(is_value(&secrets("id=a,env=TOKEN").unwrap(), "a"));
        assert!(is_value(&secrets("id=a,type=env,src=TOKEN").unwrap(), "a"));
        assert!(is_value(&secrets("id=TOKEN").unwrap(), "TOKEN"));
        assert!(secrets("id=a,env=UNSET").unwrap().is_empty());
        let file = tempfile::NamedTempFile::new().unwrap();
        let value = format!("id=TOKEN,src={}", file.path().display());
        assert!(matches!(
            secrets(&value).unwrap()["TOKEN"],
            SecretSource::File(_)
        ));
    }

    #[test]
    fn mistakes_are_told() {
        for (value, want) in [
            ("src=x", "secret missing ID"),
            ("id=a,type=b", "unsupported secret type \"b\""),
            ("id=a,x=y", "unexpected key 'x' in 'x=y'"),
            ("a", "invalid field 'a' must be a key=value pair"),
            (
                "id=a,src=/no/such/file",
                "failed to read secret `a` from `/no/such/file`",
            ),
        ] {
            let message = secrets(value).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST + 1).unwrap();
        let message = secrets(&format!("id=a,src={}", file.path().display())).unwrap_err();
        assert!(message.contains("larger than 500 KB"), "{message}");
    }
}
