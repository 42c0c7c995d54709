//! Stages → a graph cut to what the target needs, with every base known.
//!
//! Planning reads no files and runs nothing; the only thing it asks from outside is the metadata of
//! base images, through [`BaseResolver`].

mod bases;
mod cut;
mod globals;

use std::collections::BTreeMap;

use rbuild_parser::{
    Dockerfile, ImageReference, Instruction, InstructionKind, Linter, Platform, Stage, Variables,
    closest, expand, lint::rules,
};

use crate::error::{BuildError, SourceFile};
use crate::image::BaseImage;
use crate::request::{BuildRequest, NamedContext};
use crate::scope::VariableList;

/// The variable that fixes the time of a build.
pub(crate) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Finds the metadata of images from outside: the store, layouts, registries.
pub(crate) trait BaseResolver {
    /// Looks several images up at once; what comes of it is told when each is asked for.
    fn prefetch(&self, wanted: &[(ImageReference, Platform)]);

    /// An image by reference.
    fn image(
        &self,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError>;

    /// A named context that is an image.
    fn context(
        &self,
        name: &str,
        context: &NamedContext,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError>;
}

/// What a stage starts from.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, already resolved.
    Image(Box<BaseImage>),
    /// A named context that is a directory.
    Directory(String),
    /// Not needed for the target; never looked up.
    Unresolved,
    /// An image that is not at hand, in a check that does not need it.
    Unknown,
}

/// A stage in the plan.
#[derive(Debug)]
pub(crate) struct PlannedStage<'a> {
    /// Where it stands in the file.
    pub source: &'a Stage,
    /// Its name, or `stage-<index>`.
    pub name: String,
    /// The image expression after expansion.
    pub base_name: String,
    /// What it starts from.
    pub base: Base,
    /// Platform of the base (`FROM --platform` or the target's).
    pub platform: Platform,
    /// Triggers of the base, run before the stage's own instructions.
    pub triggers: Vec<Instruction>,
    /// A named context took the place of the whole stage.
    pub replaced: bool,
    /// The target needs it.
    pub needed: bool,
}

impl PlannedStage<'_> {
    /// Triggers, then the stage's own instructions; the flag says whether it is a trigger.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = (&Instruction, bool)> {
        let own: &[Instruction] = if self.replaced {
            &[]
        } else {
            &self.source.instructions
        };
        self.triggers
            .iter()
            .map(|instruction| (instruction, true))
            .chain(own.iter().map(|instruction| (instruction, false)))
    }
}

/// Where a `--from` points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromTarget {
    /// A stage.
    Stage(usize),
    /// The empty file system.
    Scratch,
    /// A named context.
    Context(String),
    /// An image.
    Image(String),
}

/// The stages of one build for one platform.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// All stages in file order.
    pub stages: Vec<PlannedStage<'a>>,
    /// Index of the stage to build.
    pub target: usize,
    /// Values of the global scope (platform arguments and global `ARG`s).
    pub globals: VariableList,
    /// The platform that is built for.
    pub platform: Platform,
    /// What is wrong with stages that are in the plan all the same, to find what else is wrong.
    pub problems: Vec<BuildError>,
    /// The last stage of each name.
    by_name: BTreeMap<&'a str, usize>,
}

impl Plan<'_> {
    /// The name of a stage that was perhaps meant by the name of an image.
    pub(crate) fn similar_stage(&self, name: &str) -> Option<&str> {
        closest(name, self.by_name.keys().copied())
    }
}

/// What planning works from.
pub(crate) struct PlanInput<'a> {
    /// The parsed file.
    pub dockerfile: &'a Dockerfile,
    /// Its name and text.
    pub file: &'a SourceFile,
    /// Flags.
    pub request: &'a BuildRequest,
    /// Platform to build for.
    pub platform: Platform,
    /// Platform of this machine.
    pub host: Platform,
    /// Metadata of images.
    pub resolver: &'a dyn BaseResolver,
    /// Only checks are wanted: all stages unless a target is named, and images may be missing.
    pub check_only: bool,
}

