//! Looking steps up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rbuild_cache::Digest;
use rbuild_registry::{Client, Location, Reference, RegistryError};

use super::document::{StepRecord, expired, tag};
use crate::error::chain;
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::image::base::with_workers;
use crate::image::{BaseImage, ImageConfig, ImageError, Origin, Place, location_of};
use crate::remote_cache::{FIRST_VERTEX, Hit};
use crate::request::{CacheSource, SourcePlace};

/// Questions that are asked at a time: each is small, and all that counts is the way.
const AT_ONCE: usize = 32;

/// The records of all repositories that the request names.
#[derive(Debug, Default)]
pub(crate) struct Records {
    sources: Vec<Source>,
    /// What was found for a key; none if it is known that there is nothing.
    known: Mutex<HashMap<Digest, Option<Hit>>>,
    /// Set when the foreseen keys have been asked for.
    begun: OnceLock<()>,
}

/// A repository with records.
#[derive(Debug)]
struct Source {
    name: String,
    place: Place,
    vertex: VertexId,
    rules: CacheSource,
    /// It failed: nothing more is asked.
    dead: AtomicBool,
}

impl Records {
    /// The repositories among the sources of a request. Nobody is asked yet.
    pub(crate) fn new(
        client: Option<&Client>,
        sources: &[CacheSource],
    ) -> Result<Records, ImageError> {
        let mut records = Records::default();
        for (number, source) in sources.iter().enumerate() {
            let (SourcePlace::Records(reference), Some(client)) = (&source.place, client) else {
                continue;
            };
            records.sources.push(Source {
                name: source.place.to_string(),
                place: Place {
                    client: client.clone(),
                    location: location_of(reference)?,
                },
                vertex: VertexId(FIRST_VERTEX + number as u32),
                rules: source.clone(),
                dead: AtomicBool::new(false),
            });
        }
        Ok(records)
    }

    /// There is nothing to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// What any of the keys of a step led to.
    ///
    /// The first call asks for all foreseen keys of the build, at once.
    pub(crate) fn find(
        &self,
        events: &dyn EventSink,
        keys: &[Digest],
        foreseen: impl FnOnce() -> Vec<Digest>,
    ) -> Option<Hit> {
        if self.sources.is_empty() {
            return None;
        }
        self.begun.get_or_init(|| self.ask(events, &foreseen()));
        let unknown: Vec<Digest> = {
            let known = self.lock();
            if let Some(hit) = self.first(&known, keys) {
                return Some(hit);
            }
            let keys = keys.iter().filter(|key| !known.contains_key(*key));
            keys.copied().collect()
        };
        self.ask(events, &unknown);
        self.first(&self.lock(), keys)
    }

    /// Takes nothing more from the source with this vertex.
    pub(crate) fn lose(&self, vertex: VertexId) {
        for source in self.sources.iter().filter(|one| one.vertex == vertex) {
            source.dead.store(true, Ordering::Relaxed);
        }
    }

    fn first(&self, known: &HashMap<Digest, Option<Hit>>, keys: &[Digest]) -> Option<Hit> {
        let mut hits = keys.iter().filter_map(|key| known.get(key)?.as_ref());
        let living = |hit: &&Hit| {
            let mut sources = self.sources.iter();
            sources
                .any(|source| source.vertex == hit.vertex && !source.dead.load(Ordering::Relaxed))
        };
        hits.find(living).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Option<Hit>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for keys, several at a time; the source that was named first counts.
    fn ask(&self, events: &dyn EventSink, keys: &[Digest]) {
        let asked = with_workers::<_, (), Infallible>(
            AT_ONCE,
            keys,
            &|key, _| {
                let found = self.sources.iter().find_map(|one| one.ask(events, key));
                let mut known = self.lock();
                match found {
                    Some((record, hit)) => {
                        for key in record.keys.iter().chain([key]) {
                            known.insert(*key, Some(hit.clone()));
                        }
                    }
                    None => drop(known.entry(*key).or_insert(None)),
                }
                Ok(())
            },
            &mut |_, ()| (),
        );
        match asked {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
}

impl Source {
    /// The record under a key. A repository that fails is told once and asked no more.
    fn ask(&self, events: &dyn EventSink, key: &Digest) -> Option<(StepRecord, Hit)> {
        if self.dead.load(Ordering::Relaxed) {
            return None;
        }
        match self.read(key) {
            Ok(found) => found,
            Err(ImageError::Registry(RegistryError::Interrupted { .. })) => None,
            Err(error) => {
                if !self.dead.swap(true, Ordering::Relaxed) {
                    let message = format!(
                        "the cache records of {} cannot be read, going on without them: {}",
                        self.name,
                        chain(&error).join(": ")
                    );
                    events.event(Event::Warning(Warning {
                        rule: None,
                        message,
                        line: None,
                        url: None,
                        help: None,
                    }));
                }
                None
            }
        }
    }

    fn read(&self, key: &Digest) -> Result<Option<(StepRecord, Hit)>, ImageError> {
        let location = Location {
            reference: Reference::Tag(tag(key)),
            ..self.place.location.clone()
        };
        let document = match self.place.client.manifest_of(&location) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let record = StepRecord::parse(&location.to_string(), &document.bytes)?;
        if expired(record.created.as_deref(), self.rules.max_age) {
            return Ok(None);
        }
        let hit = Hit {
            diff_id: record.layer.diff_id,
            created: record.created.clone(),
            keys: record.keys.clone(),
            vertex: self.vertex,
            image: Arc::new(BaseImage {
                name: self.name.clone(),
                manifest: document.digest,
                config: ImageConfig::default(),
                layers: vec![record.layer.clone()],
                origin: Origin::Registry(self.place.clone()),
            }),
        };
        Ok(Some((record, hit)))
    }
}
