//! Address translation and filter rules, over nftables' netlink family.
//!
//! The table has the name of the bridge, and everything in it is ours.
//!
//! The kernel throws away what a change replaces when all processors have let go of it, and whoever closes a
//! socket of this family meanwhile waits for that: ten milliseconds and more. So one socket is used for
//! everything, and those who have something else to do close it afterwards.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;

use super::netlink::{Attributes, CREATE, DUMP, Message, Netlink, attribute};
use super::shared::Bridge;
use crate::spec::Subnet;

/// `linux/netfilter/nf_tables.h` and its neighbours.
mod uapi {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DEL_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const DEL_RULE: u16 = 8;

    pub(super) const UNSPECIFIED: u8 = 0;
    pub(super) const INET: u8 = 1;
    pub(super) const IPV4: u8 = 2;

    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_HANDLE: u16 = 3;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;

    pub(super) const FORWARD: u32 = 2;
    pub(super) const OUTPUT: u32 = 3;
    pub(super) const POST_ROUTING: u32 = 4;
    pub(super) const SOURCE_NAT_PRIORITY: i32 = 100;
    pub(super) const DESTINATION_NAT_PRIORITY: i32 = -100;
    pub(super) const DESTINATION_NAT: u32 = 1;
    pub(super) const DROP: u32 = 0;
    pub(super) const ACCEPT: u32 = 1;

    pub(super) const REGISTER: u32 = 1;
    pub(super) const VERDICT_REGISTER: u32 = 0;
    pub(super) const EQUAL: u32 = 0;
    pub(super) const NOT_EQUAL: u32 = 1;
    pub(super) const NETWORK_HEADER: u32 = 1;
    pub(super) const TRANSPORT_HEADER: u32 = 2;
    pub(super) const SOURCE_ADDRESS: u32 = 12;
    pub(super) const DESTINATION_ADDRESS: u32 = 16;
    pub(super) const DESTINATION_PORT: u32 = 2;
    pub(super) const PROTOCOL: u32 = 16;
    pub(super) const IN_NAME: u32 = 6;
    pub(super) const OUT_NAME: u32 = 7;
    pub(super) const CT_STATE: u32 = 0;
    /// Established or related.
    pub(super) const KNOWN_CONNECTION: u32 = 2 | 4;
}

/// Marks rules that we put into tables of others.
fn mark(bridge: &str) -> Vec<u8> {
    format!("made for {bridge}").into_bytes()
}

/// The expressions of a rule.
#[derive(Default)]
struct Rule(Attributes);

impl Rule {
    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::default()
            .text(uapi::EXPRESSION_NAME, name)
            .nest(uapi::EXPRESSION_DATA, data);
        Self(self.0.nest(uapi::LIST_ELEMENT, &expression))
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let value = Attributes::default().attribute(uapi::DATA_VALUE, value);
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, operation)
            .nest(3, &value);
        self.expression("cmp", &data)
    }

    /// Keeps the bits of the register that are set in `mask`.
    fn mask(self, mask: &[u8]) -> Self {
        let zero = Attributes::default().attribute(uapi::DATA_VALUE, &vec![0; mask.len()]);
        let mask_value = Attributes::default().attribute(uapi::DATA_VALUE, mask);
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, uapi::REGISTER)
            .number(3, mask.len() as u32)
            .nest(4, &mask_value)
            .nest(5, &zero);
        self.expression("bitwise", &data)
    }

    fn interface(self, direction: u32, operation: u32, name: &str) -> Self {
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, direction);
        // The whole field of 16 bytes is compared, so a name is not a prefix.
        let mut padded = [0; 16];
        padded[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
        self.expression("meta", &data).compare(operation, &padded)
    }

    /// Matches what does not go out by a bridge of ours, whatever its number.
    fn not_to_any_bridge(self) -> Self {
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, uapi::OUT_NAME);
        self.expression("meta", &data)
            .compare(uapi::NOT_EQUAL, b"rbuild")
    }

    /// Puts `length` bytes of a header into the register.
    fn payload(self, header: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, header)
            .number(3, offset)
            .number(4, length);
        self.expression("payload", &data)
    }

    fn goes_to(self, address: Ipv4Addr, protocol: u8, port: u16) -> Self {
        let transport = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, uapi::PROTOCOL);
        self.payload(uapi::NETWORK_HEADER, uapi::DESTINATION_ADDRESS, 4)
            .compare(uapi::EQUAL, &address.octets())
            .expression("meta", &transport)
            .compare(uapi::EQUAL, &[protocol])
            .payload(uapi::TRANSPORT_HEADER, uapi::DESTINATION_PORT, 2)
            .compare(uapi::EQUAL, &port.to_be_bytes())
    }

    /// Lets it go to another port of the same address.
    fn with_port(self, port: u16) -> Self {
        let value = Attributes::default().attribute(uapi::DATA_VALUE, &port.to_be_bytes());
        let load = Attributes::default()
            .number(1, uapi::REGISTER)
            .nest(2, &value);
        let translate = Attributes::default()
            .number(1, uapi::DESTINATION_NAT)
            .number(2, uapi::IPV4.into())
            .number(5, uapi::REGISTER);
        self.expression("immediate", &load)
            .expression("nat", &translate)
    }

    fn source_in(self, subnet: Subnet) -> Self {
        self.payload(uapi::NETWORK_HEADER, uapi::SOURCE_ADDRESS, 4)
            .mask(&subnet.mask().octets())
            .compare(uapi::EQUAL, &subnet.network().octets())
    }

    fn known_connection(self) -> Self {
        let data = Attributes::default()
            .number(1, uapi::REGISTER)
            .number(2, uapi::CT_STATE);
        self.expression("ct", &data)
            .mask(&uapi::KNOWN_CONNECTION.to_ne_bytes())
            .compare(uapi::NOT_EQUAL, &[0; 4])
    }

    fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::default())
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = Attributes::default().number(uapi::VERDICT_CODE, code);
        let value = Attributes::default().nest(uapi::DATA_VERDICT, &verdict);
        let data = Attributes::default()
            .number(1, uapi::VERDICT_REGISTER)
            .nest(2, &value);
        self.expression("immediate", &data)
    }

    fn message(&self, family: u8, table: &str, chain: &str, flags: u16) -> Message {
        message(uapi::NEW_RULE, CREATE | flags, family)
            .text(uapi::RULE_TABLE, table)
            .text(uapi::RULE_CHAIN, chain)
            .nest(uapi::RULE_EXPRESSIONS, &self.0)
    }
}

