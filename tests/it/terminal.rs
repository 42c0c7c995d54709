//! `rbuild run -it` and the build's progress on a terminal.

use std::time::{Duration, Instant};

use rustix::termios::LocalModes;

use crate::support::TestEnv;
use crate::support::terminal::{OnTerminal, PATIENCE, set_size};

#[test]
fn an_interactive_shell_has_a_terminal_of_its_own() {
    let env = TestEnv::new();
    env.import_busybox();
    let mut shell = OnTerminal::start(&env, &["run", "--rm", "-it", "busybox", "sh"]);
    let before = shell.settings();
    shell.expect("# ");
    shell.type_in("tty; stty size; echo done-$((1 + 1))\n");
    let text = shell.expect("done-2");
    assert!(
        text.contains("/dev/pts/0") || text.contains("/dev/console"),
        "{text:?}"
    );
    assert!(text.contains("40 100"), "{text:?}");
    assert!(
        !shell.settings().local_modes.contains(LocalModes::ICANON),
        "raw mode while it runs"
    );
    // The window changes its size.
    set_size(&shell.master, 50, 120);
    shell.type_in("sleep 1; stty size; echo done-$((2 + 2))\n");
    let text = shell.expect("done-4");
    assert!(text.contains("50 120"), "{text:?}");
    // Ctrl-C reaches the command inside, not the tool. The inner shell is the terminal's
    // foreground process when it speaks, and so is what it becomes.
    shell.type_in("sh -c 'echo go-$((5 + 5)); exec sleep 1000'\n");
    shell.expect("go-10");
    shell.type_in("\u{3}");
    shell.type_in("echo still-$((3 + 3))\n");
    shell.expect("still-6");
    shell.type_in("exit 5\n");
    let (status, _) = shell.end();
    assert_eq!(status, 5);
    let after = shell.settings();
    assert_eq!(
        after.local_modes, before.local_modes,
        "settings of the terminal"
    );
    assert_eq!(
        after.input_modes, before.input_modes,
        "settings of the terminal"
    );
    assert_eq!(
        after.output_modes, before.output_modes,
        "settings of the terminal"
    );
}

#[test]
fn the_terminal_is_restored_when_the_container_is_killed() {
    let env = TestEnv::new();
    env.import_busybox();
    let mut shell = OnTerminal::start(&env, &["run", "--rm", "-it", "--init", "busybox", "sh"]);
    let before = shell.settings();
    shell.expect("# ");
    shell.type_in("kill -9 $$\n");
    let (status, _) = shell.end();
    assert_eq!(status, 137);
    assert_eq!(shell.settings().local_modes, before.local_modes);
}

#[test]
fn a_container_ends_when_its_terminal_is_gone() {
    let env = TestEnv::new();
    env.import_busybox();
    let mut shell = OnTerminal::start(&env, &["run", "--rm", "-it", "busybox", "sh"]);
    shell.expect("# ");
    shell.type_in("trap '' HUP; echo ready-$((1 + 1)); while :; do sleep 1; done\n");
    shell.expect("ready-2");
    // That nothing of the container is left is what `env` looks at in its end.
    assert_ne!(shell.hang_up(), Some(0));
}

#[test]
fn a_build_on_a_terminal_draws_its_steps() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN printf 'a\\033[2Jb\\n'; sleep 1; echo drawn\n";
    let context = env.dockerfile("c", text);
    let mut build = OnTerminal::start(&env, &["-t", "x", context.to_str().unwrap()]);
    let (status, text) = build.end();
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("[+] Building"), "{text:?}");
    assert!(text.contains("FINISHED"), "{text:?}");
    assert!(text.contains("RUN printf"), "{text:?}");
    assert!(
        !text.contains("\u{1b}[2J"),
        "a step's control sequence reached the terminal"
    );
    assert!(
        !text.contains("\u{1b}[?25l") || text.contains("\u{1b}[?25h"),
        "cursor is back"
    );
}

#[test]
fn a_failing_build_opens_a_shell_on_the_terminal() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo half >/half; exit 3\n");
    let context = context.to_str().unwrap();
    let mut shell = OnTerminal::start(&env, &["--on-error=shell", "-t", "x", context]);
    let before = shell.settings();
    shell.expect("`exit` ends it");
    shell.expect("# ");
    shell.type_in("cat /half; stty size; tty; echo done-$((1 + 1))\n");
    let text = shell.expect("done-2");
    assert!(text.contains("half\r\n40 100\r\n/dev/"), "{text:?}");
    shell.type_in("exit 9\n");
    let (status, _) = shell.end();
    assert_eq!(status, 1, "the build has failed, whatever the shell says");
    assert_eq!(shell.settings().local_modes, before.local_modes);
    let mut again = OnTerminal::start(&env, &["debug"]);
    again.expect("[2/2] RUN echo half");
    again.expect("# ");
    again.type_in("exit 9\n");
    assert_eq!(again.end().0, 9);
}

