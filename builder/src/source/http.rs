//! Files at web addresses (language reference, section 5.4).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use rbuild_cache::{
    BuildRecord, CommitOptions, Digest, DiskTrouble, Draft, ExtractOptions, Hasher, Layer, Limits,
    detect_and_decompress, extract, looks_like_tar,
};
use rbuild_registry::{Client, RegistryError, WebAnswer, WebRequest, WebSink};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::{Fetched, SourceContext};
use crate::error::{BuildError, chain};
use crate::key::Parts;
use crate::outside::with_clients;

/// Entity tags that are sent with one request.
const MOST_TAGS: usize = 10;
/// A tar header is one block.
const TAR_BLOCK: usize = 512;

/// A file at a web address.
#[derive(Debug, Clone)]
pub(crate) struct HttpSource {
    /// The address.
    pub(crate) url: String,
    /// What the content must hash to.
    pub(crate) checksum: Option<Digest>,
    /// Name of the file in the resulting tree.
    pub(crate) name: String,
    /// An archive is unpacked: it is a context.
    pub(crate) unpack: bool,
}

impl HttpSource {
    /// The readable parts of what is fetched.
    pub(crate) fn parts(&self, parts: &mut Parts) {
        parts.push("op", "http");
        parts.push("url", self.url.clone());
        parts.push("name", self.name.clone());
        parts.push("unpack", self.unpack.to_string());
        let checksum = self.checksum.as_ref().map(Digest::to_string);
        parts.push("checksum", checksum.unwrap_or_default());
    }

    /// Identity under which the records of this file are found.
    fn step(&self) -> String {
        // A password would otherwise stand in the store.
        let url = public(&self.url);
        format!("http:{url}:{}:{}", self.name, self.unpack)
    }
}

/// Name of the file at an address: the last element of its path.
pub(crate) fn file_name(url: &str) -> String {
    const UNNAMED: &str = "__unnamed__";
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let path = rest[..end].split_once('/').map_or("", |(_, path)| path);
    let path = rbuild_parser::percent_decode(path).unwrap_or_else(|| path.to_owned());
    let last = path.trim_end_matches('/').rsplit('/').next();
    match last {
        None | Some("" | "." | "..") => UNNAMED.to_owned(),
        Some(name) if name.contains('\0') => UNNAMED.to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// An address without the credentials in it.
pub(crate) fn public(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{}", &rest[end..]),
        None => url.to_owned(),
    }
}

/// Brings the file into the store, as the only file of a layer, or unpacked.
pub(crate) fn fetch(
    context: &SourceContext<'_>,
    source: &HttpSource,
) -> Result<Fetched, BuildError> {
    let step = source.step();
    context.started();
    // Whoever comes second finds what whoever came first has brought.
    let _lock = context
        .store
        .lock(&step)
        .map_err(|error| BuildError::io("could not lock a download", &error))?;
    let known = context.known(&step)?;
    if let Some(checksum) = &source.checksum {
        let wanted = checksum.to_string();
        if let Some(record) = known.iter().find(|record| text(record, "digest") == wanted) {
            return context.reuse(record);
        }
    }
    // With a checksum, what is known is not what is wanted.
    let usable = if source.checksum.is_some() {
        &[][..]
    } else {
        &known[..]
    };
    let options = Some(context.remote.web.clone());
    with_clients(options, context.events, context.cancel, &|clients| {
        let Some(clients) = clients else {
            return Err(BuildError::user("nothing can be downloaded here"));
        };
        ask(context, &clients.images, source, &step, usable)
    })
}

/// Asks the server whether the file is one of those that are known, and downloads it if not.
fn ask(
    context: &SourceContext<'_>,
    client: &Client,
    source: &HttpSource,
    step: &str,
    known: &[BuildRecord],
) -> Result<Fetched, BuildError> {
    let mut request = WebRequest {
        url: source.url.clone(),
        known: tags(known),
        limit: context.remote.download_limit,
    };
    let of_tag = |answer: &WebAnswer| {
        let tag = answer.etag.as_deref().map(weak)?;
        known
            .iter()
            .find(|record| weak(&text(record, "etag")) == tag)
    };
    if !request.known.is_empty()
        // A server that does not know HEAD is asked with GET.
        && let Ok(answer) = client.web_head(&request)
        && answer.unchanged
        && let Some(record) = of_tag(&answer)
    {
        return context.reuse(record);
    }
    let started = Instant::now();
    let mut download = Download::new(context)?;
    let failed = |error: &RegistryError| web_error(context, source, error);
    let mut answer = client
        .web_get(&request, &mut download)
        .map_err(|error| failed(&error))?;
    if answer.unchanged {
        if let Some(record) = of_tag(&answer) {
            return context.reuse(record);
        }
        // It does not say which of them it is.
        request.known.clear();
        answer = client
            .web_get(&request, &mut download)
            .map_err(|error| failed(&error))?;
    }
    let (made, digest) = download.finish(source, &answer)?;
    keep(context, source, step, made, digest, &answer, started)
}

/// Time of the newest file of an unpacked archive, in seconds since 1970.
pub(crate) fn newest(root: &Path) -> io::Result<i64> {
    use std::os::unix::fs::MetadataExt;
    let mut newest = 0;
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            // Of the entry itself: links are not followed.
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                newest = newest.max(metadata.mtime());
            }
        }
    }
    Ok(newest)
}

