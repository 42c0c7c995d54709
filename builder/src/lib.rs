//! Dockerfile → stage graph → op graph → parallel execution → outputs.
//!
//! [`build`] is the whole way; [`check`] stops before anything runs. Nothing here prints or reads
//! the environment: progress leaves as [`event::Event`] values.

mod beside;
mod cancel;
mod compare;
mod context;
mod context_use;
pub mod debug;
pub mod error;
pub mod etc;
pub mod event;
mod exec;
mod file;
mod finish;
pub mod graph;
pub mod image;
mod key;
mod locals;
mod lower;
mod ops;
pub mod output;
mod outside;
mod plan;
mod recipe;
mod remote_cache;
pub mod report;
pub mod request;
mod resolve;
mod scope;
mod solve;
mod source;
mod tree;
mod turn;
pub mod users;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use rbuild_cache::{Collector, Digest, Follow, Store};
use rbuild_parser::{IgnoreMatcher, LintFinding, Linter, Parsed, Platform, parse};
use rbuild_parser::{NetworkMode, SecurityMode};
use rbuild_runtime::{Isolation, Runtime, isolation};

pub use cancel::Cancel;
pub use compare::{ImageDifference, compare_images};
pub use context::{ContextAccess, ContextAddress, ContextTree, OpenedContext, open_context};
pub use context_use::{ContextFile, ContextUse, Ignored, context_use, ignore_reason};
pub use error::{BuildError, BuildErrorKind, Location};
pub use event::{Event, EventSink, Warning};
pub use exec::{PlainStep, overlay_view, shorten_roots, why_roots_are_copied};
pub use image::*;
pub use key::{Change, FileChanges};
pub use request::BuildRequest;
pub use source::{GitProgram, Remote};

use beside::Beside;
use error::{SourceFile, chain};
use lower::{LoweredTarget, Lowering};
use outside::Clients;
use plan::{PlanInput, plan};
use rbuild_registry::ClientOptions;
use report::Recorder;
use request::OutputKind;
use resolve::{ImageResolver, Outside};

/// What builds run with.
#[derive(Clone)]
pub struct Engine {
    /// The store.
    pub store: Store,
    /// Starts sandboxes; none where no command can run.
    pub runtime: Option<Runtime>,
    /// How sources outside this machine are reached.
    pub remote: Remote,
    /// How registries are asked; none where they are not to be.
    pub registries: Option<ClientOptions>,
    /// Keeps the store within its bounds.
    pub collector: Arc<Collector>,
}

/// What a build gave.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// Digest of the image config.
    pub image_id: Digest,
    /// Digest of the manifest or index.
    pub manifest: Digest,
    /// Size of the manifest or index in bytes.
    pub manifest_size: u64,
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Familiar names it was stored under.
    pub names: Vec<String>,
    /// Warnings, also sent as events.
    pub warnings: Vec<Warning>,
    /// Steps whose result was known.
    pub cached: usize,
    /// Steps that ran.
    pub executed: usize,
    /// The image of every platform, as it was given to the outputs.
    pub images: Vec<output::Finished>,
}

/// Builds.
///
/// # Errors
///
/// The first thing that went wrong, in `BuildKit`'s words where it has some, with its place in the
/// Dockerfile. Whatever was finished stays in the cache.
pub fn build(
    engine: &Engine,
    request: &BuildRequest,
    events: &dyn EventSink,
    cancel: &Cancel,
) -> Result<BuildResult, BuildError> {
    engine.store.stop_with(cancel.flag());
    let named = |output: &request::Output| matches!(output.kind, OutputKind::Image { .. });
    if request.outputs.iter().any(named) {
        engine.store.expect_name();
    }
    let options = engine.registries.clone();
    let listener = Listener {
        events,
        warnings: Mutex::default(),
    };
    let mut result = outside::with_clients(options, &listener, cancel, &|clients| {
        build_with(engine, clients, request, &listener, cancel)
    })?;
    let heard = listener.warnings.into_inner();
    result
        .warnings
        .extend(heard.unwrap_or_else(PoisonError::into_inner));
    Ok(result)
}

/// Passes events on and keeps the warnings that are not about the Dockerfile, to be told again when
/// the build has ended.
struct Listener<'e> {
    events: &'e dyn EventSink,
    warnings: Mutex<Vec<Warning>>,
}

impl EventSink for Listener<'_> {
    fn event(&self, event: Event) {
        if let Event::Warning(warning) = &event
            && warning.rule.is_none()
        {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.push(warning.clone());
        }
        self.events.event(event);
    }
}

