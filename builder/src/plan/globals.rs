//! What holds for all stages: platform arguments and the `ARG`s before the first `FROM`.

use rbuild_parser::{ImageReference, InstructionKind, Linter, Variables, expand, lint::rules};

use super::{EPOCH, Planner};
use crate::error::BuildError;
use crate::request::BuildRequest;
use crate::scope::{VariableList, platform_arguments};

impl Planner<'_, '_> {
    /// Platform arguments and the `ARG`s before the first `FROM`.
    pub(super) fn global_scope(&mut self) -> Result<(), BuildError> {
        let request = self.input.request;
        let target_stage = request
            .target
            .clone()
            .or_else(|| {
                self.input
                    .dockerfile
                    .stages
                    .last()
                    .and_then(|stage| stage.name.clone())
            })
            .unwrap_or_else(|| "default".to_owned());
        for (name, value) in
            platform_arguments(&self.input.host, &self.input.platform, &target_stage)
        {
            let value = request.build_args.get(&name).unwrap_or(&value);
            self.plan.globals.set(&name, value);
        }
        for instruction in &self.input.dockerfile.global_args {
            let InstructionKind::Arg(items) = &instruction.kind else {
                continue;
            };
            for item in items {
                let name = &item.name.value;
                if let Some(value) = request.build_args.get(name) {
                    self.plan.globals.set(name, value);
                } else if let Some(default) = &item.default {
                    let value = self.expand(&default.value, &self.plan.globals, instruction)?;
                    self.plan.globals.set(name, &value.value);
                }
            }
        }
        if request.reproducible
            && !request.build_args.contains_key(EPOCH)
            && self.plan.globals.get(EPOCH).is_none()
        {
            // As if it had been given: `ARG SOURCE_DATE_EPOCH` shows it to RUN.
            let time = BuildRequest::REPRODUCIBLE_TIME.to_string();
            self.plan.globals.set(EPOCH, &time);
        }
        Ok(())
    }

    /// `InvalidDefaultArgInFrom`: the name that results from defaults alone.
    pub(super) fn check_default_names(&self, linter: &mut Linter) {
        let mut defaults = VariableList::new();
        let stage_name = "default";
        for (name, value) in platform_arguments(&self.input.host, &self.input.platform, stage_name)
        {
            defaults.set(&name, &value);
        }
        let escape = self.input.dockerfile.escape;
        for instruction in &self.input.dockerfile.global_args {
            let InstructionKind::Arg(items) = &instruction.kind else {
                continue;
            };
            for item in items {
                let Some(default) = &item.default else {
                    continue;
                };
                if let Ok(value) = expand(&default.value, escape, &defaults) {
                    defaults.set(&item.name.value, &value.value);
                }
            }
        }
        for stage in &self.input.dockerfile.stages {
            let image = &stage.base().image.value;
            let Ok(name) = expand(image, escape, &defaults) else {
                continue;
            };
            if name.value.is_empty() || ImageReference::parse(&name.value).is_err() {
                // A constant name that is invalid is an error of its own, later.
                if name.value != *image {
                    linter.add(rules::invalid_default_arg_in_from(&stage.from, image));
                }
            }
        }
    }
}
