//! Credentials: kept where others find them, used for their registry, and seen nowhere else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::args;
use crate::support::TestEnv;
use crate::support::registry::{PASSWORD, Registry, USER};

/// Base64 of `tester:geheim`.
const ENCODED: &str = "dGVzdGVyOmdlaGVpbQ==";

#[test]
fn login_opens_a_registry_and_logout_closes_it() {
    let (env, registry) = (TestEnv::new(), Registry::with_password());
    let (host, name) = (registry.host(), registry.name("private"));
    let folder = env.join("docker");
    let rbuild = |args: &[&str]| env.rbuild(args).env("DOCKER_CONFIG", &folder);
    env.import_busybox();
    rbuild(&["tag", "busybox", &name]).run().ok();
    let refused = rbuild(&["push", &name]).run().exits(1);
    assert!(
        refused
            .stderr
            .contains("refused access without credentials"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains(&format!("rbuild login {host}")),
        "{}",
        refused.stderr
    );

    let login = ["login", "-u", USER, "--password-stdin", &host];
    rbuild(&login)
        .stdin("wrong\n")
        .run()
        .exits(1)
        .says("refused the credentials");
    assert!(!folder.join("config.json").exists());
    let outcome = rbuild(&login).stdin(format!("{PASSWORD}\n")).run().ok();
    assert_eq!(outcome.out(), "Login Succeeded\n");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    assert!(
        config.contains(&host) && config.contains(ENCODED),
        "{config}"
    );
    rbuild(&["push", &name]).run().ok();

    // podman's file, and the option for one command.
    let fresh = TestEnv::new();
    let auth = folder.join("config.json");
    fresh
        .rbuild(["pull", &name])
        .env("REGISTRY_AUTH_FILE", &auth)
        .run()
        .ok();
    let creds = format!("{USER}:{PASSWORD}");
    let fresh = TestEnv::new();
    fresh.rbuild(["pull", "--creds", &creds, &name]).run().ok();

    let outcome = rbuild(&["logout", &host]).run().ok();
    assert_eq!(
        outcome.out(),
        format!("Removing login credentials for {host}\n")
    );
    let outcome = rbuild(&["logout", &host]).run().ok();
    assert_eq!(outcome.out(), format!("Not logged in to {host}\n"));
    rbuild(&["pull", &name])
        .run()
        .exits(1)
        .says("without credentials");
    let context = env.dockerfile("private", &format!("FROM {name}-2\n"));
    env.rbuild(args!["build", context])
        .run()
        .fails_with("pull access denied, repository does not exist or may require authorization");
    rbuild(&["login", &host])
        .run()
        .exits(1)
        .says("non TTY device");
}

#[test]
fn credentials_are_nowhere_but_in_their_file() {
    let (env, registry) = (TestEnv::new(), Registry::with_password());
    let name = registry.name("private");
    let auth = env.join("auth.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"{ENCODED}"}}}}}}"#,
        registry.host()
    );
    std::fs::write(&auth, text).unwrap();
    env.import_busybox();
    let rbuild = |args: &[std::ffi::OsString]| {
        env.rbuild(args)
            .env("REGISTRY_AUTH_FILE", &auth)
            .env("RBUILD_LOG", "trace")
            .run()
            .ok()
            .text()
    };
    let mut said = String::new();
    env.rbuild(["tag", "busybox", &name]).run().ok();
    said += &rbuild(&args!["push", name]);
    env.rbuild(["rmi", "busybox", &name]).run().ok();
    let dockerfile = format!("FROM {name}\nRUN env; cat /proc/*/environ /proc/*/cmdline; mount\n");
    let context = env.dockerfile("context", &dockerfile);
    let app = registry.name("app");
    let cache = format!("type=records,ref={},mode=max", registry.name("cache"));
    let flags = args![
        "build",
        "--progress",
        "plain",
        "-t",
        app,
        "--push",
        "--load",
        "--pull",
        "--cache-to",
        cache,
        context
    ];
    let seen = Watch::begin(env.path());
    said += &rbuild(&flags);
    let (processes, lists) = seen.end();
    assert!(processes > 0);
    said += &lists;
    said += &rbuild(&args!["history", "--no-trunc", app]);
    said += &rbuild(&args!["inspect", app]);
    for secret in [PASSWORD, ENCODED] {
        assert!(!said.contains(secret), "{secret} in {said}");
        for place in [&env.store(), &registry.data()] {
            let found = files_with(place, secret);
            assert!(found.is_empty(), "{secret} in {found:?}");
        }
    }
}

/// Reads again and again what the host's process list shows of the processes of one test.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<(String, String)>>,
}

impl Watch {
    fn begin(of: &Path) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (end, of) = (Arc::clone(&stop), of.display().to_string());
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !end.load(Ordering::Relaxed) {
                for process in std::fs::read_dir("/proc").unwrap().flatten() {
                    let text = |name| {
                        let bytes = std::fs::read(process.path().join(name)).unwrap_or_default();
                        String::from_utf8_lossy(&bytes).replace('\0', " ")
                    };
                    let number = process.file_name().to_string_lossy().into_owned();
                    let shown = text("cmdline") + &text("environ");
                    if number.parse::<u32>().is_ok() && shown.contains(&of) {
                        seen.insert((number, shown));
                    }
                }
            }
            seen
        });
        Watch { stop, thread }
    }

    /// How many different states were seen, and their texts.
    fn end(self) -> (usize, String) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        let texts: Vec<String> = seen.iter().map(|(_, text)| text.clone()).collect();
        (seen.len(), texts.join("\n"))
    }
}

