//! Where files come from: the context, named contexts, other stages and images.

use std::sync::Arc;

use rbuild_parser::ImageReference;

use super::stage::StageState;
use super::{LocalSource, Lowering, StageContext};
use crate::error::BuildError;
use crate::event::VertexId;
use crate::image::BaseImage;
use crate::ops::{CopyAction, CopySource, FileAction, FileOp, Op, VertexMeta};
use crate::plan::FromTarget;
use crate::request::NamedContext;

impl<'a> Lowering<'a> {
    /// The vertex of a local source, the same one for the same source.
    pub(super) fn local(&mut self, source: &LocalSource) -> VertexId {
        let index = self
            .locals
            .iter()
            .position(|known| known == source)
            .unwrap_or_else(|| {
                self.locals.push(source.clone());
                self.locals.len() - 1
            });
        let name = match source {
            LocalSource::Context => "[internal] load build context".to_owned(),
            LocalSource::Named(name) => format!("[context {name}] load from client"),
        };
        self.graph
            .add(Op::Local(index), Vec::new(), VertexMeta::internal(name))
    }

    /// A vertex with `path` of `source` copied to the same path of an empty root.
    pub(super) fn copy_tree(
        &mut self,
        source: VertexId,
        path: &str,
        name: &str,
        context: &StageContext<'_, 'a>,
    ) -> VertexId {
        let action = FileAction::Copy(Box::new(CopyAction {
            sources: vec![CopySource::Path {
                input: Some(0),
                path: path.to_owned(),
                unpack: false,
            }],
            destination: if path == "/" {
                "/".to_owned()
            } else {
                path.to_owned()
            },
            chown: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
        }));
        let meta = VertexMeta {
            name: name.to_owned(),
            lines: Some(context.lines),
            instruction: None,
            step: format!("{}/{name}/{path}", context.stage.name),
            ignore_cache: false,
            internal: true,
            stage: Some(context.stage.name.clone()),
            setting: None,
        };
        let op = Op::File(FileOp {
            actions: vec![action],
            detached: true,
            times: self.file_times(context),
        });
        self.graph.add(op, vec![source], meta)
    }

    /// The tree that a `--from` means: `None` is the empty file system.
    pub(super) fn source_vertex(
        &mut self,
        context: &StageContext<'_, 'a>,
        states: &[Option<StageState>],
        from: &str,
    ) -> Result<Option<VertexId>, BuildError> {
        match context
            .plan
            .target_of_from(from, &self.request.named_contexts)?
        {
            FromTarget::Scratch => Ok(None),
            FromTarget::Stage(index) if index >= context.index => Err(BuildError::user(format!(
                "cannot copy from stage {from:?}, it needs to be defined before current stage {:?}",
                context.stage.name
            ))),
            FromTarget::Stage(index) => Ok(states[index].as_ref().and_then(|state| state.root)),
            FromTarget::Context(name) => match self.request.named_contexts.get(&name) {
                Some(NamedContext::Directory(_)) | None => {
                    Ok(Some(self.local(&LocalSource::Named(name))))
                }
                Some(NamedContext::Git(_) | NamedContext::Http(_)) => {
                    Ok(self.remote_context(&name))
                }
                Some(named) => {
                    let platform = &context.plan.platform;
                    let image = self.resolver.context(&name, named, platform);
                    self.image_vertex(image)
                }
            },
            FromTarget::Image(name) => {
                let reference = ImageReference::parse(&name).map_err(|error| {
                    BuildError::user(format!("failed to parse stage name {name:?}: {error}"))
                })?;
                let image = self.resolver.image(&reference, &context.plan.platform);
                let image = image.map_err(|error| match context.plan.similar_stage(&name) {
                    Some(stage) => error.with_help(format!(
                        "no stage is called {name}, so an image of that name was looked for: did you \
                         mean {stage}?"
                    )),
                    None => error,
                });
                self.image_vertex(image)
            }
        }
    }

    /// The vertex of an image's files; `None` where it has none.
    fn image_vertex(
        &mut self,
        image: Result<BaseImage, BuildError>,
    ) -> Result<Option<VertexId>, BuildError> {
        let image = match image {
            Err(_) if self.check_only => return Ok(None),
            image => image?,
        };
        if image.layers.is_empty() {
            return Ok(None);
        }
        let name = format!("FROM {}", image.name);
        let op = Op::Image(Arc::new(image));
        Ok(Some(self.graph.add(
            op,
            Vec::new(),
            VertexMeta::internal(name),
        )))
    }
}