fn build_with(
    engine: &Engine,
    clients: Option<&Clients>,
    request: &BuildRequest,
    events: &dyn EventSink,
    cancel: &Cancel,
) -> Result<BuildResult, BuildError> {
    let mut prepared = Prepared::new(request)?;
    let client = clients.map(|clients| &clients.images);
    let outside = client.map(|client| Outside {
        client,
        pull: request.pull,
        events,
    });
    let resolver = ImageResolver::new(&engine.store, outside);
    let lowered = prepared.lower(request, &resolver, false);
    tell_warnings(&prepared.linter, &mut prepared.told, events);
    let (graph, locals, targets) = lowered?;
    prepared.linter.verdict().map_err(BuildError::user)?;
    refuse_commands(&graph, &prepared.file, engine.runtime.is_some())?;
    let ignore = prepared.ignore.as_ref();
    let locals = locals::Locals::open(&engine.store, request, ignore, &locals, cancel.flag())?;
    let cache_client = clients.map(|clients| &clients.caches);
    let (store, sources) = (&engine.store, &request.cache_from);
    let imports = remote_cache::import(store, cache_client, sources, &request.platforms, events);
    let wrong = |error: image::ImageError| BuildError::user(chain(&error).join(": "));
    let records = remote_cache::Records::new(cache_client, sources).map_err(wrong)?;
    let mounts = remote_cache::MountSources::new(cache_client, sources).map_err(wrong)?;
    let lost = remote_cache::Lost::default();
    let recorder = Recorder::new(store);
    let lease = engine
        .store
        .lease()
        .map_err(|error| BuildError::io("could not begin to use the store", &error))?;
    let scaffolds = exec::Scaffolds::default();
    let own_mounts = request
        .fresh_cache_mounts
        .then(|| engine.store.scratch())
        .transpose()
        .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
    let result = loop {
        let findings = Mutex::new(Vec::new());
        let roots = targets.iter().filter_map(|target| target.root);
        let rewritten = targets.iter().any(|one| one.source_date_epoch.is_some());
        let beside = Beside::new(request, &graph, roots, rewritten).map_err(wrong)?;
        let context = solve::SolveContext {
            store: &engine.store,
            lease: &lease,
            client,
            cache_client,
            imports: &imports,
            records: &records,
            mounts: &mounts,
            lost: &lost,
            beside: &beside,
            chains: solve::Chains::default(),
            ahead: OnceLock::new(),
            foreseen: OnceLock::new(),
            runtime: engine.runtime.as_ref(),
            remote: &engine.remote,
            request,
            graph: &graph,
            locals: &locals,
            file: &prepared.file,
            events,
            cancel,
            findings: &findings,
            own_mounts: own_mounts.as_ref(),
            scaffolds: &scaffolds,
            recorder: &recorder,
            collector: &engine.collector,
        };
        let result = attempt(&context, &targets, &mut prepared.linter, &mut prepared.told);
        match result {
            // Each time there is one cache less.
            Err(error) if error.kind == BuildErrorKind::CacheLost && !cancel.is_cancelled() => {
                events.event(Event::Warning(lost_cache(&error)));
            }
            result => break result,
        }
    };
    resolver.keep_complete();
    locals.keep_memo(&engine.store);
    let told = match &result {
        Ok(result) => Ok((&result.image_id, result.names.as_slice())),
        Err(error) => Err(error.message.as_str()),
    };
    let project = locals::project_name(request);
    let report = recorder.finish(&engine.store, &request.dockerfile.name, project, told);
    events.event(Event::Reported(Arc::new(report)));
    result
}

/// Runs the graph and writes the outputs, sending beside it what is to be sent.
fn attempt(
    context: &solve::SolveContext<'_>,
    targets: &[LoweredTarget],
    linter: &mut Linter,
    told: &mut Vec<Warning>,
) -> Result<BuildResult, BuildError> {
    let roots: Vec<event::VertexId> = targets
        .iter()
        .flat_map(|target| {
            target
                .root
                .into_iter()
                .chain(target.history.iter().filter_map(|h| h.vertex))
        })
        .collect();
    thread::scope(|scope| {
        let _closing = context.beside.closing();
        for _ in 0..context.beside.workers() {
            scope.spawn(|| context.beside.work(context));
        }
        let outputs = match solve::solve(context, &roots) {
            // The same findings will come again.
            Err(error) if error.kind == BuildErrorKind::CacheLost => return Err(error),
            outputs => outputs,
        };
        let mut late = context
            .findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for finding in std::mem::take(&mut *late) {
            linter.add(finding);
        }
        drop(late);
        tell_warnings(linter, told, context.events);
        let outputs = outputs?;
        linter.verdict().map_err(BuildError::user)?;
        finish::finish(context, targets, &outputs, told.clone())
    })
}

