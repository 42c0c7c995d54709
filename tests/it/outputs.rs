//! Every kind of `--output`: what is written, where, and how it fails.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::args;
use crate::support::process::with_path;
use crate::support::tree::{Compare, Tree, assert_same, read_directory, read_tar, tar_xattrs};
use crate::support::{TestEnv, base, layout};

/// Files of many kinds: owners, modes, links, odd names.
const MANY_KINDS: &str = "FROM busybox\n\
    RUN mkdir -p /d/e && echo x >/d/e/f && chown 12:34 /d/e/f && chmod 4750 /d/e/f \\\n\
     && ln /d/e/f /d/hard && ln -s e/f /d/soft && ln -s /nowhere /d/dangling \\\n\
     && mkfifo /d/pipe && chmod 1777 /d/e && touch -d '2001-02-03 04:05:06' /d/old \\\n\
     && touch '/d/name with blank' /d/ünïcode && rm /etc/hostname && rmdir /var\n";

fn built() -> (TestEnv, std::path::PathBuf, layout::Image) {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("kinds", MANY_KINDS);
    let image = env.build_layout("kinds", &context);
    (env, context, image)
}

fn tar_tree(bytes: &[u8]) -> Tree {
    read_tar(bytes).into_iter().collect()
}

#[test]
fn a_layout_holds_everything_a_step_made() {
    let (_env, _, image) = built();
    let tree = &image.tree;
    let file = &tree["d/e/f"];
    assert_eq!(
        (file.kind, file.mode, file.uid, file.gid),
        ('-', 0o4750, 12, 34)
    );
    assert_eq!(tree["d/hard"].link.as_deref(), Some("d/e/f"));
    assert_eq!(tree["d/soft"].link.as_deref(), Some("e/f"));
    assert_eq!(tree["d/dangling"].link.as_deref(), Some("/nowhere"));
    assert_eq!(tree["d/pipe"].kind, 'p');
    assert_eq!(tree["d/e"].mode, 0o1777);
    assert_eq!(tree["d/old"].mtime, 981_173_106);
    assert!(tree.contains_key("d/name with blank") && tree.contains_key("d/ünïcode"));
    assert!(!tree.contains_key("etc/hostname") && !tree.contains_key("var"));
    let whiteouts: Vec<_> = image.layers[1]
        .iter()
        .filter(|(name, _)| name.contains(".wh."))
        .collect();
    assert_eq!(whiteouts.len(), 2, "{whiteouts:?}");
}

#[test]
fn tar_and_local_outputs_have_the_tree_of_the_image() {
    let (env, context, image) = built();
    let archive = env.join("root.tar");
    let directory = env.join("root");
    let tar = with_path("type=tar,dest=", &archive);
    // Several outputs of one build.
    env.rbuild(args!["-o", tar, "-o", directory, context])
        .run()
        .ok();
    let from_tar = tar_tree(&fs::read(&archive).unwrap());
    assert_same("tar", &from_tar, &image.tree, Compare::ALL);
    let from_directory = read_directory(&directory);
    let by = Compare {
        owners: false,
        times: true,
    };
    // Set-id bits need the owner they were given for; everything else is kept.
    assert_same("local", &from_directory, &image.tree, by);
    let inode = |name: &str| directory.join(name).symlink_metadata().unwrap().ino();
    assert_eq!(inode("d/hard"), inode("d/e/f"), "the hard link");
}

#[test]
fn archives_go_to_standard_output_alone() {
    let (env, context, image) = built();
    for flag in ["-", "type=tar,dest=-"] {
        let stdout = env.rbuild(args!["-o", flag, context]).run().ok().stdout;
        assert_same(flag, &tar_tree(&stdout), &image.tree, Compare::ALL);
    }
    for kind in ["oci", "docker"] {
        let flag = format!("type={kind},dest=-");
        let stdout = env.rbuild(args!["-o", flag, context]).run().ok().stdout;
        let unpacked = env.join(kind);
        unpack(&stdout, &unpacked);
        let read = layout::read(&unpacked);
        assert_eq!(read.config_bytes, image.config_bytes, "{kind}");
        assert_eq!(unpacked.join("manifest.json").exists(), kind == "docker");
    }
}

fn unpack(tar: &[u8], into: &std::path::Path) {
    fs::create_dir(into).unwrap();
    tar::Archive::new(tar).unpack(into).unwrap();
}

#[test]
fn an_oci_archive_is_the_layout_in_a_tar() {
    let (env, context, image) = built();
    let archive = env.join("a.tar");
    let flag = with_path("type=oci,dest=", &archive);
    env.rbuild(args!["-t", "kinds", "-o", flag, context])
        .run()
        .ok();
    let bytes = fs::read(&archive).unwrap();
    let unpacked = env.join("unpacked");
    unpack(&bytes, &unpacked);
    let read = layout::read(&unpacked);
    assert_eq!(read.manifest_bytes, image.manifest_bytes);
    assert_eq!(read.index, image.index);
    let annotations = &read.index["manifests"][0]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
    assert_eq!(
        annotations["io.containerd.image.name"],
        "docker.io/library/kinds:latest"
    );
}

