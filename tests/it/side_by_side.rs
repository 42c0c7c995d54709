//! Stages that do not need each other run at the same time.

use std::time::Duration;

use crate::support::TestEnv;
use crate::support::progress::parse;

#[test]
fn four_independent_stages_take_as_long_as_one() {
    let env = TestEnv::new();
    env.import_busybox();
    let outcome = env.build("joined", &env.fixture("side-by-side"));
    let steps = parse(&outcome.stderr);
    let sleeps = steps
        .iter()
        .filter(|step| step.title.contains("RUN sleep 2"));
    let times: Vec<f64> = sleeps.map(|step| step.seconds).collect();
    assert_eq!(times.len(), 4, "{}", outcome.stderr);
    assert!(times.iter().all(|seconds| *seconds >= 2.0), "{times:?}");
    // One after the other would be more than 8 seconds.
    assert!(
        outcome.elapsed < Duration::from_secs(6),
        "took {:?}: {times:?}",
        outcome.elapsed
    );
    let output = env.rbuild(["run", "--rm", "joined"]).run().ok();
    assert_eq!(output.out(), "a\nb\nc\nd\n");
}
