//! A small evaluator of stages: enough to see what the language gives, nothing is run.

use std::collections::BTreeMap;

use rbuild_parser::{
    ChmodMode, CommandForm, CopyAdd, CopySource, Dockerfile, ExpandError, Healthcheck,
    IgnoreMatcher, ImageReference, Instruction, InstructionKind, LintFinding, Linter, Platform,
    Run, RunScript, Stage, Variables, check_signal, expand, expand_heredoc, expand_mount,
    expand_words, format_duration, lint::rules, parse, parse_port_spec, parse_trigger,
};
use serde_json::{Value, json};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What came of a case.
#[derive(Default)]
pub(crate) struct Evaluation {
    pub(crate) error: Option<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) findings: Vec<LintFinding>,
    pub(crate) history: Vec<String>,
    pub(crate) heredoc_files: Vec<(String, String)>,
    state: State,
}

impl Evaluation {
    /// Returns a field of the image config; `None` when this evaluator does not know it.
    pub(crate) fn config(&self, key: &str) -> Option<Value> {
        let state = &self.state;
        let absent = |value: Value, empty: bool| if empty { Value::Null } else { value };
        Some(match key {
            "Env" => json!(
                state
                    .env
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect::<Vec<_>>()
            ),
            "Labels" => absent(json!(state.labels), state.labels.is_empty()),
            "Cmd" => absent(json!(state.cmd), state.cmd.is_empty()),
            "Entrypoint" => absent(json!(state.entrypoint), state.entrypoint.is_empty()),
            "Shell" => absent(json!(state.shell), state.shell.is_empty()),
            "OnBuild" => absent(json!(state.onbuild), state.onbuild.is_empty()),
            "WorkingDir" => json!(state.workdir),
            "User" => json!(state.user),
            "StopSignal" => json!(state.stop_signal),
            "Healthcheck" => state.healthcheck.clone(),
            "ExposedPorts" | "Volumes" => {
                let set = if key == "Volumes" {
                    &state.volumes
                } else {
                    &state.ports
                };
                Value::Object(set.iter().map(|name| (name.clone(), json!({}))).collect())
            }
            _ => return None,
        })
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.state
            .env
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    }
}

#[derive(Default, Clone)]
struct State {
    env: Vec<(String, String)>,
    args: Vec<(String, Option<String>)>,
    /// Variables in the order in which they were set last.
    visible: Visible,
    labels: BTreeMap<String, String>,
    cmd: Vec<String>,
    cmd_set: bool,
    entrypoint: Vec<String>,
    shell: Vec<String>,
    onbuild: Vec<String>,
    workdir: String,
    workdir_set: bool,
    user: String,
    stop_signal: String,
    healthcheck: Value,
    ports: Vec<String>,
    volumes: Vec<String>,
    history: Vec<String>,
    heredoc_files: Vec<(String, String)>,
}

#[derive(Default, Clone)]
struct Visible(Vec<(String, String)>);

