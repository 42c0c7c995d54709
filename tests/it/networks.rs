//! Networks of containers: published ports, networks of users with names, and that nothing of them is
//! left whatever is killed.

mod leftovers;
mod macvlan;
mod ports;
mod rootless;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::support::{TestEnv, needs};

/// As long as anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Answers datagrams with what is in them.
const ECHO: &str = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                    s.bind(('', 80))\nwhile True:\n    d, a = s.recvfrom(70000)\n    \
                    s.sendto(b'echo ' + d, a)\n";

fn with_busybox() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    env
}

/// What `rbuild ARGS…` prints.
#[track_caller]
fn told(env: &TestEnv, args: &[&str]) -> String {
    env.rbuild(args).run().ok().out().trim_end().to_owned()
}

/// A container that lives until it is removed.
#[track_caller]
fn sleeper(env: &TestEnv, name: &str, options: &[&str]) {
    let start = ["run", "-d", "--name", name];
    told(
        env,
        &[&start, options, &["busybox", "sleep", "1000"]].concat(),
    );
}

/// What a shell command says in a container.
#[track_caller]
fn says(env: &TestEnv, container: &str, script: &str) -> String {
    told(env, &["exec", container, "sh", "-c", script])
}

#[track_caller]
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks a web server for its page.
fn page(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.trim_end().to_owned())
}

/// The page, when the server has come up.
#[track_caller]
fn page_of(address: SocketAddr) -> String {
    until("no page", || match page(address) {
        Ok(page) if !page.is_empty() => Ok(page),
        other => Err(format!("{other:?}")),
    })
}

/// Sends a datagram until there is an answer.
#[track_caller]
fn echoed(address: SocketAddr, text: &str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    let short = Duration::from_millis(200);
    socket.set_read_timeout(Some(short)).unwrap();
    until("no echo", || {
        let mut buffer = vec![0; 70_000];
        socket.send(text.as_bytes()).map_err(|e| e.to_string())?;
        let count = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    })
}

