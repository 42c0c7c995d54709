//! `rbuild events`: what happens to containers, images, volumes and networks.

use rustix::process::Signal;

use super::{told, with_busybox};
use crate::args;
use crate::support::TestEnv;

/// What `rbuild events ARGS… --until 0s` prints.
fn events(env: &TestEnv, args: &[&str]) -> Vec<String> {
    let mut all = vec!["events", "--until", "0s"];
    all.extend(args);
    told(env, &all).lines().map(str::to_owned).collect()
}

#[test]
fn events_are_written_down_shown_and_followed() {
    let env = with_busybox();
    let follower = env
        .rbuild([
            "events",
            "--since",
            "1h",
            "-f",
            "type=container",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ])
        .spawn();
    env.rbuild([
        "run", "--name", "box", "-v", "/v", "-l", "k=v", "busybox", "sh", "-c", "exit 3",
    ])
    .run()
    .exits(3);
    told(&env, &["rename", "box", "other"]);
    told(&env, &["rm", "-v", "other"]);
    follower.wait_for_output("destroy other");
    follower.signal(Signal::TERM);
    let outcome = follower.wait();
    let want = "create box\nattach box\nstart box\ndie box\nrename other\ndestroy other\n";
    assert_eq!(outcome.out(), want);
    let actions = |args: &[&str]| {
        events(
            &env,
            &[&["--format", "{{.Type}} {{.Action}}"], args].concat(),
        )
    };
    assert_eq!(
        actions(&[]),
        [
            "image import",
            "volume create",
            "container create",
            "container attach",
            "volume mount",
            "network connect",
            "container start",
            "container die",
            "network disconnect",
            "volume unmount",
            "container rename",
            "container destroy",
            "volume destroy"
        ]
    );
    assert_eq!(
        actions(&["-f", "event=die", "-f", "event=start"]),
        ["container start", "container die"]
    );
    assert_eq!(
        actions(&["-f", "container=other", "-f", "label=k=v"]),
        ["container rename", "container destroy"]
    );
    assert_eq!(
        actions(&["-f", "type=volume"]),
        [
            "volume create",
            "volume mount",
            "volume unmount",
            "volume destroy"
        ]
    );
    assert_eq!(actions(&["--since", "0s"]), [""; 0]);
    let died = &events(&env, &["-f", "event=die"])[0];
    assert!(
        died.contains("Z container die ")
            && died.ends_with("(exitCode=3, image=busybox, k=v, name=box)"),
        "{died}"
    );
    let json = &events(&env, &["-f", "event=die", "--format", "json"])[0];
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        (
            &json["Type"],
            &json["status"],
            &json["Actor"]["Attributes"]["exitCode"]
        ),
        (&"container".into(), &"die".into(), &"3".into())
    );
    env.rbuild(["events", "-f", "x=y"])
        .run()
        .fails_with("invalid filter \"x\"");
    env.rbuild(["events", "--since", "soon"])
        .run()
        .fails_with("invalid time \"soon\"");
}

#[test]
fn a_container_that_removes_itself_tells_how_it_died() {
    let env = with_busybox();
    env.rbuild([
        "run", "-d", "--rm", "--name", "box", "busybox", "sh", "-c", "exit 7",
    ])
    .run()
    .ok();
    crate::support::wait_until("its end is written down", || {
        events(&env, &["-f", "event=destroy"]).len() == 1
    });
    assert!(events(&env, &["-f", "event=die"])[0].contains("exitCode=7"));
}

#[test]
fn commands_networks_and_images_are_told_of_as_in_docker() {
    let env = with_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN true\n");
    env.build("app:1", &context);
    let id = env.inspect("app:1", "{{.Id}}");
    let archive = env.join("app.tar");
    env.rbuild(args!["save", "-o", &archive, "app:1"])
        .run()
        .ok();
    told(&env, &["rmi", "app:1"]);
    env.rbuild(args!["load", "-i", &archive]).run().ok();
    let lines = |filter: &str| -> Vec<String> {
        let shown = events(&env, &["-f", filter]);
        let since = shown
            .iter()
            .map(|line| line.split_once(' ').unwrap().1.to_owned());
        since.collect()
    };
    let of_image = lines("image=app:1");
    let want = ["tag", "save", "untag", "load"];
    let want = want.map(|action| format!("image {action} {id} (name=app:1)"));
    let known: Vec<&String> = of_image
        .iter()
        .filter(|line| !line.contains(" delete "))
        .collect();
    assert_eq!(known, want.iter().collect::<Vec<_>>());

    let back = told(&env, &["network", "create", "back"]);
    let box_id = told(
        &env,
        &["run", "-d", "--name", "box", "busybox", "sleep", "1000"],
    );
    told(&env, &["network", "connect", "back", "box"]);
    env.rbuild(["exec", "box", "sh", "-c", "exit 3"])
        .run()
        .exits(3);
    told(&env, &["network", "disconnect", "back", "box"]);
    env.rbuild(["stop", "-t", "0", "box"]).run().ok();
    told(&env, &["rm", "box"]);
    told(&env, &["network", "rm", "back"]);
    assert_eq!(
        lines("network=back"),
        [
            format!("network create {back} (name=back, type=bridge)"),
            format!("network connect {back} (container={box_id}, name=back, type=bridge)"),
            format!("network disconnect {back} (container={box_id}, name=back, type=bridge)"),
            format!("network destroy {back} (name=back, type=bridge)"),
        ]
    );
    let format = "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}";
    let actions = events(&env, &["-f", "container=box", "--format", format]);
    let none = "<no value>";
    assert_eq!(
        actions,
        [
            format!("create {none} {none}"),
            format!("start {none} {none}"),
            format!("exec_create: sh -c exit 3 {none} {none}"),
            format!("exec_start: sh -c exit 3 {none} {none}"),
            format!("exec_die 3 {none}"),
            format!("kill {none} 15"),
            format!("die 137 {none}"),
            format!("stop {none} {none}"),
            format!("destroy {none} {none}"),
        ]
    );
    let execs = events(&env, &["-f", "event=exec_start", "-f", "event=exec_die"]);
    let id_of = |line: &str| {
        line.split("execID=")
            .nth(1)
            .map(|rest| rest[..64].to_owned())
    };
    assert_eq!(execs.len(), 2, "{execs:?}");
    assert!(id_of(&execs[0]).is_some() && id_of(&execs[0]) == id_of(&execs[1]));
}
