//! Changes of a config outside of a build: `import --change`, one Dockerfile instruction each.

use rbuild_parser::{
    CommandForm, Instruction, InstructionKind, KeyValues, check_signal, expand, expand_words,
    parse, parse_port_spec,
};

use super::config::{ContainerConfig, HealthConfig};
use super::error::ImageError;
use crate::scope::VariableList;

/// Applies the changes in order; none if one of them is wrong.
pub(crate) fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<(), ImageError> {
    let mut changed = config.clone();
    for change in changes {
        apply_one(&mut changed, change).map_err(|reason| ImageError::Change {
            change: change.escape_debug().to_string(),
            reason,
        })?;
    }
    *config = changed;
    Ok(())
}

fn apply_one(config: &mut ContainerConfig, change: &str) -> Result<(), String> {
    let parsed = parse(format!("FROM scratch\n{change}\n").as_bytes());
    if let Some(diagnostic) = parsed.diagnostics.first() {
        return Err(diagnostic.message.clone());
    }
    let mut instructions = parsed
        .dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions);
    match (
        instructions.next(),
        instructions.next(),
        parsed.dockerfile.stages.len(),
    ) {
        (Some(only), None, 1) => instruction(config, only),
        (None, ..) => Err("it is empty".to_owned()),
        _ => Err("it has to be a single instruction".to_owned()),
    }
}

fn instruction(config: &mut ContainerConfig, instruction: &Instruction) -> Result<(), String> {
    let variables = VariableList::from_env(&config.env);
    let expanded = |word: &str| {
        expand(word, '\\', &variables)
            .map(|expansion| expansion.value)
            .map_err(|error| error.to_string())
    };
    match &instruction.kind {
        InstructionKind::Cmd(form) => {
            config.cmd = Some(arguments(config, form)).filter(|list| !list.is_empty());
            config.args_escaped = true;
        }
        InstructionKind::Entrypoint(form) => {
            config.entrypoint = Some(arguments(config, form)).filter(|list| !list.is_empty());
        }
        InstructionKind::Env(pairs) => {
            for (name, value) in expand_pairs(pairs, &expanded)? {
                set_env(&mut config.env, &name, &value);
            }
        }
        InstructionKind::Label(pairs) => config.labels.extend(expand_pairs(pairs, &expanded)?),
        InstructionKind::Expose(words) => {
            for word in words {
                let (specs, _) = expand_words(&word.value, '\\', &variables)
                    .map_err(|error| error.to_string())?;
                for spec in specs {
                    config.exposed_ports.extend(parse_port_spec(&spec)?.ports);
                }
            }
        }
        InstructionKind::User(word) => config.user = expanded(&word.value)?,
        InstructionKind::Volume(words) => {
            for word in words {
                let volume = expanded(&word.value)?;
                if volume.is_empty() {
                    return Err("VOLUME specified can not be an empty string".to_owned());
                }
                config.volumes.insert(volume);
            }
        }
        InstructionKind::Workdir(word) => {
            let path = expanded(&word.value)?;
            config.working_dir = joined(&config.working_dir, &path);
        }
        InstructionKind::StopSignal(word) => {
            let signal = expanded(&word.value)?;
            check_signal(&signal)?;
            config.stop_signal = Some(signal);
        }
        InstructionKind::Healthcheck(check) => config.healthcheck = Some(HealthConfig::from(check)),
        InstructionKind::Onbuild(trigger) => config.on_build.push(trigger.value.clone()),
        other => return Err(format!("{} is not a valid change command", other.name())),
    }
    Ok(())
}

/// Names and values, all expanded before the first one is set.
fn expand_pairs(
    pairs: &KeyValues,
    expanded: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let pair = |(name, value): &(rbuild_parser::Word, rbuild_parser::Word)| {
        Ok((expanded(&name.value)?, expanded(&value.value)?))
    };
    pairs.pairs.iter().map(pair).collect()
}

fn arguments(config: &ContainerConfig, form: &CommandForm) -> Vec<String> {
    match form {
        CommandForm::Exec(arguments) => arguments.clone(),
        CommandForm::Shell(text) => {
            let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = config.shell.clone().filter(|shell| !shell.is_empty());
            let mut arguments = shell.unwrap_or_else(default);
            arguments.push(text.clone());
            arguments
        }
    }
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let same =
        |known: &&mut String| known.split_once('=').map_or(known.as_str(), |(n, _)| n) == name;
    match env.iter_mut().find(same) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

/// A path below the current working directory, unless it is absolute.
fn joined(current: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in current.split('/').chain(path.split('/')) {
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

    fn changed(changes: &[&str]) -> Result<ContainerConfig, String> {
        let mut config = ContainerConfig::default();
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        apply(&mut config, &changes).map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn instructions_set_the_config() {
        let config = changed(&[
            "ENV A=1 B=\"two words\"",
            "env A=3 C=$A",
            "CMD echo hi",
            "ENTRYPOINT [\"/e\", \"x\"]",
            "EXPOSE 80 53/udp",
            "LABEL k=v",
            "USER me",
            "VOLUME [\"/v\"]",
            "WORKDIR /a",
            "WORKDIR b/../c",
            "STOPSIGNAL INT",
            "HEALTHCHECK --interval=5s CMD true",
            "ONBUILD RUN x",
        ])
        .unwrap();
        let expected = ContainerConfig {
            env: vec!["A=3".into(), "B=two words".into(), "C=1".into()],
            cmd: Some(vec!["/bin/sh".into(), "-c".into(), "echo hi".into()]),
            args_escaped: true,
            entrypoint: Some(vec!["/e".into(), "x".into()]),
            exposed_ports: ["80/tcp".into(), "53/udp".into()].into(),
            labels: [("k".into(), "v".into())].into(),
            user: "me".into(),
            volumes: ["/v".into()].into(),
            working_dir: "/a/c".into(),
            stop_signal: Some("INT".into()),
            healthcheck: Some(HealthConfig {
                test: vec!["CMD-SHELL".into(), "true".into()],
                interval: 5_000_000_000,
                ..HealthConfig::default()
            }),
            on_build: vec!["RUN x".into()],
            ..ContainerConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let mut config = ContainerConfig::default();
        let changes = ["USER a".to_owned(), "RUN true".to_owned()];
        let error = apply(&mut config, &changes).unwrap_err().to_string();
        assert_eq!(
            error,
            "change `RUN true`: RUN is not a valid change command"
        );
        assert_eq!(config, ContainerConfig::default());
    }

    #[test]
    fn what_is_no_single_instruction_is_refused() {
        for change in [
            "",
            "FOO x",
            "USER a\nUSER b",
            "FROM x",
            "# comment",
            "STOPSIGNAL NO",
        ] {
            assert!(changed(&[change]).is_err(), "{change:?}");
        }
    }
}