#[test]
fn archives_are_not_written_to_a_terminal() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\n");
    let context = context.to_str().unwrap();
    for kind in ["oci", "docker", "tar"] {
        let output = format!("type={kind},dest=-");
        let (status, text) = OnTerminal::start(&env, &["-o", &output, context]).end();
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("refusing to write to console"), "{text:?}");
    }
}

/// What a person sees: the last picture that was drawn with `text` in it, on a terminal of that many
/// columns, and the whole of what stays.
struct Seen {
    live: String,
    last: String,
    bytes: Vec<u8>,
}

fn emulator(columns: u16) -> vt100::Parser {
    vt100::Parser::new(24.try_into().unwrap(), columns.try_into().unwrap(), 1000)
}

/// Runs a build on a terminal, and looks at each state of it as a terminal shows it.
fn watch_build(env: &TestEnv, columns: u16, args: &[&str], text: &str) -> Seen {
    let mut build = OnTerminal::start_sized(env, args, (24, columns));
    let mut screen = emulator(columns);
    let (mut live, mut bytes) = (String::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    // The end is when the program has closed its side and been waited for.
    let status = loop {
        if let Ok(piece) = build.output.recv_timeout(Duration::from_millis(50)) {
            screen.process(&piece);
            bytes.extend_from_slice(&piece);
            let now = screen.screen().contents();
            if now.contains(text) {
                live = now;
            }
            continue;
        }
        if let Some(status) = build.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{}", screen.screen().contents());
    };
    assert!(status.code().is_some(), "{status}");
    Seen {
        live,
        last: screen.screen().contents(),
        bytes,
    }
}

/// Replaces times and ids.
fn without_times(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let words = line.split(' ').map(|word| {
            let number = word.strip_suffix('s').unwrap_or(word);
            let time = number.split_once('.').is_some_and(|(a, b)| {
                !a.is_empty()
                    && b.len() == 1
                    && (a.to_owned() + b).bytes().all(|b| b.is_ascii_digit())
            });
            if time && word.ends_with('s') {
                format!("{}s", "T".repeat(number.len()))
            } else if word.starts_with("sha256:") {
                "sha256:ID".to_owned()
            } else {
                word.to_owned()
            }
        });
        lines.push(words.collect::<Vec<_>>().join(" ").trim_end().to_owned());
    }
    lines.join("\n")
}

const SHOWN: &str = "FROM busybox
COPY a /a
RUN for i in 1 2 3; do echo line-$i of a step; done; sleep 1.5; echo a-line-that-is-longer-than-forty-columns-are
";

#[track_caller]
fn assert_picture(got: &str, want: &str) {
    let got = without_times(got);
    assert!(
        got.trim_end() == want.trim_end(),
        "--- got\n{got}\n--- want\n{want}\n---"
    );
}

#[test]
fn a_build_at_40_80_and_200_columns() {
    for (columns, live, last) in [
        (40, LIVE_40, LAST_40),
        (80, LIVE_80, LAST_80),
        (200, LIVE_200, LAST_200),
    ] {
        let env = TestEnv::new();
        env.import_busybox();
        let context = env.files("c", &[("Dockerfile", SHOWN), ("a", "A")]);
        let args = ["-t", "x", context.to_str().unwrap()];
        let seen = watch_build(&env, columns, &args, "# line-3 of a step");
        assert_picture(&seen.live, live);
        assert_picture(&seen.last, last);
        let text = String::from_utf8_lossy(&seen.bytes);
        // Nothing is taken away to be drawn again: that is what flickers.
        let live_part = text.split(" FINISHED").next().unwrap();
        assert!(!live_part.contains("\u{1b}[2J"), "{text:?}");
        assert!(live_part.matches("\u{1b}[J").count() <= 2, "{text:?}");
        assert!(
            text.contains("\u{1b}[?2026h") && !text.contains("\u{1b}[?25l"),
            "{text:?}"
        );
    }
}

const LIVE_40: &str = "\
[+] Building TTTs (2/3)
 => CACHED [1/3] FROM busybox      TTTs
 => [2/3] COPY a /a                TTTs
 => [3/3] RUN for i in 1 2 3; do   TTTs
 => => # line-1 of a step
 => => # line-2 of a step
 => => # line-3 of a step
