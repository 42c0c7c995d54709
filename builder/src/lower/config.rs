//! Instructions that only change the image config, and WORKDIR.
//!
//! Language reference, sections 4.2 to 4.14 and 7.2 (texts of the history).

use rbuild_parser::{
    ArgItem, CommandForm, Healthcheck, Instruction, InstructionKind, KeyValues, Linter, Word,
    check_signal, expand_words, format_duration, lint::rules, parse_port_spec, quote,
};

use super::{Lowering, StageContext, StageState, absolute, clean_path};
use crate::error::BuildError;
use crate::image::HealthConfig;
use crate::ops::{FileAction, FileOp, Op};

impl<'a> Lowering<'a> {
    /// Applies an instruction that makes no layer.
    pub(super) fn apply_config(
        &mut self,
        context: &StageContext<'_, 'a>,
        state: &mut StageState,
        instruction: &Instruction,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        match &instruction.kind {
            InstructionKind::Env(pairs) => self.env(state, instruction, pairs, linter),
            InstructionKind::Label(pairs) => self.label(state, instruction, pairs, linter),
            InstructionKind::Arg(items) => self.arg(context, state, instruction, items, linter),
            InstructionKind::Cmd(form) => {
                lint_command(state, instruction, linter);
                set_cmd(state, form);
                Ok(())
            }
            InstructionKind::Entrypoint(form) => {
                lint_command(state, instruction, linter);
                set_entrypoint(state, form);
                Ok(())
            }
            InstructionKind::Shell(shell) => {
                state.config.config.shell = Some(shell.clone());
                state.commit(format!("SHELL [{}]", shell.join(" ")), None);
                Ok(())
            }
            InstructionKind::User(user) => {
                let user = self.expand(&user.value, state, instruction, linter)?;
                state.commit(format!("USER {user}"), None);
                state.config.config.user = user;
                Ok(())
            }
            InstructionKind::Expose(words) => self.expose(state, instruction, words, linter),
            InstructionKind::Volume(words) => self.volume(state, instruction, words, linter),
            InstructionKind::StopSignal(signal) => {
                let word = &signal.value;
                let signal = self.expand(word, state, instruction, linter)?;
                check_signal(&signal).map_err(|message| {
                    self.file
                        .at_part(BuildError::user(message), instruction, word)
                })?;
                state.commit(format!("STOPSIGNAL {signal}"), None);
                state.config.config.stop_signal = Some(signal);
                Ok(())
            }
            InstructionKind::Healthcheck(check) => {
                lint_repeated(state, instruction, linter);
                healthcheck(state, check);
                Ok(())
            }
            InstructionKind::Onbuild(trigger) => {
                state.config.config.on_build.push(trigger.value.clone());
                Ok(())
            }
            InstructionKind::Maintainer(author) => {
                state.config.author = Some(author.value.clone());
                state.commit(format!("MAINTAINER {}", author.value), None);
                Ok(())
            }
            other => Err(BuildError::user(format!(
                "{} is not allowed here",
                other.name()
            ))),
        }
    }

    fn env(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
        pairs: &KeyValues,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        // All values see the state before the instruction.
        let mut expanded = Vec::with_capacity(pairs.pairs.len());
        for (name, value) in &pairs.pairs {
            let name = self.expand(&name.value, state, instruction, linter)?;
            let value = self.expand(&value.value, state, instruction, linter)?;
            expanded.push((name, value));
        }
        if let Some(finding) = rules::legacy_key_value(instruction) {
            linter.add(finding);
        }
        let mut text = String::from("ENV");
        for (name, value) in expanded {
            if let Some(finding) = rules::secrets_used(instruction, &name) {
                linter.add(finding);
            }
            text.push_str(&format!(" {name}={value}"));
            set_env(&mut state.config.config.env, &name, &value);
            state.variables.set(&name, &value);
        }
        state.commit(text, None);
        Ok(())
    }

    fn label(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
        pairs: &KeyValues,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        if let Some(finding) = rules::legacy_key_value(instruction) {
            linter.add(finding);
        }
        let mut text = String::from("LABEL");
        for (name, value) in &pairs.pairs {
            let name = self.expand(&name.value, state, instruction, linter)?;
            let value = self.expand(&value.value, state, instruction, linter)?;
            text.push_str(&format!(" {name}={value}"));
            state.config.config.labels.insert(name, value);
        }
        state.commit(text, None);
        Ok(())
    }

    fn arg(
        &self,
        context: &StageContext<'_, 'a>,
        state: &mut StageState,
        instruction: &Instruction,
        items: &[ArgItem],
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        use rbuild_parser::Variables;
        let mut text = String::from("ARG");
        for item in items {
            let name = &item.name.value;
            let default = match &item.default {
                Some(word) => Some(self.expand(&word.value, state, instruction, linter)?),
                None => None,
            };
            let value = match self.request.build_args.get(name) {
                Some(given) => Some(given.clone()),
                None => default.or_else(|| context.plan.globals.get(name).map(str::to_owned)),
            };
            if let Some(finding) = rules::secrets_used(instruction, name) {
                linter.add(finding);
            }
            text.push(' ');
            text.push_str(name);
            if let Some(value) = &value {
                text.push_str(&format!("={value}"));
                state.variables.set(name, value);
            }
            state.declared.retain(|known| known != name);
            state.declared.push(name.clone());
        }
        state.commit(text, None);
        Ok(())
    }

