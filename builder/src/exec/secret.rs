//! The values of `--secret`.

use std::io::Read;

use crate::error::BuildError;
use crate::request::SecretSource;

/// Largest secret in bytes, as `BuildKit`'s.
const LIMIT: u64 = 500 * 1024;

/// Reads a secret at the moment of its use.
pub(crate) fn read_secret(id: &str, source: &SecretSource) -> Result<Vec<u8>, BuildError> {
    let content = match source {
        SecretSource::Value(value) => value.clone(),
        SecretSource::File(path) => {
            let mut content = Vec::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut content))
                .map_err(|error| {
                    let path = path.display();
                    BuildError::io(
                        format!("could not read the secret {id:?} from `{path}`"),
                        &error,
                    )
                })?;
            content
        }
    };
    if content.len() as u64 > LIMIT {
        return Err(BuildError::user(format!(
            "secret {id:?} is larger than {} KiB",
            LIMIT / 1024
        )));
    }
    Ok(content)
}
