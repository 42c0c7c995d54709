//! Images that lie about themselves or want too much: refused with one clear error, in little memory
//! and time, and nothing of them stays. What single archive entries can try is tested beside the code
//! (`cache/tests/it/hostile.rs`); `fuzz/fuzz_targets/apply.rs` looks for more.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::args;
use crate::support::layout::sha256;
use crate::support::write_layout::architecture;
use crate::support::{TestEnv, needs};

/// An image of one layer, and what is wrong with it.
#[derive(Default)]
struct Forged {
    /// The layer as it is stored; a harmless one if empty.
    blob: Vec<u8>,
    /// Digest of the plain layer, if it is not that of the harmless one.
    diff_id: Option<String>,
    /// What descriptors say instead of the truth.
    layer: Option<Value>,
    config: Option<Value>,
    manifest: Option<Value>,
}

impl Forged {
    /// Writes it as the tar of a layout.
    fn write(&self, env: &TestEnv) -> PathBuf {
        let directory = env.join("layout");
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        let harmless = tar_with_a_file();
        let blob = if self.blob.is_empty() {
            &harmless
        } else {
            &self.blob
        };
        let diff_id = self.diff_id.clone().unwrap_or_else(|| sha256(&harmless));
        let kind = match blob.as_slice() {
            [0x1f, 0x8b, ..] => "tar+gzip",
            [0x28, 0xb5, ..] => "tar+zstd",
            _ => "tar",
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
        let layer = put(&directory, &media_type, blob, self.layer.as_ref());
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = put(
            &directory,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
            self.config.as_ref(),
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer],
        });
        let text = manifest.to_string();
        let mut manifest = put(
            &directory,
            media_type,
            text.as_bytes(),
            self.manifest.as_ref(),
        );
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "forged:1"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(directory.join("oci-layout"), version).unwrap();
        let archive = env.join("forged.tar");
        env.host(needs::program("tar", "tar"))
            .args(args!["-C", directory, "-cf", archive, "."])
            .run()
            .ok();
        fs::remove_dir_all(directory).unwrap();
        archive
    }
}

