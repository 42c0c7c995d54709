//! One test's world: a store, a home, a temporary directory, and the proof that all is gone after.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::process::Invocation;
use super::{base, leftovers, needs};

/// A world of its own for one test.
///
/// Dropping it checks that nothing which belongs to it still runs or is mounted, that the
/// temporary directory handed to `rbuild` is empty, and that nothing was written into the home.
pub(crate) struct TestEnv {
    directory: TempDir,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        needs::root();
        let directory = tempfile::Builder::new()
            .prefix("rbuild-it-")
            .tempdir()
            .unwrap();
        for name in ["home", "tmp"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// The directory that holds everything of this test.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The store that [`rbuild`](Self::rbuild) uses.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// A path in the test's directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a directory with text files in it, for example a build context.
    pub(crate) fn files(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            let path = directory.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        directory
    }

    /// A copy of a directory of `fixtures/`, free to be changed.
    pub(crate) fn fixture(&self, name: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name);
        let copy = self.join(name);
        for found in walkdir::WalkDir::new(&source) {
            let found = found.unwrap();
            let path = copy.join(found.path().strip_prefix(&source).unwrap());
            if found.file_type().is_dir() {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::copy(found.path(), path).unwrap();
            }
        }
        copy
    }

    /// A context with nothing but a Dockerfile.
    pub(crate) fn dockerfile(&self, name: &str, text: &str) -> PathBuf {
        self.files(name, &[("Dockerfile", text)])
    }

    /// The layout that `rbuild build -o type=oci,tar=false` writes for a context, read whole.
    #[track_caller]
    pub(crate) fn build_layout(&self, name: &str, context: &Path) -> super::layout::Image {
        let output = self.join(&format!("{name}-layout"));
        let flag = super::process::with_path("type=oci,tar=false,dest=", &output);
        self.rbuild(crate::args!["-t", name, "-o", flag, context])
            .run()
            .ok();
        super::layout::read(&output)
    }

    /// `rbuild ARGS…` in this world, with a clean environment and a `PATH` without any program:
    /// the binary must not need helpers.
    pub(crate) fn rbuild<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        self.host(env!("CARGO_BIN_EXE_rbuild"))
            .env("PATH", self.join("no-programs"))
            .env_remove("LC_ALL")
            .args(args)
    }

    /// A program of the host, with this world's home, temporary directory and store.
    pub(crate) fn host(&self, program: impl AsRef<OsStr>) -> Invocation {
        Invocation::new(program)
            .env("HOME", self.join("home"))
            .env("TMPDIR", self.join("tmp"))
            .env("RBUILD_ROOT", self.store())
    }

    /// Builds `context` as `name` and returns what was printed.
    #[track_caller]
    pub(crate) fn build(&self, name: &str, context: &Path) -> super::Outcome {
        self.rbuild(crate::args![
            "build",
            "--progress",
            "plain",
            "-t",
            name,
            context
        ])
        .run()
        .ok()
    }

    /// Imports the busybox base under the name `busybox`.
    #[track_caller]
    pub(crate) fn import_busybox(&self) {
        let archive = base::busybox_rootfs();
        self.rbuild(crate::args!["import", archive, "busybox"])
            .run()
            .ok();
    }

    /// A Go template over an image, as `rbuild inspect -f` prints it.
    #[track_caller]
    pub(crate) fn inspect(&self, image: &str, template: &str) -> String {
        let outcome = self.rbuild(["inspect", "-f", template, image]).run().ok();
        outcome.out().trim_end().to_owned()
    }

    /// Panics unless `rbuild fsck` finds the store sound.
    #[track_caller]
    pub(crate) fn assert_sound_store(&self) {
        self.rbuild(["fsck"]).timeout(600).run().ok();
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        let left = leftovers::wait_until_gone(self.path());
        if std::thread::panicking() {
            return;
        }
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        for name in ["home", "tmp"] {
            let entries: Vec<_> = std::fs::read_dir(self.join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path().display().to_string())
                .collect();
            assert!(entries.is_empty(), "left behind: {}", entries.join(" "));
        }
    }
}