/// What is told when a build begins again without a cache.
fn lost_cache(error: &BuildError) -> Warning {
    let causes = error.causes.join(": ");
    Warning {
        rule: None,
        message: format!(
            "a cache does not deliver what it has promised, going on without it: {}: {causes}",
            error.message
        ),
        line: None,
        url: None,
        help: None,
    }
}

/// Digest of the files of a directory that an ignore file leaves: what `COPY . /` takes.
///
/// `memo` is a file that remembers digests between calls; an unchanged file then costs one `stat`.
///
/// # Errors
///
/// The directory or a file in it cannot be read.
pub fn context_digest(
    directory: &Path,
    ignore: IgnoreMatcher,
    memo: &Path,
) -> Result<Digest, BuildError> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io(format!("could not read `{}`", directory.display()), error)
    };
    let known = tree::FileMemo::load(memo);
    let tree = tree::SourceTree::directory(directory, Some(Arc::new(ignore)), "context");
    let top = tree
        .view()
        .lookup("/", Follow::Last)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| BuildError::user("the directory is gone"))?;
    let content = tree::content(&tree, &top, None, &known).map_err(|error| failed(&error))?;
    if let Some(bytes) = known.encoded() {
        std::fs::write(memo, bytes).map_err(|error| {
            BuildError::io(format!("could not write `{}`", memo.display()), &error)
        })?;
    }
    Ok(content.digest)
}

/// What [`check`] found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// Findings of the build checks, in the order in which a build meets them.
    pub findings: Vec<LintFinding>,
    /// What a build would fail with before its first step.
    pub error: Option<BuildError>,
    /// `check=error=true`: findings make the build fail.
    pub verdict: Option<String>,
}

/// Parses, plans and lowers without running anything.
///
/// All stages are looked at unless the request names a target. Base images that are not at hand are
/// taken as unknown: variables they may set are then not told as undefined.
pub fn check(store: &Store, request: &BuildRequest) -> CheckReport {
    let mut prepared = match Prepared::new(request) {
        Ok(prepared) => prepared,
        Err(error) => {
            return CheckReport {
                findings: tree_findings(request),
                error: Some(error),
                verdict: None,
            };
        }
    };
    let resolver = ImageResolver::new(store, None);
    let error = prepared.lower(request, &resolver, true).err();
    CheckReport {
        findings: prepared.linter.findings().to_vec(),
        error,
        verdict: prepared.linter.verdict().err(),
    }
}

/// What the tree alone shows, for a file that has errors.
fn tree_findings(request: &BuildRequest) -> Vec<LintFinding> {
    let parsed = parse(&request.dockerfile.text);
    let directive = check_override(request);
    let Ok(mut linter) = Linter::new(&parsed.dockerfile, directive) else {
        return Vec::new();
    };
    for finding in parsed.lint {
        linter.add(finding);
    }
    linter.findings().to_vec()
}

/// What replaces the `check` directive of the file.
fn check_override(request: &BuildRequest) -> Option<&str> {
    let argument = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    argument.map(String::as_str)
}

/// A file that was read and the checks that run on it.
struct Prepared {
    file: SourceFile,
    parsed: Parsed,
    linter: Linter,
    /// Findings that were sent as events, in the linter's order.
    told: Vec<Warning>,
    ignore: Option<Arc<IgnoreMatcher>>,
}

type Lowered = (ops::OpGraph, Vec<lower::LocalSource>, Vec<LoweredTarget>);

impl Prepared {
    fn new(request: &BuildRequest) -> Result<Prepared, BuildError> {
        let text: Arc<[u8]> = Arc::from(request.dockerfile.text.as_slice());
        let file = SourceFile {
            name: request.dockerfile.name.clone(),
            text,
        };
        let parsed = parse(&file.text);
        let mut errors = parsed
            .diagnostics
            .iter()
            .map(|diagnostic| file.diagnostic(diagnostic));
        if let Some(mut first) = errors.next() {
            first.others = errors.collect();
            return Err(first);
        }
        check_syntax_directive(&file, &parsed, request)?;
        let mut linter = Linter::new(&parsed.dockerfile, check_override(request))
            .map_err(|diagnostic| file.diagnostic(&diagnostic))?;
        for finding in &parsed.lint {
            linter.add(finding.clone());
        }
        let ignore = locals::context_ignore(request)?;
        Ok(Prepared {
            file,
            parsed,
            linter,
            told: Vec::new(),
            ignore,
        })
    }