/// Makes the plan.
pub(crate) fn plan<'a>(input: &PlanInput<'a>, linter: &mut Linter) -> Result<Plan<'a>, BuildError> {
    let mut planner = Planner {
        input,
        plan: Plan::empty(input),
    };
    planner.global_scope()?;
    planner.check_default_names(linter);
    for stage in &input.dockerfile.stages {
        if let Err(error) = planner.add_stage(stage, linter) {
            planner.plan.problems.push(error);
            planner.add_unknown_stage(stage);
        }
    }
    if !input.check_only {
        // Before anything is asked from outside.
        BuildError::together(std::mem::take(&mut planner.plan.problems))?;
    }
    let rest = planner.choose_target().and_then(|()| {
        planner.check_references()?;
        if !input.check_only {
            BuildError::together(std::mem::take(&mut planner.plan.problems))?;
        }
        planner.cut_to_target(linter)
    });
    if let Err(error) = rest {
        planner.plan.problems.push(error);
        BuildError::together(std::mem::take(&mut planner.plan.problems))?;
    }
    Ok(planner.plan)
}

impl<'a> Plan<'a> {
    fn empty(input: &PlanInput<'a>) -> Plan<'a> {
        Plan {
            stages: Vec::new(),
            target: 0,
            globals: VariableList::new(),
            platform: input.platform.clone(),
            problems: Vec::new(),
            by_name: BTreeMap::new(),
        }
    }

    fn push(&mut self, stage: PlannedStage<'a>) {
        if let Some(name) = stage.source.name.as_deref() {
            self.by_name.insert(name, self.stages.len());
        }
        self.stages.push(stage);
    }

    /// The last stage added so far with this name, any case.
    fn stage_by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(name.to_lowercase().as_str()).copied()
    }

    /// Resolves the value of a `--from`.
    pub(crate) fn target_of_from(
        &self,
        from: &str,
        contexts: &BTreeMap<String, NamedContext>,
    ) -> Result<FromTarget, BuildError> {
        if let Ok(index) = from.parse::<i64>() {
            return match usize::try_from(index)
                .ok()
                .filter(|index| *index < self.stages.len())
            {
                Some(index) => Ok(FromTarget::Stage(index)),
                None => Err(BuildError::user(format!("invalid stage index {index}"))),
            };
        }
        if let Some(index) = self.stage_by_name(from) {
            return Ok(FromTarget::Stage(index));
        }
        if from == "scratch" {
            return Ok(FromTarget::Scratch);
        }
        Ok(match context_for_image(from, &self.platform, contexts) {
            Some(name) => FromTarget::Context(name),
            None => FromTarget::Image(from.to_owned()),
        })
    }
}

struct Planner<'a, 'i> {
    input: &'i PlanInput<'a>,
    plan: Plan<'a>,
}