    fn expose(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
        words: &[Word],
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        let mut sorted: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
        sorted.sort_unstable();
        let mut ports = Vec::new();
        for word in sorted {
            let result = expand_words(word, self.escape, &state.variables);
            // BuildKit does not tell undefined variables of EXPOSE (case Y07).
            let placed = |message: String| {
                self.file
                    .at_part(BuildError::user(message), instruction, word)
            };
            let (specs, _) = result.map_err(|error| placed(error.to_string()))?;
            for spec in specs {
                let parsed = parse_port_spec(&spec).map_err(placed)?;
                for finding in rules::expose(instruction, &parsed, &spec) {
                    linter.add(finding);
                }
                ports.extend(parsed.ports);
            }
        }
        state.commit(format!("EXPOSE [{}]", ports.join(" ")), None);
        state.config.config.exposed_ports.extend(ports);
        Ok(())
    }

    fn volume(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
        words: &[Word],
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        let mut volumes = Vec::with_capacity(words.len());
        for word in words {
            let volume = self.expand(&word.value, state, instruction, linter)?;
            if volume.is_empty() {
                return Err(BuildError::user(
                    "VOLUME specified can not be an empty string",
                ));
            }
            volumes.push(volume);
        }
        state.commit(format!("VOLUME [{}]", volumes.join(" ")), None);
        state.config.config.volumes.extend(volumes);
        Ok(())
    }

    /// WORKDIR: the config keeps the written path, the directory is made at the clean one.
    pub(super) fn lower_workdir(
        &mut self,
        context: &mut StageContext<'_, 'a>,
        state: &mut StageState,
        instruction: &Instruction,
        path: &Word,
        trigger: bool,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        let path = self.expand(&path.value, state, instruction, linter)?;
        if !path.starts_with('/') && !path.is_empty() && !state.workdir_set {
            linter.add(rules::workdir_relative_path(instruction, &path));
        }
        state.workdir_set = true;
        let stored = if path.starts_with('/') {
            path
        } else {
            let joined = absolute(state.workdir(), &path);
            clean_path(&joined)
        };
        let directory = clean_path(&stored);
        let meta = self.meta(context, instruction, trigger, &state.variables);
        let vertex = (directory != "/").then(|| {
            let action = FileAction::MakeDirectory {
                path: directory,
                owner: state.config.config.user.clone(),
                epoch: context.epoch,
            };
            let op = Op::File(FileOp {
                actions: vec![action],
                detached: false,
                times: self.file_times(context),
            });
            self.graph.add(op, state.root.into_iter().collect(), meta)
        });
        if vertex.is_some() {
            state.root = vertex;
        }
        state.commit(format!("WORKDIR {stored}"), vertex);
        state.config.config.working_dir = stored;
        Ok(())
    }
}

fn lint_command(state: &mut StageState, instruction: &Instruction, linter: &mut Linter) {
    lint_repeated(state, instruction, linter);
    let shell_set = state.config.config.shell.is_some();
    if let Some(finding) = rules::json_args_recommended(instruction, shell_set) {
        linter.add(finding);
    }
}

/// Only the last of these counts in a stage: the earlier one is told.
fn lint_repeated(state: &mut StageState, instruction: &Instruction, linter: &mut Linter) {
    let name = instruction.kind.name();
    if let Some(earlier) = state.last_of.insert(name, instruction.clone()) {
        linter.add(rules::multiple_instructions(&earlier, name));
    }
}

/// Sets a variable of a config, where it stands or at the end.
pub(super) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let known = env.iter_mut().find(|known| {
        known
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('='))
    });
    match known {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

/// The shell that shell forms of a stage are wrapped in.
pub(super) fn shell(state: &StageState) -> Vec<String> {
    match &state.config.config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    }
}

fn arguments(state: &StageState, form: &CommandForm) -> Vec<String> {
    match form {
        CommandForm::Exec(arguments) => arguments.clone(),
        CommandForm::Shell(text) => {
            let mut arguments = shell(state);
            arguments.push(text.clone());
            arguments
        }
    }
}

fn set_cmd(state: &mut StageState, form: &CommandForm) {
    let arguments = arguments(state, form);
    state.commit(format!("CMD {}", go_list(&arguments)), None);
    state.config.config.cmd = (!arguments.is_empty()).then_some(arguments);
    state.config.config.args_escaped = true;
    state.cmd_set = true;
}

fn set_entrypoint(state: &mut StageState, form: &CommandForm) {
    let arguments = arguments(state, form);
    state.commit(format!("ENTRYPOINT {}", go_list(&arguments)), None);
    state.config.config.entrypoint = (!arguments.is_empty()).then_some(arguments);
    if !state.cmd_set {
        state.config.config.cmd = None;
    }
}

fn healthcheck(state: &mut StageState, check: &Healthcheck) {
    let config = HealthConfig::from(check);
    state.commit(
        format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            config.test.join(" "),
            format_duration(config.interval),
            format_duration(config.timeout),
            format_duration(config.start_period),
            format_duration(config.start_interval),
            config.retries
        ),
        None,
    );
    state.config.config.healthcheck = Some(config);
}

/// `["a" "b c"]`: elements quoted as Go's `%q` does, blank separated.
fn go_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_quoted_as_go_does() {
        assert_eq!(
            go_list(&["/bin/sh".into(), "-c".into(), "a \"b\"\n".into()]),
            r#"["/bin/sh" "-c" "a \"b\"\n"]"#
        );
        assert_eq!(go_list(&[]), "[]");
    }

    #[test]
    fn env_changes_in_place() {
        let mut env = vec!["A=1".to_owned(), "AB=2".to_owned()];
        set_env(&mut env, "A", "3");
        set_env(&mut env, "C", "4");
        assert_eq!(env, ["A=3", "AB=2", "C=4"]);
    }
}