/// Writes a blob; returns its descriptor with the fields of `lies` instead of the true ones.
fn put(directory: &Path, media_type: &str, bytes: &[u8], lies: Option<&Value>) -> Value {
    let digest = sha256(bytes);
    let path = directory.join("blobs").join(digest.replace(':', "/"));
    fs::write(path, bytes).unwrap();
    let mut descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
    for (name, value) in lies.and_then(Value::as_object).into_iter().flatten() {
        descriptor[name] = value.clone();
        if name == "digest" {
            // The bytes lie where the wrong digest says.
            let name = value.as_str().unwrap().replace(':', "/");
            let path = directory.join("blobs").join(name);
            if path.parent().is_some_and(Path::is_dir) {
                fs::write(path, bytes).unwrap();
            }
        }
    }
    descriptor
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn tar_with_a_file() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header("file", 5), &b"hello"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// Loading fails with one error, quickly enough, in 1 GiB of address space, and leaves nothing.
fn is_refused(env: &TestEnv, what: &str, forged: &Forged, words: &str) {
    let archive = forged.write(env);
    let outcome = env
        .host(needs::program("prlimit", "util-linux"))
        .args(["--as=1073741824", "--"])
        .arg(env!("CARGO_BIN_EXE_rbuild"))
        .args(args!["load", "-i", archive])
        .timeout(300)
        .run();
    eprintln!("{what}: {}", outcome.stderr.trim_end().replace('\n', " | "));
    let text = outcome.stderr.to_lowercase();
    assert_eq!(outcome.code(), 1, "{what}: {text}");
    assert_eq!(text.matches("error:").count(), 1, "{what}: {text}");
    assert!(text.contains(words), "{what}: {text}");
    assert!(!text.contains("this is a bug"), "{what}: {text}");
    let images = env.rbuild(["images", "-aq"]).run().ok();
    assert_eq!(images.out(), "", "{what}");
    assert_eq!(
        fs::read_dir(env.store().join("tmp")).unwrap().count(),
        0,
        "{what}"
    );
    let trees = fs::read_dir(env.store().join("trees")).unwrap();
    assert_eq!(trees.count(), 0, "{what}");
    fs::remove_file(archive).unwrap();
}

#[test]
fn wrong_digests_and_sizes() {
    let env = TestEnv::new();
    let none = format!("sha256:{}", "0".repeat(64));
    let outside = "sha256:../../../../etc/passwd";
    let lie = |lies: Value| Some(lies);
    let layer = |lies: Value| Forged {
        layer: lie(lies),
        ..Forged::default()
    };
    let config = |lies: Value| Forged {
        config: lie(lies),
        ..Forged::default()
    };
    let manifest = |lies: Value| Forged {
        manifest: lie(lies),
        ..Forged::default()
    };
    let cases = [
        ("digest of a layer", layer(json!({"digest": none}))),
        ("digest of a config", config(json!({"digest": none}))),
        ("digest of a manifest", manifest(json!({"digest": none}))),
        ("layer by a path", layer(json!({"digest": outside}))),
        ("config by a path", config(json!({"digest": outside}))),
        ("manifest by a path", manifest(json!({"digest": outside}))),
        (
            "layer in capitals",
            layer(json!({"digest": none.to_uppercase()})),
        ),
        ("layer larger than it is", layer(json!({"size": 1_000_000}))),
        ("layer smaller than it is", layer(json!({"size": 1}))),
        ("layer of negative size", layer(json!({"size": -1}))),
        ("layer of exabytes", layer(json!({"size": u64::MAX}))),
        (
            "config larger than it is",
            config(json!({"size": 1_000_000})),
        ),
        ("manifest smaller than it is", manifest(json!({"size": 3}))),
        (
            "another plain layer than the config says",
            Forged {
                diff_id: Some(none),
                ..Forged::default()
            },
        ),
    ];
    for (what, forged) in cases {
        is_refused(&env, what, &forged, "");
    }
    env.assert_sound_store();
}

/// A compressed stream of a header and then zeros, made without holding it.
fn zeros(program: &str, package: &str, head: &[u8], mebibytes: u64) -> Vec<u8> {
    let mut child = std::process::Command::new(needs::program(program, package))
        .args(["-c", "-1"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let head = head.to_vec();
    let writer = std::thread::spawn(move || {
        input.write_all(&head).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..mebibytes {
            input.write_all(&zeros).unwrap();
        }
    });
    let mut bytes = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    bytes
}

#[test]
fn bombs() {
    let env = TestEnv::new();
    let size = 600 << 20;
    for (program, package) in [("gzip", "gzip"), ("zstd", "zstd")] {
        let blob = zeros(program, package, header("zeros", size).as_bytes(), 601);
        let forged = Forged {
            blob,
            ..Forged::default()
        };
        is_refused(&env, program, &forged, "limit `ratio`");
    }
    env.assert_sound_store();
}

#[test]
fn a_million_entries() {
    let env = TestEnv::new();
    // The root itself: what costs least to make, and counts all the same.
    let mut root = tar::Header::new_ustar();
    root.set_path("./").unwrap();
    root.set_entry_type(tar::EntryType::Directory);
    root.set_mode(0o755);
    root.set_size(0);
    root.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Beside them something that does not compress, so that it is not the ratio that stops it.
    let noise = crate::support::random::Random::new(1).bytes(4 << 20);
    encoder
        .write_all(header("noise", noise.len() as u64).as_bytes())
        .unwrap();
    encoder.write_all(&noise).unwrap();
    let thousand = root.as_bytes().repeat(1000);
    for _ in 0..1000 {
        encoder.write_all(&thousand).unwrap();
    }
    let forged = Forged {
        blob: encoder.finish().unwrap(),
        ..Forged::default()
    };
    is_refused(&env, "a million entries", &forged, "limit `entries`");
    env.assert_sound_store();
}
