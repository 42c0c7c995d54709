//! Sources of `ADD` that are not on this machine, and contexts of that kind.

use rbuild_cache::Digest;
use rbuild_parser::{
    CopyAdd, CopySource as ParsedSource, Instruction, InstructionKind, Linter, SourceKind, Word,
    source_kind,
};

use super::copy::{CopyWords, ExpandedSource};
use super::{Lowering, StageState, error_at};
use crate::error::BuildError;
use crate::event::VertexId;
use crate::ops::{Op, VertexMeta};
use crate::request::NamedContext;
use crate::source::git::GitSource;
use crate::source::http::{HttpSource, file_name, public};

/// A source that is fetched.
pub(super) struct RemoteSource {
    /// How.
    pub(super) op: Op,
    /// What is copied of it, with what could be a wildcard escaped.
    pub(super) path: String,
    /// It is one file, as opposed to a tree.
    pub(super) is_file: bool,
    /// Progress name.
    pub(super) title: String,
}

impl Lowering<'_> {
    /// Tells which sources are remote, in the order of the words, and checks what only makes sense
    /// with those.
    pub(super) fn remote_sources(
        &self,
        state: &StageState,
        instruction: &Instruction,
        copy: &CopyAdd,
        words: &CopyWords,
        linter: &mut Linter,
    ) -> Result<Vec<Option<RemoteSource>>, BuildError> {
        if let Some(checksum) = &copy.checksum
            && words.sources.len() > 1
        {
            let message = "checksum can't be specified for multiple sources".to_owned();
            return Err(error_at(self.file, instruction, checksum.span, message));
        }
        let checksum = match &copy.checksum {
            Some(word) => Some((self.expand(&word.value, state, instruction, linter)?, word)),
            None => None,
        };
        let mut remote = Vec::with_capacity(words.sources.len());
        for (source, parsed) in words.sources.iter().zip(&copy.sources) {
            remote.push(match (source, parsed) {
                (ExpandedSource::Path(path), ParsedSource::Path(word)) => {
                    self.remote_source(instruction, copy, path, word, checksum.as_ref())?
                }
                _ => None,
            });
        }
        if let Some((_, word)) = &checksum
            && remote.iter().all(Option::is_none)
        {
            let message = "checksum requires HTTP(S) or Git sources".to_owned();
            return Err(error_at(self.file, instruction, word.span, message));
        }
        Ok(remote)
    }

    fn remote_source(
        &self,
        instruction: &Instruction,
        copy: &CopyAdd,
        path: &str,
        word: &Word,
        checksum: Option<&(String, &Word)>,
    ) -> Result<Option<RemoteSource>, BuildError> {
        let refused = |message: &str| error_at(self.file, instruction, word.span, message.into());
        let is_add = matches!(instruction.kind, InstructionKind::Add(_));
        match source_kind(path) {
            SourceKind::Path => Ok(None),
            SourceKind::Http if !is_add => {
                Err(refused("source can't be a URL for COPY")
                    .with_help("use ADD for remote sources"))
            }
            SourceKind::Git(_) | SourceKind::InvalidGit(_) if !is_add => {
                Err(refused("source can't be a git ref for COPY")
                    .with_help("use ADD for remote sources"))
            }
            SourceKind::InvalidGit(message) => Err(refused(&message)),
            SourceKind::Http => {
                let checksum = match checksum {
                    Some((text, word)) => Some(self.digest(instruction, text, word)?),
                    None => None,
                };
                let name = file_name(path);
                Ok(Some(RemoteSource {
                    path: format!("/{}", escape_wildcards(&name)),
                    op: Op::Http(HttpSource {
                        url: path.to_owned(),
                        checksum,
                        name,
                        unpack: false,
                    }),
                    is_file: true,
                    title: format!("load {}", public(path)),
                }))
            }
            SourceKind::Git(url) => {
                let mut source = GitSource::new(&url);
                if let Some((text, word)) = checksum {
                    if source.checksum.as_ref().is_some_and(|known| known != text) {
                        let message = format!(
                            "checksum conflicts {:?} {text:?}",
                            source.checksum.unwrap_or_default()
                        );
                        return Err(error_at(self.file, instruction, word.span, message));
                    }
                    source.checksum = Some(text.clone());
                }
                if let Some(keep) = copy.keep_git_dir {
                    source.keep_git_dir = keep;
                }
                Ok(Some(RemoteSource {
                    op: Op::Git(source),
                    path: "/".to_owned(),
                    is_file: false,
                    title: format!("load git source {}", public(path)),
                }))
            }
        }
    }

    fn digest(
        &self,
        instruction: &Instruction,
        text: &str,
        word: &Word,
    ) -> Result<Digest, BuildError> {
        text.parse().map_err(|_| {
            let message = "invalid checksum digest format".to_owned();
            error_at(self.file, instruction, word.span, message)
                .with_help("a checksum of a file is `sha256:` and 64 hexadecimal digits")
        })
    }

    /// The vertex of a named context that is fetched; nothing for other kinds.
    pub(super) fn remote_context(&mut self, name: &str) -> Option<VertexId> {
        let (op, address) = match self.request.named_contexts.get(name)? {
            NamedContext::Git(url) => (Op::Git(GitSource::new(url)), public(&url.remote)),
            NamedContext::Http(url) => {
                let source = HttpSource {
                    url: url.clone(),
                    checksum: None,
                    name: file_name(url),
                    unpack: true,
                };
                (Op::Http(source), public(url))
            }
            _ => return None,
        };
        let meta = VertexMeta::internal(format!("[context {name}] load {address}"));
        Some(self.graph.add(op, Vec::new(), meta))
    }
}

/// Makes a name mean itself where wildcards are understood.
fn escape_wildcards(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_wildcards_mean_themselves() {
        assert_eq!(escape_wildcards("a*b[1]?\\"), "a\\*b\\[1]\\?\\\\");
    }
}