impl Visible {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

impl Variables for Visible {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

struct Evaluator<'a> {
    dockerfile: &'a Dockerfile,
    linter: Linter,
    build_args: BTreeMap<String, String>,
    global: Visible,
    ignore: Option<IgnoreMatcher>,
    contexts: &'a Value,
}

/// Evaluates the target stage of a Dockerfile and those it is based on.
pub(crate) fn evaluate(text: &str, case: &Value, ignore: Option<&str>) -> Evaluation {
    let parsed = parse(text.as_bytes());
    let mut evaluation = Evaluation::default();
    let override_ = case["args"]["BUILDKIT_DOCKERFILE_CHECK"].as_str();
    let linter = match Linter::new(&parsed.dockerfile, override_) {
        Ok(linter) => linter,
        Err(error) => {
            evaluation.error = Some(error.message);
            return evaluation;
        }
    };
    if let Some(first) = parsed.diagnostics.first() {
        evaluation.error = Some(first.message.clone());
        return evaluation;
    }
    let build_args: BTreeMap<String, String> = case["args"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let mut evaluator = Evaluator {
        dockerfile: &parsed.dockerfile,
        linter,
        build_args,
        global: Visible::default(),
        ignore: ignore.and_then(|file| IgnoreMatcher::parse(file.as_bytes()).ok()),
        contexts: &case["contexts"],
    };
    for finding in &parsed.lint {
        evaluator.linter.add(finding.clone());
    }
    let result = evaluator.run(case);
    evaluation.findings = evaluator.linter.findings().to_vec();
    evaluation.warnings = evaluation
        .findings
        .iter()
        .filter(|finding| !finding.rule.is_own())
        .map(|finding| {
            format!(
                "{}: {} (line {})",
                finding.rule.name, finding.message, finding.lines.first
            )
        })
        .collect();
    match result {
        Ok(state) => {
            evaluation.history.clone_from(&state.history);
            evaluation.heredoc_files.clone_from(&state.heredoc_files);
            evaluation.state = state;
        }
        Err(error) => evaluation.error = Some(error),
    }
    evaluation
}

impl Evaluator<'_> {
    fn run(&mut self, case: &Value) -> Result<State, String> {
        let platform = case["opt"]["platform"].as_str().unwrap_or("linux/amd64");
        let platform = platform.split(',').next().unwrap();
        let stages = &self.dockerfile.stages;
        let wanted = case["target"].as_str();
        let target = match wanted {
            Some(name) => {
                let lower = name.to_lowercase();
                stages
                    .iter()
                    .position(|stage| stage.name.as_deref() == Some(&lower))
            }
            None => Some(stages.len() - 1),
        };
        let Some(target) = target else {
            return Ok(State::default());
        };
        self.set_platform_args(platform, stages[target].name.as_deref());
        self.default_base_names();
        self.global_args()?;
        // Every FROM is looked at, whether it is needed or not.
        let mut bases = Vec::new();
        for stage in stages {
            bases.push(self.base(stage)?);
        }
        let mut state = self.stage(target, &bases)?;
        for (option, value) in case["opt"].as_object().into_iter().flatten() {
            if let (Some(name), Some(value)) = (option.strip_prefix("label:"), value.as_str()) {
                state.labels.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(state)
    }

    fn add(&mut self, finding: Option<LintFinding>) {
        if let Some(finding) = finding {
            self.linter.add(finding);
        }
    }

    fn set_platform_args(&mut self, target: &str, stage: Option<&str>) {
        let mut values = Vec::new();
        for (prefix, text) in [("TARGET", target), ("BUILD", "linux/amd64")] {
            let platform = Platform::parse(text).unwrap();
            values.push((format!("{prefix}PLATFORM"), platform.to_string()));
            values.push((format!("{prefix}OS"), platform.os));
            values.push((format!("{prefix}OSVERSION"), String::new()));
            values.push((format!("{prefix}ARCH"), platform.architecture));
            values.push((
                format!("{prefix}VARIANT"),
                platform.variant.unwrap_or_default(),
            ));
        }
        values.push((
            "TARGETSTAGE".to_owned(),
            stage.unwrap_or("default").to_owned(),
        ));
        for (name, value) in values {
            self.global.set(&name, &value);
        }
    }

    /// The check that bases are valid with default values only.
    fn default_base_names(&mut self) {
        let mut scope = self.global.clone();
        for instruction in &self.dockerfile.global_args {
            let InstructionKind::Arg(items) = &instruction.kind else {
                unreachable!()
            };
            for item in items {
                if let Some(default) = &item.default {
                    let Ok(value) = self.plain(&default.value, &scope) else {
                        return;
                    };
                    scope.set(&item.name.value, &value);
                }
            }
        }
        for stage in &self.dockerfile.stages {
            let image = &stage.base().image.value;
            let Ok(name) = self.plain(image, &scope) else {
                return;
            };
            if ImageReference::parse(&name).is_err() {
                self.linter
                    .add(rules::invalid_default_arg_in_from(&stage.from, image));
            }
        }
    }

    fn plain(&self, word: &str, scope: &dyn Variables) -> Result<String, ExpandError> {
        expand(word, self.dockerfile.escape, scope).map(|expansion| expansion.value)
    }

    fn global_args(&mut self) -> Result<(), String> {
        for instruction in &self.dockerfile.global_args {
            let InstructionKind::Arg(items) = &instruction.kind else {
                unreachable!()
            };
            for item in items {
                let name = &item.name.value;
                let value = match (self.build_args.get(name), &item.default) {
                    (Some(value), _) => Some(value.clone()),
                    (None, Some(default)) => Some(
                        self.plain(&default.value, &self.global)
                            .map_err(|e| e.to_string())?,
                    ),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.global.set(name, &value);
                }
            }
        }
        Ok(())
    }

    fn undefined_in_from(&mut self, stage: &Stage, names: &[String]) {
        let declared: Vec<String> = self
            .dockerfile
            .global_args
            .iter()
            .flat_map(|instruction| match &instruction.kind {
                InstructionKind::Arg(items) => items.iter().map(|i| i.name.value.clone()).collect(),
                _ => Vec::new(),
            })
            .chain(self.global.0.iter().map(|(name, _)| name.clone()))
            .collect();
        for name in names.iter().filter(|name| !declared.contains(name)) {
            let mut known = declared.iter().map(String::as_str);
            self.linter
                .add(rules::undefined_arg_in_from(&stage.from, name, &mut known));
        }
    }

    /// Expands a FROM; returns the name of the base.
    fn base(&mut self, stage: &Stage) -> Result<String, String> {
        let escape = self.dockerfile.escape;
        let from = stage.base();
        let image = expand(&from.image.value, escape, &self.global).map_err(|e| e.to_string())?;
        self.undefined_in_from(stage, &image.undefined);
        if image.value.is_empty() {
            return Err(format!(
                "base name ({}) should not be blank",
                from.image.value
            ));
        }
        if let Some(written) = &from.platform {
            let platform =
                expand(&written.value, escape, &self.global).map_err(|e| e.to_string())?;
            self.undefined_in_from(stage, &platform.undefined);
            for finding in [
                rules::redundant_target_platform(stage),
                rules::from_platform_const(stage),
            ] {
                self.add(finding);
            }
            if platform.value.is_empty() {
                return Err(format!(
                    "empty platform value from expression {}",
                    written.value
                ));
            }
            Platform::parse(&platform.value)
                .map_err(|error| format!("failed to parse platform {}: {error}", written.value))?;
        }
        let earlier = &self.dockerfile.stages[..stage.index];
        let known = image.value == "scratch"
            || !self.contexts[&image.value].is_null()
            || earlier
                .iter()
                .any(|stage| stage.name.as_deref() == Some(&image.value));
        if !known {
            ImageReference::parse(&image.value).map_err(|error| {
                format!("failed to parse stage name \"{}\": {error}", image.value)
            })?;
        }
        Ok(image.value)
    }

    fn stage(&mut self, index: usize, bases: &[String]) -> Result<State, String> {
        let stage = &self.dockerfile.stages[index];
        let base = &bases[index];
        let earlier = self.dockerfile.stages[..index]
            .iter()
            .rposition(|s| s.name.as_ref() == Some(base));
        let mut state = match earlier {
            Some(parent) => self.stage(parent, bases)?,
            None => fresh(base),
        };
        state.cmd_set = false;
        state.workdir_set &= earlier.is_some();
        for trigger in std::mem::take(&mut state.onbuild) {
            let instruction = parse_trigger(&trigger, '\\').map_err(|error| error.message)?;
            self.instruction(&mut state, &instruction)?;
        }
        let mut used: Vec<(&'static str, &Instruction)> = Vec::new();
        for instruction in &stage.instructions {
            if matches!(
                instruction.kind,
                InstructionKind::Cmd(_)
                    | InstructionKind::Entrypoint(_)
                    | InstructionKind::Healthcheck(_)
            ) {
                let name = instruction.kind.name();
                if let Some(place) = used.iter_mut().find(|(known, _)| *known == name) {
                    let word = &instruction.keyword.value;
                    self.linter.add(rules::multiple_instructions(place.1, word));
                    place.1 = instruction;
                } else {
                    used.push((name, instruction));
                }
            }
            self.instruction(&mut state, instruction)?;
        }
        Ok(state)
    }

    /// Expands a word in a stage and reports what is unset.
    fn word(&mut self, state: &State, at: &Instruction, word: &str) -> Result<String, ExpandError> {
        let result = expand(word, self.dockerfile.escape, &state.visible);
        let undefined = match &result {
            Ok(expansion) => &expansion.undefined,
            Err(error) => &error.undefined,
        };
        self.report(state, at, undefined);
        result.map(|expansion| expansion.value)
    }

    fn report(&mut self, state: &State, at: &Instruction, undefined: &[String]) {
        for name in undefined
            .iter()
            .filter(|name| !state.args.iter().any(|(arg, _)| arg == *name))
        {
            let mut known = state.visible.0.iter().map(|(name, _)| name.as_str());
            self.linter.add(rules::undefined_var(at, name, &mut known));
        }
    }

    fn instruction(&mut self, state: &mut State, at: &Instruction) -> Result<(), String> {
        let text = |error: ExpandError| error.to_string();
        match &at.kind {
            InstructionKind::Arg(items) => self.arg(state, at, items)?,
            InstructionKind::Env(values) | InstructionKind::Label(values) => {
                self.key_values(state, at, values)?;
            }
            InstructionKind::Run(run) => self.run_step(state, at, run)?,
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
                self.copy(state, at, copy)?;
            }
            InstructionKind::Cmd(form) | InstructionKind::Entrypoint(form) => {
                self.command(state, at, form);
            }
            InstructionKind::Shell(words) => {
                state.shell.clone_from(words);
                state.history.push(format!("SHELL [{}]", words.join(" ")));
            }
            InstructionKind::Workdir(word) => {
                let path = self.word(state, at, &word.value).map_err(text)?;
                self.workdir(state, at, &path);
            }
            InstructionKind::User(word) => {
                state.user = self.word(state, at, &word.value).map_err(text)?;
                state.history.push(format!("USER {}", state.user));
            }
            InstructionKind::Expose(words) => self.expose(state, at, words)?,
            InstructionKind::Volume(words) => {
                let mut paths = Vec::new();
                for word in words {
                    paths.push(self.word(state, at, &word.value).map_err(text)?);
                }
                state.history.push(format!("VOLUME [{}]", paths.join(" ")));
                state.volumes.extend(paths);
            }
            InstructionKind::StopSignal(word) => {
                let signal = self.word(state, at, &word.value).map_err(text)?;
                check_signal(&signal)?;
                state.history.push(format!("STOPSIGNAL {signal}"));
                state.stop_signal = signal;
            }
            InstructionKind::Healthcheck(check) => healthcheck(state, check),
            InstructionKind::Onbuild(trigger) => state.onbuild.push(trigger.value.clone()),
            InstructionKind::Maintainer(name) => {
                state.history.push(format!("MAINTAINER {}", name.value));
            }
            InstructionKind::From(_) => unreachable!("a stage has no FROM inside"),
        }
        Ok(())
    }

    fn arg(
        &mut self,
        state: &mut State,
        at: &Instruction,
        items: &[rbuild_parser::ArgItem],
    ) -> Result<(), String> {
        let mut texts = Vec::new();
        for item in items {
            let name = &item.name.value;
            self.add(rules::secrets_used(at, name));
            let value = match (self.build_args.get(name).cloned(), &item.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(
                    self.word(state, at, &default.value)
                        .map_err(|e| e.to_string())?,
                ),
                (None, None) => self.global.get(name).map(str::to_owned),
            };
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if let Some(value) = &value {
                state.visible.set(name, value);
            }
            state.args.push((name.clone(), value));
        }
        state.history.push(format!("ARG {}", texts.join(" ")));
        Ok(())
    }

    fn key_values(
        &mut self,
        state: &mut State,
        at: &Instruction,
        values: &rbuild_parser::KeyValues,
    ) -> Result<(), String> {
        let mut pairs = Vec::new();
        for (name, value) in &values.pairs {
            let name = self
                .word(state, at, &name.value)
                .map_err(|e| e.to_string())?;
            let value = self
                .word(state, at, &value.value)
                .map_err(|e| e.to_string())?;
            pairs.push((name, value));
        }
        self.add(rules::legacy_key_value(at));
        let is_env = matches!(at.kind, InstructionKind::Env(_));
        let mut text = at.kind.name().to_owned();
        for (name, value) in pairs {
            text = format!("{text} {name}={value}");
            if !is_env {
                state.labels.insert(name, value);
                continue;
            }
            self.add(rules::secrets_used(at, &name));
            state.visible.set(&name, &value);
            match state.env.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => state.env.push((name, value)),
            }
        }
        state.history.push(text);
        Ok(())
    }

    fn run_step(&mut self, state: &mut State, at: &Instruction, run: &Run) -> Result<(), String> {
        for mount in &run.mounts {
            let mut expand = |word: &str| self.word(state, at, word);
            expand_mount(&mount.value, &mut expand).map_err(|error| error.to_string())?;
        }
        let words = match run.script() {
            RunScript::Exec(words) => words,
            RunScript::Shell(text) => shell(state, text),
            RunScript::File { name, .. } => shell(state, format!("/dev/pipes/{name}")),
        };
        let args: Vec<String> = state
            .args
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or_default()))
            .collect();
        let prefix = if args.is_empty() {
            String::new()
        } else {
            format!("|{} {} ", args.len(), args.join(" "))
        };
        state
            .history
            .push(format!("RUN {prefix}{} # buildkit", words.join(" ")));
        Ok(())
    }

