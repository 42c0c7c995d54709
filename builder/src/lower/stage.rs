//! What instructions change while a stage is walked.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_parser::{Instruction, Platform, Variables};

use super::{HistoryStep, clean_path};
use crate::event::VertexId;
use crate::image::{BaseImage, ContainerConfig, History, ImageConfig};
use crate::ops::Setting;
use crate::remote_cache::INLINE;
use crate::scope::{DEFAULT_PATH, VariableList};

/// State of a stage while its instructions are applied.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) root: Option<VertexId>,
    pub(super) config: ImageConfig,
    pub(super) base_history: Vec<History>,
    pub(super) base: Option<Box<BaseImage>>,
    pub(super) history: Vec<HistoryStep>,
    /// History entries for layers that no instruction made (a directory as base).
    pub(super) trailing_history: Vec<HistoryStep>,
    /// Variables that expansion sees: ENV and declared ARGs with values, the later one wins.
    pub(super) variables: VariableList,
    /// Declared ARG names in order, for the history of RUN.
    pub(super) declared: Vec<String>,
    pub(super) cmd_set: bool,
    pub(super) workdir_set: bool,
    /// Whether the base's environment is known, so that an unset variable is a finding.
    pub(super) variables_known: bool,
    /// An ARG or ENV failed, so that variables lack their values.
    pub(super) variables_lost: bool,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage, by name.
    pub(super) last_of: HashMap<&'static str, Instruction>,
}

impl StageState {
    pub(super) fn scratch(platform: &Platform) -> StageState {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            config: ContainerConfig {
                env: vec![format!("PATH={DEFAULT_PATH}")],
                working_dir: "/".to_owned(),
                ..ContainerConfig::default()
            },
            ..ImageConfig::default()
        };
        StageState::with_config(config)
    }

    /// What a command would run with before an instruction that changes files.
    pub(super) fn setting(&self, instruction: &Instruction) -> Option<Arc<Setting>> {
        use rbuild_parser::InstructionKind::{Add, Copy, Run, Workdir};
        if !matches!(instruction.kind, Add(_) | Copy(_) | Run(_) | Workdir(_)) {
            return None;
        }
        let env = self.variables.iter();
        Some(Arc::new(Setting {
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            cwd: clean_path(self.workdir()),
            user: self.config.config.user.clone(),
        }))
    }

    pub(super) fn from_image(image: &BaseImage, platform: &Platform) -> StageState {
        let mut config = image.config.clone();
        let base_history = std::mem::take(&mut config.history);
        config.rootfs.diff_ids.clear();
        config.created = None;
        config.config.on_build.clear();
        // It is about the layers of the base image alone.
        config.extra.remove(INLINE);
        let variables = VariableList::from_env(&config.config.env);
        if variables.get("PATH").is_none() {
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        if config.os.is_empty() {
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
        }
        let mut state = StageState::with_config(config);
        state.base_history = base_history;
        state.base = Some(Box::new(image.clone()));
        state
    }

    fn with_config(config: ImageConfig) -> StageState {
        StageState {
            root: None,
            variables: VariableList::from_env(&config.config.env),
            workdir_set: !config.config.working_dir.is_empty() && config.config.working_dir != "/",
            config,
            base_history: Vec::new(),
            base: None,
            history: Vec::new(),
            trailing_history: Vec::new(),
            declared: Vec::new(),
            cmd_set: false,
            variables_known: true,
            variables_lost: false,
            last_of: HashMap::new(),
        }
    }

    pub(super) fn workdir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    pub(super) fn commit(&mut self, created_by: String, vertex: Option<VertexId>) {
        self.history.push(HistoryStep { created_by, vertex });
    }
}
