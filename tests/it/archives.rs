//! Exported images in the hands of tools that nobody here wrote: skopeo, podman, umoci.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args;
use crate::support::process::{Invocation, Outcome, with_path};
use crate::support::tree::{Compare, assert_same, read_directory};
use crate::support::{TestEnv, layout, needs};

/// `hello` in every form that carries a whole image.
struct Exported {
    env: TestEnv,
    layout: PathBuf,
    oci_archive: PathBuf,
    docker_archive: PathBuf,
    saved: PathBuf,
    image: layout::Image,
}

fn export() -> Exported {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    let layout = env.join("layout");
    let (oci_archive, docker_archive) = (env.join("oci.tar"), env.join("docker.tar"));
    let saved = env.join("saved.tar");
    env.rbuild(args![
        "-t",
        "hello",
        "-o",
        "type=image",
        "-o",
        with_path("type=oci,tar=false,dest=", &layout),
        "-o",
        with_path("type=oci,dest=", &oci_archive),
        "-o",
        with_path("type=docker,dest=", &docker_archive),
        context
    ])
    .run()
    .ok();
    env.rbuild(args!["save", "-o", saved, "hello"]).run().ok();
    let image = layout::read(&layout);
    Exported {
        env,
        layout,
        oci_archive,
        docker_archive,
        saved,
        image,
    }
}

impl Exported {
    /// The exports as skopeo names them.
    fn references(&self) -> [String; 5] {
        let name = |transport: &str, path: &Path, tag: &str| {
            format!("{transport}:{}{tag}", path.display())
        };
        [
            name("oci", &self.layout, ":latest"),
            name("oci-archive", &self.oci_archive, ""),
            name("oci-archive", &self.saved, ""),
            name("docker-archive", &self.docker_archive, ":hello:latest"),
            name("docker-archive", &self.saved, ":hello:latest"),
        ]
    }

    fn skopeo(&self, args: &[&str]) -> Outcome {
        let skopeo = needs::program("skopeo", "skopeo");
        self.env
            .host(skopeo)
            .args(["--insecure-policy"])
            .args(args)
            .run()
            .ok()
    }
}

#[test]
fn skopeo_inspects_and_copies_every_export() {
    let exported = export();
    let want_layers = &exported.image.config["rootfs"]["diff_ids"];
    for (number, reference) in exported.references().iter().enumerate() {
        let shown = exported.skopeo(&["inspect", reference]).out();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["Os"], "linux", "{reference}");
        assert_eq!(shown["Layers"].as_array().unwrap().len(), 5, "{reference}");
        let config = exported
            .skopeo(&["inspect", "--config", "--raw", reference])
            .stdout;
        assert_eq!(config, exported.image.config_bytes, "config of {reference}");
        let copy = exported.env.join(&format!("copy-{number}"));
        let target = format!("oci:{}:copied", copy.display());
        exported.skopeo(&["copy", "--quiet", reference, &target]);
        let copied = layout::read(&copy);
        assert_eq!(
            &copied.config["rootfs"]["diff_ids"], want_layers,
            "{reference}"
        );
        assert_same(reference, &copied.tree, &exported.image.tree, Compare::ALL);
    }
}

#[test]
fn umoci_unpacks_the_same_tree() {
    let exported = export();
    let umoci = needs::program("umoci", "umoci");
    let bundle = exported.env.join("bundle");
    let image = with_path("", &exported.layout);
    let mut image = image;
    image.push(":latest");
    exported
        .env
        .host(umoci)
        .args(args!["unpack", "--image", image, bundle])
        .run()
        .ok();
    let unpacked = read_directory(&bundle.join("rootfs"));
    assert_same("umoci", &unpacked, &exported.image.tree, Compare::ALL);
}

#[test]
fn podman_loads_and_runs_every_archive() {
    let exported = export();
    let want = "Hello, Ada!\nHello, Edsger!\nHello, Grace!\n3 greetings from greeter in /srv\n";
    for archive in [&exported.docker_archive, &exported.saved] {
        let podman = Podman::new(&exported.env);
        let loaded = podman.run(&args!["load", "-q", "-i", archive]).out();
        assert!(
            loaded.contains("hello:latest"),
            "{}: {loaded}",
            archive.display()
        );
        let id = podman
            .run(&args!["images", "-q", "--no-trunc", "hello"])
            .out();
        let want_id = layout::sha256(&exported.image.config_bytes);
        assert_eq!(id.trim(), want_id, "{}", archive.display());
        let output = podman.run(&args![
            "run",
            "--rm",
            "--network",
            "none",
            "--cgroups",
            "disabled",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "hello:latest"
        ]);
        assert_eq!(output.out(), want, "{}", archive.display());
        podman.run(&args!["rmi", "--all", "--force"]);
    }
}

#[test]
fn a_docker_archive_of_another_tool_loads_and_is_a_base() {
    let exported = export();
    let foreign = exported.env.join("foreign.tar");
    let target = format!("docker-archive:{}:foreign/name:v1", foreign.display());
    let source = format!("oci:{}:latest", exported.layout.display());
    exported.skopeo(&["copy", "--quiet", &source, &target]);
    let other = TestEnv::new();
    let loaded = other.rbuild(args!["load", "-i", foreign]).run().ok().out();
    assert_eq!(loaded, "Loaded image: foreign/name:v1\n");
    let output = other
        .rbuild(["run", "--rm", "foreign/name:v1"])
        .run()
        .ok()
        .out();
    assert!(
        output.ends_with("3 greetings from greeter in /srv\n"),
        "{output}"
    );
}

/// podman with its own storage, in a mount namespace that lets crun start containers.
///
/// crun refuses a host whose version 2 hierarchy has controllers beside version 1 ones
/// ("hybrid"); without that mount it takes the host for version 1.
struct Podman<'e> {
    env: &'e TestEnv,
    directory: tempfile::TempDir,
}

impl<'e> Podman<'e> {
    fn new(env: &'e TestEnv) -> Self {
        needs::program("podman", "podman");
        needs::program("crun", "crun");
        let directory = tempfile::tempdir_in(env.path()).unwrap();
        let config = "[engine]\nlock_type = \"file\"\n";
        std::fs::write(directory.path().join("containers.conf"), config).unwrap();
        Self { env, directory }
    }

    #[track_caller]
    fn run(&self, args: &[std::ffi::OsString]) -> Outcome {
        let script = "if mountpoint -q /sys/fs/cgroup/unified; then \
                      umount -l /sys/fs/cgroup/unified; fi; exec podman \"$@\"";
        let at = |name: &str| self.directory.path().join(name);
        let invocation: Invocation = self
            .env
            .host(needs::program("unshare", "util-linux"))
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .args([
                "-m",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "podman",
            ])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(args![
                "--root",
                at("root"),
                "--runroot",
                at("run"),
                "--tmpdir",
                at("tmp")
            ])
            .args(args);
        invocation.run().ok()
    }
}