impl<'a> Planner<'a, '_> {
    fn expand(
        &self,
        word: &str,
        variables: &dyn Variables,
        instruction: &Instruction,
    ) -> Result<rbuild_parser::Expansion, BuildError> {
        expand(word, self.input.dockerfile.escape, variables).map_err(|error| {
            let error = BuildError::user(error.to_string());
            self.input.file.at_part(error, instruction, word)
        })
    }

    fn add_stage(&mut self, stage: &'a Stage, linter: &mut Linter) -> Result<(), BuildError> {
        let from = stage.base();
        let location = self
            .input
            .file
            .location(stage.from.lines, Some(stage.from.span));
        let image = match &self.input.request.first_base {
            Some(base) if stage.index == 0 => rbuild_parser::Expansion {
                value: base.clone(),
                undefined: Vec::new(),
            },
            _ => self.expand(&from.image.value, &self.plan.globals, &stage.from)?,
        };
        self.lint_from_variables(stage, &image.undefined, linter);
        if image.value.is_empty() {
            let message = format!("base name ({}) should not be blank", from.image.value);
            return Err(BuildError::user(message).at(&location));
        }
        let platform = self.stage_platform(stage, linter)?;
        let contexts = &self.input.request.named_contexts;
        let own_context = stage
            .name
            .as_ref()
            .filter(|name| contexts.contains_key(*name));
        let replaced = own_context.is_some();
        let base = match own_context {
            Some(name) => Pending::Context(name.clone()),
            None => self.base_of(&image.value, &platform, &location)?,
        };
        let name = stage
            .name
            .clone()
            .unwrap_or_else(|| format!("stage-{}", stage.index));
        self.plan.push(PlannedStage {
            source: stage,
            name,
            base_name: image.value,
            base: match base {
                Pending::Scratch => Base::Scratch,
                Pending::Stage(index) => Base::Stage(index),
                Pending::Context(name) => Base::Directory(name),
                Pending::Image => Base::Unresolved,
            },
            platform,
            triggers: Vec::new(),
            replaced,
            needed: false,
        });
        Ok(())
    }

    /// A stage of which only the name is known.
    fn add_unknown_stage(&mut self, stage: &'a Stage) {
        self.plan.push(PlannedStage {
            source: stage,
            name: stage
                .name
                .clone()
                .unwrap_or_else(|| format!("stage-{}", stage.index)),
            base_name: stage.base().image.value.clone(),
            base: Base::Unknown,
            platform: self.plan.platform.clone(),
            triggers: Vec::new(),
            replaced: false,
            needed: false,
        });
    }

    fn lint_from_variables(&self, stage: &Stage, undefined: &[String], linter: &mut Linter) {
        for name in undefined {
            let declared = self.input.dockerfile.global_args.iter().any(|instruction| {
                matches!(&instruction.kind, InstructionKind::Arg(items)
                    if items.iter().any(|item| item.name.value == *name))
            });
            if !declared {
                let mut known = self.plan.globals.names();
                linter.add(rules::undefined_arg_in_from(&stage.from, name, &mut known));
            }
        }
    }

    fn stage_platform(&self, stage: &Stage, linter: &mut Linter) -> Result<Platform, BuildError> {
        let Some(word) = &stage.base().platform else {
            return Ok(self.plan.platform.clone());
        };
        let location = self.input.file.location(stage.from.lines, Some(word.span));
        let value = self.expand(&word.value, &self.plan.globals, &stage.from)?;
        self.lint_from_variables(stage, &value.undefined, linter);
        if let Some(finding) = rules::redundant_target_platform(stage) {
            linter.add(finding);
        }
        if let Some(finding) = rules::from_platform_const(stage) {
            linter.add(finding);
        }
        if value.value.is_empty() {
            let message = format!("empty platform value from expression {}", word.value);
            return Err(BuildError::user(message).at(&location));
        }
        Platform::parse(&value.value).map_err(|error| {
            BuildError::user(format!("failed to parse platform {}: {error}", value.value))
                .at(&location)
        })
    }

    fn base_of(
        &self,
        name: &str,
        platform: &Platform,
        location: &crate::error::Location,
    ) -> Result<Pending, BuildError> {
        // Unlike `--from`, FROM compares with the lower-cased stage name as written (S17).
        if let Some(index) = self.plan.by_name.get(name) {
            return Ok(Pending::Stage(*index));
        }
        if name == "scratch" {
            return Ok(Pending::Scratch);
        }
        if let Some(context) = context_for_image(name, platform, &self.input.request.named_contexts)
        {
            return Ok(Pending::Context(context));
        }
        match ImageReference::parse(name) {
            Ok(_) => Ok(Pending::Image),
            Err(error) => {
                let mut result =
                    BuildError::user(format!("failed to parse stage name {name:?}: {error}"));
                if self.plan.stage_by_name(name).is_some() {
                    result = result.with_help(format!(
                        "stage names in FROM are compared in lower case: write `{}`",
                        name.to_lowercase()
                    ));
                } else if ImageReference::parse(&name.to_lowercase()).is_ok() {
                    let name = name.to_lowercase();
                    result = result.with_help(format!("names of images are in lower case: {name}"));
                }
                Err(result.at(location))
            }
        }
    }
}

enum Pending {
    Scratch,
    Stage(usize),
    Context(String),
    Image,
}

/// Name of the context that stands for an image, if one was given: the familiar form of the
/// reference without `:latest`, a form with `::platform` first.
fn context_for_image(
    name: &str,
    platform: &Platform,
    contexts: &BTreeMap<String, NamedContext>,
) -> Option<String> {
    if contexts.is_empty() {
        return None;
    }
    let mut candidates = vec![name.to_owned()];
    if let Ok(reference) = ImageReference::parse(name) {
        let familiar = reference.familiar();
        candidates.push(
            familiar
                .strip_suffix(":latest")
                .unwrap_or(&familiar)
                .to_owned(),
        );
        candidates.push(familiar);
    }
    candidates
        .iter()
        .flat_map(|name| [format!("{name}::{platform}"), name.clone()])
        .find(|name| contexts.contains_key(name))
}
