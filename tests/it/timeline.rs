//! `rbuild timeline`: as text, as trace, and as a page in a real browser.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args;
use crate::support::{TestEnv, needs};

/// Two stages, one of which waits for the other and only then does what it could have done before.
const DOCKERFILE: &str = "FROM busybox AS build
RUN sleep 1; echo built >/app
FROM busybox AS final
COPY --from=build /app /app
RUN sleep 0.7; echo installed >/installed
";

fn build(env: &TestEnv) -> PathBuf {
    env.import_busybox();
    let context = env.dockerfile("c", DOCKERFILE);
    env.build("x", &context);
    context
}

#[test]
fn the_text_has_the_critical_path_and_what_to_move() {
    let env = TestEnv::new();
    build(&env);
    let text = env.rbuild(["timeline"]).run().ok().out();
    let critical: Vec<&str> = text
        .lines()
        .filter(|line| line.contains('█') && line.contains('['))
        .map(|line| line.split_once('[').unwrap().1)
        .collect();
    assert_eq!(
        critical,
        [
            "build 2/2] RUN sleep 1; echo built >/app",
            "final 2/3] COPY --from=build /app /app",
            "final 3/3] RUN sleep 0.7; echo installed >/installed"
        ],
        "{text}"
    );
    let advice = "waited 1.";
    assert!(
        text.contains(advice) && text.contains("move above it what does not need"),
        "{text}"
    );
    assert!(
        text.contains("2 from the cache") || text.contains("0 from the cache"),
        "{text}"
    );
}

#[test]
fn the_trace_has_an_event_for_every_step() {
    let env = TestEnv::new();
    build(&env);
    let place = env.join("build.json");
    env.rbuild(args!["timeline", "-o", place, "x"]).run().ok();
    let trace: Value = serde_json::from_slice(&std::fs::read(place).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let bars: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let of = |text: &str| {
        let found = bars
            .iter()
            .find(|bar| bar["name"].as_str().unwrap().contains(text));
        *found.unwrap_or_else(|| panic!("no {text} in {events:#?}"))
    };
    let (first, copy) = (of("sleep 1;"), of("COPY"));
    assert!(first["dur"].as_u64().unwrap() >= 1_000_000, "{first}");
    let end = first["ts"].as_u64().unwrap() + first["dur"].as_u64().unwrap();
    assert!(copy["ts"].as_u64().unwrap() + 1000 >= end, "{copy}");
    assert_eq!(first["args"]["critical"], true);
    assert!(of("exporting")["dur"].is_u64());
}

/// Runs headless Chromium with a profile of its own.
fn chromium(env: &TestEnv, arguments: &[&str], page: &Path) -> String {
    let profile = env.join("chromium");
    let outcome = env
        .host(needs::program("chromium", "chromium"))
        .env("HOME", &profile)
        .env("XDG_CONFIG_HOME", &profile)
        .env("XDG_CACHE_HOME", &profile)
        .env("TMPDIR", env.join("browser"))
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(args![format!("--user-data-dir={}", profile.display())])
        .args(arguments)
        .args(args![format!("file://{}", page.display())])
        .timeout(180)
        .run()
        .ok();
    outcome.out()
}

#[test]
fn a_browser_draws_the_page() {
    let env = TestEnv::new();
    build(&env);
    std::fs::create_dir(env.join("browser")).unwrap();
    let page = env.join("build.html");
    env.rbuild(args!["timeline", "-o", page]).run().ok();
    // A script that measures what the browser has drawn, where a reader's eyes would.
    let measured = env.join("measured.html");
    let text = std::fs::read_to_string(&page).unwrap();
    let probe = "<pre id=\"probe\"></pre><script>const bars = [...document.querySelectorAll('#steps \
                 .bar')].map((bar) => { const box = bar.getBoundingClientRect(); return [bar.title.split('\\n')[0], \
                 box.left, box.right, box.height, getComputedStyle(bar).backgroundColor, \
                 bar.classList.contains('critical')]; }); document.getElementById('only').click(); const \
                 shown = [...document.querySelectorAll('#steps .row:not(.scale)')].filter((row) => \
                 row.offsetHeight > 0).length; document.getElementById('probe').textContent = \
                 JSON.stringify({ bars, shown, advice: document.querySelectorAll('.advice li').length });\
                 </script></body>";
    std::fs::write(&measured, text.replace("</body>", probe)).unwrap();
    let dom = chromium(&env, &["--dump-dom", "--window-size=1200,900"], &measured);
    let json = dom
        .split_once("id=\"probe\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"))
        .unwrap_or_else(|| panic!("no probe in:\n{dom}"))
        .0;
    let json = json
        .replace("&gt;", ">")
        .replace("&lt;", "<")
        .replace("&amp;", "&");
    let probe: Value = serde_json::from_str(&json).unwrap();
    let bar = |text: &str| {
        let bars = probe["bars"].as_array().unwrap();
        let found = bars
            .iter()
            .find(|bar| bar[0].as_str().unwrap().contains(text));
        found
            .unwrap_or_else(|| panic!("no bar {text} in {probe:#}"))
            .clone()
    };
    let (first, copy, last) = (bar("sleep 1;"), bar("COPY"), bar("sleep 0.7"));
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(
        number(&first[2]) - number(&first[1]) > 100.0,
        "a bar of its length: {first}"
    );
    assert!(
        number(&copy[1]) + 1.0 >= number(&first[2]),
        "behind what it waited for: {copy}"
    );
    assert!(number(&last[1]) + 1.0 >= number(&copy[1]), "{last}");
    assert!(number(&first[3]) >= 10.0 && first[5] == true, "{first}");
    assert_ne!(
        first[4],
        bar("exporting")[4],
        "transfers have another colour"
    );
    assert_eq!(
        probe["shown"], 4,
        "only the critical path is left: {probe:#}"
    );
    assert_eq!(probe["advice"], 1);
    let picture = env.join("timeline.png");
    let flag = format!("--screenshot={}", picture.display());
    chromium(&env, &[&flag, "--window-size=1200,900"], &page);
    let png = std::fs::read(&picture).unwrap();
    assert!(
        png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 5000,
        "{} bytes",
        png.len()
    );
    if let Some(keep) = std::env::var_os("RBUILD_KEEP_PICTURES") {
        std::fs::copy(&picture, Path::new(&keep).join("timeline.png")).unwrap();
    }
    std::fs::remove_dir_all(env.join("chromium")).unwrap();
}
