//! Files of a context that change, as inotify tells it.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rbuild_builder::request::{ContextSource, NamedContext};
use rbuild_parser::IgnoreMatcher;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use crate::commands::build::Requested;
use crate::failure::Failure;

/// Quiet time after a change before it counts: editors and git write several files at once.
const QUIET: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 150_000_000,
};
/// Rounds of it at most, so that something that never rests does not keep us waiting.
const ROUNDS: usize = 20;

/// What makes a directory's content another one.
const EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB);

/// A tree that is watched.
struct Tree {
    root: PathBuf,
    ignore: Option<IgnoreMatcher>,
}

/// Watches the directories of a request.
pub(super) struct Changes {
    inotify: OwnedFd,
    trees: Vec<Tree>,
    /// The Dockerfile and the ignore file, wherever they are.
    files: Vec<PathBuf>,
    /// Directory of each watch, and its tree; none for one that is only there for `files`.
    watched: HashMap<i32, (PathBuf, Option<usize>)>,
}

impl Changes {
    /// Begins to watch.
    pub(super) fn watch(requested: &Requested) -> Result<Changes, Failure> {
        let request = &requested.request;
        let mut trees = Vec::new();
        let mut files = Vec::new();
        if let ContextSource::Directory { path, ignore } = &request.context {
            let matcher = match ignore {
                Some((name, text)) => {
                    files.push(path.join(name));
                    Some(IgnoreMatcher::parse(text).map_err(Failure::new)?)
                }
                None => None,
            };
            trees.push(Tree {
                root: path.clone(),
                ignore: matcher,
            });
        }
        let named = request.named_contexts.values();
        trees.extend(named.filter_map(|context| match context {
            NamedContext::Directory(path) => Some(Tree {
                root: path.clone(),
                ignore: None,
            }),
            _ => None,
        }));
        files.extend(requested.dockerfile.clone());
        if trees.is_empty() && files.is_empty() {
            return Err(Failure::new("there is nothing to watch")
                .hint("watch takes a context that is a directory of this machine"));
        }
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|error| {
            Failure::from(std::io::Error::from(error)).within("could not watch")
        })?;
        let mut changes = Changes {
            inotify,
            trees,
            files,
            watched: HashMap::new(),
        };
        changes.add_all()?;
        Ok(changes)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Watches directories that are new.
    pub(super) fn refresh(&mut self) -> Result<(), Failure> {
        self.add_all()
    }

    /// Waits until nothing changes any more; one of the paths that did, none if only ignored ones did.
    pub(super) fn settled(&mut self) -> Result<Option<String>, Failure> {
        let mut changed = self.read()?;
        for _ in 0..ROUNDS {
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
            match poll(&mut fds, Some(&QUIET)) {
                Ok(0) => break,
                Ok(_) => {
                    let more = self.read()?;
                    changed = changed.or(more);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        self.add_all()?;
        Ok(changed)
    }

    /// Takes what is there to read.
    fn read(&self) -> Result<Option<String>, Failure> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut changed = None;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(changed),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(std::io::Error::from(error).into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changed = Some("a great number of files".to_owned());
                continue;
            }
            let Some((directory, tree)) = self.watched.get(&event.wd()) else {
                continue;
            };
            let name = event.file_name().unwrap_or_default();
            let path = directory.join(name.to_string_lossy().as_ref());
            if self.counts(&path, *tree) {
                let shown = tree.and_then(|tree| path.strip_prefix(&self.trees[tree].root).ok());
                changed = Some(shown.unwrap_or(&path).display().to_string());
            }
        }
    }

    /// Whether a change of this path changes what is built.
    fn counts(&self, path: &Path, tree: Option<usize>) -> bool {
        if self.files.iter().any(|file| file == path) {
            return true;
        }
        let Some(tree) = tree else { return false };
        let Tree { root, ignore } = &self.trees[tree];
        let (Some(matcher), Ok(relative)) = (ignore, path.strip_prefix(root)) else {
            return true;
        };
        !matcher.ignored(&relative.to_string_lossy())
    }

    /// Watches all directories; those that are watched stay so.
    fn add_all(&mut self) -> Result<(), Failure> {
        let mut directories: Vec<(PathBuf, Option<usize>)> = Vec::new();
        for file in &self.files {
            let parent = file.parent().unwrap_or(Path::new("/"));
            directories.push((parent.to_path_buf(), None));
        }
        for (index, tree) in self.trees.iter().enumerate() {
            directories_of(tree, &mut |path| directories.push((path, Some(index))));
        }
        for (path, tree) in directories {
            match add_watch(&self.inotify, &path, EVENTS) {
                Ok(watch) => {
                    let entry = self.watched.entry(watch).or_insert((path, tree));
                    entry.1 = entry.1.or(tree);
                }
                // Gone again already.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::NOSPC) => {
                    return Err(Failure::new("too many directories to watch").hint(
                        "raise /proc/sys/fs/inotify/max_user_watches, or add what is large to \
                         .dockerignore",
                    ));
                }
                Err(error) => {
                    let error = std::io::Error::from(error);
                    return Err(Failure::from(error)
                        .within(format!("could not watch `{}`", path.display())));
                }
            }
        }
        Ok(())
    }
}

/// Calls `each` for the directories of a tree that are not ignored. Links are not followed.
fn directories_of(tree: &Tree, each: &mut dyn FnMut(PathBuf)) {
    let state = tree.ignore.as_ref().map(IgnoreMatcher::root);
    let mut open = vec![(tree.root.clone(), state)];
    while let Some((directory, state)) = open.pop() {
        // One that cannot be read cannot be built from either: the build tells.
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let below = match (&tree.ignore, &state) {
                (Some(matcher), Some(state)) => {
                    Some(matcher.enter(state, &entry.file_name().to_string_lossy()))
                }
                _ => None,
            };
            let skipped = below
                .as_ref()
                .is_some_and(|state| state.ignored && !state.may_reinclude_below);
            if !skipped {
                open.push((entry.path(), below));
            }
        }
        each(directory);
    }
}
