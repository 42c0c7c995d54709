//! `--squash`, `--squash-all` and `--layers=false`: fewer layers, the same files.

use crate::args;
use crate::support::process::with_path;
use crate::support::tree::{Compare, assert_same};
use crate::support::{TestEnv, base, layout};

/// Additions, changes and deletions of base files, of own files, of directories that come back as
/// something else, links and owners.
const DOCKERFILE: &str = "\
FROM busybox
RUN mkdir /d && echo 1 > /d/1 && echo 2 > /d/2 && ln /d/2 /d/hard && ln -s 1 /d/soft
RUN rm /d/1 /bin/sort && chown 5:6 /d/2 && mkfifo /d/pipe
RUN rm -r /usr && mkdir /usr && echo new > /usr/only && rm -r /home/app && touch /home/app
ENV X=1
RUN rm -r /d && echo file > /d && mkdir /tmp/x && mv /d /tmp/x/d && touch -d @1000 /tmp/x
RUN rm -rf /root && ln -s /tmp/x /root
LABEL end=yes
";

fn build(env: &TestEnv, name: &str, more: &[&str]) -> layout::Image {
    let context = env.dockerfile("c", DOCKERFILE);
    let target = env.join(name);
    let base = with_path("busybox=oci-layout://", &base::bb_layout());
    env.rbuild(args!["-q", "--build-context", base, context])
        .args(more)
        .arg("-o")
        .arg(with_path("type=oci,tar=false,dest=", &target))
        .run()
        .ok();
    layout::read(&target)
}

/// Entries of the history that have a layer.
fn with_layer(image: &layout::Image) -> Vec<String> {
    let history = image.config["history"].as_array().unwrap();
    let with = history.iter().filter(|entry| entry["empty_layer"] != true);
    with.map(|entry| entry["created_by"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn squashed_images_have_the_same_files_in_fewer_layers() {
    let env = TestEnv::new();
    let whole = build(&env, "whole", &[]);
    assert_eq!(whole.layers.len(), 6);
    for (name, flag, layers) in [
        ("new", "--squash", 2),
        ("layers", "--layers=false", 2),
        ("all", "--squash-all", 1),
    ] {
        let squashed = build(&env, name, &[flag]);
        assert_eq!(squashed.layers.len(), layers, "{flag}");
        assert_same(flag, &whole.tree, &squashed.tree, Compare::ALL);
        let history = with_layer(&squashed);
        assert_eq!(history.len(), layers, "{flag}: {history:?}");
        assert!(history.last().unwrap().contains("ln -s"), "{history:?}");
        let number = |image: &layout::Image| image.config["history"].as_array().unwrap().len();
        assert_eq!(number(&squashed), number(&whole), "{flag}");
        assert_eq!(squashed.config["config"], whole.config["config"]);
        // Nothing is left of what was made and removed again.
        let last = squashed.layers.last().unwrap();
        let named = |path: &str| last.iter().any(|(name, _)| name.trim_matches('/') == path);
        assert!(!named("d") && !named(".wh.d"), "{flag}: {last:?}");
        for deleted in ["bin/.wh.sort", "usr/.wh.local"] {
            assert_eq!(named(deleted), layers == 2, "{flag} {deleted}");
        }
        assert!(!named("home/.wh.app"), "{flag}: it was replaced");
        // The layer is remembered.
        let again = build(&env, &format!("{name}-again"), &[flag]);
        assert!(again.manifest_bytes == squashed.manifest_bytes, "{flag}");
    }
    env.assert_sound_store();
}

#[test]
fn an_inline_cache_needs_its_layers() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\n");
    env.rbuild(args!["--squash", "--cache-to", "type=inline", context])
        .run()
        .exits(2)
        .says("an inline cache needs the layers");
}