fn message(kind: u16, flags: u16, family: u8) -> Message {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
    Message::new(subsystem | kind, flags, &[family, 0, 0, 0])
}

/// A socket to the rules of the network namespace in which it was opened.
pub(super) struct Rules {
    socket: Netlink,
    changed: bool,
}

impl Rules {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Netlink::open(Some(NETFILTER))?,
            changed: false,
        })
    }

    /// The socket if to close it now takes long.
    pub(super) fn settling(self) -> Option<OwnedFd> {
        self.changed.then(|| self.socket.into())
    }

    /// Carries messages out, all of them or none.
    fn transaction(&mut self, messages: Vec<Message>) -> io::Result<()> {
        self.changed = true;
        self.socket.batch(&framed(messages))
    }

    /// Makes the table, whatever was there before.
    ///
    /// `opened` are the interfaces on which forwarding was off until we needed it: what came in there
    /// was never forwarded, and still is not, except to the bridges.
    pub(super) fn install(&mut self, bridge: &Bridge, opened: &[String]) -> io::Result<()> {
        let name = bridge.name();
        let append = libc::NLM_F_APPEND as u16;
        let mut messages = vec![
            table(uapi::NEW_TABLE, CREATE, name),
            table(uapi::DEL_TABLE, 0, name),
            table(uapi::NEW_TABLE, CREATE, name),
        ];
        if !bridge.is_internal() {
            let (hook, priority) = (uapi::POST_ROUTING, uapi::SOURCE_NAT_PRIORITY);
            messages.push(chain(name, "postrouting", "nat", hook, priority));
            let masquerade = Rule::default()
                .source_in(bridge.subnet())
                .interface(uapi::OUT_NAME, uapi::NOT_EQUAL, name)
                .masquerade();
            messages.push(masquerade.message(uapi::IPV4, name, "postrouting", append));
        }
        messages.push(chain(name, "forward", "filter", uapi::FORWARD, 0));
        let rules = forward_rules(bridge, opened);
        messages.extend(rules.map(|rule| rule.message(uapi::IPV4, name, "forward", append)));
        self.transaction(messages)?;
        self.pass_foreign_chains(name)
    }

    /// Lets what goes to port 53 of `address`, in this very network, go to other ports of it: for datagrams, for
    /// connections.
    pub(super) fn redirect_names(&mut self, address: Ipv4Addr, ports: [u16; 2]) -> io::Result<()> {
        const TABLE: &str = "rbuild";
        const CHAIN: &str = "names";
        let (hook, priority) = (uapi::OUTPUT, uapi::DESTINATION_NAT_PRIORITY);
        let mut messages = vec![
            table(uapi::NEW_TABLE, CREATE, TABLE),
            chain(TABLE, CHAIN, "nat", hook, priority),
        ];
        let protocols = [libc::IPPROTO_UDP as u8, libc::IPPROTO_TCP as u8];
        for (protocol, port) in protocols.into_iter().zip(ports) {
            let rule = Rule::default()
                .goes_to(address, protocol, 53)
                .with_port(port);
            let append = libc::NLM_F_APPEND as u16;
            messages.push(rule.message(uapi::IPV4, TABLE, CHAIN, append));
        }
        self.transaction(messages)
    }

    /// Says whether our table is there.
    pub(super) fn is_installed(&mut self, bridge: &str) -> bool {
        let answer = self.socket.request(&table(uapi::GET_TABLE, 0, bridge));
        answer.is_ok()
    }

    /// Removes our table, and our rules from the tables of others.
    pub(super) fn remove(&mut self, bridge: &str) -> io::Result<()> {
        let mut messages = Vec::new();
        if self.is_installed(bridge) {
            messages.push(table(uapi::DEL_TABLE, 0, bridge));
        }
        messages.extend(self.marked_rules(bridge)?);
        if messages.is_empty() {
            Ok(())
        } else {
            self.transaction(messages)
        }
    }

    /// Lets the bridge through where someone drops what is forwarded by default, as Docker does: a
    /// packet passes only if every chain at the hook lets it pass.
    fn pass_foreign_chains(&mut self, bridge: &str) -> io::Result<()> {
        let mut messages = self.marked_rules(bridge)?;
        for (family, table, chain) in self.dropping_chains()? {
            for direction in [uapi::IN_NAME, uapi::OUT_NAME] {
                let rule = Rule::default()
                    .interface(direction, uapi::EQUAL, bridge)
                    .verdict(uapi::ACCEPT)
                    .message(family, &table, &chain, 0)
                    .attribute(uapi::RULE_USERDATA, &mark(bridge));
                messages.push(rule);
            }
        }
        if messages.is_empty() {
            Ok(())
        } else {
            self.transaction(messages)
        }
    }

    /// Chains of others at the forward hook whose policy is to drop.
    fn dropping_chains(&mut self) -> io::Result<Vec<(u8, String, String)>> {
        let request = message(uapi::GET_CHAIN, DUMP, uapi::UNSPECIFIED);
        let answers = self.socket.dump(&request)?;
        Ok(answers
            .iter()
            .filter_map(|answer| dropping_chain(answer))
            .collect())
    }

    /// Requests that delete our rules in the tables of others.
    fn marked_rules(&mut self, bridge: &str) -> io::Result<Vec<Message>> {
        let request = message(uapi::GET_RULE, DUMP, uapi::UNSPECIFIED);
        let answers = self.socket.dump(&request)?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let (&family, attributes) = (answer.first()?, answer.get(4..)?);
                if attribute(attributes, uapi::RULE_USERDATA)? != mark(bridge) {
                    return None;
                }
                let rule = message(uapi::DEL_RULE, 0, family)
                    .text(uapi::RULE_TABLE, &text(attributes, uapi::RULE_TABLE)?)
                    .text(uapi::RULE_CHAIN, &text(attributes, uapi::RULE_CHAIN)?)
                    .attribute(uapi::RULE_HANDLE, attribute(attributes, uapi::RULE_HANDLE)?);
                Some(rule)
            })
            .collect())
    }
}

