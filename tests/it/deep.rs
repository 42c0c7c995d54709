//! Images of a thousand layers, which no kernel stacks.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::args;
use crate::support::random::is_large;
use crate::support::registry::Registry;
use crate::support::tree::{Compare, Tree, apply_layer, assert_same, read_tar, without_hard_links};
use crate::support::{TestEnv, base, write_layout};

const LAYERS: u64 = 1000;

/// Where the layers write.
const TOP: &str = "top";

/// One layer's tar.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, number: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(number);
        header.set_gid(number + 1);
        header.set_mtime(1_600_000_000 + number);
        header.set_size(0);
        header
    }

    fn directory(&mut self, name: &str, number: u64) {
        let mode = if number.is_multiple_of(2) {
            0o755
        } else {
            0o1750
        };
        let mut header = Tar::header(tar::EntryType::Directory, mode, number);
        let name = format!("{name}/");
        self.0
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    }

    fn file(&mut self, name: &str, number: u64, text: &str) {
        let mut header = Tar::header(tar::EntryType::Regular, 0o640, number);
        header.set_size(text.len() as u64);
        self.0
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }

    fn link(&mut self, kind: tar::EntryType, name: &str, target: &str, number: u64) {
        let mut header = Tar::header(kind, 0o777, number);
        self.0.append_link(&mut header, name, target).unwrap();
    }
}

/// A layer that adds, replaces, deletes and hides what those below it have.
fn layer(number: u64) -> Vec<u8> {
    let mut tar = Tar::new();
    tar.directory(TOP, number);
    tar.directory("top/files", number);
    let own = format!("top/files/{number}");
    tar.file(&own, number, &format!("{number}\n"));
    tar.link(tar::EntryType::Link, &format!("{own}-hard"), &own, number);
    tar.file("top/last", number, &format!("last {number}\n"));
    if number.is_multiple_of(3) {
        tar.file(&format!("top/files/.wh.{}", number - 1), number, "");
    }
    if number.is_multiple_of(7) {
        tar.directory("top/opaque", number);
        tar.file("top/opaque/.wh..wh..opq", number, "");
        tar.file(&format!("top/opaque/{number}"), number, "x");
    } else {
        tar.directory("top/opaque", number);
        tar.file(&format!("top/opaque/{number}"), number, "y");
    }
    // One name is of another type each time.
    match number % 5 {
        0 => tar.directory("top/changing", number),
        1 => tar.file(&format!("top/changing/{number}"), number, "inside"),
        2 => tar.file("top/changing", number, "file"),
        3 => tar.link(tar::EntryType::Symlink, "top/changing", "last", number),
        _ => tar.file("top/.wh.changing", number, ""),
    }
    tar.0.into_inner().unwrap()
}

/// The layout of an image of a thousand layers over busybox, and what is below `/top` in it.
fn deep_layout() -> (PathBuf, Tree) {
    let layers: Vec<Vec<u8>> = (1..LAYERS).map(layer).collect();
    let mut tree = Tree::new();
    for layer in &layers {
        let entries = read_tar(layer.as_slice());
        let whole: Tree = entries.iter().cloned().collect();
        let plain = without_hard_links(&whole);
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(name, _)| (name.clone(), plain[&name].clone()))
            .collect();
        apply_layer(&mut tree, &entries);
    }
    let layout = base::made_once("deep-layout", |directory| {
        let rootfs = fs::read(base::busybox_rootfs()).unwrap();
        let all: Vec<Vec<u8>> = std::iter::once(rootfs).chain(layers).collect();
        let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
        write_layout::write(directory, &all, &config, &json!([]));
    });
    (layout, tree)
}

/// Brings the image into the store.
fn bring(env: &TestEnv, layout: &Path) {
    let context = env.dockerfile("from-layout", "FROM deep\n");
    let from = format!("deep=oci-layout://{}:latest", layout.display());
    env.rbuild(args!["-t", "deep", "--build-context", from, context])
        .timeout(300)
        .run()
        .ok();
}

/// What a container of an image sees below `/top`.
fn seen(env: &TestEnv, image: &str) -> Tree {
    let out = env
        .rbuild(["run", "--rm", image, "tar", "-C", "/", "-cf", "-", TOP])
        .timeout(300)
        .run()
        .ok();
    let tree = read_tar(out.stdout.as_slice()).into_iter().collect();
    without_hard_links(&tree)
}

fn stacks(env: &TestEnv) -> usize {
    fs::read_dir(env.store().join("stacks")).unwrap().count()
}

