//! The environment of a container: the image's, changed by `-e` and `--env-file`.

use std::path::Path;

use crate::env;
use crate::failure::Failure;

/// `PATH` of an image that does not set it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The variable gets a value.
    Set(String, String),
    /// The variable is taken away: it was named without a value and is not set here.
    Remove(String),
}

/// Parses `-e NAME=VALUE` or `-e NAME`.
pub(crate) fn parse(text: &str) -> Result<Change, Failure> {
    if text.is_empty() || text.starts_with('=') {
        return Err(Failure::new(format!(
            "invalid environment variable: {text}"
        )));
    }
    if let Some((name, value)) = text.split_once('=') {
        return Ok(Change::Set(name.to_owned(), value.to_owned()));
    }
    Ok(match env::by_name(text) {
        Some(value) => Change::Set(text.to_owned(), value.to_string_lossy().into_owned()),
        None => Change::Remove(text.to_owned()),
    })
}

/// Parses a file of `NAME=VALUE` and `NAME` lines; lines that begin with `#` are comments.
///
/// A variable of which there is nothing here is passed over, other than with `-e`.
pub(crate) fn parse_file(path: &Path) -> Result<Vec<Change>, Failure> {
    let failed = |reason: String| {
        Failure::new(format!(
            "could not use the environment file `{}`: {reason}",
            path.display()
        ))
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| failed(crate::failure::io_text(&error)))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut changes = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or(line);
        if name.trim_end().contains(char::is_whitespace) || name.ends_with(char::is_whitespace) {
            return Err(failed(format!("variable '{name}' contains whitespaces")));
        }
        if name.is_empty() {
            return Err(failed(format!("no variable name on line '{line}'")));
        }
        match parse(line)? {
            Change::Remove(_) => {}
            change @ Change::Set(..) => changes.push(change),
        }
    }
    Ok(changes)
}

/// What the environment is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment<'a> {
    /// `ENV` of the image.
    pub(crate) image: &'a [String],
    /// Changes, in order.
    pub(crate) changes: &'a [Change],
    /// Host name of the container.
    pub(crate) hostname: &'a str,
    /// Home of its user.
    pub(crate) home: &'a str,
    /// It has a terminal.
    pub(crate) terminal: bool,
}

impl Environment<'_> {
    /// The whole environment as `NAME=VALUE`.
    pub(crate) fn build(&self) -> Vec<String> {
        let mut variables: Vec<(String, String)> = Vec::new();
        set(&mut variables, "PATH", DEFAULT_PATH);
        set(&mut variables, "HOSTNAME", self.hostname);
        if self.terminal {
            set(&mut variables, "TERM", "xterm");
        }
        for variable in self.image {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            set(&mut variables, name, value);
        }
        for change in self.changes {
            match change {
                Change::Set(name, value) => set(&mut variables, name, value),
                Change::Remove(name) => variables.retain(|(known, _)| known != name),
            }
        }
        if !variables.iter().any(|(name, _)| name == "HOME") {
            set(&mut variables, "HOME", self.home);
        }
        variables
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// The variables of an image with the changes that were asked for, without those that a container has
/// anyway.
pub(crate) fn changed(image: &[String], changes: &[Change]) -> Vec<String> {
    let mut variables = image.to_vec();
    for change in changes {
        let (Change::Set(name, _) | Change::Remove(name)) = change;
        let prefix = format!("{name}=");
        let place = variables
            .iter()
            .position(|known| known.starts_with(&prefix));
        match (change, place) {
            (Change::Set(_, value), Some(place)) => variables[place] = prefix + value,
            (Change::Set(_, value), None) => variables.push(prefix + value),
            (Change::Remove(_), Some(place)) => drop(variables.remove(place)),
            (Change::Remove(_), None) => {}
        }
    }
    variables
}

fn set(variables: &mut Vec<(String, String)>, name: &str, value: &str) {
    match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => variables.push((name.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned(), "B=2".to_owned()];
        let changes = [
            Change::Set("A".into(), "x=y".into()),
            Change::Remove("B".into()),
            Change::Set("C".into(), String::new()),
        ];
        let environment = Environment {
            image: &image,
            changes: &changes,
            hostname: "h",
            home: "/root",
            terminal: true,
        };
        assert_eq!(
            environment.build(),
            [
                "PATH=/bin",
                "HOSTNAME=h",
                "TERM=xterm",
                "A=x=y",
                "C=",
                "HOME=/root"
            ]
        );
    }

    #[test]
    fn files_have_comments_and_bare_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# no\n\n  A=1 2\nB=\nRBUILD_SURELY_UNSET\n").unwrap();
        assert_eq!(
            parse_file(file.path()).unwrap(),
            [
                Change::Set("A".into(), "1 2".into()),
                Change::Set("B".into(), String::new())
            ]
        );
        for (text, want) in [
            ("A B=1", "contains whitespaces"),
            ("=x", "no variable name"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let message = parse_file(file.path()).unwrap_err().message.unwrap();
            assert!(message.contains(want), "{message}");
        }
    }
}
