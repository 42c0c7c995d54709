//! The README's example: three stages, built and run.

use crate::args;
use crate::support::TestEnv;

#[test]
fn the_hello_fixture_builds_and_runs() {
    let env = TestEnv::new();
    env.import_busybox();
    env.build("hello", &env.fixture("hello"));
    let output = env.rbuild(["run", "--rm", "hello"]).run().ok();
    assert_eq!(
        output.out(),
        "Hello, Ada!\nHello, Edsger!\nHello, Grace!\n3 greetings from greeter in /srv\n"
    );
    env.assert_sound_store();
}

#[test]
fn the_config_of_the_hello_fixture_holds_what_the_dockerfile_says() {
    let env = TestEnv::new();
    env.import_busybox();
    let image = env.build_layout("hello", &env.fixture("hello"));
    let config = &image.config["config"];
    assert_eq!(config["User"], "greeter");
    assert_eq!(config["WorkingDir"], "/srv");
    assert_eq!(
        config["Entrypoint"],
        serde_json::json!(["/usr/local/bin/greet"])
    );
    assert_eq!(config["Cmd"], serde_json::json!(["names"]));
    let env_entries = config["Env"].as_array().unwrap();
    assert!(
        env_entries.contains(&"GREETING_MARK=!".into()),
        "{env_entries:?}"
    );
    let names = &image.tree["srv/names"];
    assert_eq!((names.uid, names.gid), (1000, 1000));
}

#[test]
fn a_target_stops_at_its_stage() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    let outcome = env
        .rbuild(args![
            "--target",
            "names",
            "-t",
            "names",
            "--progress",
            "plain",
            context
        ])
        .run()
        .ok();
    assert!(!outcome.stderr.contains("greet.sh"), "{}", outcome.stderr);
    let sorted = env
        .rbuild(["run", "--rm", "names", "cat", "/work/sorted"])
        .run()
        .ok();
    assert_eq!(sorted.out(), "Ada\nEdsger\nGrace\n");
}
