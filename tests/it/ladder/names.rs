//! Names and proxies on every rung: `/etc/hosts`, name servers, predefined arguments. In a network of the
//! test's own, with a stub resolver as systemd has it, the server behind it, and a proxy.

use std::ffi::OsString;
use std::net::Ipv4Addr;

use super::container::Container;
use crate::args;
use crate::rootless::{OPEN_TUN, User};
use crate::support::apart::{apart, sh};
use crate::support::name_server::NameServer;
use crate::support::process::{Invocation, with_path};
use crate::support::progress::{parse, step};
use crate::support::web::{Answer, WebServer};
use crate::support::{Outcome, TestEnv, layout};

/// Where systemd's stub listens.
const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// An address that other network namespaces can reach, too.
const REACHABLE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);
/// What each of the servers says about `server.test`.
const OF_STUB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OF_REACHABLE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// What is in the world around rbuild.
struct Surroundings {
    _servers: [NameServer; 2],
    proxy: WebServer,
    _files: TestEnv,
}

impl Surroundings {
    fn new() -> Self {
        // An interface with a way out, which pasta asks for; the servers' address is another one.
        sh(&format!(
            "ip link add out type veth peer name far && ip link set far up && ip addr add 198.18.1.1/24 dev out && ip link set out up && \
             ip route add default via 198.18.1.254 && ip addr add {REACHABLE}/32 dev lo"
        ));
        let files = TestEnv::new();
        let directory = files.files(
            "etc",
            &[
                (
                    "stub",
                    &format!("nameserver {STUB}\noptions edns0\nsearch lan.test\n"),
                ),
                (
                    "upstream",
                    &format!("nameserver {REACHABLE}\nsearch lan.test\n"),
                ),
            ],
        );
        sh(&format!(
            "cd {} && mkdir -p /run/systemd/resolve && cp upstream /run/systemd/resolve/resolv.conf\n\
             conf=$(readlink -m /etc/resolv.conf)\n\
             [ -e $conf ] || {{ mkdir -p ${{conf%/*}} && touch $conf; }}\n\
             mount --bind stub $conf",
            directory.display()
        ));
        let names = |own| [("server.test", own), ("proxy.test", REACHABLE)];
        Self {
            _servers: [
                NameServer::start(STUB, &names(OF_STUB)),
                NameServer::start(REACHABLE, &names(OF_REACHABLE)),
            ],
            proxy: WebServer::start_at(REACHABLE, |asked| {
                Answer::ok(format!("got {}\n", asked.target))
            }),
            _files: files,
        }
    }

    fn port(&self) -> String {
        let host = self.proxy.host();
        host.rsplit(':').next().unwrap().to_owned()
    }

    /// What a step or a container looks at.
    fn script(&self) -> String {
        format!(
            "hostname; cat /etc/hosts; cat /etc/resolv.conf; nslookup -type=a server.test; \
             wget -q -O - http://page.invalid/by-proxy; \
             unset http_proxy; wget -q -O - http://h.test:{}/direct",
            self.port()
        )
    }
}

/// One rung, and which of the servers its network reaches by default.
struct Rung<'a> {
    surroundings: &'a Surroundings,
    env: &'a TestEnv,
    rbuild: &'a dyn Fn(Vec<OsString>) -> Invocation,
    /// `--network` of builds and containers.
    network: &'a str,
    /// Steps have the network of this machine.
    of_host: bool,
    /// Steps have a host name of their own.
    has_name: bool,
}