/// Files below a directory that hold a text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            if bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
            {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

#[test]
fn certificates_are_checked() {
    let env = TestEnv::new();
    let (registry, authority) = Registry::with_tls();
    let name = registry.name("secure");
    env.import_busybox();
    env.rbuild(["tag", "busybox", &name]).run().ok();
    env.rbuild(["push", &name])
        .run()
        .exits(1)
        .says("the certificate of the server is not accepted");
    let certificates = env.files("certs", &[("ca.crt", &authority)]);
    env.rbuild(args!["push", "--cert-dir", certificates, name])
        .run()
        .ok();
    let fresh = TestEnv::new();
    fresh
        .rbuild(["pull", "--tls-verify=false", &name])
        .run()
        .ok();
    // As docker and podman have it: a directory per registry.
    let fresh = TestEnv::new();
    let place = format!("xdg/containers/certs.d/{}/ca.crt", registry.host());
    fresh.files("", &[(&place, &authority)]);
    let context = fresh.dockerfile("context", &format!("FROM {name}\nRUN true\n"));
    fresh
        .rbuild(args!["build", context])
        .env("XDG_CONFIG_HOME", fresh.join("xdg"))
        .run()
        .ok();
}

#[test]
fn a_mirror_of_podmans_file_is_asked_first() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let mirrored = registry.name("hub/library/tool");
    env.rbuild(["tag", "busybox", &mirrored]).run().ok();
    env.rbuild(["push", &mirrored]).run().ok();
    let text = format!(
        "[[registry]]\nprefix = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}/hub\"\n",
        registry.host()
    );
    let folder = env.files("conf", &[("registries.conf", &text)]);
    let conf = folder.join("registries.conf");
    let pull = env
        .rbuild(["pull", "tool"])
        .env("CONTAINERS_REGISTRIES_CONF", conf);
    assert!(
        pull.run()
            .ok()
            .out()
            .ends_with("docker.io/library/tool:latest\n")
    );
}

#[test]
fn helpers_are_asked_for_credentials() {
    let (env, registry) = (TestEnv::new(), Registry::with_password());
    let name = registry.name("private");
    env.import_busybox();
    env.rbuild(["tag", "busybox", &name]).run().ok();
    let script = format!(
        "#!/bin/sh\nread server\nprintf '{{\"ServerURL\":\"%s\",\"Username\":\"{USER}\",\
         \"Secret\":\"{PASSWORD}\"}}' \"$server\"\n"
    );
    let bin = env.files("bin", &[("docker-credential-test", &script)]);
    let program = bin.join("docker-credential-test");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let host = registry.host();
    for config in [
        format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#),
        r#"{"credsStore":"test"}"#.to_owned(),
    ] {
        let folder = env.files("docker", &[("config.json", &config)]);
        env.rbuild(["push", &name])
            .env("DOCKER_CONFIG", &folder)
            .env("PATH", &bin)
            .run()
            .ok();
    }
    env.rbuild(["push", &name]).run().exits(1);
}

#[test]
fn a_part_of_a_registry_lies_elsewhere_and_another_is_blocked() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let host = registry.host();
    let podman = format!(
        "[[registry]]\nprefix = \"quay.example/team\"\nlocation = \"{host}/mirrored\"\n\
         [[registry]]\nprefix = \"*.bad.example\"\nblocked = true\n"
    );
    let containerd = format!("server = \"http://{host}/v2/mirrored\"\n");
    let config = env.files(
        "config",
        &[
            ("containers/registries.conf", &podman),
            ("docker/certs.d/other.example/hosts.toml", &containerd),
        ],
    );
    let rbuild = |words: &[&str]| env.rbuild(words).env("XDG_CONFIG_HOME", &config).run();
    for name in ["quay.example/team/app:1", "other.example/app:2"] {
        rbuild(&["tag", "busybox", name]).ok();
        rbuild(&["push", name]).ok();
        rbuild(&["rmi", name]).ok();
        rbuild(&["pull", name]).ok();
    }
    // There is where they lie.
    for name in ["mirrored/app:1", "mirrored/app:2"] {
        env.rbuild(["pull", &registry.name(name)]).run().ok();
    }
    let outcome = rbuild(&["pull", "r.bad.example/app"]).exits(1);
    assert!(
        outcome.stderr.contains("`*.bad.example` is blocked"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn annotated_entries_tell_version_and_features_of_the_system() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let (list, image) = (registry.name("list"), registry.name("image"));
    env.rbuild(["tag", "busybox", &image]).run().ok();
    env.rbuild(["push", &image]).run().ok();
    env.rbuild(["manifest", "create", &list, &image]).run().ok();
    let said = [
        "--os",
        "windows",
        "--os-version",
        "10.0.1",
        "--os-features",
        "win32k,two",
    ];
    let mut words = vec!["manifest", "annotate"];
    words.extend(said);
    words.extend([list.as_str(), &image]);
    env.rbuild(&words).run().ok();
    env.rbuild(["manifest", "push", &list]).run().ok();
    let shown = env.rbuild(["manifest", "inspect", &list]).run().ok().out();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let platform = &shown["manifests"][0]["platform"];
    assert_eq!(platform["os.version"], "10.0.1", "{shown}");
    assert_eq!(
        platform["os.features"],
        serde_json::json!(["win32k", "two"])
    );
    // Another index that takes it over keeps what it says.
    let again = registry.name("again");
    env.rbuild(["imagetools", "create", "-t", &again, &list])
        .run()
        .ok();
    let shown = env
        .rbuild(["imagetools", "inspect", "--raw", &again])
        .run()
        .ok()
        .out();
    assert!(shown.contains("win32k"), "{shown}");
}