#[test]
fn a_layout_directory_is_extended() {
    let env = TestEnv::new();
    let output = env.join("layout");
    let build = |tag: &str, text: &str| {
        let context = env.dockerfile("c", text);
        let flag = with_path("type=oci,tar=false,dest=", &output);
        env.rbuild(args!["-t", tag, "-o", flag, context]).run().ok();
        let index: Value =
            serde_json::from_slice(&fs::read(output.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap().clone();
        let tags = entries.iter().map(|entry| {
            let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
            (name.as_str().unwrap().to_owned(), entry["digest"].clone())
        });
        tags.collect::<std::collections::BTreeMap<_, _>>()
    };
    let first = build("x:one", "FROM scratch\nENV a=1\n");
    let second = build("x:two", "FROM scratch\nENV a=2\n");
    assert_eq!(second.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(second["one"], first["one"], "the other tag is kept");
    let third = build("x:one", "FROM scratch\nENV a=3\n");
    assert_eq!(third.len(), 2, "the same tag is replaced: {third:?}");
    assert_ne!(third["one"], first["one"]);
    assert_eq!(third["two"], second["two"]);
}

#[test]
fn layers_are_compressed_as_asked() {
    let (env, context, image) = built();
    for (compression, ending) in [
        ("gzip", "tar+gzip"),
        ("zstd", "tar+zstd"),
        ("uncompressed", "layer.v1.tar"),
    ] {
        let output = env.join(compression);
        let mut flag = with_path("type=oci,tar=false,dest=", &output);
        flag.push(format!(",compression={compression},force-compression=true"));
        env.rbuild(args!["-o", flag, context]).run().ok();
        let read = layout::read(&output);
        for layer in read.manifest["layers"].as_array().unwrap() {
            let media_type = layer["mediaType"].as_str().unwrap();
            assert!(media_type.ends_with(ending), "{compression}: {media_type}");
        }
        assert_same(compression, &read.tree, &image.tree, Compare::ALL);
        assert_eq!(
            read.config_bytes, image.config_bytes,
            "{compression} changed the config"
        );
    }
}

#[test]
fn docker_media_types_on_request() {
    let (env, context, _) = built();
    let output = env.join("docker-types");
    let mut flag = with_path("type=oci,tar=false,dest=", &output);
    flag.push(",oci-mediatypes=false");
    env.rbuild(args!["-o", flag, context]).run().ok();
    let read = layout::read(&output);
    assert_eq!(
        read.manifest["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        read.manifest["config"]["mediaType"],
        "application/vnd.docker.container.image.v1+json"
    );
}

#[test]
fn the_same_input_gives_the_same_bytes_in_two_stores() {
    let bytes: Vec<_> = (0..2)
        .map(|_| {
            let env = TestEnv::new();
            let base = with_path("busybox=oci-layout://", &base::bb_layout());
            let context = env.dockerfile("kinds", MANY_KINDS);
            let archive = env.join("a.tar");
            let mut flag = with_path("type=oci,dest=", &archive);
            flag.push(",rewrite-timestamp=true");
            let epoch = "SOURCE_DATE_EPOCH=1700000000";
            env.rbuild(args![
                "--build-arg",
                epoch,
                "--build-context",
                base,
                "-o",
                flag,
                context
            ])
            .run()
            .ok();
            fs::read(&archive).unwrap()
        })
        .collect();
    assert!(bytes[0] == bytes[1], "two builds gave different archives");
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_a_whole_one() {
    let env = TestEnv::new();
    let archive = env.join("a.tar");
    fs::write(&archive, "precious").unwrap();
    let flag = with_path("type=oci,dest=", &archive);
    let bad = env.dockerfile("bad", "FROM scratch\nCOPY nope /\n");
    env.rbuild(args!["-o", flag, bad])
        .run()
        .fails_with("not found");
    assert_eq!(fs::read_to_string(&archive).unwrap(), "precious");
    let good = env.dockerfile("good", "FROM scratch\nENV a=b\n");
    env.rbuild(args!["-o", flag, good]).run().ok();
    assert!(fs::metadata(&archive).unwrap().len() > 1000);
    let beside: Vec<_> = fs::read_dir(env.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("a.tar") && name != "a.tar")
        .collect();
    assert!(beside.is_empty(), "left beside the archive: {beside:?}");
}

#[test]
fn local_output_never_follows_links_that_are_in_its_way() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[("Dockerfile", "FROM scratch\nCOPY f /d/f\n"), ("f", "new")],
    );
    let outside = env.files("outside", &[("f", "precious")]);
    let output = env.files("out", &[]);
    std::os::unix::fs::symlink(&outside, output.join("d")).unwrap();
    env.rbuild(args!["-o", output, context]).run();
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "precious");
}

#[test]
fn the_image_id_is_written_to_a_file_on_request() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\n");
    let (id_file, metadata) = (env.join("iid"), env.join("metadata.json"));
    env.rbuild(args![
        "-t",
        "x",
        "--iidfile",
        id_file,
        "--metadata-file",
        metadata,
        context
    ])
    .run()
    .ok();
    let id = env.inspect("x", "{{.Id}}");
    assert_eq!(fs::read_to_string(&id_file).unwrap(), id);
    let metadata: Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/x:latest");
}

#[test]
fn file_capabilities_come_through_copy_and_export() {
    let env = TestEnv::new();
    // Version 2 of the attribute: `cap_net_bind_service`, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let text = "FROM scratch AS first\nCOPY f /f\nFROM scratch\nCOPY --from=first /f /g\n";
    let context = env.files("c", &[("Dockerfile", text), ("f", "x")]);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(context.join("f"), "security.capability", &capability, flags).unwrap();
    let image = env.build_layout("capable", &context);
    let attributes = tar_xattrs(image.layer_tars[0].as_slice());
    assert_eq!(
        attributes["g"],
        [("security.capability".to_owned(), capability.to_vec())]
    );
}
