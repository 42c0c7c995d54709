//! `--ssh`.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rbuild_builder::request::SshSource;

use crate::failure::Failure;

/// Parses the values of `--ssh`: `ID`, `ID=SOCKET` or `ID=KEY[,KEY…]`. `agent` is the user's own.
pub(in crate::commands) fn parse(
    values: &[String],
    agent: Option<&Path>,
) -> Result<BTreeMap<String, SshSource>, Failure> {
    let mut sources = BTreeMap::new();
    for value in values {
        let (id, paths) = value.split_once('=').unwrap_or((value, ""));
        let id = if id.is_empty() { "default" } else { id };
        let source = if paths.is_empty() {
            let socket = agent.ok_or_else(|| {
                Failure::new(format!(
                    "invalid empty ssh agent socket for `--ssh {value}`: make sure SSH_AUTH_SOCK is set"
                ))
                .hint("start an agent with `eval $(ssh-agent)`, or give a key: `--ssh default=FILE`")
            })?;
            SshSource::Agent(socket.to_path_buf())
        } else {
            of_paths(value, paths)?
        };
        if sources.insert(id.to_owned(), source).is_some() {
            return Err(Failure::new(format!("duplicate ssh id {id:?}")));
        }
    }
    Ok(sources)
}

/// One socket, or any number of keys.
fn of_paths(value: &str, paths: &str) -> Result<SshSource, Failure> {
    let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
    let mut sockets = 0;
    for path in &paths {
        let metadata = std::fs::metadata(path).map_err(|error| {
            Failure::new(format!(
                "could not use `{}` for `--ssh {value}`",
                path.display()
            ))
            .because(&error)
        })?;
        sockets += usize::from(metadata.file_type().is_socket());
    }
    match (sockets, paths.as_slice()) {
        (0, _) => Ok(SshSource::Keys(paths)),
        (1, [socket]) => Ok(SshSource::Agent(socket.clone())),
        _ => Err(Failure::new(format!(
            "invalid value `--ssh {value}`: a socket stands alone"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &str, agent: Option<&str>) -> Result<(String, SshSource), String> {
        parse(&[value.to_owned()], agent.map(Path::new))
            .map(|mut sources| sources.pop_first().unwrap())
            .map_err(|failure| failure.message.unwrap())
    }

    #[test]
    fn sources_are_agents_or_keys() {
        let agent = SshSource::Agent("/agent".into());
        assert_eq!(
            one("default", Some("/agent")).unwrap(),
            ("default".to_owned(), agent.clone())
        );
        assert_eq!(one("x", Some("/agent")).unwrap(), ("x".to_owned(), agent));
        assert!(one("default", None).unwrap_err().contains("SSH_AUTH_SOCK"));
        let directory = tempfile::tempdir().unwrap();
        let (key, socket) = (directory.path().join("k"), directory.path().join("s"));
        std::fs::write(&key, "").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let (key_text, socket_text) = (key.display(), socket.display());
        assert_eq!(
            one(&format!("a={key_text},{key_text}"), None).unwrap().1,
            SshSource::Keys(vec![key.clone(), key.clone()])
        );
        assert_eq!(
            one(&format!("a={socket_text}"), None).unwrap().1,
            SshSource::Agent(socket.clone())
        );
        assert!(one(&format!("a={socket_text},{key_text}"), None).is_err());
        assert!(one("a=/no/such/file", None).is_err());
    }
}
