//! From a commit in a bare repository to a tree of files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbuild_cache::{FileKind, Follow, RootView};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::super::command::CommandError;
use super::super::http::public;
use super::{Found, Git, GitSource, is_commit};
use crate::error::BuildError;
use crate::file::fill_directory;
use crate::tree::SourceTree;

impl Git<'_> {
    /// Fills an empty directory with the files of a commit.
    pub(super) fn check_out(
        &self,
        source: &GitSource,
        found: &Found,
        repository: &Path,
        directory: &Path,
        time: i64,
    ) -> Result<(), BuildError> {
        let failed = |error: CommandError| self.failed("checking out", &error);
        let work = match &source.subdir {
            None => directory.to_path_buf(),
            Some(_) => self.make("work")?,
        };
        let keep = source.keep_git_dir && source.subdir.is_none();
        let submodules = source.submodules && self.has_submodules(repository, found);
        if keep || submodules {
            self.clone_into(source, found, repository, &work, submodules)
                .map_err(failed)?;
        } else {
            self.plain_checkout(found, repository, &work)
                .map_err(failed)?;
        }
        let time = source.commit_times.then_some(time);
        finish_tree(&work, keep, time)
            .map_err(|error| BuildError::io("could not set the modes of a git checkout", &error))?;
        match &source.subdir {
            None => Ok(()),
            Some(subdir) => self.take_subdir(&work, subdir, directory),
        }
    }

    fn make(&self, name: &str) -> Result<PathBuf, BuildError> {
        let path = self.scratch.path().join(name);
        fs::create_dir(&path)
            .map_err(|error| BuildError::io("could not make a scratch directory", &error))?;
        Ok(path)
    }

    fn has_submodules(&self, repository: &Path, found: &Found) -> bool {
        let file = format!("{}:.gitmodules", found.commit);
        self.run(repository, &["cat-file", "-e", &file]).is_ok()
    }

    /// The files alone, without a repository around them.
    fn plain_checkout(
        &self,
        found: &Found,
        repository: &Path,
        work: &Path,
    ) -> Result<(), CommandError> {
        let index = self.scratch.path().join("index");
        let variables = [
            ("GIT_DIR", repository),
            ("GIT_WORK_TREE", work),
            ("GIT_INDEX_FILE", index.as_path()),
        ];
        let arguments = ["read-tree", "--reset", "-u", &found.commit];
        self.run_with(work, &arguments, &variables).map(drop)
    }

    /// A repository as `git clone --depth=1` leaves it, in the way that `BuildKit` makes it.
    fn clone_into(
        &self,
        source: &GitSource,
        found: &Found,
        repository: &Path,
        work: &Path,
        submodules: bool,
    ) -> Result<(), CommandError> {
        let format = if found.commit.len() == 64 {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        self.run(
            work,
            &["-c", "init.defaultBranch=master", "init", "-q", format],
        )?;
        // By a transport, so that nothing is linked to the store's copy.
        let bare = format!("file://{}", repository.display());
        self.run(work, &["remote", "add", "origin", &bare])?;
        let wanted = source.reference.as_deref().unwrap_or("HEAD");
        let from = match &found.name {
            Some(name) if name.starts_with("refs/") => name.clone(),
            _ => format!("refs/rbuild/{}", found.commit),
        };
        let to = match (&found.tag, wanted) {
            (Some(_), wanted) if !wanted.starts_with("refs/") => format!("refs/tags/{wanted}"),
            (None, "HEAD") => format!("refs/rbuild/{}", found.commit),
            (None, wanted) if is_commit(wanted) => format!("refs/rbuild/{}", found.commit),
            (_, wanted) => wanted.to_owned(),
        };
        let what = format!("{from}:{to}");
        self.run(work, &["fetch", "-q", "-u", "--depth=1", "origin", &what])?;
        self.run(work, &["checkout", "-q", &found.commit])?;
        self.run(work, &["remote", "set-url", "origin", &public(self.remote)])?;
        if submodules {
            let arguments = [
                "submodule",
                "update",
                "--quiet",
                "--init",
                "--recursive",
                "--depth=1",
            ];
            self.run(work, &arguments)?;
        }
        self.run(work, &["reflog", "expire", "--all", "--expire=now"])?;
        match fs::remove_file(work.join(".git/FETCH_HEAD")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CommandError::Run {
                program: self.program.clone(),
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Copies what one directory of the checkout holds; links in its path never lead out of it.
    fn take_subdir(&self, work: &Path, subdir: &str, to: &Path) -> Result<(), BuildError> {
        let view = RootView::of_directory(work);
        let path = format!("/{subdir}");
        let entry = view
            .lookup(&path, Follow::Last)
            .map_err(|error| BuildError::io("could not look at a git checkout", &error))?;
        if entry.is_none_or(|entry| entry.metadata.kind != FileKind::Directory) {
            return Err(BuildError::user(format!(
                "failed to load cache key: subdir not found: {subdir} is no directory of `{}`",
                public(self.remote)
            )));
        }
        let tree = SourceTree::rootfs(view, "a git checkout");
        fill_directory(to, &tree, &path, self.context.cancel)
    }
}

/// Gives files the modes and times that they have whatever the umask here, and removes `.git`,
/// also of submodules, unless it is wanted.
fn finish_tree(root: &Path, keep_git_dir: bool, time: Option<i64>) -> io::Result<()> {
    let mut open = vec![root.to_path_buf()];
    let mut directories = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if entry.file_name() == ".git" && !keep_git_dir {
                if kind.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else {
                    fs::remove_file(&path)?;
                }
                continue;
            }
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            if kind.is_file() {
                let mode = match entry.metadata()?.permissions().mode() {
                    mode if mode & 0o100 != 0 => 0o755,
                    mode if mode & 0o200 != 0 => 0o644,
                    _ => 0o444,
                };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            set_time(&path, time)?;
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        directories.push(directory);
    }
    // Last, since filling a directory changes its time.
    for directory in directories.iter().rev() {
        set_time(directory, time)?;
    }
    Ok(())
}

fn set_time(path: &Path, time: Option<i64>) -> io::Result<()> {
    let Some(seconds) = time else { return Ok(()) };
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
