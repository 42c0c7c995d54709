//! Ports of containers that are reached on this machine.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use super::{
    ECHO, PATIENCE, WEB, echoed, gateway, page_of, reached, told, until, with_busybox, with_python,
};

#[test]
fn a_web_server_is_reached_by_loopback_and_by_an_address_of_the_host() {
    let env = with_busybox();
    env.build("web", &env.dockerfile("c", WEB));
    told(&env, &["run", "-d", "--name", "web", "-p", "80", "web"]);
    let address = reached(&env, "web", "80");
    assert_eq!(page_of(address), "it works");
    let (port, own) = (address.port(), gateway(&env, "web"));
    assert_eq!(page_of(SocketAddr::new(own, port)), "it works");
    if TcpListener::bind("[::1]:0").is_ok() {
        let six = format!("[::1]:{port}").parse().unwrap();
        assert_eq!(page_of(six), "it works");
    }
    let column = told(&env, &["ps", "--format", "{{.Ports}}"]);
    assert!(
        column.starts_with(&format!("0.0.0.0:{port}->80/tcp, ")),
        "{column}"
    );
    assert!(column.ends_with(", 443/tcp"), "{column}");
    let bound = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    assert_eq!(env.inspect("web", bound), port.to_string());
    for (filter, count) in [("publish=80", 1), ("publish=443", 0), ("expose=443", 1)] {
        let found = told(&env, &["ps", "-q", "-f", filter]);
        assert_eq!(found.lines().count(), count, "{filter}");
    }
    // Another one cannot have the port, and is not started.
    let taken = format!("127.0.0.1:{port}:80");
    let taken_again = ["run", "-d", "--name", "other", "-p", &taken, "web"];
    env.rbuild(taken_again).run().exits(125).says(&format!(
        "Bind for 127.0.0.1:{port} failed: port is already allocated"
    ));
    assert_eq!(env.inspect("other", "{{.State.Status}}"), "created");
    // The port is free when it has ended, and it is reached again when it runs again.
    told(&env, &["stop", "-t", "0", "web"]);
    let column = told(
        &env,
        &["ps", "-a", "-f", "name=web", "--format", "{{.Ports}}"],
    );
    assert_eq!(column, "80/tcp, 443/tcp");
    drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
    told(&env, &["start", "web"]);
    assert_eq!(page_of(reached(&env, "web", "80/tcp")), "it works");
    env.rbuild(["port", "web", "443"])
        .run()
        .fails_with("no public port '443' published for web");
    told(&env, &["rm", "-f", "web", "other"]);
    told(
        &env,
        &[
            "run", "-d", "--name", "all", "-P", "--expose", "8080/udp", "web",
        ],
    );
    let ports = told(&env, &["port", "all"]);
    for port in ["80/tcp -> ", "443/tcp -> ", "8080/udp -> "] {
        assert!(ports.contains(port), "{ports}");
    }
    assert_eq!(page_of(reached(&env, "all", "80")), "it works");
    told(&env, &["rm", "-f", "all"]);
}

#[test]
fn a_connection_carries_all_bytes_both_ways_and_each_end() {
    let env = with_busybox();
    let echo = "exec nc -ll -p 7 -e cat";
    let start = [
        "run",
        "-d",
        "--name",
        "echo",
        "-p",
        "127.0.0.1::7",
        "busybox",
    ];
    told(&env, &[&start[..], &["sh", "-c", echo]].concat());
    let address = reached(&env, "echo", "7");
    let talk = |seed: u8| -> Result<(), String> {
        let sent: Vec<u8> = (0..4_000_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed)
            .collect();
        let stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            let (mut to, bytes) = (&stream, &sent);
            scope.spawn(move || {
                let _ = to.write_all(bytes);
                // What comes back now comes because this end is known over there.
                let _ = to.shutdown(Shutdown::Write);
            });
            (&stream)
                .read_to_end(&mut received)
                .map_err(|e| e.to_string())
        })?;
        if received == sent {
            Ok(())
        } else {
            Err(format!("{} bytes came back", received.len()))
        }
    };
    // The first may come before the server listens.
    until("nothing comes back", || talk(0));
    let threads: Vec<_> = (1..=8).collect();
    std::thread::scope(|scope| {
        let all: Vec<_> = threads
            .iter()
            .map(|seed| scope.spawn(|| talk(*seed)))
            .collect();
        for thread in all {
            thread.join().unwrap().unwrap();
        }
    });
    told(&env, &["rm", "-f", "echo"]);
}

#[test]
fn datagrams_find_their_way_back() {
    let env = with_busybox();
    let python = ["busybox", "/usr/bin/python3", "-c", ECHO];
    let options = with_python();
    let start = ["run", "-d", "--name", "echo", "-p", "127.0.0.1::80/udp"];
    told(&env, &[&start, &options[..], &python].concat());
    let address = reached(&env, "echo", "80/udp");
    assert_eq!(echoed(address, "first"), "echo first");
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let text = format!("{number}").repeat(1000);
                assert_eq!(echoed(address, &text), format!("echo {text}"));
            });
        }
    });
    told(&env, &["rm", "-f", "echo"]);
}
