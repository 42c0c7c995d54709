//! The last step: history and layers into the config, and out to where the result goes.

mod squash;

use std::cell::Cell;
use std::time::Instant;

use jiff::Timestamp;
use rbuild_cache::{DiffId, DiskTrouble};
use rbuild_parser::ImageReference;

use crate::BuildResult;
use crate::beside::export_vertex;
use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, Warning};
use crate::image::{BaseImage, BaseLayer, History, ImageError, Origin, Place};
use crate::lower::LoweredTarget;
use crate::output::{Finished, OutputError, write_outputs};
use crate::remote_cache;
use crate::request::{Output, OutputKind};
use crate::solve::{LayerRef, SolveContext, VertexOutput, materialize};

/// Completes the image of every platform and writes the outputs.
pub(crate) fn finish(
    context: &SolveContext<'_>,
    targets: &[LoweredTarget],
    outputs: &[Option<VertexOutput>],
    warnings: Vec<Warning>,
) -> Result<BuildResult, BuildError> {
    bring_layers(context, targets, outputs)?;
    let mut finished: Vec<Finished> = targets
        .iter()
        .map(|target| {
            let mut finished = complete(target, outputs);
            remote_cache::inline(context, outputs, &mut finished.config);
            finished
        })
        .collect();
    if let Some(which) = context.request.squash {
        for one in &mut finished {
            squash::squash(context, one, which)?;
        }
    }
    if context.request.config.omit_history {
        for one in &mut finished {
            one.config.history.clear();
        }
    }
    let vertex = export_vertex(context.graph);
    let start = Instant::now();
    let began = context.recorder.now();
    let begun = Cell::new(false);
    let progress = |what: &str, current: u64, total: Option<u64>| {
        if !begun.replace(true) {
            let name = "exporting to image".to_owned();
            context.events.event(Event::Started { vertex, name });
        }
        let what = what.to_owned();
        context.events.event(Event::Progress {
            vertex,
            what,
            current,
            total,
        });
    };
    if context.beside.pushes() {
        progress("exporting layers", 0, None);
        // Not to send the same twice.
        context.beside.wait();
    }
    let written = write_outputs(
        context.store,
        context.client,
        context.request,
        &finished,
        &progress,
    )
    .map_err(|error| {
        let interrupted = matches!(&error, OutputError::Image(error) if error.is_interrupted());
        if interrupted || context.cancel.is_cancelled() {
            context.events.event(Event::Cancelled { vertex });
            return BuildError::cancelled();
        }
        let lost = match &error {
            OutputError::Image(ImageError::Elsewhere { digest, .. }) => {
                lose(context, outputs, digest)
            }
            _ => false,
        };
        let mut error = output_error(&error);
        if lost {
            error.kind = BuildErrorKind::CacheLost;
        }
        let message = error.message.clone();
        context.events.event(Event::Failed { vertex, message });
        error
    })?;
    let span = (began, context.recorder.now());
    context
        .recorder
        .transfer(vertex, "exporting to image", span);
    context.events.event(Event::Finished {
        vertex,
        elapsed: start.elapsed(),
        layer: None,
    });
    let layers: Vec<DiffId> = finished.iter().flat_map(|one| one.layers.clone()).collect();
    remote_cache::export(context, outputs, &layers, vertex)?;
    let steps = context.graph.vertices().filter(|(id, vertex)| {
        !vertex.meta.internal && outputs.get(id.0 as usize).is_some_and(Option::is_some)
    });
    let (mut cached, mut executed) = (0, 0);
    for (id, _) in steps {
        match &outputs[id.0 as usize] {
            Some(output) if output.cached => cached += 1,
            _ => executed += 1,
        }
    }
    Ok(BuildResult {
        image_id: written.image_id,
        manifest: written.manifest,
        manifest_size: written.manifest_size,
        media_type: written.media_type,
        names: written.names,
        warnings,
        cached,
        executed,
        images: finished,
    })
}

/// Gives up the cache that was to have a blob; false if it was not to come from a cache.
fn lose(
    context: &SolveContext<'_>,
    outputs: &[Option<VertexOutput>],
    blob: &rbuild_cache::Digest,
) -> bool {
    let origins = outputs.iter().flatten().flat_map(VertexOutput::layers);
    let mut origins = origins.filter_map(|layer| layer.origin.as_ref());
    let origin = origins.find(|(image, _)| image.layers.iter().any(|one| one.blob == *blob));
    let lost = origin.is_some_and(|(_, vertex)| context.lost.add(*vertex));
    if let (true, Some((_, vertex))) = (lost, origin) {
        context.records.lose(*vertex);
    }
    lost
}