    fn copy(&mut self, state: &mut State, at: &Instruction, copy: &CopyAdd) -> Result<(), String> {
        let mut text = at.kind.name().to_owned();
        if copy.parents {
            text.push_str(" --parents");
        }
        let text_of = |error: ExpandError| error.to_string();
        if let Some(owner) = &copy.chown {
            let owner = self.word(state, at, &owner.value).map_err(text_of)?;
            text = format!("{text} --chown={owner}");
        }
        if let Some(mode) = &copy.chmod {
            let mode = self.word(state, at, &mode.value).map_err(text_of)?;
            ChmodMode::parse(&mode)?;
            text = format!("{text} --chmod={mode}");
        }
        let mut paths = Vec::new();
        let mut heredocs = Vec::new();
        for source in &copy.sources {
            match source {
                CopySource::Path(word) => {
                    let path = self.word(state, at, &word.value).map_err(text_of)?;
                    if copy.from.is_none() {
                        self.ignored_file(at, &path);
                    }
                    paths.push(path);
                }
                CopySource::Heredoc(heredoc) => {
                    let mut content = heredoc.content.to_string();
                    if heredoc.expand {
                        let expansion =
                            expand_heredoc(&content, &state.visible).map_err(|e| e.to_string())?;
                        self.report(state, at, &expansion.undefined);
                        content = expansion.value;
                    }
                    heredocs.push(format!("<<{}", heredoc.name));
                    state.heredoc_files.push((heredoc.name.clone(), content));
                }
            }
        }
        let destination = self
            .word(state, at, &copy.destination.value)
            .map_err(text_of)?;
        let words: Vec<String> = paths
            .into_iter()
            .chain(heredocs)
            .chain([destination])
            .collect();
        state
            .history
            .push(format!("{text} {} # buildkit", words.join(" ")));
        Ok(())
    }

