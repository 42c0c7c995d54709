//! Layers of images: named at once, brought when somebody reads them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rbuild_cache::DiffId;
use rbuild_registry::RegistryError;

use super::vertex::plain;
use super::{LayerRef, SolveContext, Value, VertexOutput};
use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, VertexId};
use crate::image::{BaseImage, BaseLayer, ImageError, Origin};
use crate::ops::Vertex;
use crate::turn::turn;

/// An image's layers are not fetched before someone reads them.
pub(super) fn image_output(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    image: &Arc<BaseImage>,
) -> Result<VertexOutput, BuildError> {
    let layers = image.layers.iter().map(|layer| layer.diff_id);
    if vertex.meta.lines.is_some() && all_there(context, layers)? {
        context.events.event(Event::Cached {
            vertex: id,
            name: vertex.meta.name.clone(),
        });
    }
    let layers = image.layers.iter().map(|layer| LayerRef {
        diff_id: layer.diff_id,
        origin: Some((Arc::clone(image), id)),
    });
    Ok(plain(Value::Rootfs(layers.collect())))
}

fn all_there(
    context: &SolveContext<'_>,
    layers: impl Iterator<Item = DiffId>,
) -> Result<bool, BuildError> {
    for diff_id in layers {
        let found = context
            .store
            .layer(&diff_id)
            .map_err(|error| BuildError::io("could not open a layer", &error))?;
        if found.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Brings layers of an image into the store, telling how far it is.
pub(super) fn load_layers(
    context: &SolveContext<'_>,
    image: &Arc<BaseImage>,
    id: VertexId,
    wanted: &[DiffId],
) -> Result<(), BuildError> {
    let name = if (id.0 as usize) < context.graph.len() {
        context.graph.vertex(id).meta.name.clone()
    } else {
        format!("[cache] load layers from {}", image.name)
    };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io(format!("could not load the image {}", image.name), error)
    };
    let _lock = turn(
        context.store,
        context.cancel,
        &format!("load image {}", image.manifest),
        || {},
    )?;
    let layers = image.layers.iter();
    let layers: Vec<&BaseLayer> = layers.filter(|l| wanted.contains(&l.diff_id)).collect();
    if all_there(context, layers.iter().map(|layer| layer.diff_id))? {
        return Ok(());
    }
    let start = Instant::now();
    let began = context.recorder.now();
    context.events.event(Event::Started {
        vertex: id,
        name: name.clone(),
    });
    let remote = matches!(image.origin, Origin::Registry(_));
    let done = RefCell::new(BTreeMap::new());
    let progress = |layer: &BaseLayer, bytes: u64, total: u64| {
        let (what, current, total) = if remote {
            (layer.blob.to_string(), bytes, layer.size)
        } else {
            let mut done = done.borrow_mut();
            done.insert(layer.diff_id, bytes);
            ("unpacking".to_owned(), done.values().sum(), total)
        };
        context.events.event(Event::Progress {
            vertex: id,
            what,
            current,
            total: Some(total),
        });
    };
    image
        .bring_layers(context.store, &layers, &progress)
        .map_err(|error| {
            if let ImageError::Registry(RegistryError::Interrupted { .. }) = error {
                context.events.event(Event::Cancelled { vertex: id });
                return BuildError::cancelled();
            }
            let help = error.hints();
            let mut error = failed(&error);
            error.help.extend(help);
            if context.lost.add(id) {
                context.records.lose(id);
                error.kind = BuildErrorKind::CacheLost;
            }
            let message = error.message.clone();
            context.events.event(Event::Failed {
                vertex: id,
                message,
            });
            error
        })?;
    context
        .recorder
        .transfer(id, &name, (began, context.recorder.now()));
    context.events.event(Event::Finished {
        vertex: id,
        elapsed: start.elapsed(),
        layer: None,
    });
    Ok(())
}
