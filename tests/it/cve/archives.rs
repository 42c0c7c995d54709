//! Archives, contexts, layers and documents.

use std::fs;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::Canary;
use crate::args;
use crate::support::git::{GitServer, Repository};
use crate::support::needs;

/// A header whose name is taken as it is, whatever it is.
fn header(kind: EntryType, name: &str, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, content: &str) -> Self {
        let mut header = header(EntryType::Regular, name, 0o777, content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn node(mut self, kind: EntryType, name: &str, link: &str) -> Self {
        let mut header = header(kind, name, 0o777, 0);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, std::io::empty()).unwrap();
        self
    }

    fn write(self, path: &Path) -> PathBuf {
        fs::write(path, self.0.into_inner().unwrap()).unwrap();
        path.to_path_buf()
    }
}

/// Gives an archive to everything that unpacks one: `ADD`, `import` (a layer), a context.
#[track_caller]
fn everywhere(make: impl Fn(&Canary) -> Archive) {
    let canary = Canary::new();
    let context = canary.env.files(
        "c",
        &[("Dockerfile", "FROM busybox\nADD a.tar /to/\nRUN true\n")],
    );
    let archive = make(&canary).write(&context.join("a.tar"));
    canary.build(&context, &[]);
    canary.env.rbuild(args!["import", &archive, "evil"]).run();
    canary.check("import");
    let text = "FROM evil\nCOPY Dockerfile /x/y/z\n";
    let over = canary.env.dockerfile("over", text);
    canary.build(&over, &[]);
    let with_dockerfile = make(&canary).file("Dockerfile", "FROM busybox\nCOPY . /all/\n");
    let bytes = with_dockerfile.0.into_inner().unwrap();
    canary.env.rbuild(["build", "-"]).stdin(bytes).run();
    canary.check("context");
}

#[test]
fn cve_2026_28406_cve_2020_10696_names_and_links_do_not_lead_out_of_an_archive() {
    everywhere(|_| {
        Archive::new()
            .file("../escaped", "x")
            .file("../../../../../../../../../../tmp/rbuild-escaped", "x")
    });
    assert!(!Path::new("/tmp/rbuild-escaped").exists());
    everywhere(|canary| {
        let outside = canary.outside.to_str().unwrap();
        Archive::new()
            .node(EntryType::Symlink, "link", outside)
            .file("link/canary", "evil")
            .file("link/new", "evil")
    });
    everywhere(|canary| {
        let outside = canary.outside.to_str().unwrap();
        Archive::new().file(&format!("{outside}/canary"), "evil")
    });
}

#[test]
fn cve_2020_10696_links_of_a_context_are_copied_and_not_followed() {
    let canary = Canary::new();
    let text = "FROM busybox\nCOPY link /link\nCOPY dir/ /dir/\nRUN cat /link /dir/canary; true\n";
    let context = canary
        .env
        .files("c", &[("Dockerfile", text), ("dir/x", "")]);
    std::os::unix::fs::symlink(canary.outside.join("canary"), context.join("link")).unwrap();
    std::os::unix::fs::symlink(canary.outside.join("canary"), context.join("dir/canary")).unwrap();
    let told = canary.build(&context, &[]);
    assert!(!told.text().contains("untouched"), "{}", told.text());
}

#[test]
fn cve_2026_33056_a_directory_in_the_place_of_a_link_changes_no_mode_behind_it() {
    everywhere(|canary| {
        let inner = canary.outside.join("inner");
        Archive::new()
            .node(EntryType::Symlink, "foo", inner.to_str().unwrap())
            .node(EntryType::Directory, "foo", "")
            .node(EntryType::Directory, "foo/", "")
    });
}

#[test]
fn cve_2026_33055_cve_2025_62518_the_size_of_extended_headers_counts() {
    let canary = Canary::new();
    let context = canary.env.files(
        "c",
        &[(
            "Dockerfile",
            "FROM busybox\nADD a.tar /to/\nRUN find /to -type f | sort\n",
        )],
    );
    // The smuggled header is data of `outer`: 1024 bytes by the extended header, none by its own.
    let mut smuggled = header(EntryType::Regular, "smuggled", 0o644, 0);
    smuggled.set_cksum();
    let mut data = smuggled.as_bytes().to_vec();
    data.resize(1024, 0);
    let record = "13 size=1024\n";
    let mut extended = header(EntryType::XHeader, "pax", 0o644, record.len() as u64);
    extended.set_cksum();
    let mut outer = header(EntryType::Regular, "outer", 0o644, 0);
    outer.set_cksum();
    let mut bytes = extended.as_bytes().to_vec();
    bytes.extend(record.as_bytes());
    bytes.resize(1024, 0);
    bytes.extend(outer.as_bytes());
    bytes.extend(data);
    bytes.extend([0; 1024]);
    fs::write(context.join("a.tar"), bytes).unwrap();
    let told = canary.build(&context, &[]).ok();
    assert!(told.stderr.contains("/to/outer"), "{}", told.stderr);
    assert!(!told.stderr.contains("/to/smuggled"), "{}", told.stderr);
}

