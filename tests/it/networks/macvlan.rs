//! Containers that are hosts of their own on a network of this machine.

use super::{says, sleeper, told, with_busybox};
use crate::support::needs;

/// A pair of interfaces that goes with the value.
struct Cable(String);

impl Cable {
    fn new() -> Cable {
        let name = format!("rbt{}", std::process::id());
        let far = format!("{name}x");
        let ip = needs::program("ip", "iproute2");
        for args in [
            &["link", "add", &name, "type", "veth", "peer", "name", &far][..],
            &["link", "set", &name, "up"],
            &["link", "set", &far, "up"],
        ] {
            let status = std::process::Command::new(&ip).args(args).status().unwrap();
            assert!(status.success(), "ip {args:?}");
        }
        Cable(name)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let ip = needs::program("ip", "iproute2");
        let _ = std::process::Command::new(ip)
            .args(["link", "del", &self.0])
            .status();
    }
}

#[test]
fn containers_are_hosts_of_their_own_on_an_interface() {
    let env = with_busybox();
    let cable = Cable::new();
    let parent = format!("parent={}", cable.0);
    let create = [
        "network",
        "create",
        "-d",
        "macvlan",
        "--subnet",
        "198.18.7.0/24",
    ];
    told(&env, &[&create[..], &["-o", &parent, "lan"]].concat());
    let hardware = "02:11:22:33:44:55";
    sleeper(
        &env,
        "one",
        &["--network", "lan", "--mac-address", hardware],
    );
    let fixed = [
        "run",
        "--rm",
        "--network",
        "lan",
        "--ip",
        "198.18.7.9",
        "busybox",
    ];
    let script = "ping -c 1 -w 60 one >/dev/null && ip -o -4 addr show eth0";
    let said = told(&env, &[&fixed[..], &["sh", "-c", script]].concat());
    assert!(said.contains("198.18.7.9/24"), "{said}");
    let shown = env.inspect("one", "{{.NetworkSettings.Networks.lan.MacAddress}}");
    assert_eq!(shown, hardware);
    assert!(says(&env, "one", "ip link show eth0").contains(hardware));
    told(&env, &["rm", "-f", "one"]);
    env.rbuild([
        "network",
        "create",
        "-d",
        "macvlan",
        "--subnet",
        "198.18.8.0/24",
        "x",
    ])
    .run()
    .fails_with("needs an interface of the host");
    env.rbuild(["network", "create", "-d", "overlay", "x"])
        .run()
        .fails_with("overlay")
        .says("`bridge`");
}
