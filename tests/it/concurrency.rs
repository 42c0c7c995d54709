//! Several processes on one store.

use crate::args;
use crate::support::TestEnv;
use crate::support::process::with_path;

#[test]
fn two_builds_of_the_same_step_at_once_run_it_once() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN sleep 1; cat /proc/sys/kernel/random/uuid >/random\n",
    );
    let build = |name: &str| env.rbuild(args!["build", "-t", name, context]).spawn();
    let (one, two) = (build("one"), build("two"));
    one.wait().ok();
    two.wait().ok();
    let layers = |name: &str| env.inspect(name, "{{json .RootFS.Layers}}");
    assert_eq!(layers("one"), layers("two"));
    env.assert_sound_store();
}

#[test]
fn many_different_builds_at_once_share_a_store() {
    let env = TestEnv::new();
    env.import_busybox();
    let started: Vec<_> = (0..6)
        .map(|i| {
            let text = format!("FROM busybox\nRUN echo shared >/s\nRUN echo {i} >/own\n");
            let context = env.dockerfile(&format!("c{i}"), &text);
            let output = with_path("type=tar,dest=", &env.join(&format!("{i}.tar")));
            let name = format!("own-{i}");
            (
                i,
                env.rbuild(args!["-t", name, "-o", "type=image", "-o", output, context])
                    .spawn(),
            )
        })
        .collect();
    for (_, build) in started {
        build.wait().ok();
    }
    for i in 0..6 {
        let name = format!("own-{i}");
        let output = env
            .rbuild(["run", "--rm", &name, "cat", "/s", "/own"])
            .run()
            .ok();
        assert_eq!(output.out(), format!("shared\n{i}\n"));
    }
    env.assert_sound_store();
}