#[test]
fn a_thousand_layers_are_loaded_run_built_on_saved_and_pulled() {
    let (layout, expected) = deep_layout();
    let env = TestEnv::new();
    let archive = env.join("deep.tar");
    bring(&env, &layout);
    assert_eq!(env.inspect("deep", "{{len .RootFS.Layers}}"), "1000");
    assert_same("run", &seen(&env, "deep"), &expected, Compare::ALL);
    assert_eq!(stacks(&env), 1);

    let context = env.dockerfile(
        "on-top",
        "FROM deep\nRUN cat /top/last >/top/copy && rm -r /top/opaque && echo x >/top/files/1\n\
         COPY --from=deep /top/last /again\nRUN --mount=from=deep,target=/below cat /below/top/files/1 >/mounted\n",
    );
    env.rbuild(args!["-t", "on-top", context])
        .timeout(300)
        .run()
        .ok();
    let shown = "cat /top/copy /again /mounted /top/files/1; ls -d /top/opaque";
    let out = env
        .rbuild(["run", "--rm", "on-top", "sh", "-c", shown])
        .run();
    assert_eq!(out.out(), "last 999\nlast 999\n1\nx\n");

    env.rbuild(args!["save", "-o", archive, "deep"])
        .timeout(300)
        .run()
        .ok();
    let elsewhere = TestEnv::new();
    elsewhere
        .rbuild(args!["load", "-i", archive])
        .timeout(300)
        .run()
        .ok();
    assert_same("load", &seen(&elsewhere, "deep"), &expected, Compare::ALL);
    fs::remove_file(&archive).unwrap();

    let registry = Registry::plain();
    let name = registry.name("deep");
    env.rbuild(["tag", "deep", &name]).run().ok();
    env.rbuild(["push", &name]).timeout(600).run().ok();
    let pulled = TestEnv::new();
    pulled.rbuild(["pull", &name]).timeout(600).run().ok();
    assert_same("pull", &seen(&pulled, &name), &expected, Compare::ALL);
    for env in [&env, &elsewhere, &pulled] {
        env.assert_sound_store();
    }
}

#[test]
fn stacks_are_made_again_after_a_boot_checked_and_pruned() {
    let (layout, expected) = deep_layout();
    let env = TestEnv::new();
    bring(&env, &layout);
    let start = ["run", "-d", "--name", "box", "deep", "sleep", "1000"];
    env.rbuild(start).timeout(300).run().ok();
    let read = ["exec", "box", "cat", "/top/last"];
    assert_eq!(env.rbuild(read).run().ok().out(), "last 999\n");
    // What a container runs on stays, whatever is pruned.
    env.rbuild(["prune", "-a", "-f"]).run().ok();
    assert_eq!(stacks(&env), 1);
    env.rbuild(["stop", "-t", "0", "box"]).run().ok();

    // Another boot: nothing that was not flushed is to be trusted.
    fs::write(env.store().join("boot"), "another").unwrap();
    env.rbuild(["images"]).run().ok();
    assert_eq!(stacks(&env), 0);
    env.rbuild(["start", "box"]).timeout(300).run().ok();
    assert_eq!(env.rbuild(read).run().ok().out(), "last 999\n");
    env.rbuild(["rm", "-f", "box"]).run().ok();
    assert_same("again", &seen(&env, "deep"), &expected, Compare::ALL);

    // Damage is found.
    let stack = fs::read_dir(env.store().join("stacks")).unwrap().next();
    let stack = stack.unwrap().unwrap().path();
    fs::remove_file(stack.join("root/top/last")).unwrap();
    env.rbuild(["fsck"]).run().exits(1);
    env.rbuild(["fsck", "--repair"]).run();
    env.assert_sound_store();
    assert_same("repaired", &seen(&env, "deep"), &expected, Compare::ALL);

    // A stack keeps no layer's content.
    env.rbuild(["rmi", "deep"]).run().ok();
    env.rbuild(["prune", "-a", "-f"]).run().ok();
    assert_eq!(stacks(&env), 0);
}

#[test]
fn a_dockerfile_of_very_many_steps_is_built() {
    let steps: u64 = if is_large() { 999 } else { 550 };
    let env = TestEnv::new();
    env.import_busybox();
    let mut text = "FROM busybox\n".to_owned();
    for number in 1..=steps {
        writeln!(text, "COPY <<n /n/{number}\n{number}\nn").unwrap();
    }
    writeln!(
        text,
        "RUN cat /n/1 /n/500 /n/{steps} >/out && ls /n | wc -l >>/out"
    )
    .unwrap();
    let context = env.dockerfile("context", &text);
    env.rbuild(args!["-t", "many", context])
        .timeout(600)
        .run()
        .ok();
    let out = env
        .rbuild(["run", "--rm", "many", "cat", "/out"])
        .run()
        .ok();
    assert_eq!(out.out(), format!("1\n500\n{steps}\n{steps}\n"));
    env.assert_sound_store();
}
