//! Commands on images: list, inspect, history, names, removal, archives.

mod docker;

use std::fs;

use serde_json::{Value, json};

use crate::args;
use crate::support::web::{Answer, WebServer};
use crate::support::{TestEnv, base, layout, tree};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// An environment with `hello:latest` built over an imported `busybox`.
fn with_hello() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    env.build("hello", &env.fixture("hello"));
    env
}

#[test]
fn images_are_listed() {
    let env = with_hello();
    let table = env.rbuild(["images"]).run().ok().out();
    let rows = lines(&table);
    let header: Vec<_> = rows[0].split_whitespace().collect();
    assert_eq!(
        header,
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    );
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[1].starts_with("hello "), "newest first:\n{table}");
    assert!(rows[2].starts_with("busybox "), "{table}");
    let id = env.inspect("hello", "{{.Id}}");
    let short = &id["sha256:".len()..][..12];
    assert!(
        rows[1].contains(" latest ") && rows[1].contains(short),
        "{table}"
    );
    let ids = env.rbuild(["images", "-q", "hello"]).run().ok().out();
    assert_eq!(ids, format!("{short}\n"));
    let ids = env
        .rbuild(["image", "ls", "-q", "--no-trunc", "hello:latest"])
        .run()
        .ok()
        .out();
    assert_eq!(ids, format!("{id}\n"));
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    let formatted = env
        .rbuild(["images", "--format", format, "hello"])
        .run()
        .ok()
        .out();
    assert_eq!(formatted, format!("hello:latest {short}\n"));
    let json_lines = env.rbuild(["images", "--format", "json"]).run().ok().out();
    for line in lines(&json_lines) {
        assert!(
            serde_json::from_str::<Value>(line).unwrap()["Repository"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn tags_name_images_and_move() {
    let env = with_hello();
    let id = env.inspect("hello", "{{.Id}}");
    let other = env.inspect("busybox", "{{.Id}}");
    env.rbuild(["tag", "hello", "registry.example:5000/team/hello:v1"])
        .run()
        .ok();
    assert_eq!(
        env.inspect("registry.example:5000/team/hello:v1", "{{.Id}}"),
        id
    );
    assert_eq!(env.inspect("docker.io/library/hello:latest", "{{.Id}}"), id);
    // By id, whole or shortened.
    assert_eq!(env.inspect(&id, "{{.Id}}"), id);
    assert_eq!(env.inspect(&id["sha256:".len()..][..12], "{{.Id}}"), id);
    env.rbuild(["tag", "busybox", "hello"]).run().ok();
    assert_eq!(env.inspect("hello", "{{.Id}}"), other);
    env.rbuild(["tag", "hello", "Not:Valid"])
        .run()
        .fails_with("invalid reference format");
    env.rbuild(["tag", "absent", "x"])
        .run()
        .fails_with("absent");
}

#[test]
fn removal_untags_first_and_deletes_last() {
    let env = with_hello();
    env.rbuild(["tag", "hello", "again"]).run().ok();
    let id = env.inspect("hello", "{{.Id}}");
    let first = env.rbuild(["rmi", "hello"]).run().ok().out();
    assert_eq!(lines(&first), ["Untagged: hello:latest"]);
    let last = env.rbuild(["rmi", "again"]).run().ok().out();
    assert_eq!(lines(&last)[0], "Untagged: again:latest");
    assert!(
        lines(&last).contains(&format!("Deleted: {id}").as_str()),
        "{last}"
    );
    let left = env
        .rbuild(["images", "--format", "{{.Repository}}"])
        .run()
        .ok()
        .out();
    assert_eq!(left, "busybox\n");
    env.rbuild(["rmi", "again"])
        .run()
        .exits(1)
        .says("No such image: again");
    env.assert_sound_store();
    // What was removed can be built again.
    env.build("hello", &env.fixture("hello"));
    env.rbuild(["run", "--rm", "hello"]).run().ok();
}

#[test]
fn an_image_that_loses_its_name_to_a_new_build_is_listed_without() {
    let env = TestEnv::new();
    env.build("x", &env.dockerfile("one", "FROM scratch\nENV a=1\n"));
    let first = env.inspect("x", "{{.Id}}");
    env.build("x", &env.dockerfile("two", "FROM scratch\nENV a=2\n"));
    let all = env.rbuild(["images", "-a", "--no-trunc"]).run().ok().out();
    let row = lines(&all)
        .into_iter()
        .find(|line| line.contains(&first))
        .unwrap_or_default();
    assert!(row.starts_with("<none> "), "{all}");
    let dangling = ["images", "-q", "--no-trunc", "--filter", "dangling=true"];
    assert_eq!(env.rbuild(dangling).run().ok().out().trim_end(), first);
    env.rbuild(["image", "prune", "-f"]).run().ok();
    assert_eq!(env.rbuild(dangling).run().ok().out(), "");
    assert_eq!(
        lines(&env.rbuild(["images", "-aq"]).run().ok().out()).len(),
        1
    );
}

#[test]
fn inspect_shows_the_config() {
    let env = with_hello();
    let text = env.rbuild(["inspect", "hello"]).run().ok().out();
    let document: Value = serde_json::from_str(&text).unwrap();
    let image = &document[0];
    assert_eq!(image["RepoTags"], json!(["hello:latest"]));
    assert_eq!(image["Os"], "linux");
    assert_eq!(image["Config"]["User"], "greeter");
    assert_eq!(image["Config"]["Cmd"], json!(["names"]));
    assert_eq!(image["RootFS"]["Type"], "layers");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 5);
    assert!(
        image["Size"].as_u64().unwrap() > 100_000,
        "{}",
        image["Size"]
    );
    assert!(
        image["Created"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok()
    );
    let template = "{{.Config.User}} {{json .Config.Cmd}} {{len .RootFS.Layers}}";
    assert_eq!(env.inspect("hello", template), "greeter [\"names\"] 5");
    let absent = env.rbuild(["inspect", "absent"]).run().exits(1);
    assert_eq!(absent.out(), "[]\n");
    assert!(
        absent.stderr.contains("No such object: absent"),
        "{}",
        absent.stderr
    );
}

#[test]
fn history_lists_every_instruction_newest_first() {
    let env = with_hello();
    let format = "{{.CreatedBy}}";
    let text = env
        .rbuild(["history", "--no-trunc", "--format", format, "hello"])
        .run()
        .ok()
        .out();
    let rows = lines(&text);
    assert_eq!(rows[0], "CMD [\"names\"]");
    assert_eq!(rows[1], "ENTRYPOINT [\"/usr/local/bin/greet\"]");
    assert_eq!(rows[2], "WORKDIR /srv");
    assert_eq!(rows[3], "USER greeter");
    assert_eq!(rows[4], "ENV GREETING_MARK=!");
    assert_eq!(
        rows[5],
        "COPY --chown=greeter /work/sorted /srv/names # buildkit"
    );
    assert_eq!(
        rows[7],
        "RUN /bin/sh -c echo \"greeter:x:1000:1000::/srv:/bin/sh\" >>/etc/passwd && \
         echo \"greeter:x:1000:\" >>/etc/group # buildkit"
    );
    let table = env.rbuild(["history", "hello"]).run().ok().out();
    let header: Vec<_> = lines(&table)[0].split_whitespace().collect();
    assert_eq!(
        header,
        ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    );
    assert!(lines(&table)[2].starts_with("<missing>"), "{table}");
}

#[test]
fn a_saved_image_loads_elsewhere_as_the_same_image() {
    let env = with_hello();
    let archive = env.join("hello.tar");
    env.rbuild(args!["save", "-o", archive, "hello", "busybox"])
        .run()
        .ok();
    let to_stdout = env.rbuild(["save", "hello", "busybox"]).run().ok().stdout;
    assert!(
        to_stdout == std::fs::read(&archive).unwrap(),
        "`save` and `save -o` differ"
    );
    let other = TestEnv::new();
    let loaded = other.rbuild(args!["load", "-i", archive]).run().ok().out();
    assert!(
        lines(&loaded).contains(&"Loaded image: hello:latest"),
        "{loaded}"
    );
    assert!(
        lines(&loaded).contains(&"Loaded image: busybox:latest"),
        "{loaded}"
    );
    for name in ["hello", "busybox"] {
        assert_eq!(other.inspect(name, "{{.Id}}"), env.inspect(name, "{{.Id}}"));
    }
    let output = other.rbuild(["run", "--rm", "hello"]).run().ok().out();
    assert!(output.starts_with("Hello, Ada!\n"), "{output}");
    // From standard input, compressed.
    let third = TestEnv::new();
    let compressed = zstd::encode_all(to_stdout.as_slice(), 1).unwrap();
    third.rbuild(["load", "-q"]).stdin(compressed).run().ok();
    assert_eq!(
        third.inspect("hello", "{{.Id}}"),
        env.inspect("hello", "{{.Id}}")
    );
    third.assert_sound_store();
}

#[test]
fn a_loaded_image_is_a_base_like_any_other() {
    let env = with_hello();
    let archive = env.rbuild(["save", "hello"]).run().ok().stdout;
    let other = TestEnv::new();
    other.rbuild(["load"]).stdin(archive).run().ok();
    let context = other.dockerfile(
        "c",
        "FROM hello\nUSER root\nRUN rm names && echo Alan >names\n",
    );
    other.build("child", &context);
    let output = other.rbuild(["run", "--rm", "child"]).run().ok().out();
    assert_eq!(output, "Hello, Alan!\n1 greetings from root in /srv\n");
}

#[test]
fn import_takes_a_root_file_system_and_changes() {
    let env = TestEnv::new();
    let archive = std::fs::read(base::busybox_rootfs()).unwrap();
    let printed = env
        .rbuild([
            "import",
            "-c",
            "ENV A=b",
            "-c",
            "CMD [\"echo\", \"imported\"]",
        ])
        .args(["--change", "WORKDIR /srv", "-m", "a message", "-", "mine:1"])
        .stdin(archive.clone())
        .run()
        .ok()
        .out();
    assert_eq!(printed.trim_end(), env.inspect("mine:1", "{{.Id}}"));
    assert_eq!(env.inspect("mine:1", "{{json .Config.Env}}"), "[\"A=b\"]");
    assert_eq!(
        env.inspect("mine:1", "{{.Config.WorkingDir}} {{.Comment}}"),
        "/srv a message"
    );
    assert_eq!(
        env.rbuild(["run", "--rm", "mine:1"]).run().ok().out(),
        "imported\n"
    );
    // The tree is the archive's.
    let context = env.dockerfile("c", "FROM mine:1\nENV x=y\n");
    let image = env.build_layout("same", &context);
    let imported: tree::Tree = tree::read_tar(archive.as_slice()).into_iter().collect();
    tree::assert_same("imported tree", &imported, &image.tree, tree::Compare::ALL);
    env.rbuild(["import", "-", "broken"])
        .stdin("not a tar")
        .run()
        .exits(1);
    env.rbuild(["inspect", "broken"]).run().exits(1);
    env.assert_sound_store();
}

#[test]
fn a_damaged_archive_is_refused_and_leaves_nothing() {
    let env = with_hello();
    let archive = env.rbuild(["save", "hello"]).run().ok().stdout;
    let other = TestEnv::new();
    for cut in [archive.len() / 3, archive.len() - archive.len() / 10] {
        let outcome = other.rbuild(["load"]).stdin(&archive[..cut]).run().exits(1);
        assert!(outcome.stderr.starts_with("Error: "), "{}", outcome.stderr);
    }
    // One byte of a layer changed: the digest must give it away.
    let mut changed = archive.clone();
    let at = archive.len() / 2;
    changed[at] ^= 0x20;
    other.rbuild(["load"]).stdin(changed).run().exits(1);
    assert_eq!(other.rbuild(["images", "-aq"]).run().ok().out(), "");
    other.assert_sound_store();
}

#[test]
fn the_layout_of_a_stored_image_is_sound_to_the_last_digest() {
    let env = with_hello();
    let image = env.build_layout("hello", &env.join("hello"));
    assert_eq!(
        layout::sha256(&image.config_bytes),
        env.inspect("hello", "{{.Id}}")
    );
    let layers: Value =
        serde_json::from_str(&env.inspect("hello", "{{json .RootFS.Layers}}")).unwrap();
    assert_eq!(image.config["rootfs"]["diff_ids"], layers);
}

#[test]
fn a_root_file_system_is_imported_from_the_web() {
    let env = TestEnv::new();
    let archive = fs::read(base::busybox_rootfs()).unwrap();
    let server = WebServer::start(move |asked| match asked.target.as_str() {
        "/rootfs.tar" => Answer::ok(archive.clone()),
        _ => Answer::new(404),
    });
    let id = env
        .rbuild([
            "import",
            "-c",
            "CMD [\"cat\", \"/etc/hostname\"]",
            &server.url("/rootfs.tar"),
        ])
        .arg("fetched:1")
        .run()
        .ok()
        .out();
    assert_eq!(env.inspect("fetched:1", "{{.Id}}\n"), id.trim_end());
    let output = env.rbuild(["run", "--rm", "fetched:1", "cat", "/etc/passwd"]);
    assert!(output.run().ok().out().starts_with("root:x:0:0:"));
    env.rbuild(["import", &server.url("/none.tar"), "none"])
        .run()
        .fails_with("none.tar");
    assert_eq!(fs::read_dir(env.store().join("tmp")).unwrap().count(), 0);
}

#[test]
fn labels_choose_images_and_spare_them() {
    let env = TestEnv::new();
    for (name, label) in [
        ("one", "keep=yes"),
        ("two", "keep=no"),
        ("three", "other=1"),
    ] {
        let context = env.dockerfile(
            name,
            &format!("FROM scratch\nLABEL {label}\nENV a={name}\n"),
        );
        env.build(name, &context);
    }
    let listed = |filters: &[&str]| {
        let mut args = vec!["images", "--format", "{{.Repository}}"];
        for filter in filters {
            args.extend(["--filter", filter]);
        }
        let out = env.rbuild(args).run().ok().out();
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(listed(&["label=keep"]), "one two");
    assert_eq!(listed(&["label!=keep"]), "three");
    assert_eq!(listed(&["label!=keep=yes"]), "three two");
    assert_eq!(listed(&["label=keep", "label!=keep=no"]), "one");
    env.rbuild(["image", "prune", "-af", "--filter", "label!=keep=yes"])
        .run()
        .ok();
    assert_eq!(listed(&[]), "one");
}

#[test]
fn sizes_tell_what_images_share() {
    let env = with_hello();
    let sizes = |name: &str| {
        let format = "{{.Size}} {{.SharedSize}} {{.UniqueSize}}";
        let out = env.rbuild(["images", "--format", format, name]).run();
        out.ok().out().trim_end().to_owned()
    };
    let busybox = sizes("busybox");
    let parts: Vec<_> = busybox.split(' ').collect();
    assert_eq!((parts[0], parts[2]), (parts[1], "0B"), "{busybox}");
    let hello = sizes("hello");
    let of_hello: Vec<_> = hello.split(' ').collect();
    assert_eq!(of_hello[1], parts[1], "{hello}");
    assert_ne!(of_hello[2], "0B", "{hello}");
}

/// An image for two platforms, and the archive of it.
fn with_two_platforms() -> (TestEnv, Vec<u8>) {
    let env = TestEnv::new();
    let context = env.dockerfile(
        "two",
        "FROM scratch\nARG TARGETARCH\nENV FOR=$TARGETARCH\nCOPY Dockerfile /f-$TARGETARCH\n",
    );
    env.rbuild(args![
        "--platform",
        "linux/amd64,linux/arm64",
        "-t",
        "two",
        context
    ])
    .run()
    .ok();
    let archive = env.rbuild(["save", "two"]).run().ok().stdout;
    (env, archive)
}

#[test]
fn platforms_of_an_image_are_told_apart() {
    let (env, archive) = with_two_platforms();
    let of = |env: &TestEnv, platform: &str, format: &str| {
        let args = ["inspect", "--platform", platform, "-f", format, "two"];
        env.rbuild(args).run().ok().out().trim_end().to_owned()
    };
    for (platform, arch) in [("linux/amd64", "amd64"), ("linux/arm64/v8", "arm64")] {
        let format = "{{.Architecture}} {{.Config.Env}} {{len .RootFS.Layers}}";
        let told = of(&env, platform, format);
        assert!(
            told.starts_with(&format!("{arch} [")) && told.contains(&format!("FOR={arch}]")),
            "{told}"
        );
        let args = ["history", "--platform", platform, "--no-trunc", "two"];
        let history = env.rbuild(args).run().ok().out();
        assert!(history.contains(&format!("/f-{arch}")), "{history}");
    }
    for command in ["inspect", "history", "save", "rmi"] {
        env.rbuild([command, "--platform", "linux/s390x", "two"])
            .run()
            .exits(1)
            .says(
                "image with reference two was found but does not provide the specified platform \
                 (linux/s390x)",
            )
            .says("it is here for: linux/amd64, linux/arm64");
    }
    // One alone, out of the store and into another.
    let args = ["save", "--platform", "linux/arm64", "two"];
    let one = env.rbuild(args).run().ok().stdout;
    let other = TestEnv::new();
    other.rbuild(["load"]).stdin(one).run().ok();
    assert_eq!(other.inspect("two", "{{.Architecture}}"), "arm64");
    let absent = ["load", "--platform", "linux/s390x"];
    let third = TestEnv::new();
    third
        .rbuild(absent)
        .stdin(archive.clone())
        .run()
        .exits(1)
        .says("requested platform (linux/s390x) not found");
    assert_eq!(third.rbuild(["images", "-aq"]).run().ok().out(), "");
    let arm = ["load", "--platform", "linux/arm64"];
    third.rbuild(arm).stdin(archive).run().ok();
    assert_eq!(third.inspect("two", "{{.Architecture}}"), "arm64");
    third
        .rbuild(["inspect", "--platform", "linux/amd64", "two"])
        .run()
        .exits(1);
    third.rbuild(["prune", "-af"]).run().ok();
    third.assert_sound_store();
    assert_eq!(
        third.inspect("two", "{{.Id}}"),
        of(&env, "linux/arm64", "{{.Id}}")
    );
}

#[test]
fn the_tree_shows_what_is_behind_a_name() {
    let (env, _) = with_two_platforms();
    env.rbuild(["tag", "two", "again"]).run().ok();
    let tree = env.rbuild(["images", "--tree"]).run().ok().out();
    let rows = lines(&tree);
    let words = |row: &str| -> Vec<String> { row.split_whitespace().map(str::to_owned).collect() };
    assert_eq!(
        words(rows[0]).join(" "),
        "IMAGE ID DISK USAGE CONTENT SIZE EXTRA"
    );
    assert_eq!(words(rows[1]), ["again:latest"], "{tree}");
    let id = env.inspect("two", "{{.Id}}");
    assert_eq!(
        words(rows[2])[..2],
        ["two:latest", &id["sha256:".len()..][..12]],
        "{tree}"
    );
    assert_eq!(words(rows[3])[..2], ["├─", "linux/amd64"], "{tree}");
    assert_eq!(words(rows[4])[..2], ["└─", "linux/arm64"], "{tree}");
    assert_eq!(rows.len(), 5, "{tree}");
    // What is behind it is removed one by one; the last is removed as the image is.
    let rmi = ["rmi", "--platform", "linux/amd64", "two"];
    let removed = env.rbuild(rmi).run().ok().out();
    assert!(removed.starts_with("Deleted: sha256:"), "{removed}");
    assert_eq!(env.inspect("two", "{{.Architecture}}"), "arm64");
    let tree = env.rbuild(["images", "--tree"]).run().ok().out();
    let row = lines(&tree)[3];
    assert!(
        row.contains("linux/amd64") && row.matches(" 0B").count() == 2,
        "{tree}"
    );
    env.rbuild(["prune", "-af"]).run().ok();
    env.assert_sound_store();
    assert_eq!(env.inspect("two", "{{.Architecture}}"), "arm64");
    for (name, said) in [
        ("two", "Untagged: two:latest\n"),
        ("again", "Untagged: again:"),
    ] {
        let rmi = ["rmi", "--platform", "linux/arm64", name];
        let out = env.rbuild(rmi).run().ok().out();
        assert!(out.starts_with(said), "{out}");
    }
    assert_eq!(env.rbuild(["images", "-aq"]).run().ok().out(), "");
    env.assert_sound_store();
}
