//! Stages → one op graph, and the image config and history that come with it.
//!
//! Walks the needed stages in file order with the state that instructions change: variables, config,
//! root file system. Nothing is read from disk and nothing runs.

mod config;
mod copy;
mod names;
mod paths;
mod remote;
mod run;
mod sources;
mod stage;

use paths::{absolute, clean_path};
use stage::StageState;

use std::sync::Arc;

use rbuild_parser::{
    ExpandError, IgnoreMatcher, Instruction, InstructionKind, LineRange, Linter, Platform, Span,
    Variables, expand, lint::rules,
};

use crate::error::{BuildError, BuildErrorKind, Location, SourceFile};
use crate::event::VertexId;
use crate::image::{BaseImage, ContainerConfig, History, ImageConfig};
use crate::ops::{Op, OpGraph, Setting, VertexMeta};
use crate::plan::{Base, BaseResolver, EPOCH, Plan, PlannedStage};
use crate::request::{BuildRequest, ContextSource, FetchedContext};
use crate::scope::VariableList;

/// Comment of every history entry, as `BuildKit`'s, so that tools group the entries alike.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// A directory on this machine that vertices read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalSource {
    /// The build context.
    Context,
    /// A named context.
    Named(String),
}

/// One history entry to be: text, and the vertex whose layer it stands for.
#[derive(Debug, Clone)]
pub(crate) struct HistoryStep {
    /// `created_by`.
    pub created_by: String,
    /// The vertex that makes the layer; none for metadata.
    pub vertex: Option<VertexId>,
}

/// What lowering a target gave.
#[derive(Debug)]
pub(crate) struct LoweredTarget {
    /// The root file system; none when there are no layers at all.
    pub root: Option<VertexId>,
    /// Config without history, layers and time.
    pub config: ImageConfig,
    /// Entries that came with the base image.
    pub base_history: Vec<History>,
    /// The base image whose layers are lowest.
    pub base: Option<Box<BaseImage>>,
    /// Own entries.
    pub history: Vec<HistoryStep>,
    /// Fixed creation time, seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Platform of the result.
    pub platform: Platform,
}

/// Lowers plans into one graph.
pub(crate) struct Lowering<'a> {
    /// The graph so far.
    pub graph: OpGraph,
    /// Local sources met so far; `Op::Local` counts these.
    pub locals: Vec<LocalSource>,
    request: &'a BuildRequest,
    file: &'a SourceFile,
    escape: char,
    resolver: &'a dyn BaseResolver,
    ignore: Option<&'a IgnoreMatcher>,
    entitled: Entitled,
    /// Which of all projects on this store this is; part of what steps are known by.
    project: String,
    /// Only checks are wanted: images may be missing.
    check_only: bool,
    /// What is wrong so far. The rest is lowered all the same, to find what else is wrong.
    problems: Vec<BuildError>,
}

#[derive(Debug, Clone, Copy)]
struct Entitled {
    network_host: bool,
    insecure: bool,
}

/// What an instruction is lowered in: its stage, place and running number.
struct StageContext<'p, 'a> {
    plan: &'p Plan<'a>,
    stage: &'p PlannedStage<'a>,
    index: usize,
    step: usize,
    steps: usize,
    single: bool,
    multi_platform: bool,
    epoch: Option<i64>,
    proxy: Vec<(String, String)>,
    ordinal: usize,
    /// Lines of the instruction that is being lowered.
    lines: LineRange,
    /// What a command would run with at the instruction that is being lowered.
    setting: Option<Arc<Setting>>,
}

