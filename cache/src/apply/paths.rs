//! Names in archives.

use crate::error::StoreError;
use crate::tar_read::entry_error;

/// The components of a name; `..` takes one back and never leaves the root.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<&[u8]>, StoreError> {
    let mut names = Vec::new();
    for part in parts(name)? {
        if part == b".." {
            names.pop();
        } else {
            names.push(part);
        }
    }
    Ok(names)
}

/// The components of a name that must not hold `..`.
pub(super) fn strict(name: &[u8]) -> Result<Vec<&[u8]>, StoreError> {
    let names: Vec<&[u8]> = parts(name)?.collect();
    if names.contains(&b"..".as_slice()) {
        return Err(entry_error(
            name,
            "its name leads out of the layer".to_owned(),
        ));
    }
    Ok(names)
}

fn parts(name: &[u8]) -> Result<impl Iterator<Item = &[u8]>, StoreError> {
    if name.is_empty() {
        return Err(entry_error(name, "it has no name".to_owned()));
    }
    if name.contains(&0) {
        return Err(entry_error(name, "its name holds a NUL byte".to_owned()));
    }
    Ok(name
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b"."))
}