    fn ignored_file(&mut self, at: &Instruction, path: &str) {
        let Some(ignore) = self.ignore.as_ref().filter(|ignore| !ignore.has_negation()) else {
            return;
        };
        if ignore.ignored(path) {
            self.linter.add(rules::copy_ignored_file(at, path));
        }
    }

    fn command(&mut self, state: &mut State, at: &Instruction, form: &CommandForm) {
        self.add(rules::json_args_recommended(at, !state.shell.is_empty()));
        let words = match form {
            CommandForm::Exec(words) => words.clone(),
            CommandForm::Shell(text) => shell(state, text.clone()),
        };
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        state
            .history
            .push(format!("{} [{}]", at.kind.name(), quoted.join(" ")));
        if matches!(at.kind, InstructionKind::Cmd(_)) {
            state.cmd = words;
            state.cmd_set = true;
        } else {
            state.entrypoint = words;
            if !state.cmd_set {
                state.cmd.clear();
            }
        }
    }

    fn workdir(&mut self, state: &mut State, at: &Instruction, path: &str) {
        let absolute = path.starts_with('/');
        if !state.workdir_set && !absolute {
            self.linter.add(rules::workdir_relative_path(at, path));
        }
        state.workdir_set = true;
        state.workdir = if absolute {
            path.to_owned()
        } else {
            join(&state.workdir, path)
        };
        state.history.push(format!("WORKDIR {}", state.workdir));
    }