#[test]
fn cve_2021_29136_the_root_of_an_archive_is_a_directory() {
    for name in [".", "./", "/"] {
        everywhere(|canary| {
            let outside = canary.outside.to_str().unwrap();
            Archive::new()
                .node(EntryType::Symlink, name, outside)
                .file("canary", "evil")
        });
    }
}

#[test]
fn cve_2021_32760_cve_2021_41089_hard_links_do_not_reach_outside() {
    for absolute in [true, false] {
        everywhere(|canary| {
            let outside = canary.outside.join("canary");
            let target = outside.to_str().unwrap();
            let climbing = format!("../../../../../../../../../..{target}");
            let target = if absolute { target } else { &climbing };
            Archive::new()
                .node(EntryType::Link, "hard", target)
                .file("hard", "evil")
                .node(EntryType::Symlink, "soft", target)
                .node(EntryType::Link, "hard2", "soft")
                .file("hard2", "evil")
        });
    }
}

#[test]
fn overlay_marks_and_deletions_of_archives_do_not_reach_other_layers() {
    everywhere(|_| {
        Archive::new()
            .file(".wh...", "")
            .file(".wh.", "")
            .file(".wh..", "")
            .node(EntryType::Char, "white", "")
    });
}

#[test]
fn cve_2024_3727_digests_are_checked_before_they_are_used() {
    let canary = Canary::new();
    for digest in [
        "sha256:../../x",
        "sha256:ABC",
        "sha256:12",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
    ] {
        let context = canary
            .env
            .dockerfile("c", &format!("FROM busybox@{digest}\n"));
        canary.build(&context, &[]).exits(1);
        canary.env.rbuild(["inspect", digest]).run().exits(1);
    }
    let layout = canary.env.files(
        "layout",
        &[
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            (
                "index.json",
                r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../outside/canary","size":9}]}"#,
            ),
        ],
    );
    let flag = format!("base=oci-layout://{}", layout.display());
    let context = canary.env.dockerfile("c", "FROM base\nRUN true\n");
    canary.build(&context, &["--build-context", &flag]).exits(1);
}

#[test]
fn cve_2021_41190_a_document_is_a_manifest_or_an_index_and_not_both() {
    let canary = Canary::new();
    let zeros = "0".repeat(64);
    let document = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{zeros}","size":2}},"layers":[],"manifests":[]}}"#
    );
    let digest = crate::support::layout::sha256(document.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{}}}]}}"#,
        document.len()
    );
    let blob = format!("blobs/{}", digest.replace(':', "/"));
    let layout = canary.env.files(
        "layout",
        &[
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", &index),
            (&blob, &document),
        ],
    );
    let flag = format!("base=oci-layout://{}", layout.display());
    let context = canary.env.dockerfile("c", "FROM base\nCOPY Dockerfile /\n");
    canary
        .build(&context, &["--build-context", &flag])
        .exits(1)
        .says("for a manifest and for an index");
}

#[test]
fn cve_2022_39253_a_submodule_is_not_cloned_from_a_directory() {
    let canary = Canary::new();
    let env = &canary.env;
    // Its objects are links to what lies elsewhere.
    let inner = env.join("inner");
    let commit = {
        let repository = Repository::new(&inner);
        fs::write(inner.join("secret"), "of the host").unwrap();
        repository.commit("secret")
    };
    let (objects, elsewhere) = (inner.join(".git/objects"), env.join("objects"));
    fs::rename(&objects, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &objects).unwrap();
    let outer = env.join("git/r.git");
    let repository = Repository::new(&outer);
    fs::write(outer.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    let link = format!("160000,{commit},sub");
    repository.git(&["update-index", "--add", "--cacheinfo", &link]);
    let modules = outer.join(".gitmodules");
    let home = env.files(
        "settings",
        &[(".gitconfig", "[protocol \"file\"]\nallow = always\n")],
    );
    let git = GitServer::start(&env.join("git"));
    for address in [
        format!("file://{}", inner.display()),
        inner.display().to_string(),
    ] {
        let text = format!("[submodule \"sub\"]\npath = sub\nurl = {address}\n");
        fs::write(&modules, text).unwrap();
        repository.git(&["add", ".gitmodules", "Dockerfile"]);
        repository.git(&["commit", "-q", "-m", "outer"]);
        let url = git.url("r.git");
        let outcome = env
            .rbuild(["build", "-o", "type=tar,dest=-", url.as_str()])
            .env("PATH", needs::PROGRAM_PATH)
            .env("HOME", &home)
            .run();
        let outcome = outcome.exits(1);
        let told = outcome.text();
        assert!(told.contains("transport 'file' not allowed"), "{told}");
        canary.check(&told);
    }
}
