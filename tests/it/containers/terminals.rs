//! Containers and commands on a terminal: the keys that let go of them, sizes, raw mode.

use rustix::termios::LocalModes;

use super::life::until;
use super::{states, told, with_busybox};
use crate::support::terminal::{OnTerminal, set_size};

/// Ctrl-P, Ctrl-Q.
const USUAL_KEYS: &str = "\u{10}\u{11}";

#[test]
fn keys_let_go_of_a_container_which_goes_on() {
    let env = with_busybox();
    let mut shell = OnTerminal::start(
        &env,
        &["run", "-it", "--rm", "--name", "sh", "busybox", "sh"],
    );
    let before = shell.settings();
    shell.expect("# ");
    // The size is told just after the start.
    until(
        || {
            shell.type_in("x=kept; stty size; echo done-$((1 + 1))\n");
            shell.expect("done-2")
        },
        |seen| seen.contains("40 100"),
    );
    assert!(!shell.settings().local_modes.contains(LocalModes::ICANON));
    // The first key alone is a key like any other; it goes to the shell with the next one.
    shell.type_in("\u{10}");
    shell.type_in("\u{3}echo on-$((2 + 2))\n");
    shell.expect("on-4");
    shell.type_in(USUAL_KEYS);
    shell.expect("read escape sequence");
    assert_eq!(shell.end().0, 0);
    assert_eq!(shell.settings().local_modes, before.local_modes);
    assert_eq!(states(&env), ["sh running Up"]);
    let mut again = OnTerminal::start_sized(
        &env,
        &["attach", "--detach-keys", "ctrl-x,x", "sh"],
        (30, 90),
    );
    again.type_in("\n");
    again.expect("# ");
    again.type_in("echo it-is-$x\n");
    again.expect("it-is-kept");
    until(
        || {
            again.type_in("stty size; echo size-$((3 + 3))\n");
            again.expect("size-6")
        },
        |seen| seen.contains("30 90"),
    );
    set_size(&again.master, 25, 80);
    until(
        || {
            again.type_in("stty size; echo size-$((4 + 4))\n");
            again.expect("size-8")
        },
        |seen| seen.contains("25 80"),
    );
    again.type_in("\u{18}x");
    again.expect("read escape sequence");
    assert_eq!(again.end().0, 0);
    // The last time it is left by its own end, which is the end of the container.
    let mut last = OnTerminal::start(&env, &["attach", "sh"]);
    last.type_in("\n");
    last.expect("# ");
    last.type_in("exit 7\n");
    assert_eq!(last.end().0, 7);
    until(|| states(&env), Vec::is_empty);
    env.rbuild(["run", "--detach-keys", "hyper-x", "busybox", "true"])
        .run()
        .exits(125)
        .says("unknown character: 'hyper-x'");
}

#[test]
fn a_command_in_a_container_has_a_terminal_of_its_own() {
    let env = with_busybox();
    told(
        &env,
        &["run", "-d", "--name", "box", "busybox", "sleep", "1000"],
    );
    let mut shell = OnTerminal::start(
        &env,
        &["exec", "-it", "-e", "A=b", "-w", "/tmp", "box", "sh"],
    );
    let before = shell.settings();
    shell.expect("# ");
    shell.type_in("tty; stty size; echo $A $PWD $TERM done-$((1 + 1))\n");
    let seen = shell.expect("done-2");
    assert!(
        seen.contains("/dev/pts/") && seen.contains("40 100"),
        "{seen:?}"
    );
    assert!(seen.contains("b /tmp xterm"), "{seen:?}");
    // Ctrl-C reaches what runs in it, not the tool.
    shell.type_in("sh -c 'echo go-$((5 + 5)); exec sleep 1000'\n");
    shell.expect("go-10");
    shell.type_in("\u{3}");
    shell.type_in("echo still-$((3 + 3)); exit 9\n");
    shell.expect("still-6");
    assert_eq!(shell.end().0, 9);
    assert_eq!(shell.settings().local_modes, before.local_modes);
    // A command that is let go of goes on, though it writes more than a terminal holds.
    let script = "echo ready; read go; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; \
                  echo end > /end";
    let mut left = OnTerminal::start(&env, &["exec", "-it", "box", "sh", "-c", script]);
    left.expect("ready");
    left.type_in("go\n");
    left.type_in(USUAL_KEYS);
    left.expect("read escape sequence");
    assert_eq!(left.end().0, 0);
    until(
        || env.rbuild(["exec", "box", "cat", "/end"]).run().out(),
        |text| text == "end\n",
    );
    // One whose terminal is taken away ends.
    let mut gone = OnTerminal::start(&env, &["exec", "-it", "box", "sh"]);
    gone.expect("# ");
    gone.type_in("echo I am $((6 * 7))\n");
    gone.expect("I am 42");
    gone.hang_up();
    until(
        || told(&env, &["top", "box", "-o", "args"]),
        |text| !text.contains("sh"),
    );
    env.rbuild(["exec", "-it", "box", "sh"])
        .run()
        .fails_with("the input device is not a TTY");
    told(&env, &["rm", "-f", "box"]);
}

#[test]
fn only_the_streams_that_are_wanted_are_shown() {
    let env = with_busybox();
    let script = "echo out; echo err >&2; exit 4";
    let outcome = env
        .rbuild(["run", "--rm", "-a", "stderr", "busybox", "sh", "-c", script])
        .run()
        .exits(4);
    assert_eq!(
        (outcome.out().as_str(), outcome.stderr.as_str()),
        ("", "err\n")
    );
    env.rbuild(["run", "--rm", "-a", "sound", "busybox", "true"])
        .run()
        .exits(125)
        .says("valid streams are stdin, stdout and stderr");
    assert!(states(&env).is_empty());
    // Without signals being passed on, what shows the container can be ended alone.
    let shown = env
        .rbuild([
            "run",
            "--name",
            "web",
            "--sig-proxy=false",
            "busybox",
            "sh",
            "-c",
            super::SERVER,
        ])
        .spawn();
    shown.wait_for_line("trouble");
    shown.signal(rustix::process::Signal::TERM);
    shown.wait();
    assert_eq!(states(&env), ["web running Up"]);
    told(&env, &["rm", "-f", "web"]);
}