/// The first line of `rbuild port`: where a port is reached.
#[track_caller]
fn reached(env: &TestEnv, container: &str, port: &str) -> SocketAddr {
    let shown = told(env, &["port", container, port]);
    let mut address: SocketAddr = shown.lines().next().unwrap().parse().unwrap();
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// The gateway of a container on the network that all share: an address of the host.
#[track_caller]
fn gateway(env: &TestEnv, container: &str) -> IpAddr {
    let shown = env.inspect(container, "{{.NetworkSettings.Gateway}}");
    shown.parse().unwrap()
}

const WEB: &str = "FROM busybox\nRUN mkdir /www && echo it works >/www/index.html\n\
                   EXPOSE 80 443/tcp\nCMD exec httpd -f -p 80 -h /www\n";

/// Options by which a container has the host's Python.
fn with_python() -> [&'static str; 6] {
    needs::program("python3", "python3");
    [
        "-v",
        "/usr:/usr:ro",
        "-v",
        "/usr/lib:/lib:ro",
        "-v",
        "/usr/lib64:/lib64:ro",
    ]
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    let env = with_busybox();
    let id = told(&env, &["network", "create", "--label", "team=a", "back"]);
    assert_eq!(id.len(), 64);
    sleeper(
        &env,
        "one",
        &["--network", "back", "--network-alias", "first"],
    );
    let address = "{{.NetworkSettings.Networks.back.IPAddress}}";
    let one = env.inspect("one", address);
    sleeper(&env, "two", &["--network", "back"]);
    for name in ["one", "first", "ONE", "one.back"] {
        let found = says(&env, "two", &format!("ping -c 1 -w 60 {name}"));
        assert!(found.contains(&format!("({one})")), "{name}: {found}");
    }
    let short = told(&env, &["ps", "-q", "-f", "name=one"]);
    let found = says(&env, "two", &format!("nslookup -type=a {short}"));
    assert!(found.contains(&one), "{found}");
    let back = says(&env, "two", &format!("nslookup {one}"));
    assert!(back.contains("one.back"), "{back}");
    // A name server of its own can listen on all addresses.
    let own = "nc -l -p 53 </dev/null & until netstat -ltn | grep -q ':53 '; do sleep 0.2; done; \
               kill $!; nslookup -type=a one";
    assert!(says(&env, "two", own).contains(&one));
    // Who comes and goes is seen by who is there.
    sleeper(&env, "three", &["--network", "back"]);
    says(&env, "one", "ping -c 1 -w 60 three");
    told(&env, &["rename", "three", "drei"]);
    says(&env, "one", "ping -c 1 -w 60 drei");
    told(&env, &["rm", "-f", "drei"]);
    env.rbuild(["exec", "one", "nslookup", "-type=a", "drei"])
        .run()
        .exits(1);
    // A server in one is reached from the other, not from another network.
    sleeper(&env, "far", &[]);
    told(
        &env,
        &[
            "exec",
            "-d",
            "one",
            "sh",
            "-c",
            "echo page >/index.html; exec httpd -f -p 80 -h /",
        ],
    );
    let fetch = "until wget -q -O - http://one/; do sleep 0.2; done";
    assert_eq!(says(&env, "two", fetch), "page");
    let far = format!("wget -T 2 -q -O - http://{one}/");
    let tried = env.rbuild(["exec", "far", "sh", "-c", &far]).run();
    assert_ne!(tried.code(), 0, "{}", tried.text());
    // It is connected while it runs, and disconnected again.
    told(
        &env,
        &["network", "connect", "--alias", "distant", "back", "far"],
    );
    let fetch = format!("until wget -q -O - http://{one}/; do sleep 0.2; done");
    assert_eq!(says(&env, "far", &fetch), "page");
    says(&env, "two", "ping -c 1 -w 60 distant");
    says(&env, "far", "ping -c 1 -w 60 two");
    let users = "{{range .Containers}}{{.Name}} {{end}}";
    let inside = told(&env, &["network", "inspect", "-f", users, "back"]);
    let mut inside: Vec<&str> = inside.split_whitespace().collect();
    inside.sort_unstable();
    assert_eq!(inside, ["far", "one", "two"]);
    env.rbuild(["network", "connect", "back", "far"])
        .run()
        .fails_with("already exists in network back");
    told(&env, &["network", "disconnect", "back", "far"]);
    env.rbuild(["exec", "two", "nslookup", "-type=a", "distant"])
        .run()
        .exits(1);
    env.rbuild(["network", "rm", "back"])
        .run()
        .fails_with("network back has active endpoints");
    told(&env, &["rm", "-f", "one", "two", "far"]);
    told(&env, &["network", "rm", &id[..12]]);
    env.rbuild(["network", "inspect", "back"])
        .run()
        .exits(1)
        .says("network back not found");
}

#[test]
fn a_container_that_was_stopped_is_in_its_networks_again() {
    let env = with_busybox();
    for name in ["front", "back"] {
        told(&env, &["network", "create", name]);
    }
    let subnet = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = told(&env, &["network", "inspect", "-f", subnet, "back"]);
    let wanted = subnet.replace(".0/24", ".77");
    let ip = format!("name=back,alias=b,ip={wanted}");
    sleeper(&env, "box", &["--network", "front", "--network", &ip]);
    told(&env, &["network", "connect", "bridge", "box"]);
    let networks =
        "{{range $name, $n := .NetworkSettings.Networks}}{{$name}}={{$n.IPAddress}} {{end}}";
    let check = || {
        let shown = env.inspect("box", networks);
        assert!(shown.contains(&format!("back={wanted} ")), "{shown}");
        assert!(
            shown.contains("front=1") && shown.contains("bridge=1"),
            "{shown}"
        );
        let own = says(&env, "box", "ip -o -4 addr show up | grep -c eth");
        assert_eq!(own, "3", "{shown}");
    };
    check();
    told(&env, &["restart", "-t", "0", "box"]);
    check();
    assert_eq!(
        told(&env, &["ps", "--format", "{{.Networks}}"]),
        "front,back,bridge"
    );
    assert_eq!(
        told(&env, &["ps", "-q", "-f", "network=back"])
            .lines()
            .count(),
        1
    );
    // Nobody else gets its address.
    env.rbuild([
        "run",
        "-d",
        "--network",
        "back",
        "--ip",
        &wanted,
        "busybox",
        "true",
    ])
    .run()
    .exits(125)
    .says(&format!("another container has {wanted}"));
    env.rbuild([
        "run",
        "-d",
        "--network",
        "back",
        "--ip",
        "192.0.2.9",
        "busybox",
        "true",
    ])
    .run()
    .exits(125)
    .says("no configured subnet contains the IP address 192.0.2.9");
    told(&env, &["rm", "-f", "box"]);
    // A network that is gone is told of.
    told(
        &env,
        &[
            "create",
            "--name",
            "late",
            "--network",
            "back",
            "busybox",
            "true",
        ],
    );
    told(&env, &["network", "rm", "back"]);
    env.rbuild(["start", "late"]).run().fails_with("not found");
    told(&env, &["container", "prune", "-f"]);
    assert_eq!(
        told(&env, &["network", "prune", "-f"]),
        "Deleted Networks:\nfront"
    );
}

#[test]
fn an_internal_network_reaches_nothing_outside() {
    let env = with_busybox();
    told(&env, &["network", "create", "--internal", "vault"]);
    sleeper(&env, "one", &["--network", "vault"]);
    sleeper(&env, "two", &["--network", "vault"]);
    sleeper(&env, "out", &[]);
    says(&env, "one", "ping -c 1 -w 60 two");
    assert!(!says(&env, "one", "ip route").contains("default"));
    let outside = gateway(&env, "out");
    let reach = |from: &str| {
        let script = format!("ping -c 1 -w 5 {outside}");
        env.rbuild(["exec", from, "sh", "-c", &script]).run().code()
    };
    assert_eq!(reach("out"), 0);
    assert_ne!(reach("one"), 0);
    // Nor by a route of its own: that is not forwarded.
    let inner = env.inspect("out", "{{.NetworkSettings.IPAddress}}");
    let script = format!("ping -c 1 -w 3 {inner}");
    told(&env, &["rm", "-f", "one"]);
    sleeper(
        &env,
        "one",
        &["--network", "vault", "--cap-add", "NET_ADMIN"],
    );
    let route = "ip route add default via $(ip -4 route | sed -n 's/\\(.*\\)\\.0\\/24.*/\\1.1/p')";
    says(&env, "one", route);
    let tried = env.rbuild(["exec", "one", "sh", "-c", &script]).run();
    assert_ne!(tried.code(), 0, "{}", tried.text());
    let asked = ["exec", "one", "nslookup", "-type=a", "example.org"];
    let answer = env.rbuild(asked).run().exits(1);
    assert!(answer.out().contains("NXDOMAIN"), "{}", answer.text());
    told(&env, &["rm", "-f", "one", "two", "out"]);
}

#[test]
fn a_container_shares_the_network_of_another_one() {
    let env = with_busybox();
    told(&env, &["network", "create", "back"]);
    let server = "mkdir /w; echo shared >/w/index.html; exec httpd -f -p 127.0.0.1:80 -h /w";
    let start = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "back",
        "-h",
        "host-of-web",
    ];
    told(
        &env,
        &[&start[..], &["busybox", "sh", "-c", server]].concat(),
    );
    let joined = [
        "run",
        "--rm",
        "--network",
        "container:web",
        "busybox",
        "sh",
        "-c",
    ];
    let script = "until wget -q -O - http://127.0.0.1/; do sleep 0.2; done; hostname; \
                  cat /etc/resolv.conf; ping -c 1 -w 60 web >/dev/null && grep host-of-web /etc/hosts";
    let said = told(&env, &[&joined[..], &[script]].concat());
    let address = env.inspect("web", "{{.NetworkSettings.Networks.back.IPAddress}}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["shared", "host-of-web"], "{said}");
    assert!(lines.contains(&"nameserver 127.0.0.11"), "{said}");
    assert!(
        lines.contains(&format!("{address}\thost-of-web").as_str()),
        "{said}"
    );
    env.rbuild([
        "run",
        "--rm",
        "-p",
        "80",
        "--network",
        "container:web",
        "busybox",
        "true",
    ])
    .run()
    .exits(125)
    .says("conflicting options: port publishing");
    told(
        &env,
        &[
            "create",
            "--name",
            "later",
            "--network",
            "container:web",
            "busybox",
            "true",
        ],
    );
    told(&env, &["stop", "-t", "0", "web"]);
    env.rbuild(["start", "later"])
        .run()
        .fails_with("cannot join network of a non running container");
    told(&env, &["rm", "later", "web"]);
}

#[test]
fn names_hosts_and_domains_are_what_was_asked_for() {
    let env = with_busybox();
    let options = [
        "--add-host",
        "gate:host-gateway",
        "--add-host",
        "other=192.0.2.7",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "a.example",
        "--dns-option",
        "ndots:3",
        "-h",
        "box",
        "--domainname",
        "d.example",
        "--mac-address",
        "02:00:00:00:00:07",
    ];
    let script = "cat /etc/hosts /etc/resolv.conf; hostname -f; \
                  cat /proc/sys/kernel/domainname; cat /sys/class/net/eth0/address";
    // Once as a container that is listed, with all of it; once without a name.
    for rest in [&options[..], &options[2..14]] {
        let run = [&["run", "--rm"], rest, &["busybox", "sh", "-c", script]].concat();
        let said = told(&env, &run);
        let has = |line: &str| said.lines().any(|known| known == line);
        for line in [
            "192.0.2.7\tother",
            "search a.example",
            "options ndots:3",
            "d.example",
        ] {
            assert!(has(line), "{line}: {said}");
        }
        let listed = rest.len() == options.len();
        // Who is listed asks its monitor, which asks the server.
        let server = if listed {
            "nameserver 127.0.0.11"
        } else {
            "nameserver 192.0.2.53"
        };
        assert!(has(server), "{said}");
        if listed {
            assert!(has("box.d.example") && has("02:00:00:00:00:07"), "{said}");
            let gate = said.lines().find(|line| line.ends_with("\tgate")).unwrap();
            assert!(
                gate.split('\t').next().unwrap().parse::<IpAddr>().is_ok(),
                "{said}"
            );
        }
    }
    for (args, why) in [
        (&["--mac-address", "x"][..], "x is not a valid mac address"),
        (&["--ip", "10.0.0.1"], "for networks that users made"),
        (&["--network", "nope"], "network nope not found"),
        (&["-p", "70000:80"], "invalid hostPort: 70000"),
        (
            &["--network", "host", "--network", "back"],
            "conflicting options",
        ),
    ] {
        let run = [&["run", "--rm"], args, &["busybox", "true"]].concat();
        env.rbuild(run).run().exits(125).says(why);
    }
}

#[test]
fn networks_are_listed_and_described() {
    let env = TestEnv::new();
    let create = [
        "network",
        "create",
        "--subnet",
        "10.234.5.0/24",
        "--gateway",
        "10.234.5.254",
    ];
    let more = [
        "--ip-range",
        "10.234.5.64/26",
        "--label",
        "a=b",
        "--internal",
        "one",
    ];
    let id = told(&env, &[&create[..], &more].concat());
    told(&env, &["network", "create", "two"]);
    let table = told(&env, &["network", "ls"]);
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
    let format = "{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.Labels}}";
    let list = |filter: &str| told(&env, &["network", "ls", "-f", filter, "--format", format]);
    assert_eq!(
        list("scope=local"),
        "bridge bridge local false \nhost host local false \nnone null local false \n\
         one bridge local true a=b\ntwo bridge local false"
    );
    assert_eq!(list("label=a=b"), "one bridge local true a=b");
    assert_eq!(list("type=custom").lines().count(), 2);
    assert_eq!(list("name=tw"), "two bridge local false");
    env.rbuild(["network", "ls", "-f", "what=x"])
        .run()
        .fails_with("invalid filter \"what\"");
    let object = "{{.Id}} {{.Internal}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} \
                  {{.IPRange}}{{end}} {{json .Labels}}";
    assert_eq!(
        told(&env, &["network", "inspect", "-f", object, "one"]),
        format!("{id} true 10.234.5.0/24 10.234.5.254 10.234.5.64/26 {{\"a\":\"b\"}}")
    );
    for (args, why) in [
        (&["one"][..], "network with name one already exists"),
        (
            &["--subnet", "10.234.0.0/16", "x"],
            "Pool overlaps with other one",
        ),
        (
            &["--subnet", "10.0.0.0", "x"],
            "invalid CIDR address: 10.0.0.0",
        ),
        (
            &["--gateway", "10.234.6.1", "x"],
            "must have a corresponding subnet",
        ),
        (&["--ipv6", "x"], "`--ipv6` is not supported"),
    ] {
        let create = [&["network", "create"], args].concat();
        env.rbuild(create).run().fails_with(why);
    }
    let pruned = told(&env, &["network", "prune", "-f", "--filter", "label!=a"]);
    assert_eq!(pruned, "Deleted Networks:\ntwo");
    told(&env, &["network", "rm", "one"]);
    env.rbuild(["network", "rm", "one", "bridge"])
        .run()
        .exits(1)
        .says("network one not found")
        .says("bridge is a pre-defined network and cannot be removed");
    let left = fs::read_dir(env.store().join("networks")).unwrap();
    assert_eq!(left.count(), 0);
}