impl<'a> Lowering<'a> {
    /// An empty graph for this request.
    pub(crate) fn new(
        request: &'a BuildRequest,
        file: &'a SourceFile,
        escape: char,
        resolver: &'a dyn BaseResolver,
        ignore: Option<&'a IgnoreMatcher>,
    ) -> Lowering<'a> {
        use crate::request::{Entitlement, NetworkDefault};
        let entitled = Entitled {
            network_host: request.entitlements.contains(&Entitlement::NetworkHost)
                || request.network == NetworkDefault::Host,
            insecure: request
                .entitlements
                .contains(&Entitlement::SecurityInsecure),
        };
        Lowering {
            graph: OpGraph::new(),
            locals: Vec::new(),
            request,
            file,
            escape,
            resolver,
            ignore,
            entitled,
            project: String::new(),
            check_only: false,
            problems: Vec::new(),
        }
    }

    /// Tells the steps of this project from those of others.
    pub(crate) fn of_project(mut self, project: String) -> Lowering<'a> {
        self.project = project;
        self
    }

    /// Lets images be missing, for checks that do not need them.
    pub(crate) fn check_only(mut self) -> Lowering<'a> {
        self.check_only = true;
        self
    }

    /// Lowers the needed stages of a plan.
    pub(crate) fn lower(
        &mut self,
        plan: &Plan<'a>,
        linter: &mut Linter,
    ) -> Result<LoweredTarget, BuildError> {
        let epoch = self.source_date_epoch(plan)?;
        let mut states: Vec<Option<StageState>> = vec![None; plan.stages.len()];
        self.problems.clone_from(&plan.problems);
        for index in 0..plan.stages.len() {
            if plan.stages[index].needed {
                let state = self.lower_stage(plan, index, &states, epoch, linter)?;
                states[index] = Some(state);
            }
        }
        BuildError::together(std::mem::take(&mut self.problems))?;
        let Some(mut state) = states[plan.target].take() else {
            return Err(BuildError::user("the target stage was not planned"));
        };
        state.history.append(&mut state.trailing_history);
        self.change_config(&mut state.config.config);
        if !self.request.platforms.is_empty() {
            state.config.os.clone_from(&plan.platform.os);
            state
                .config
                .architecture
                .clone_from(&plan.platform.architecture);
            state.config.variant.clone_from(&plan.platform.variant);
        }
        Ok(LoweredTarget {
            root: state.root,
            config: state.config,
            base_history: state.base_history,
            base: state.base,
            history: state.history,
            source_date_epoch: epoch,
            platform: plan.platform.clone(),
        })
    }

    fn source_date_epoch(&self, plan: &Plan<'_>) -> Result<Option<i64>, BuildError> {
        let value = self.request.build_args.get(EPOCH).map(String::as_str);
        let Some(value) = value
            .or_else(|| plan.globals.get(EPOCH))
            .filter(|v| !v.is_empty())
        else {
            let fixed = self.request.reproducible;
            return Ok(fixed.then_some(BuildRequest::REPRODUCIBLE_TIME));
        };
        if value == "context"
            && let ContextSource::Fetched(FetchedContext { time, .. }) = &self.request.context
        {
            return Ok(Some(time.unwrap_or(0)));
        }
        value.parse().map(Some).map_err(|_| {
            BuildError::user(format!("invalid SOURCE_DATE_EPOCH: {value}"))
                .with_help(
                    "give a whole number of seconds since 1970, or `context` with a context from git or \
                     the web",
                )
        })
    }

    /// What the command line says about the finished image's config.
    fn change_config(&self, config: &mut ContainerConfig) {
        let changes = &self.request.config;
        let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
        config
            .env
            .retain(|entry| !changes.unset_env.contains(&name(entry)));
        config
            .labels
            .retain(|label, _| !changes.unset_labels.contains(label));
        config.labels.extend(self.request.labels.clone());
    }

    /// What the command line says about the config that a stage begins with.
    fn change_base(&self, state: &mut StageState) {
        let changes = &self.request.config;
        if changes.drop_base_labels {
            state.config.config.labels.clear();
        }
        for (name, value) in &changes.env {
            config::set_env(&mut state.config.config.env, name, value);
            state.variables.set(name, value);
        }
    }

    /// The time of everything in new layers of a reproducible build.
    fn file_times(&self, context: &StageContext<'_, 'a>) -> Option<i64> {
        context.epoch.filter(|_| self.request.reproducible)
    }

    fn lower_stage(
        &mut self,
        plan: &Plan<'a>,
        index: usize,
        states: &[Option<StageState>],
        epoch: Option<i64>,
        linter: &mut Linter,
    ) -> Result<StageState, BuildError> {
        let stage = &plan.stages[index];
        let mut context = StageContext {
            plan,
            stage,
            index,
            step: 0,
            steps: names::count_steps(stage),
            single: plan.stages.len() == 1,
            multi_platform: self.request.platforms.len() > 1,
            epoch,
            proxy: crate::scope::proxy_environment(&self.request.build_args),
            ordinal: 0,
            lines: stage.source.from.lines,
            setting: None,
        };
        let mut state = self.start_stage(&mut context, states)?;
        if !matches!(stage.base, Base::Stage(_)) {
            self.change_base(&mut state);
        }
        for (ordinal, (instruction, trigger)) in stage.instructions().enumerate() {
            context.ordinal = ordinal;
            context.lines = instruction.lines;
            // What would only fail because of an error above is not worth telling.
            if state.variables_lost && instruction.text.contains('$') {
                continue;
            }
            let applied = self.apply(
                &mut context,
                &mut state,
                states,
                instruction,
                trigger,
                linter,
            );
            if let Err(error) = applied {
                let ends = error.kind != BuildErrorKind::User;
                let place = (instruction.lines, Some(instruction.span));
                self.problems
                    .push(error.at(&self.file.location(place.0, place.1)));
                if ends {
                    // Not a mistake in the file: a cancelled build does not read on.
                    BuildError::together(std::mem::take(&mut self.problems))?;
                }
                if let InstructionKind::Arg(_) | InstructionKind::Env(_) = instruction.kind {
                    state.variables_known = false;
                    state.variables_lost = true;
                }
            }
        }
        Ok(state)
    }

    fn start_stage(
        &mut self,
        context: &mut StageContext<'_, 'a>,
        states: &[Option<StageState>],
    ) -> Result<StageState, BuildError> {
        match &context.stage.base {
            Base::Stage(base) => {
                let mut state = states.get(*base).cloned().flatten().ok_or_else(|| {
                    BuildError::user(format!(
                        "stage {:?} has no result to start from",
                        context.plan.stages[*base].name
                    ))
                })?;
                state.config.config.on_build.clear();
                state.cmd_set = false;
                state.last_of.clear();
                Ok(state)
            }
            Base::Image(image) => {
                let mut state = StageState::from_image(image, &context.stage.platform);
                context.step = 1;
                if !image.layers.is_empty() {
                    let prefix = names::prefix(context, 1);
                    let mut meta = VertexMeta::internal(format!(
                        "[{prefix}] FROM {}",
                        context.stage.base_name
                    ));
                    meta.lines = Some(context.stage.source.from.lines);
                    meta.stage = Some(context.stage.name.clone());
                    let op = Op::Image(Arc::new((**image).clone()));
                    state.root = Some(self.graph.add(op, Vec::new(), meta));
                }
                Ok(state)
            }
            Base::Directory(name) => {
                context.step = 1;
                let mut state = StageState::scratch(&context.plan.platform);
                let vertex = self.remote_context(name).unwrap_or_else(|| {
                    let source = self.local(&LocalSource::Named(name.clone()));
                    let title = format!("[context {name}] load from client");
                    self.copy_tree(source, "/", &title, context)
                });
                state.root = Some(vertex);
                state.trailing_history.push(HistoryStep {
                    created_by: format!("local source for {name}"),
                    vertex: Some(vertex),
                });
                Ok(state)
            }
            Base::Scratch => Ok(StageState::scratch(&context.plan.platform)),
            Base::Unknown => {
                context.step = 1;
                let mut state = StageState::scratch(&context.plan.platform);
                state.variables_known = false;
                Ok(state)
            }
            Base::Unresolved => Err(BuildError::user(format!(
                "base image {:?} was not resolved",
                context.stage.base_name
            ))),
        }
    }

    /// Applies one instruction to the stage.
    fn apply(
        &mut self,
        context: &mut StageContext<'_, 'a>,
        state: &mut StageState,
        states: &[Option<StageState>],
        instruction: &Instruction,
        trigger: bool,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        context.setting = state.setting(instruction);
        match &instruction.kind {
            InstructionKind::Run(run) => {
                self.lower_run(context, state, states, instruction, run, trigger, linter)
            }
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
                self.lower_copy(context, state, states, instruction, copy, trigger, linter)
            }
            InstructionKind::Workdir(path) => {
                self.lower_workdir(context, state, instruction, path, trigger, linter)
            }
            _ => self.apply_config(context, state, instruction, linter),
        }
    }

    /// Expands a word with the stage's variables, reporting the unset ones.
    fn expand(
        &self,
        word: &str,
        state: &StageState,
        instruction: &Instruction,
        linter: &mut Linter,
    ) -> Result<String, BuildError> {
        let result = expand(word, self.escape, &state.variables);
        finish_expansion(
            result.map(|e| (e.value, e.undefined)),
            state,
            instruction,
            linter,
        )
        .map_err(|error| self.file.at_part(error, instruction, word))
    }

    fn ignore_cache(&self, context: &StageContext<'_, 'a>) -> bool {
        let filter = &self.request.no_cache_filter;
        self.request.no_cache
            || context
                .stage
                .source
                .name
                .as_ref()
                .is_some_and(|name| filter.iter().any(|f| f.eq_ignore_ascii_case(name)))
    }

    /// Metadata of the vertex of an instruction.
    fn meta(
        &self,
        context: &mut StageContext<'_, 'a>,
        instruction: &Instruction,
        trigger: bool,
        variables: &VariableList,
    ) -> VertexMeta {
        context.step += 1;
        let text = names::display(instruction, trigger, variables);
        VertexMeta {
            name: format!("[{}] {text}", names::prefix(context, context.step)),
            lines: Some(instruction.lines),
            instruction: Some(Arc::new(instruction.clone())),
            step: format!(
                "{}:{}:{}:{}:{}",
                self.project,
                self.file.name,
                context.stage.name,
                context.ordinal,
                instruction.kind.name()
            ),
            ignore_cache: self.ignore_cache(context),
            internal: false,
            stage: Some(context.stage.name.clone()),
            setting: context.setting.clone(),
        }
    }
}