    fn expose(
        &mut self,
        state: &mut State,
        at: &Instruction,
        words: &[rbuild_parser::Word],
    ) -> Result<(), String> {
        let mut sorted: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
        sorted.sort_unstable();
        let mut ports = Vec::new();
        for word in sorted {
            let (words, _) = expand_words(word, self.dockerfile.escape, &state.visible)
                .map_err(|error| error.to_string())?;
            for word in words {
                let spec = parse_port_spec(&word)?;
                for finding in rules::expose(at, &spec, &word) {
                    self.linter.add(finding);
                }
                ports.extend(spec.ports);
            }
        }
        state.history.push(format!("EXPOSE [{}]", ports.join(" ")));
        state.ports.extend(ports);
        Ok(())
    }
}

/// The state of a stage that begins with `scratch`, the base image of the cases, or a context.
fn fresh(base: &str) -> State {
    let mut state = State {
        workdir: "/".to_owned(),
        ..State::default()
    };
    let path = if base == "bb" {
        "/usr/local/bin:/bin"
    } else {
        PATH
    };
    state.env.push(("PATH".to_owned(), path.to_owned()));
    state.visible.set("PATH", path);
    if base == "bb" {
        state.cmd = vec!["sh".to_owned()];
    }
    state
}

fn shell(state: &State, text: String) -> Vec<String> {
    let mut words = state.shell.clone();
    if words.is_empty() {
        words = vec!["/bin/sh".to_owned(), "-c".to_owned()];
    }
    words.push(text);
    words
}

