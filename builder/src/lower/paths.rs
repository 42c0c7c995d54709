//! Paths of a stage, as text: nothing is looked up.

/// The absolute form of a path in a stage: joined to the working directory when relative.
///
/// Cleaned, except that a trailing `/` or `/.` is kept as a trailing slash.
pub(super) fn absolute(workdir: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{workdir}/{path}")
    };
    let mut clean = clean_path(&joined);
    let directory = path.ends_with('/') || path.ends_with("/.") || path == "." || path.is_empty();
    if directory && clean != "/" {
        clean.push('/');
    }
    clean
}

/// Lexical cleaning of an absolute path, as Go's `path.Clean`.
pub(super) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_a_trailing_slash() {
        assert_eq!(absolute("/w", "sub/"), "/w/sub/");
        assert_eq!(absolute("/w", "../up"), "/up");
        assert_eq!(absolute("/w", "."), "/w/");
        assert_eq!(absolute("/w", "./f2"), "/w/f2");
        assert_eq!(absolute("/", "./"), "/");
        assert_eq!(absolute("/", "/t/."), "/t/");
        assert_eq!(absolute("/", "/x/../y/z"), "/y/z");
    }
}
