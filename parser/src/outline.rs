//! What `--call=targets` and `--call=outline` show, as far as the tree gives it: values of variables
//! are filled in by the caller.

use std::collections::BTreeSet;

use crate::expand::Variables;
use crate::{
    Dockerfile, Instruction, InstructionKind, LineRange, MountKind, Stage, expand, parse_mount,
};

/// A stage in the list of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Position of the stage.
    pub index: usize,
    /// Name, lower-cased.
    pub name: Option<String>,
    /// Unexpanded base.
    pub base: String,
    /// Unexpanded platform.
    pub platform: Option<String>,
    /// Description from the comment above: the text behind `# <name> `.
    pub description: Option<String>,
    /// Whether it is built when no target is asked for.
    pub default: bool,
    /// Lines of the `FROM`.
    pub lines: LineRange,
}

/// What can be given to the build of one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Name of the stage.
    pub name: Option<String>,
    /// Description from the comment above.
    pub description: Option<String>,
    /// Build arguments, in the order of the file.
    pub args: Vec<OutlineArg>,
    /// Secrets, in the order of the file.
    pub secrets: Vec<OutlineSecret>,
    /// ssh agents, in the order of the file.
    pub ssh: Vec<OutlineSecret>,
    /// Ids or targets of cache mounts, in the order of the file.
    pub caches: Vec<OutlineSecret>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Name.
    pub name: String,
    /// Unexpanded default.
    pub default: Option<String>,
    /// Description from the comment above.
    pub description: Option<String>,
    /// Lines of the `ARG`.
    pub lines: LineRange,
}

/// A secret, an ssh agent or a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineSecret {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Lines of the `RUN` that uses it first.
    pub lines: LineRange,
}

/// Lists the stages as targets.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let count = dockerfile.stages.len();
    dockerfile
        .stages
        .iter()
        .map(|stage| Target {
            index: stage.index,
            name: stage.name.clone(),
            base: stage.base().image.value.clone(),
            platform: stage
                .base()
                .platform
                .as_ref()
                .map(|platform| platform.value.clone()),
            description: description(stage),
            default: stage.index + 1 == count,
            lines: stage.from.lines,
        })
        .collect()
}

fn description(stage: &Stage) -> Option<String> {
    let name = stage.name.as_deref()?;
    stage.from.description(name).map(str::to_owned)
}

/// Describes the stage with this position and everything that it is built from.
pub fn outline(dockerfile: &Dockerfile, index: usize) -> Option<Outline> {
    let target = dockerfile.stages.get(index)?;
    let mut outline = Outline {
        name: target.name.clone(),
        description: description(target),
        ..Outline::default()
    };
    let stages = needed(dockerfile, index);
    let used = used_names(dockerfile, &stages);
    for instruction in &dockerfile.global_args {
        args(instruction, &mut outline, |name| used.contains(name));
    }
    for stage in stages.iter().map(|index| &dockerfile.stages[*index]) {
        for instruction in &stage.instructions {
            args(instruction, &mut outline, |_| true);
            mounts(instruction, &mut outline);
        }
    }
    Some(outline)
}

/// Returns the positions of a stage and of those that it needs, in the order of the file.
fn needed(dockerfile: &Dockerfile, index: usize) -> BTreeSet<usize> {
    let mut needed = BTreeSet::new();
    let mut open = vec![index];
    while let Some(index) = open.pop() {
        if !needed.insert(index) {
            continue;
        }
        let stage = &dockerfile.stages[index];
        let find = |name: &str| {
            dockerfile
                .stages
                .iter()
                .rposition(|other| other.name.as_deref() == Some(name))
        };
        let earlier = &dockerfile.stages[..index];
        let base = &stage.base().image.value;
        open.extend(
            earlier
                .iter()
                .rposition(|other| other.name.as_ref() == Some(base)),
        );
        for name in stage.instructions.iter().flat_map(sources) {
            let number = name
                .parse()
                .ok()
                .filter(|number| *number < dockerfile.stages.len());
            open.extend(find(&name.to_lowercase()).or(number));
        }
    }
    needed
}

/// Returns the stages, contexts and images that an instruction names.
fn sources(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.iter().map(|from| from.value.clone()).collect(),
        InstructionKind::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| parse_mount(&mount.value).ok()?.from)
            .collect(),
        _ => Vec::new(),
    }
}

/// Takes note of every variable that is asked for.
#[derive(Default)]
struct Recorder(std::cell::RefCell<BTreeSet<String>>);

impl Variables for Recorder {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }
}