impl VertexMeta {
    fn internal(name: String) -> VertexMeta {
        VertexMeta {
            step: name.clone(),
            name,
            lines: None,
            instruction: None,
            ignore_cache: false,
            internal: true,
            stage: None,
            setting: None,
        }
    }
}

impl LoweredTarget {
    /// The history comment every own entry carries.
    pub(crate) fn history_comment() -> &'static str {
        HISTORY_COMMENT
    }
}

/// Reports the unset variables of an expansion and passes its result on.
fn finish_expansion<T>(
    result: Result<(T, Vec<String>), ExpandError>,
    state: &StageState,
    instruction: &Instruction,
    linter: &mut Linter,
) -> Result<T, BuildError> {
    let (value, undefined) = match result {
        Ok((value, undefined)) => (Ok(value), undefined),
        Err(error) => {
            let undefined = error.undefined.clone();
            (Err(BuildError::user(error.to_string())), undefined)
        }
    };
    for name in &undefined {
        // A declared ARG without a value is unset but not a mistake.
        if state.variables_known && !state.declared.contains(name) {
            let mut known = state.variables.names();
            linter.add(rules::undefined_var(instruction, name, &mut known));
        }
    }
    value
}

/// An error at an exact place of an instruction.
fn error_at(
    file: &SourceFile,
    instruction: &Instruction,
    span: Span,
    message: String,
) -> BuildError {
    let location: Location = file.location(instruction.lines, Some(span));
    BuildError::user(message).at(&location)
}