/// Makes messages one transaction: all of them or none.
fn framed(messages: Vec<Message>) -> Vec<Message> {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    let frame = |kind: i32| {
        let fixed = [uapi::UNSPECIFIED, 0, subsystem[0], subsystem[1]];
        Message::new(kind as u16, 0, &fixed).unacknowledged()
    };
    let mut batch = vec![frame(libc::NFNL_MSG_BATCH_BEGIN)];
    batch.extend(messages);
    batch.push(frame(libc::NFNL_MSG_BATCH_END));
    batch
}

fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let hook = Attributes::default()
        .number(uapi::HOOK_NUMBER, hook)
        .attribute(uapi::HOOK_PRIORITY, &priority.to_be_bytes());
    message(uapi::NEW_CHAIN, CREATE, uapi::IPV4)
        .text(uapi::CHAIN_TABLE, table)
        .text(uapi::CHAIN_NAME, name)
        .nest(uapi::CHAIN_HOOK, &hook)
        .text(uapi::CHAIN_TYPE, kind)
}

fn table(kind: u16, flags: u16, name: &str) -> Message {
    message(kind, flags, uapi::IPV4).text(uapi::TABLE_NAME, name)
}

/// What may be forwarded.
fn forward_rules(bridge: &Bridge, opened: &[String]) -> impl Iterator<Item = Rule> {
    let name = bridge.name();
    let (accept, drop) = (uapi::ACCEPT, uapi::DROP);
    let from = |rule: Rule| rule.interface(uapi::IN_NAME, uapi::EQUAL, name);
    let to = |rule: Rule| rule.interface(uapi::OUT_NAME, uapi::EQUAL, name);
    let mut rules = vec![
        // What stays on the bridge comes here where `bridge-nf-call-iptables` is on.
        to(from(Rule::default())).verdict(accept),
    ];
    if bridge.is_internal() {
        rules.push(from(Rule::default()).verdict(drop));
    } else {
        rules.push(to(Rule::default()).known_connection().verdict(accept));
    }
    rules.push(to(Rule::default()).verdict(drop));
    let not_for_us = opened.iter().map(|name| {
        Rule::default()
            .interface(uapi::IN_NAME, uapi::EQUAL, name)
            .not_to_any_bridge()
            .verdict(drop)
    });
    rules.extend(not_for_us);
    rules.into_iter()
}