fn healthcheck(state: &mut State, check: &Healthcheck) {
    let Healthcheck::Command {
        test,
        interval_ns,
        timeout_ns,
        start_period_ns,
        start_interval_ns,
        retries,
    } = check
    else {
        state.healthcheck = json!({"Test": ["NONE"]});
        state.history.push(
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}"
                .to_owned(),
        );
        return;
    };
    let words: Vec<String> = match test {
        CommandForm::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        CommandForm::Exec(words) => [vec!["CMD".to_owned()], words.clone()].concat(),
    };
    let times = [
        ("Interval", *interval_ns),
        ("Timeout", *timeout_ns),
        ("StartPeriod", *start_period_ns),
        ("StartInterval", *start_interval_ns),
    ];
    let mut value = json!({"Test": words});
    let mut text = format!("HEALTHCHECK {{Test:[{}]", words.join(" "));
    for (name, ns) in times {
        let ns = ns.unwrap_or(0);
        text = format!("{text} {name}:{}", format_duration(ns));
        if ns != 0 {
            value[name] = json!(ns);
        }
    }
    let retries = retries.unwrap_or(0);
    if retries != 0 {
        value["Retries"] = json!(retries);
    }
    state.history.push(format!("{text} Retries:{retries}}}"));
    state.healthcheck = value;
}

/// Joins a relative path to a directory and cleans the result.
fn join(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(path.split('/')) {
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
