//! What runs in a container: command, environment, user and directory.

use std::ffi::OsString;
use std::path::PathBuf;

use rbuild_builder::image::ContainerConfig;
use rbuild_builder::users::{Accounts, lookup_user};
use rbuild_cache::RootView;
use rbuild_runtime::{Process, User};

use super::Options;
use super::environment::Environment;
use crate::failure::Failure;

/// What runs: the image's settings, changed by the options.
pub(super) fn process(
    view: &RootView,
    options: &Options,
    config: &ContainerConfig,
    hostname: &str,
) -> Result<Process, Failure> {
    let spec = options.user.as_deref().unwrap_or(&config.user);
    let mut user = lookup_user(view, spec)?;
    for group in &options.groups {
        let id = Accounts::read(view)?
            .group(group)
            .or_else(|| group.parse().ok());
        let id = id.filter(|id| i32::try_from(*id).is_ok()).ok_or_else(|| {
            Failure::new(format!(
                "unable to find group {group}: no matching entries in group file"
            ))
        })?;
        if !user.groups.contains(&id) {
            user.groups.push(id);
        }
    }
    let environment = Environment {
        image: &config.env,
        changes: &options.environment,
        hostname,
        home: &user.home,
        terminal: options.terminal,
    };
    Ok(Process {
        args: command_line(options, config)?,
        env: environment
            .build()
            .into_iter()
            .map(OsString::from)
            .collect(),
        cwd: workdir(options, config)?,
        user: User {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
        },
        terminal: options.terminal,
    })
}

fn command_line(options: &Options, config: &ContainerConfig) -> Result<Vec<OsString>, Failure> {
    let words = |words: &Option<Vec<String>>| -> Vec<OsString> {
        words.iter().flatten().map(OsString::from).collect()
    };
    let mut args = match options.entrypoint.as_deref() {
        None => words(&config.entrypoint),
        Some("") => Vec::new(),
        Some(entrypoint) => vec![entrypoint.into()],
    };
    if !options.command.is_empty() {
        args.extend(options.command.iter().cloned());
    } else if options.entrypoint.is_none() {
        args.extend(words(&config.cmd));
    }
    if args.is_empty() {
        return Err(Failure::new("no command specified")
            .hint("the image has neither ENTRYPOINT nor CMD: name a command behind the image"));
    }
    Ok(args)
}

fn workdir(options: &Options, config: &ContainerConfig) -> Result<PathBuf, Failure> {
    let workdir = options.workdir.as_deref().unwrap_or(&config.working_dir);
    match workdir {
        "" => Ok(PathBuf::from("/")),
        absolute if absolute.starts_with('/') => Ok(PathBuf::from(absolute)),
        relative => Err(Failure::new(format!(
            "the working directory {relative:?} is invalid, it needs to be an absolute path"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(entrypoint: Option<&str>, command: &[&str], want: &[&str]) {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let config = ContainerConfig {
            entrypoint: words(&["e1", "e2"]),
            cmd: words(&["c"]),
            ..ContainerConfig::default()
        };
        let options = Options {
            entrypoint: entrypoint.map(str::to_owned),
            command: command.iter().map(OsString::from).collect(),
            ..Options::default()
        };
        assert_eq!(command_line(&options, &config).unwrap_or_default(), want);
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_docker() {
        check(None, &[], &["e1", "e2", "c"]);
        check(None, &["x", "y"], &["e1", "e2", "x", "y"]);
        check(Some("n"), &[], &["n"]);
        check(Some("n"), &["x"], &["n", "x"]);
        check(Some(""), &["x"], &["x"]);
        check(Some(""), &[], &[]);
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let config = ContainerConfig::default();
        assert_eq!(
            workdir(&Options::default(), &config).unwrap(),
            Path::new("/")
        );
        let relative = Options {
            workdir: Some("a/b".into()),
            ..Options::default()
        };
        assert!(workdir(&relative, &config).is_err());
    }
}