/// Makes the layer and its record.
fn keep(
    context: &SourceContext<'_>,
    source: &HttpSource,
    step: &str,
    made: Made,
    digest: Digest,
    answer: &WebAnswer,
    started: Instant,
) -> Result<Fetched, BuildError> {
    let layer: Layer = made
        .draft
        .commit(&[], &CommitOptions::default())
        .map_err(|error| BuildError::io("could not store a download", &error))?;
    let mut parts = Parts::new();
    source.parts(&mut parts);
    parts.push("digest", digest.to_string());
    parts.push("etag", answer.etag.clone().unwrap_or_default());
    let time = answer.last_modified.map(|time| time.to_string());
    parts.push("last modified", time.unwrap_or_default());
    let mut detail = serde_json::json!({
        "digest": digest.to_string(),
        "etag": answer.etag,
        "time": made.time,
    });
    if let Some(file) = made.file {
        detail["file"] = serde_json::Value::from(file);
    }
    context.remember(step, &parts, &layer, detail, started)
}

fn tags(known: &[BuildRecord]) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for record in known {
        let tag = text(record, "etag");
        if !tag.is_empty() && !tags.contains(&tag) && tags.len() < MOST_TAGS {
            tags.push(tag);
        }
    }
    tags
}

fn text(record: &BuildRecord, name: &str) -> String {
    let value = record.detail.get(name).and_then(serde_json::Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// A failed download in `BuildKit`'s words where it has some.
fn web_error(
    context: &SourceContext<'_>,
    source: &HttpSource,
    error: &RegistryError,
) -> BuildError {
    if context.cancel.is_cancelled() {
        return BuildError::cancelled();
    }
    let mut causes = match error {
        // What went wrong comes before how often.
        RegistryError::GaveUp { source, .. } => {
            let mut causes = chain(&**source);
            causes.push(error.to_string());
            causes
        }
        error => chain(error),
    };
    let Some(status) = error.status() else {
        let message = causes.remove(0);
        let mut failed = BuildError::new(crate::BuildErrorKind::Io, message);
        failed.causes = causes;
        failed.disk = DiskTrouble::of(error);
        let help = match error {
            RegistryError::TooLarge { .. } => {
                Some("allow more with `--download-limit SIZE`, or fetch the file beforehand")
            }
            RegistryError::Address { .. } => Some("write what is not plain ASCII as `%XX`"),
            RegistryError::Redirect { .. } => None,
            _ => Some("check the address, the network and the proxy, then build again"),
        };
        failed.help.extend(help.map(str::to_owned));
        return failed;
    };
    let message = format!("failed to load cache key: invalid response status {status}");
    let mut failed = BuildError::user(message);
    failed.causes = causes;
    let address = public(&source.url);
    failed.with_help(match status {
        401 | 403 => format!("`{address}` wants credentials; fetch it in a RUN with a secret"),
        404 | 410 => format!("there is nothing at `{address}`: check the address"),
        _ => format!("the server of `{address}` has a problem: build again later"),
    })
}

/// What was made of a download.
struct Made {
    draft: Draft,
    /// Name of the single file; none if it was unpacked.
    file: Option<String>,
    /// Time of the source.
    time: Option<i64>,
}

/// A download on its way into a file of the store.
struct Download<'a> {
    context: &'a SourceContext<'a>,
    scratch: rbuild_cache::Scratch,
    file: File,
    hasher: Hasher,
    taken: u64,
}

impl<'a> Download<'a> {
    fn new(context: &'a SourceContext<'a>) -> Result<Download<'a>, BuildError> {
        let scratch = context
            .store
            .scratch()
            .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(scratch.path().join("download"))
            .map_err(|error| BuildError::io("could not create the file of a download", &error))?;
        Ok(Download {
            context,
            scratch,
            file,
            hasher: Hasher::new(),
            taken: 0,
        })
    }

    /// Checks the content and makes a tree of it.
    fn finish(
        mut self,
        source: &HttpSource,
        answer: &WebAnswer,
    ) -> Result<(Made, Digest), BuildError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some(wanted) = source.checksum.filter(|wanted| *wanted != digest) {
            return Err(
                BuildError::user(format!("digest mismatch {digest}: {wanted}")).with_help(
                    "the file at this address is another one: check where it comes from before \
                     you change the checksum",
                ),
            );
        }
        let failed = |error: &(dyn std::error::Error + 'static)| {
            BuildError::io("could not store a download", error)
        };
        let draft = self.context.store.draft().map_err(|error| failed(&error))?;
        let made = if source.unpack && self.is_archive().map_err(|error| failed(&error))? {
            self.unpack(draft.upper()).map_err(|error| {
                BuildError::io(
                    format!("could not unpack `{}`", public(&source.url)),
                    &*error,
                )
            })?;
            let newest = newest(draft.upper()).map_err(|error| failed(&error))?;
            Made {
                draft,
                file: None,
                time: Some(newest),
            }
        } else {
            let time = answer.last_modified.unwrap_or(0);
            self.place(draft.upper(), &source.name, time)
                .map_err(|error| {
                    BuildError::io(format!("could not write `{}`", source.name), &error)
                })?;
            Made {
                draft,
                file: Some(source.name.clone()),
                time: answer.last_modified,
            }
        };
        self.scratch.close().map_err(|error| failed(&error))?;
        Ok((made, digest))
    }

    fn is_archive(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(0))?;
        let Ok((_, mut plain)) = detect_and_decompress(self.file.try_clone()?) else {
            return Ok(false);
        };
        let mut block = [0; TAR_BLOCK];
        Ok(plain.read_exact(&mut block).is_ok() && looks_like_tar(&block))
    }

    fn unpack(&mut self, upper: &Path) -> Result<(), Box<dyn std::error::Error>> {
        self.file.seek(SeekFrom::Start(0))?;
        let (_, mut plain) = detect_and_decompress(self.file.try_clone()?)?;
        let options = ExtractOptions {
            view: None,
            upper,
            into: Path::new("/"),
            chown: None,
            limits: Limits::default(),
        };
        extract(&mut plain, &options)?;
        Ok(())
    }

    /// Moves the file to its place, with mode 0600, owner root and the server's time.
    fn place(&mut self, upper: &Path, name: &str, time: i64) -> io::Result<()> {
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o600))?;
        if rustix::process::geteuid().is_root() {
            rustix::fs::fchown(&self.file, Some(Uid::ROOT), Some(Gid::ROOT))?;
        }
        let time = Timespec {
            tv_sec: time,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&self.file, &times)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = rustix::fs::open(self.scratch.path(), flags, Mode::empty())?;
        let to = rustix::fs::open(upper, flags, Mode::empty())?;
        // The name is a single component: see `file_name`.
        rustix::fs::renameat(&from, "download", &to, name)?;
        Ok(())
    }
}

impl WebSink for Download<'_> {
    fn restart(&mut self) -> io::Result<()> {
        self.hasher = Hasher::new();
        self.taken = 0;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], total: Option<u64>) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.taken += bytes.len() as u64;
        self.context.progress("downloading", self.taken, total);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_the_last_part_of_the_path() {
        for (url, name) in [
            ("http://h/p/file.txt?x=/1", "file.txt"),
            ("http://h/a%20b#c/d", "a b"),
            ("http://h/dir/", "dir"),
            ("http://h", "__unnamed__"),
            ("http://h/?x", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
            ("http://h/%2e%2e", "__unnamed__"),
            ("http://h/x%2fy", "y"),
            ("http://h/x%00", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(public("https://u:p@h/x?y"), "https://h/x?y");
        assert_eq!(public("https://h/x@y"), "https://h/x@y");
    }
}
