//! Writing caches at the end of a build.

use std::collections::BTreeMap;
use std::time::Instant;

use rbuild_cache::DiffId;

use super::config::{
    CONFIG, CacheConfig, CacheInput, CacheLayer, CacheRecord, CacheResult, INLINE, LayerAnnotations,
};
use super::layer::{LayerBlob, layer_blob};
use super::mounts::save_mounts;
use crate::error::{BuildError, chain};
use crate::event::{Event, VertexId, Warning};
use crate::image::bundle::{Bundle, Content};
use crate::image::manifest::ANNOTATION_REF_NAME;
use crate::image::media::{Family, layer_kind};
use crate::image::{
    Descriptor, ImageConfig, Index, Manifest, Outgoing, OutgoingBlob, base64_encode, location_of,
    push_image,
};
use crate::output::OutputError;
use crate::request::{CacheForm, CachePlace, CacheTarget};
use crate::solve::{LayerRef, SolveContext, VertexOutput};

/// A step's result that goes into a cache.
struct Exported<'a> {
    vertex: VertexId,
    output: &'a VertexOutput,
    layer: &'a LayerRef,
}

/// The steps whose results are exported: all, or those that the image is made of.
fn exported<'a>(
    outputs: &'a [Option<VertexOutput>],
    image: Option<&[DiffId]>,
) -> Vec<Exported<'a>> {
    let mut found: Vec<Exported<'a>> = Vec::new();
    for (number, output) in outputs.iter().enumerate() {
        if let Some(output) = output.as_ref().filter(|output| !output.keys.is_empty())
            && let Some(layer) = output.layers().last()
            && image.is_none_or(|image| image.contains(&layer.diff_id))
        {
            let vertex = VertexId(number as u32);
            found.push(Exported {
                vertex,
                output,
                layer,
            });
        }
    }
    found
}

/// Writes all caches that the request names. `image` holds the layers of the result.
pub(crate) fn export(
    context: &SolveContext<'_>,
    outputs: &[Option<VertexOutput>],
    image: &[DiffId],
    vertex: VertexId,
) -> Result<(), BuildError> {
    for (number, target) in context.request.cache_to.iter().enumerate() {
        if matches!(target.place, CachePlace::Inline) {
            continue;
        }
        let vertex = VertexId(vertex.0 + 1 + number as u32);
        let name = format!("exporting cache to {}", target.place);
        let start = Instant::now();
        context.events.event(Event::Started {
            vertex,
            name: name.clone(),
        });
        let records = matches!(target.place, CachePlace::Records(_));
        let result = if records {
            // They are written while the build goes on.
            let written = context.beside.wait_for_records(number).map_or(Ok(()), Err);
            let place = context
                .beside
                .record_place(number)
                .filter(|_| target.mounts);
            written.and_then(|()| {
                place.map_or(Ok(()), |place| save_mounts(context, outputs, place, vertex))
            })
        } else {
            let steps = exported(outputs, (!target.all).then_some(image));
            write(context, target, &steps, vertex)
        };
        match result {
            Ok(()) => context.events.event(Event::Finished {
                vertex,
                elapsed: start.elapsed(),
                layer: None,
            }),
            Err(error) => {
                let causes = chain(&error);
                let message = causes.join(": ");
                context.events.event(Event::Failed {
                    vertex,
                    message: message.clone(),
                });
                if !target.ignore_error && !records {
                    let mut failure = BuildError::io(format!("failed {name}"), &error);
                    failure.help = error.hints();
                    failure
                        .help
                        .push("add `ignore-error=true` to go on without the cache".to_owned());
                    return Err(failure);
                }
                context.events.event(Event::Warning(Warning {
                    rule: None,
                    message: format!("{name}: {message}"),
                    line: None,
                    url: None,
                    help: None,
                }));
            }
        }
    }
    Ok(())
}

