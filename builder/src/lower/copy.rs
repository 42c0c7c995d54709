//! COPY and ADD → a `File` vertex (and a `Merge` for `--link`).
//!
//! Language reference, sections 5 and 7.2.

use std::collections::BTreeMap;

use rbuild_parser::{
    ChmodMode, CopyAdd, CopySource as ParsedSource, Instruction, InstructionKind, Linter,
    expand_heredoc, lint::rules,
};

use super::{
    LocalSource, Lowering, StageContext, StageState, absolute, error_at, finish_expansion,
};
use crate::error::BuildError;
use crate::event::VertexId;
use crate::ops::{CopyAction, CopySource, FileAction, FileOp, Op, VertexMeta};

impl<'a> Lowering<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one instruction's surroundings"
    )]
    pub(super) fn lower_copy(
        &mut self,
        context: &mut StageContext<'_, 'a>,
        state: &mut StageState,
        states: &[Option<StageState>],
        instruction: &Instruction,
        copy: &CopyAdd,
        trigger: bool,
        linter: &mut Linter,
    ) -> Result<(), BuildError> {
        let is_add = matches!(instruction.kind, InstructionKind::Add(_));
        if let Some(from) = copy.from.as_ref().filter(|from| from.value.contains('$')) {
            let message = "variable expansion is not supported for --from, define a new stage \
                           with FROM using ARG from global scope as a workaround";
            return Err(error_at(
                self.file,
                instruction,
                from.span,
                message.to_owned(),
            ));
        }
        let words = self.copy_words(state, instruction, copy, linter)?;
        let remote = self.remote_sources(state, instruction, copy, &words, linter)?;
        if copy.from.is_none() {
            self.lint_ignored(instruction, &words, linter);
        }
        let link = copy.link && words.chmod.is_none();
        let mut inputs: Vec<VertexId> = Vec::new();
        if !link {
            inputs.extend(state.root);
        }
        let needs_tree =
            words.sources.iter().zip(&remote).any(|(source, remote)| {
                matches!(source, ExpandedSource::Path(_)) && remote.is_none()
            });
        let source_input = if needs_tree {
            let source = match &copy.from {
                Some(from) => self.source_vertex(context, states, &from.value)?,
                None => Some(self.local(&LocalSource::Context)),
            };
            source.map(|vertex| {
                inputs.push(vertex);
                inputs.len() - 1
            })
        } else {
            None
        };
        let unpack = is_add && copy.unpack != Some(false);
        let mut places = Vec::with_capacity(remote.len());
        for source in remote {
            places.push(source.map(|source| {
                let (op, place) = (source.op, source.path);
                let mut meta = VertexMeta::internal(source.title);
                meta.lines = Some(instruction.lines);
                inputs.push(self.graph.add(op, Vec::new(), meta));
                CopySource::Path {
                    input: Some(inputs.len() - 1),
                    path: place,
                    unpack: source.is_file && copy.unpack == Some(true),
                }
            }));
        }
        let destination = absolute(state.workdir(), &words.destination);
        let action = CopyAction {
            sources: words.to_sources(source_input, unpack, places),
            destination,
            chown: words.chown.clone(),
            chmod: words.chmod.clone(),
            parents: copy.parents,
            exclude: copy
                .exclude
                .iter()
                .map(|pattern| pattern.value.clone())
                .collect(),
        };
        let detached = link || state.root.is_none();
        let op = Op::File(FileOp {
            actions: vec![FileAction::Copy(Box::new(action))],
            detached,
            times: self.file_times(context),
        });
        let meta = self.meta(context, instruction, trigger, &state.variables);
        let made = self.graph.add(op, inputs, meta.clone());
        state.root = Some(match state.root {
            Some(root) if link => {
                let mut merge = meta;
                merge.name = format!("{} (link)", merge.name);
                merge.internal = true;
                self.graph.add(Op::Merge, vec![root, made], merge)
            }
            _ => made,
        });
        state.commit(words.history(is_add, copy.parents), Some(made));
        Ok(())
    }

    /// Expands everything that expands.
    fn copy_words(
        &self,
        state: &StageState,
        instruction: &Instruction,
        copy: &CopyAdd,
        linter: &mut Linter,
    ) -> Result<CopyWords, BuildError> {
        let mut sources = Vec::with_capacity(copy.sources.len());
        let last = last_of_each_name(&copy.sources);
        for (index, source) in copy.sources.iter().enumerate() {
            sources.push(match source {
                ParsedSource::Path(word) => {
                    ExpandedSource::Path(self.expand(&word.value, state, instruction, linter)?)
                }
                // When two heredocs of one instruction share a name the last content wins for both (H29).
                ParsedSource::Heredoc(heredoc) if last[heredoc.name.as_str()] != index => {
                    ExpandedSource::Replaced(heredoc.name.clone())
                }
                ParsedSource::Heredoc(heredoc) if heredoc.expand => {
                    let result = expand_heredoc(&heredoc.content, &state.variables)
                        .map(|expansion| (expansion.value, expansion.undefined));
                    let content = finish_expansion(result, state, instruction, linter)?;
                    ExpandedSource::Heredoc(heredoc.name.clone(), content)
                }
                ParsedSource::Heredoc(heredoc) => {
                    ExpandedSource::Heredoc(heredoc.name.clone(), heredoc.content.to_string())
                }
            });
        }
        let destination = self.expand(&copy.destination.value, state, instruction, linter)?;
        let chown = match &copy.chown {
            Some(word) => Some(self.expand(&word.value, state, instruction, linter)?),
            None => None,
        };
        let chmod = match &copy.chmod {
            Some(word) => {
                let mode = self.expand(&word.value, state, instruction, linter)?;
                ChmodMode::parse(&mode).map_err(|message| {
                    error_at(self.file, instruction, word.span, message).with_help(
                        "--chmod takes an octal mode such as 0755 or a symbolic one such as u=rwX,go=rX",
                    )
                })?;
                Some(mode)
            }
            None => None,
        };
        Ok(CopyWords {
            sources,
            destination,
            chown,
            chmod,
        })
    }

    /// Warns of sources that the ignore file leaves out; not when it re-includes anything, since
    /// then only the walk can tell.
    fn lint_ignored(&self, instruction: &Instruction, words: &CopyWords, linter: &mut Linter) {
        let Some(matcher) = self.ignore.filter(|m| !m.is_empty() && !m.has_negation()) else {
            return;
        };
        for source in &words.sources {
            let ExpandedSource::Path(path) = source else {
                continue;
            };
            let clean = super::clean_path(&format!("/{path}"));
            let relative = clean.trim_start_matches('/');
            let relative = if relative.is_empty() { "." } else { relative };
            if matcher.ignored(relative) {
                linter.add(rules::copy_ignored_file(instruction, path));
            }
        }
    }
}