/// Brings the layers that no step has read, for outputs that write them.
fn bring_layers(
    context: &SolveContext<'_>,
    targets: &[LoweredTarget],
    outputs: &[Option<VertexOutput>],
) -> Result<(), BuildError> {
    let writes = |output: &Output| match output.kind {
        OutputKind::CacheOnly => false,
        // A registry may have them already; others are brought as blobs.
        OutputKind::Registry { .. } if context.request.squash.is_none() => {
            let compression = output.options.compression.as_ref();
            output.options.own_blobs || compression.is_some_and(|compression| compression.force)
        }
        _ => true,
    };
    if !context.request.outputs.iter().any(writes) {
        return Ok(());
    }
    for vertex in targets.iter().filter_map(|target| target.root) {
        if let Some(Some(output)) = outputs.get(vertex.0 as usize) {
            materialize(context, output.layers())?;
        }
    }
    Ok(())
}

fn output_error(error: &OutputError) -> BuildError {
    let mut chain = crate::error::chain(error);
    let message = chain.remove(0);
    let mut result = BuildError::new(BuildErrorKind::Io, message);
    result.causes = chain;
    result.disk = DiskTrouble::of(error);
    result.help = error.hints();
    result
}

fn complete(target: &LoweredTarget, outputs: &[Option<VertexOutput>]) -> Finished {
    let output = |vertex: crate::event::VertexId| outputs.get(vertex.0 as usize)?.as_ref();
    let references = target.root.and_then(output);
    let references = references.map_or(&[][..], |output| output.layers());
    let layers: Vec<_> = references.iter().map(|layer| layer.diff_id).collect();
    let elsewhere = references.iter().filter_map(elsewhere).collect();
    let mut config = target.config.clone();
    config.rootfs.diff_ids.clone_from(&layers);
    let times: Vec<Option<String>> = target
        .history
        .iter()
        .map(|step| {
            step.vertex
                .and_then(output)
                .and_then(|output| output.created.clone())
        })
        .collect();
    let before = target
        .base
        .as_ref()
        .and_then(|base| base.config.created.clone())
        .or_else(|| {
            target
                .base_history
                .last()
                .and_then(|entry| entry.created.clone())
        });
    let epoch = target.source_date_epoch.map(|epoch| {
        Timestamp::from_second(epoch)
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .to_string()
    });
    config.history.clone_from(&target.base_history);
    for (index, step) in target.history.iter().enumerate() {
        let created = epoch
            .clone()
            .unwrap_or_else(|| created(&times, index, before.as_deref()));
        config.history.push(History {
            created: Some(created),
            created_by: step.created_by.clone(),
            author: None,
            comment: Some(LoweredTarget::history_comment().to_owned()),
            empty_layer: step.vertex.is_none(),
        });
    }
    config.created = config
        .history
        .iter()
        .rev()
        .find_map(|entry| entry.created.clone())
        .or(before)
        .or_else(|| Some(Timestamp::UNIX_EPOCH.to_string()));
    let base_layers = target
        .base
        .as_ref()
        .map(|base| base.layers.clone())
        .unwrap_or_default();
    Finished {
        platform: target.platform.clone(),
        config,
        new_layers_from: base_layers.len(),
        base_blobs: base_layers,
        layers,
        elsewhere,
        base_repository: target.base.as_deref().and_then(repository),
        source_date_epoch: target.source_date_epoch,
    }
}

/// Where a registry has a layer.
fn elsewhere(reference: &LayerRef) -> Option<(DiffId, (BaseLayer, Place))> {
    let (image, _) = reference.origin.as_ref()?;
    let Origin::Registry(remote) = &image.origin else {
        return None;
    };
    let mut layers = image.layers.iter();
    let layer = layers.find(|layer| layer.diff_id == reference.diff_id)?;
    Some((layer.diff_id, (layer.clone(), remote.clone())))
}

/// Registry host and repository that an image is named after.
fn repository(image: &BaseImage) -> Option<(String, String)> {
    let name = ImageReference::parse(&image.name).ok()?;
    Some((name.domain().to_owned(), name.path().to_owned()))
}

/// Time of the entry's own layer, else of the next new layer, else of the last one before.
///
/// An image without any new layer takes its base's time, or 1970: a clock here would give the same
/// build another digest each time.
fn created(times: &[Option<String>], index: usize, before: Option<&str>) -> String {
    let own_or_later = times[index..].iter().find_map(Clone::clone);
    let earlier = || times[..index].iter().rev().find_map(Clone::clone);
    own_or_later
        .or_else(earlier)
        .or_else(|| before.map(str::to_owned))
        .unwrap_or_else(|| Timestamp::UNIX_EPOCH.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_takes_the_time_of_the_next_layer() {
        let times = [
            None,
            Some("t1".to_owned()),
            None,
            Some("t2".to_owned()),
            None,
        ];
        let all: Vec<String> = (0..5)
            .map(|index| created(&times, index, Some("b")))
            .collect();
        assert_eq!(all, ["t1", "t1", "t2", "t2", "t2"]);
        assert_eq!(created(&[None], 0, Some("b")), "b");
        assert_eq!(created(&[None], 0, None), "1970-01-01T00:00:00Z");
    }
}