/// Puts a cache together and writes it.
fn write(
    context: &SolveContext<'_>,
    target: &CacheTarget,
    steps: &[Exported<'_>],
    vertex: VertexId,
) -> Result<(), OutputError> {
    let store = context.store;
    let compression = target.compression.clone().unwrap_or_default();
    let mut layers: Vec<LayerBlob> = Vec::new();
    let mut positions: BTreeMap<DiffId, usize> = BTreeMap::new();
    let mut config = CacheConfig::default();
    let mut written: BTreeMap<VertexId, Vec<CacheInput>> = BTreeMap::new();
    for step in steps {
        let diff_id = step.layer.diff_id;
        let known = positions.get(&diff_id).copied();
        let position = known.unwrap_or(layers.len());
        if known.is_none() {
            let blob = layer_blob(store, step.layer, &compression)?;
            if target
                .max_layer
                .is_some_and(|most| blob.descriptor.size > most)
            {
                continue;
            }
            layers.push(blob);
            positions.insert(diff_id, position);
        }
        // Steps come behind those that they build on.
        let inputs = context.graph.vertex(step.vertex).inputs.iter();
        let links = inputs.map(|input| written.get(input).cloned().unwrap_or_default());
        let links: Vec<Vec<CacheInput>> = links.collect();
        let first = config.records.len();
        config
            .records
            .extend(records(step.output, position, &links));
        let own = first..config.records.len();
        let own = own.map(|link| CacheInput {
            selector: String::new(),
            link,
        });
        written.insert(step.vertex, own.collect());
    }
    // Which layer lies below which, as far as it is in the cache: keys name what is below anyway.
    let mut parents: BTreeMap<usize, i64> = BTreeMap::new();
    for step in steps {
        let chain = step.output.layers();
        let mut below = chain.iter().rev().skip(1);
        let parent = below.find_map(|layer| positions.get(&layer.diff_id));
        let Some(&own) = positions.get(&step.layer.diff_id) else {
            continue;
        };
        let parent = parent.filter(|parent| **parent < own);
        parents
            .entry(own)
            .or_insert(parent.map_or(-1, |parent| *parent as i64));
    }
    for (position, layer) in layers.iter().enumerate() {
        config.layers.push(CacheLayer {
            blob: layer.descriptor.digest,
            parent: parents.get(&position).copied().unwrap_or(-1),
            annotations: Some(LayerAnnotations {
                media_type: layer.descriptor.media_type.clone(),
                diff_id: layer.diff_id,
                size: layer.descriptor.size,
            }),
        });
    }
    let bytes = crate::image::json::compact(&config);
    send(context, target, &layers, bytes, vertex)
}

/// The records of a step, which builds on others.
fn records<'a>(
    output: &'a VertexOutput,
    layer: usize,
    inputs: &'a [Vec<CacheInput>],
) -> impl Iterator<Item = CacheRecord> + 'a {
    // Without any link there is nothing to say.
    let inputs = if inputs.iter().all(Vec::is_empty) {
        &[]
    } else {
        inputs
    };
    output.keys.iter().map(move |key| CacheRecord {
        digest: *key,
        results: vec![CacheResult {
            layer,
            created: output.created.clone(),
        }],
        inputs: inputs.to_vec(),
    })
}