/// Returns the names of global arguments that the stages use: in FROM, or declared again.
fn used_names(dockerfile: &Dockerfile, stages: &BTreeSet<usize>) -> BTreeSet<String> {
    let recorder = Recorder::default();
    let record = |word: &str| {
        // What cannot be expanded is an error elsewhere.
        let _ = expand(word, dockerfile.escape, &recorder);
    };
    for stage in stages.iter().map(|index| &dockerfile.stages[*index]) {
        record(&stage.base().image.value);
        if let Some(platform) = &stage.base().platform {
            record(&platform.value);
        }
        for instruction in &stage.instructions {
            if let InstructionKind::Arg(items) = &instruction.kind {
                let names = items.iter().map(|item| item.name.value.clone());
                recorder.0.borrow_mut().extend(names);
            }
        }
    }
    // Defaults of used arguments use others, which stand before them.
    for instruction in dockerfile.global_args.iter().rev() {
        let InstructionKind::Arg(items) = &instruction.kind else {
            continue;
        };
        for item in items.iter().rev() {
            if let Some(default) = &item.default
                && recorder.0.borrow().contains(&item.name.value)
            {
                record(&default.value);
            }
        }
    }
    recorder.0.into_inner()
}

fn args(instruction: &Instruction, outline: &mut Outline, wanted: impl Fn(&str) -> bool) {
    let InstructionKind::Arg(items) = &instruction.kind else {
        return;
    };
    for item in items.iter().filter(|item| wanted(&item.name.value)) {
        let name = &item.name.value;
        let default = item.default.as_ref().map(|default| default.value.clone());
        let description = instruction.description(name).map(str::to_owned);
        match outline.args.iter_mut().find(|known| known.name == *name) {
            // A declaration in a stage takes its default and description from the global one.
            Some(known) => {
                known.default = default.or(known.default.take());
                known.description = description.or(known.description.take());
            }
            None => outline.args.push(OutlineArg {
                name: name.clone(),
                default,
                description,
                lines: instruction.lines,
            }),
        }
    }
}

fn mounts(instruction: &Instruction, outline: &mut Outline) {
    let InstructionKind::Run(run) = &instruction.kind else {
        return;
    };
    for mount in run
        .mounts
        .iter()
        .filter_map(|mount| parse_mount(&mount.value).ok())
    {
        let base_name = |target: &str| target.rsplit('/').next().unwrap_or(target).to_owned();
        let (list, id) = match mount.kind {
            MountKind::Secret => {
                let id = mount
                    .id
                    .or(mount.source)
                    .or(mount.target.as_deref().map(base_name));
                (&mut outline.secrets, id)
            }
            MountKind::Ssh => (
                &mut outline.ssh,
                Some(mount.id.unwrap_or_else(|| "default".to_owned())),
            ),
            MountKind::Cache => (&mut outline.caches, mount.id.or(mount.target)),
            MountKind::Bind | MountKind::Tmpfs => continue,
        };
        let Some(id) = id else { continue };
        match list.iter_mut().find(|known| known.id == id) {
            Some(known) => known.required |= mount.required,
            None => list.push(OutlineSecret {
                id,
                required: mount.required,
                lines: instruction.lines,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const SOURCE: &str = "\
# base the image to start from
ARG base=alpine
ARG unused=1
# tools what compiles
FROM $base AS tools
# mode how hard to try
ARG mode=fast
RUN --mount=type=secret,id=token --mount=type=cache,target=/c make
FROM scratch AS other
ARG hidden
FROM scratch
COPY --from=tools /a /
RUN --mount=type=ssh,required --mount=type=secret,target=/run/secrets/token,required x
";

    #[test]
    fn targets_are_listed() {
        let targets = targets(&parse(SOURCE.as_bytes()).dockerfile);
        let list: Vec<_> = targets
            .iter()
            .map(|target| {
                (
                    target.name.as_deref(),
                    target.description.as_deref(),
                    target.default,
                )
            })
            .collect();
        assert_eq!(
            list,
            [
                (Some("tools"), Some("what compiles"), false),
                (Some("other"), None, false),
                (None, None, true),
            ]
        );
    }

    #[test]
    fn an_outline_covers_what_the_target_needs() {
        let outline = outline(&parse(SOURCE.as_bytes()).dockerfile, 2).unwrap();
        let args: Vec<_> = outline
            .args
            .iter()
            .map(|arg| {
                (
                    arg.name.as_str(),
                    arg.default.as_deref(),
                    arg.description.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            args,
            [
                ("base", Some("alpine"), Some("the image to start from")),
                ("mode", Some("fast"), Some("how hard to try")),
            ]
        );
        assert_eq!(outline.secrets.len(), 1);
        assert!(outline.secrets[0].required);
        assert_eq!(outline.secrets[0].lines.first, 8);
        assert_eq!(
            (outline.ssh[0].id.as_str(), outline.ssh[0].required),
            ("default", true)
        );
        assert_eq!(outline.caches[0].id, "/c");
    }
}
