//! Networks of a user without privilege, by pasta or slirp4netns.

use std::ffi::OsString;

use super::{ECHO, echoed, page_of, with_python};
use crate::args;
use crate::rootless::{OPEN_TUN, User};
use crate::support::needs;
use crate::support::process::Invocation;

/// A user who may open `/dev/net/tun`, as on most hosts.
struct Networker {
    user: User,
    /// What of the host is hidden.
    hidden: &'static str,
}

impl Networker {
    fn new() -> Networker {
        needs::program("pasta", "passt");
        needs::program("slirp4netns", "slirp4netns");
        let user = User::new("rbuild-test:300000:65536\n");
        user.import_busybox();
        Networker {
            user,
            hidden: "true",
        }
    }

    fn rbuild(&self, args: impl IntoIterator<Item = OsString>) -> Invocation {
        let set_up = format!("{OPEN_TUN} && touch dev/empty && {}", self.hidden);
        self.user.rbuild_after(&set_up, args)
    }

    #[track_caller]
    fn told(&self, args: &[&str]) -> String {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        self.rbuild(args).run().ok().out().trim_end().to_owned()
    }

    #[track_caller]
    fn reached(&self, container: &str, port: &str) -> std::net::SocketAddr {
        let shown = self.told(&["port", container, port]);
        shown.lines().next().unwrap().parse().unwrap()
    }
}

#[test]
fn ports_are_published_without_root() {
    let user = Networker::new();
    let context = user.user.env.dockerfile("c", super::WEB);
    user.rbuild(args!["-t", "web", context]).run().ok();
    user.told(&["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "web"]);
    assert_eq!(page_of(user.reached("web", "80")), "it works");
    let refused = ["run", "-d", "-p", "127.0.0.1:80:80", "web"].map(OsString::from);
    user.rbuild(refused)
        .run()
        .exits(125)
        .says("Bind for 127.0.0.1:80 failed");
    let start = ["run", "-d", "--name", "echo", "-p", "127.0.0.1::80/udp"];
    let python = ["busybox", "/usr/bin/python3", "-c", ECHO];
    user.told(&[&start, &with_python()[..], &python].concat());
    assert_eq!(echoed(user.reached("echo", "80/udp"), "x"), "echo x");
    user.told(&["rm", "-f", "web", "echo"]);
}

#[test]
fn steps_and_containers_reach_out_without_root() {
    let mut user = Networker::new();
    // Whoever listens on an address of the host that is not a loopback one.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    probe
        .connect("198.51.100.1:9")
        .expect("this test needs a route");
    let own = probe.local_addr().unwrap().ip();
    let listener = std::net::TcpListener::bind((own, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = b"HTTP/1.0 200 OK\r\n\r\nfrom the host\n";
            // A request that nobody has read would break the connection off.
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, answer);
        }
    });
    let fetch = format!("wget -q -O - http://{own}:{port}/");
    let text =
        format!("FROM busybox\nRUN ip -4 addr show eth0 && {fetch} >/got\nRUN {fetch} >>/got\n");
    let context = user.user.env.dockerfile("c", &text);
    let build = || args!["--no-cache", "--progress", "plain", "-t", "x", &context];
    let hide_pasta = "mount --bind dev/empty /usr/bin/pasta";
    for (program, hidden) in [("pasta", "true"), ("slirp4netns", hide_pasta)] {
        user.hidden = hidden;
        let built = user.rbuild(build()).run().ok();
        assert!(
            !built.text().contains("no network of its own"),
            "{}",
            built.text()
        );
        let run = [
            "run",
            "--rm",
            "x",
            "sh",
            "-c",
            &format!("cat /got; {fetch}; ls /sys/class/net"),
        ];
        let said = user.told(&run);
        assert_eq!(
            said, "from the host\nfrom the host\nfrom the host\neth0\nlo",
            "{program}"
        );
    }
}

#[test]
fn what_is_missing_for_a_network_of_ones_own_is_told() {
    let mut user = Networker::new();
    let run = || args!["run", "--rm", "busybox", "ls", "/sys/class/net"];
    for (hidden, why) in [
        ("umount /dev/net/tun", "/dev/net/tun cannot be opened"),
        (
            "mount --bind dev/empty /usr/bin/pasta && mount --bind dev/empty /usr/bin/slirp4netns",
            "neither pasta nor slirp4netns is installed",
        ),
        // A program that is there, and fails.
        (
            "printf '#!/bin/sh\necho no luck today >&2\nexit 1\n' >dev/fails && chmod 755 dev/fails \
             && mount --bind dev/fails /usr/bin/pasta",
            "no luck today",
        ),
    ] {
        user.hidden = hidden;
        let ran = user.rbuild(run()).run();
        ran.says(why);
        let published = args!["run", "-d", "-p", "80", "busybox", "true"];
        user.rbuild(published).run().exits(125).says(why);
    }
}

#[test]
fn containers_of_a_user_find_each_other_and_share_networks() {
    let user = Networker::new();
    let sleeper = |name: &str, options: &[&str]| {
        let start = ["run", "-d", "--name", name];
        user.told(&[&start, options, &["busybox", "sleep", "1000"]].concat());
    };
    let says = |name: &str, script: &str| user.told(&["exec", name, "sh", "-c", script]);
    user.told(&["network", "create", "back"]);
    sleeper("one", &["--network", "back"]);
    sleeper("two", &["--network", "back", "--network-alias", "zwei"]);
    sleeper("three", &[]);
    says("one", "ping -c 1 -w 60 zwei");
    says("two", "ping -c 1 -w 60 one");
    // Large answers cross as well: checksums and lengths are right on the other side.
    let server = "dd if=/dev/zero bs=1M count=8 2>/dev/null >/big; exec httpd -f -p 80 -h /";
    user.told(&["exec", "-d", "one", "sh", "-c", server]);
    let fetch = "until wget -q -O /got http://one/big; do sleep 0.2; done; wc -c </got";
    assert_eq!(says("two", fetch), (8 << 20).to_string());
    user.told(&["network", "connect", "back", "three"]);
    says("three", "ping -c 1 -w 60 two");
    says("two", "ping -c 1 -w 60 three");
    user.told(&["network", "disconnect", "back", "three"]);
    // Another one in the network of the first.
    let joined = [
        "run",
        "--rm",
        "--network",
        "container:one",
        "busybox",
        "sh",
        "-c",
    ];
    let script =
        "wget -q -O - http://127.0.0.1/big | wc -c; hostname; ping -c 1 -w 60 two >/dev/null";
    let said = user.told(&[&joined[..], &[script]].concat());
    assert!(said.starts_with(&(8 << 20).to_string()), "{said}");
    user.told(&["rm", "-f", "one", "two", "three"]);
    user.told(&["network", "rm", "back"]);
    let run = user.user.env.store().join("run/network");
    for left in ["lans", "routers"] {
        super::until("something is left", || {
            let entries = std::fs::read_dir(run.join(left)).map_err(|e| e.to_string())?;
            match entries.count() {
                0 => Ok(()),
                count => Err(format!("{count} in {left}")),
            }
        });
    }
}