/// Brings blobs, config and manifest to where they shall be; the name comes last.
fn send(
    context: &SolveContext<'_>,
    target: &CacheTarget,
    layers: &[LayerBlob],
    config: Vec<u8>,
    vertex: VertexId,
) -> Result<(), OutputError> {
    let store = context.store;
    let blob = store.put_blob(&config)?;
    let described = Descriptor::new(CONFIG, blob.digest, blob.size);
    let mut listed: Vec<Descriptor> = Vec::new();
    for layer in layers {
        if !listed
            .iter()
            .any(|known| known.digest == layer.descriptor.digest)
        {
            listed.push(layer.descriptor.clone());
        }
    }
    let (media_type, manifest) = list(target.form, described.clone(), listed.clone());
    let size = manifest.len() as u64;
    let mut bundle = Bundle::default();
    let digest = bundle.add_document(manifest.clone());
    let top = Descriptor::new(media_type, digest, size);
    let place_of = |digest| {
        let mut known = layers.iter();
        let known = known.find(|layer| layer.descriptor.digest == digest);
        known.and_then(|layer| layer.place.clone())
    };
    let progress = |current: u64, total: u64| {
        context.events.event(Event::Progress {
            vertex,
            what: "writing layers".to_owned(),
            current,
            total: Some(total),
        });
    };
    let total = listed.iter().map(|layer| layer.size).sum();
    match &target.place {
        CachePlace::Registry(reference) => {
            let Some(client) = context.client else {
                return Err(OutputError::Refused("registries are not asked".to_owned()));
            };
            let mut outgoing = Outgoing::default();
            for layer in layers {
                let mut known = outgoing.blobs.iter();
                if !known.any(|blob| blob.descriptor.digest == layer.descriptor.digest) {
                    outgoing.blobs.push(layer.outgoing());
                }
            }
            outgoing.blobs.push(OutgoingBlob {
                descriptor: described,
                remote: None,
                mount_from: None,
                layer: false,
            });
            outgoing.documents.push((top, manifest));
            let location = location_of(reference)?;
            let mut sent = BTreeMap::new();
            push_image(client, store, &outgoing, &[location], &mut |blob, news| {
                let bytes = match news {
                    crate::image::PushNews::Bytes(bytes) => *bytes,
                    crate::image::PushNews::Done(_) => blob.descriptor.size,
                };
                if blob.layer {
                    sent.insert(blob.descriptor.digest, bytes);
                    progress(sent.values().sum(), total);
                }
            })?;
        }
        CachePlace::Local { path, tag } => {
            for descriptor in listed {
                let size = descriptor.size;
                let content = match place_of(descriptor.digest) {
                    Some(place) => Content::Remote {
                        size,
                        remote: Box::new(place),
                    },
                    None => Content::Blob { size },
                };
                bundle.blobs.insert(descriptor.digest, content);
            }
            bundle.add_document(config);
            let mut entry = top;
            let name = (ANNOTATION_REF_NAME.to_owned(), tag.clone());
            entry.annotations.extend([name]);
            bundle.entries.push(entry);
            crate::output::write_layout(store, path, &bundle, &|done| progress(done, total))?;
        }
        CachePlace::Inline | CachePlace::Records(_) => {}
    }
    Ok(())
}

/// The document that lists the blobs of a cache, and its media type.
fn list(form: CacheForm, config: Descriptor, layers: Vec<Descriptor>) -> (&'static str, Vec<u8>) {
    let family = match form {
        CacheForm::Manifest => {
            let manifest = Manifest::new(Family::Oci, config, layers);
            return (Family::Oci.manifest(), manifest.to_bytes());
        }
        CacheForm::Index => Family::Oci,
        CacheForm::DockerIndex => Family::Docker,
    };
    let mut entries = layers;
    for layer in &mut entries {
        if let Some(kind) = layer_kind(&layer.media_type) {
            layer.media_type = family.layer(kind);
        }
    }
    // The config is known by its media type and stands last.
    entries.push(config);
    (family.index(), Index::new(family, entries).to_bytes())
}

/// Puts the records of an image's own layers into its config.
pub(crate) fn inline(
    context: &SolveContext<'_>,
    outputs: &[Option<VertexOutput>],
    config: &mut ImageConfig,
) {
    let mut targets = context.request.cache_to.iter();
    if !targets.any(|target| matches!(target.place, CachePlace::Inline)) {
        return;
    }
    let layers = config.rootfs.diff_ids.clone();
    let mut all: Vec<CacheRecord> = Vec::new();
    for step in exported(outputs, Some(&layers)) {
        let position = layers.iter().position(|id| *id == step.layer.diff_id);
        if let Some(position) = position {
            all.extend(records(step.output, position, &[]));
        }
    }
    let text = base64_encode(&crate::image::json::compact(&all));
    config.extra.insert(INLINE.to_owned(), text.into());
}