pub(super) enum ExpandedSource {
    Path(String),
    /// Name and content.
    Heredoc(String, String),
    /// A heredoc whose name comes again.
    Replaced(String),
}

/// Where the last heredoc of each name stands.
fn last_of_each_name(sources: &[ParsedSource]) -> BTreeMap<&str, usize> {
    let sources = sources.iter().enumerate();
    sources
        .filter_map(|(index, source)| match source {
            ParsedSource::Heredoc(heredoc) => Some((heredoc.name.as_str(), index)),
            ParsedSource::Path(_) => None,
        })
        .collect()
}

pub(super) struct CopyWords {
    pub(super) sources: Vec<ExpandedSource>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
}

impl CopyWords {
    /// What is copied: `remote` has a place for each source that is not in the tree `input`.
    fn to_sources(
        &self,
        input: Option<usize>,
        unpack: bool,
        remote: Vec<Option<CopySource>>,
    ) -> Vec<CopySource> {
        // Paths come before heredocs, as in BuildKit's list of sources.
        let paths = self.sources.iter().zip(remote);
        let paths = paths.filter_map(|(source, remote)| match source {
            ExpandedSource::Path(path) => Some(remote.unwrap_or_else(|| CopySource::Path {
                input,
                path: path.clone(),
                unpack,
            })),
            ExpandedSource::Heredoc(..) | ExpandedSource::Replaced(_) => None,
        });
        let heredocs = self.sources.iter().filter_map(|source| match source {
            ExpandedSource::Heredoc(name, content) => Some(CopySource::Inline {
                name: name.clone(),
                content: content.clone(),
            }),
            ExpandedSource::Path(_) | ExpandedSource::Replaced(_) => None,
        });
        paths.chain(heredocs).collect()
    }

    fn history(&self, is_add: bool, parents: bool) -> String {
        let mut text = String::from(if is_add { "ADD" } else { "COPY" });
        if parents {
            text.push_str(" --parents");
        }
        if let Some(chown) = &self.chown {
            text.push_str(&format!(" --chown={chown}"));
        }
        if let Some(chmod) = &self.chmod {
            text.push_str(&format!(" --chmod={chmod}"));
        }
        for source in &self.sources {
            match source {
                // The history goes where the image goes (CVE-2023-26054).
                ExpandedSource::Path(path) if is_add && path.starts_with("http") => {
                    text.push_str(&format!(" {}", crate::source::http::public(path)));
                }
                ExpandedSource::Path(path) => text.push_str(&format!(" {path}")),
                ExpandedSource::Heredoc(name, _) | ExpandedSource::Replaced(name) => {
                    text.push_str(&format!(" <<{name}"));
                }
            }
        }
        text.push_str(&format!(" {} # buildkit", self.destination));
        text
    }
}