    fn lower(
        &mut self,
        request: &BuildRequest,
        resolver: &ImageResolver<'_>,
        check_only: bool,
    ) -> Result<Lowered, BuildError> {
        let host = Platform::host();
        let platforms = match request.platforms.as_slice() {
            [] => vec![host.clone()],
            platforms => platforms.to_vec(),
        };
        let escape = self.parsed.dockerfile.escape;
        let mut lowering = Lowering::new(
            request,
            &self.file,
            escape,
            resolver,
            self.ignore.as_deref(),
        )
        .of_project(locals::project(request));
        if check_only {
            lowering = lowering.check_only();
        }
        let mut targets = Vec::with_capacity(platforms.len());
        for platform in platforms {
            let input = PlanInput {
                dockerfile: &self.parsed.dockerfile,
                file: &self.file,
                request,
                platform,
                host: host.clone(),
                resolver,
                check_only,
            };
            let plan = plan(&input, &mut self.linter)?;
            targets.push(lowering.lower(&plan, &mut self.linter)?);
        }
        Ok((lowering.graph, lowering.locals, targets))
    }
}

/// Sends the warnings that were not sent before.
fn tell_warnings(linter: &Linter, told: &mut Vec<Warning>, events: &dyn EventSink) {
    for finding in &linter.findings()[told.len()..] {
        let warning = Warning {
            rule: Some(finding.rule.name.to_owned()),
            message: finding.message.clone(),
            line: Some(finding.lines.first),
            url: Some(finding.rule.url.to_owned()).filter(|url| !url.is_empty()),
            help: finding.help.clone(),
        };
        events.event(Event::Warning(warning.clone()));
        told.push(warning);
    }
}

/// `# syntax=`: the language of `docker/dockerfile` is built in, other front ends are not there.
fn check_syntax_directive(
    file: &SourceFile,
    parsed: &Parsed,
    request: &BuildRequest,
) -> Result<(), BuildError> {
    let (value, location) = match request.build_args.get("BUILDKIT_SYNTAX") {
        Some(value) => (value.as_str(), None),
        None => match &parsed.dockerfile.syntax {
            Some(syntax) => {
                let before = &file.text[..syntax.span.start.min(file.text.len())];
                let line = before.split(|byte| *byte == b'\n').count() as u32;
                let lines = rbuild_parser::LineRange {
                    first: line,
                    last: line,
                };
                (
                    syntax.value.as_str(),
                    Some(file.location(lines, Some(syntax.span))),
                )
            }
            None => return Ok(()),
        },
    };
    let image = value.split_whitespace().next().unwrap_or_default();
    let name = image.trim_start_matches("docker.io/");
    if image.is_empty() || image == "dockerfile.v0" || name.starts_with("docker/dockerfile") {
        return Ok(());
    }
    let error = BuildError::user(format!(
        "failed to resolve source metadata for {image}: other Dockerfile front ends are not supported"
    ))
    .with_help("rbuild implements docker/dockerfile itself: remove the `# syntax=` line to use it");
    Err(match location {
        Some(location) => error.at(&location),
        None => error,
    })
}

/// Fails before any work when commands cannot run here.
fn refuse_commands(
    graph: &ops::OpGraph,
    file: &SourceFile,
    can_run: bool,
) -> Result<(), BuildError> {
    let refuse = |vertex: &ops::Vertex, why: &str| {
        let name = &vertex.meta.name;
        let message = format!("{why}, and the build needs `{name}`");
        let error = BuildError::new(BuildErrorKind::Host, message)
            .with_help("`rbuild doctor` tells what this host allows and what would help");
        match vertex.meta.lines {
            Some(lines) => error.at(&file.location(lines, None)),
            None => error,
        }
    };
    for (_, vertex) in graph.vertices() {
        let ops::Op::Exec(exec) = &vertex.op else {
            continue;
        };
        if !can_run {
            return Err(refuse(vertex, "commands cannot be run here"));
        }
        let here = isolation();
        if exec.security == SecurityMode::Insecure
            && matches!(here, Isolation::Nested | Isolation::Chroot)
        {
            let why = format!("privileged steps are not possible with the isolation `{here}`");
            return Err(refuse(vertex, &why));
        }
        let of_host =
            |mount: &ops::ExecMount| matches!(mount.kind, ops::ExecMountKind::Host { .. });
        if here == Isolation::Chroot && exec.mounts.iter().any(of_host) {
            let why = format!("nothing can be mounted with the isolation `{here}`");
            return Err(refuse(vertex, &why));
        }
        if exec.network == NetworkMode::None && here == Isolation::Chroot {
            let why = format!("there is only the host's network with the isolation `{here}`");
            return Err(refuse(vertex, &why));
        }
    }
    Ok(())
}