";
const LAST_40: &str = "\
[+] Building TTTs (3/3) FINISHED
 => CACHED [1/3] FROM busybox      TTTs
 => [2/3] COPY a /a                TTTs
 => [3/3] RUN for i in 1 2 3; do   TTTs
built sha256:ID as x:latest
";
const LIVE_80: &str = "\
[+] Building TTTs (2/3)
 => CACHED [1/3] FROM busybox                                              TTTs
 => [2/3] COPY a /a                                                        TTTs
 => [3/3] RUN for i in 1 2 3; do echo line-$i of a step; done; sleep 1.5   TTTs
 => => # line-1 of a step
 => => # line-2 of a step
 => => # line-3 of a step
";
const LAST_80: &str = "\
[+] Building TTTs (3/3) FINISHED
 => CACHED [1/3] FROM busybox                                              TTTs
 => [2/3] COPY a /a                                                        TTTs
 => [3/3] RUN for i in 1 2 3; do echo line-$i of a step; done; sleep 1.5   TTTs
built sha256:ID as x:latest
";
const LIVE_200: &str = "\
[+] Building TTTs (2/3)
 => CACHED [1/3] FROM busybox                                                                                                                                                                      TTTs
 => [2/3] COPY a /a                                                                                                                                                                                TTTs
 => [3/3] RUN for i in 1 2 3; do echo line-$i of a step; done; sleep 1.5; echo a-line-that-is-longer-than-forty-columns-are                                                                        TTTs
 => => # line-1 of a step
 => => # line-2 of a step
 => => # line-3 of a step
";
const LAST_200: &str = "\
[+] Building TTTs (3/3) FINISHED
 => CACHED [1/3] FROM busybox                                                                                                                                                                      TTTs
 => [2/3] COPY a /a                                                                                                                                                                                TTTs
 => [3/3] RUN for i in 1 2 3; do echo line-$i of a step; done; sleep 1.5; echo a-line-that-is-longer-than-forty-columns-are                                                                        TTTs
built sha256:ID as x:latest
";

#[test]
fn a_failed_build_on_a_terminal() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN echo before; cat /nothing\n";
    let context = env.dockerfile("c", text);
    let seen = watch_build(
        &env,
        80,
        &["-t", "x", context.to_str().unwrap()],
        "[+] Building",
    );
    let text = without_times(&seen.last);
    for part in [
        "\n => ERROR [2/2] RUN echo before; cat /nothing",
        "\n > [2/2] RUN echo before; cat /nothing:\n",
        " cat: can't open '/nothing': No such file or directory\n------\nDockerfile:2\n",
        "   2 | >>> RUN echo before; cat /nothing\n",
        "\nnote: ran as root in /\nnote: full log: ",
        "hint: `rbuild debug` opens a shell in what the step left",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn a_terminal_that_changes_its_size_keeps_one_picture() {
    let env = TestEnv::new();
    env.import_busybox();
    let text =
        "FROM busybox\nRUN echo started; sleep 2; echo a rather long line of output to be cut\n";
    let context = env.dockerfile("c", text);
    let args = ["-t", "x", context.to_str().unwrap()];
    let mut build = OnTerminal::start_sized(&env, &args, (24, 100));
    build.expect("# started");
    set_size(&build.master, 24, 50);
    let (status, rest) = build.end();
    assert_eq!(status, 0, "{rest}");
    // From the change on, the picture is that of 50 columns and there is one of it.
    let mut screen = emulator(50);
    screen.process(rest.rsplit("\u{1b}[?2026h").next().unwrap().as_bytes());
    let last = screen.screen().contents();
    assert_eq!(last.matches("[2/2] RUN echo started").count(), 1, "{last}");
    assert!(
        last.lines().all(|line| line.chars().count() <= 50),
        "{last}"
    );
}

#[test]
fn colours_follow_the_environment() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN true\n");
    let args = ["-t", "x", context.to_str().unwrap()];
    let bytes = |variables: &[(&str, &str)]| {
        let mut build = OnTerminal::start_with(&env, &args, (24, 80), variables);
        let (status, text) = build.end();
        assert_eq!(status, 0, "{text}");
        text
    };
    assert!(bytes(&[]).contains("\u{1b}[34m => "), "blue");
    assert!(
        bytes(&[("BUILDKIT_COLORS", "run=green")]).contains("\u{1b}[32m => "),
        "green"
    );
    let plain = bytes(&[("NO_COLOR", "1")]);
    assert!(!plain.contains("\u{1b}[3"), "{plain:?}");
}
