//! Base images and the ONBUILD triggers that come with them.

use rbuild_parser::{
    ImageReference, InstructionKind, LintFinding, Linter, Platform, closest, lint::rules,
    parse_trigger,
};

use super::cut::references;
use super::{Base, FromTarget, PlannedStage, Planner};
use crate::error::BuildError;
use crate::image::BaseImage;
use crate::request::NamedContext;

impl<'a> Planner<'a, '_> {
    /// Takes a missing image as unknown where that is enough.
    fn or_unknown(
        &self,
        resolved: Result<BaseImage, BuildError>,
    ) -> Result<Option<BaseImage>, BuildError> {
        match resolved {
            Err(_) if self.input.check_only => Ok(None),
            resolved => resolved.map(Some),
        }
    }

    /// Looks up all images at once that these stages name. What points nowhere was told before.
    pub(super) fn prefetch(&self, stages: &[usize]) {
        let contexts = &self.input.request.named_contexts;
        let mut wanted = Vec::new();
        for stage in stages.iter().map(|index| &self.plan.stages[*index]) {
            match &stage.base {
                Base::Unresolved => {
                    let reference = ImageReference::parse(&stage.base_name);
                    wanted.extend(reference.ok().map(|name| (name, stage.platform.clone())));
                }
                Base::Directory(name) => {
                    if let Some(NamedContext::Image(reference)) = contexts.get(name) {
                        wanted.push((reference.clone(), stage.platform.clone()));
                    }
                }
                _ => {}
            }
            for (instruction, _) in stage.instructions() {
                for from in references(instruction) {
                    let reference = match self.plan.target_of_from(&from, contexts) {
                        Ok(FromTarget::Image(name)) => ImageReference::parse(&name).ok(),
                        Ok(FromTarget::Context(name)) => match contexts.get(&name) {
                            Some(NamedContext::Image(reference)) => Some(reference.clone()),
                            _ => None,
                        },
                        _ => None,
                    };
                    wanted.extend(reference.map(|name| (name, self.plan.platform.clone())));
                }
            }
        }
        self.input.resolver.prefetch(&wanted);
    }

    pub(super) fn resolve_base(
        &mut self,
        index: usize,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        let stage = &self.plan.stages[index];
        let from = &stage.source.from;
        let image_span = stage.source.base().image.span;
        let location = self.input.file.location(from.lines, Some(image_span));
        let resolved = match &stage.base {
            Base::Unresolved => self.resolve_image(stage),
            Base::Directory(name) => match self.input.request.named_contexts.get(name) {
                Some(NamedContext::Directory(_) | NamedContext::Git(_) | NamedContext::Http(_))
                | None => return Ok(()),
                Some(context) => {
                    let resolver = self.input.resolver;
                    resolver.context(name, context, &stage.platform)
                }
            },
            _ => return Ok(()),
        };
        let resolved = resolved.map_err(|error| error.at(&location));
        let Some(resolved) = self.or_unknown(resolved)? else {
            self.plan.stages[index].base = Base::Unknown;
            return Ok(());
        };
        if let Some(finding) = other_platform(stage, &resolved) {
            linter.add(finding);
        }
        self.plan.stages[index].base = Base::Image(Box::new(resolved));
        Ok(())
    }

    fn resolve_image(&self, stage: &PlannedStage<'a>) -> Result<BaseImage, BuildError> {
        let reference = ImageReference::parse(&stage.base_name).map_err(BuildError::user)?;
        let resolver = self.input.resolver;
        resolver
            .image(&reference, &stage.platform)
            .map_err(|mut error| {
                let stages = self.plan.stages.iter();
                let names = stages.filter_map(|stage| stage.source.name.as_deref());
                if let Some(close) = closest(&stage.base_name, names) {
                    error.message.push_str(&format!(" (did you mean {close}?)"));
                }
                error
            })
    }

    pub(super) fn attach_triggers(&mut self, index: usize) -> Result<(), BuildError> {
        let stage = &self.plan.stages[index];
        let location = {
            let from = &stage.source.from;
            self.input.file.location(from.lines, Some(from.span))
        };
        let texts: Vec<String> = match &stage.base {
            Base::Image(image) => image.config.config.on_build.clone(),
            Base::Stage(base) => {
                let base = &self.plan.stages[*base];
                let own = if base.replaced {
                    &[][..]
                } else {
                    &base.source.instructions[..]
                };
                let own = own
                    .iter()
                    .filter_map(|instruction| match &instruction.kind {
                        InstructionKind::Onbuild(text) => Some(text.value.clone()),
                        _ => None,
                    });
                own.collect()
            }
            _ => Vec::new(),
        };
        let escape = self.input.dockerfile.escape;
        let mut triggers = Vec::with_capacity(texts.len());
        for text in texts {
            let mut trigger = parse_trigger(&text, escape).map_err(|diagnostic| {
                BuildError::user(diagnostic.message)
                    .at(&location)
                    .with_help(format!("the base's ONBUILD trigger reads `{text}`"))
            })?;
            // A trigger stands where its FROM stands.
            trigger.lines = self.plan.stages[index].source.from.lines;
            trigger.span = self.plan.stages[index].source.from.span;
            triggers.push(trigger);
        }
        self.plan.stages[index].triggers = triggers;
        Ok(())
    }
}

/// `InvalidBaseImagePlatform`: the image is for another system than was asked for.
fn other_platform(stage: &PlannedStage<'_>, image: &BaseImage) -> Option<LintFinding> {
    let found = &image.config;
    let same = found.os == stage.platform.os && found.architecture == stage.platform.architecture;
    if same || found.os.is_empty() {
        return None;
    }
    let got = Platform {
        os: found.os.clone(),
        architecture: found.architecture.clone(),
        variant: found.variant.clone(),
        os_version: None,
        os_features: Vec::new(),
    };
    let (from, name) = (&stage.source.from, &stage.base_name);
    Some(rules::invalid_base_image_platform(
        from,
        name,
        &got,
        &stage.platform,
    ))
}