impl Rung<'_> {
    fn run(&self, args: &[&str]) -> Outcome {
        (self.rbuild)(args.iter().map(OsString::from).collect()).run()
    }

    fn check(&self) {
        let (server, says) = if self.of_host {
            (STUB, OF_STUB)
        } else {
            (REACHABLE, OF_REACHABLE)
        };
        let host = format!("--add-host=h.test:{REACHABLE}");
        let proxy = format!("http_proxy=http://proxy.test:{}", self.surroundings.port());
        self.check_build(&host, &proxy, server, says);
        let network = format!("--network={}", self.network);
        let options = [
            "run",
            "--rm",
            "--hostname=box",
            &network,
            &host,
            "-e",
            &proxy,
        ];
        let script = self.surroundings.script();
        let shell = ["busybox", "sh", "-c", &script];
        let asked = format!("--dns={REACHABLE}");
        for (options, server, says) in [
            (options.to_vec(), server, says),
            ([&options[..], &[&asked]].concat(), REACHABLE, OF_REACHABLE),
        ] {
            let ran = self.run(&[&options[..], &shell].concat()).ok();
            self.assert_seen(&ran.out(), "box", server, says);
        }
    }

    fn check_build(&self, host: &str, proxy: &str, server: Ipv4Addr, says: Ipv4Addr) {
        let text = format!("FROM busybox\nRUN {}\n", self.surroundings.script());
        let context = self.env.dockerfile("names", &text);
        let output = self.env.join("names-out");
        let to = with_path("type=oci,tar=false,dest=", &output);
        let network = format!("--network={}", self.network);
        let build = |more: &[&str]| {
            let start = args![
                "build",
                "--progress=plain",
                "--allow=network.host",
                &network,
                "-t",
                "n"
            ];
            let mut all: Vec<OsString> = start.into();
            all.extend(args![host, "-o", &to, "-o", "type=image,name=n"]);
            all.extend(more.iter().map(OsString::from));
            all.push((&context).into());
            (self.rbuild)(all).run().ok()
        };
        let built = build(&["--build-arg", proxy]);
        let steps = parse(&built.stderr);
        let seen = step(&steps, "RUN hostname").log.join("\n");
        self.assert_seen(&seen, "buildkitsandbox", server, says);
        // Neither the files nor the proxy are in the image, nor is another proxy another step.
        let image = layout::read(&output);
        for name in ["etc/hosts", "etc/resolv.conf"] {
            assert!(!image.tree.contains_key(name), "{name} is in the image");
        }
        let config = image.config.to_string();
        assert!(!config.contains("proxy.test"), "{config}");
        for more in [
            ["--build-arg", "http_proxy=http://other.test:1"],
            ["--build-arg", "HTTPS_PROXY=http://other.test:1"],
            ["--dns", "198.18.0.99"],
        ] {
            let again = build(&more);
            assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
        }
        // A name server that was asked for is asked, whatever the network.
        let asked = REACHABLE.to_string();
        let built = build(&["--no-cache", "--build-arg", proxy, "--dns", &asked]);
        let steps = parse(&built.stderr);
        let seen = step(&steps, "RUN hostname").log.join("\n");
        self.assert_seen(&seen, "buildkitsandbox", REACHABLE, OF_REACHABLE);
    }

    #[track_caller]
    fn assert_seen(&self, seen: &str, hostname: &str, server: Ipv4Addr, says: Ipv4Addr) {
        if self.has_name {
            assert_eq!(seen.lines().next(), Some(hostname), "{seen}");
        }
        for line in [
            &format!("{REACHABLE}\th.test"),
            &format!("nameserver {server}"),
            "search lan.test",
            "got http://page.invalid/by-proxy",
            "got /direct",
        ] {
            assert!(
                seen.lines().any(|seen| seen == line),
                "no `{line}`:\n{seen}"
            );
        }
        // Containers with the network of this machine have its file, as in Docker.
        let is_local = |line: &str| {
            line.split_whitespace()
                .take(2)
                .eq(["127.0.0.1", "localhost"])
        };
        assert!(seen.lines().any(is_local), "{seen}");
        let own = seen.contains("::1\tlocalhost ip6-localhost ip6-loopback");
        assert!(own || (self.of_host && hostname == "box"), "{seen}");
        assert!(seen.contains(&format!("Address: {says}")), "{seen}");
        // No other server is named.
        let servers = seen.lines().filter(|line| line.starts_with("nameserver "));
        assert_eq!(servers.count(), 1, "{seen}");
    }
}

#[test]
fn names_and_proxies_as_root() {
    apart(|| {
        let surroundings = Surroundings::new();
        let env = TestEnv::new();
        env.import_busybox();
        for (network, of_host) in [("default", false), ("host", true)] {
            let rung = Rung {
                surroundings: &surroundings,
                env: &env,
                rbuild: &|args| env.rbuild(args),
                network,
                of_host,
                has_name: true,
            };
            rung.check();
        }
    });
}

#[test]
fn names_and_proxies_as_a_user() {
    apart(|| {
        let surroundings = Surroundings::new();
        for ranges in ["rbuild-test:300000:65536\n", "somebody:1000:10\n"] {
            let user = User::new(ranges);
            user.import_busybox();
            let rung = |network, of_host, rbuild: &dyn Fn(Vec<OsString>) -> Invocation| {
                let rung = Rung {
                    surroundings: &surroundings,
                    env: &user.env,
                    rbuild,
                    network,
                    of_host,
                    has_name: true,
                };
                rung.check();
            };
            rung("host", true, &|args| user.rbuild(args));
            // By pasta.
            rung("default", false, &|args| user.rbuild_after(OPEN_TUN, args));
        }
    });
}

#[test]
fn names_and_proxies_in_a_container() {
    apart(|| {
        let surroundings = Surroundings::new();
        let open = Container::new(&["--security-opt=seccomp=unconfined"]);
        let closed = Container::like_docker(&["--cap-add=MKNOD"]);
        for (container, has_name) in [(open, true), (closed, false)] {
            container.import_busybox();
            let rung = Rung {
                surroundings: &surroundings,
                env: &container.env,
                rbuild: &|args| container.rbuild(args),
                network: "host",
                of_host: true,
                has_name,
            };
            rung.check();
        }
    });
}