fn dropping_chain(answer: &[u8]) -> Option<(u8, String, String)> {
    let (&family, attributes) = (answer.first()?, answer.get(4..)?);
    let hook = attribute(attributes, uapi::CHAIN_HOOK)?;
    let forwards = attribute(hook, uapi::HOOK_NUMBER)? == uapi::FORWARD.to_be_bytes();
    let drops = attribute(attributes, uapi::CHAIN_POLICY)? == uapi::DROP.to_be_bytes();
    let table = text(attributes, uapi::CHAIN_TABLE)?;
    let concerned = matches!(family, uapi::IPV4 | uapi::INET) && !table.starts_with("rbuild");
    (forwards && drops && concerned).then_some((family, table, text(attributes, uapi::CHAIN_NAME)?))
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    Some(
        std::str::from_utf8(value)
            .ok()?
            .trim_end_matches('\0')
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_a_network_of_its_own(test: impl FnOnce() + Send + 'static) {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let thread = std::thread::spawn(|| {
            crate::sys::unshare(libc::CLONE_NEWNET).unwrap();
            test();
        });
        thread.join().unwrap();
    }

    fn bridge() -> Bridge {
        Bridge::of_probe("rbuild0", std::net::Ipv4Addr::new(10, 89, 0, 1))
    }

    #[test]
    fn root_the_table_comes_and_goes() {
        in_a_network_of_its_own(|| {
            let mut rules = Rules::open().unwrap();
            assert!(!rules.is_installed("rbuild0"));
            for _ in 0..2 {
                rules.install(&bridge(), &["eth0".into()]).unwrap();
                assert!(rules.is_installed("rbuild0") && !rules.is_installed("rbuild1"));
            }
            rules.remove("rbuild0").unwrap();
            assert!(!rules.is_installed("rbuild0"));
            rules.remove("rbuild0").unwrap();
        });
    }

    #[test]
    fn root_chains_that_drop_by_default_let_the_bridge_pass() {
        in_a_network_of_its_own(|| {
            let mut rules = Rules::open().unwrap();
            let other =
                message(uapi::NEW_TABLE, CREATE, uapi::IPV4).text(uapi::TABLE_NAME, "filter");
            let forward = chain("filter", "FORWARD", "filter", uapi::FORWARD, 0)
                .attribute(uapi::CHAIN_POLICY, &uapi::DROP.to_be_bytes());
            let input = chain("filter", "INPUT", "filter", 1, 0)
                .attribute(uapi::CHAIN_POLICY, &uapi::DROP.to_be_bytes());
            rules.transaction(vec![other, forward, input]).unwrap();
            let filter = (uapi::IPV4, "filter".to_owned(), "FORWARD".to_owned());
            assert_eq!(rules.dropping_chains().unwrap(), [filter]);
            for _ in 0..2 {
                rules.install(&bridge(), &[]).unwrap();
                assert_eq!(rules.marked_rules("rbuild0").unwrap().len(), 2);
            }
            rules.remove("rbuild0").unwrap();
            assert_eq!(rules.marked_rules("rbuild0").unwrap().len(), 0);
            assert_eq!(
                rules.dropping_chains().unwrap().len(),
                1,
                "the chain itself stays"
            );
        });
    }
}
