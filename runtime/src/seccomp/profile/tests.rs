use serde_json::{Value, json};

use super::*;
use crate::seccomp::program::{ARCHITECTURES, interpret};
use crate::seccomp::table::CALLS;
use crate::spec::CapabilitySet;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

fn read(profile: &Value) -> Result<SeccompProfile, ProfileError> {
    let text = profile.to_string();
    SeccompProfile::parse_for(
        text.as_bytes(),
        CapabilitySet::DOCKER_DEFAULT,
        "5.10.0-9-amd64",
    )
}

/// What a profile answers to a call of the native architecture.
fn ask(profile: &Value, name: &str, arguments: [u64; 6]) -> u32 {
    ask_on(0, profile, name, arguments)
}

fn ask_on(index: usize, profile: &Value, name: &str, arguments: [u64; 6]) -> u32 {
    let architecture = ARCHITECTURES[index];
    let call = CALLS.iter().find(|call| call.0 == name).unwrap();
    let filter = read(profile).unwrap().compile();
    let number = call.1[architecture.column].into();
    interpret(&filter.program, architecture.audit, number, arguments)
}

/// What a comparison means.
type Holds = fn(u64, u64) -> bool;

const NO_ARGUMENTS: [u64; 6] = [0; 6];

#[test]
fn calls_are_allowed_and_denied_by_name() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "openat", "of_tomorrow"], "action": "SCMP_ACT_ALLOW"},
            {"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
            {"names": ["ptrace"], "action": "SCMP_ACT_KILL"},
            {"names": ["bpf"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["chroot"], "action": "SCMP_ACT_TRAP"},
            {"names": ["acct"], "action": "SCMP_ACT_LOG"},
            {"names": ["sync"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        ],
    });
    for (name, answer) in [
        ("read", ALLOW),
        ("openat", ALLOW),
        ("write", errno(libc::EPERM)),
        ("mkdirat", errno(30)),
        ("ptrace", libc::SECCOMP_RET_KILL_THREAD),
        ("bpf", libc::SECCOMP_RET_KILL_PROCESS),
        ("chroot", libc::SECCOMP_RET_TRAP),
        ("acct", libc::SECCOMP_RET_LOG),
        ("sync", libc::SECCOMP_RET_TRACE | 7),
        // Above all that are named: newer than the profile.
        ("open_tree_attr", errno(libc::ENOSYS)),
    ] {
        assert_eq!(ask(&profile, name, NO_ARGUMENTS), answer, "{name}");
    }
    let allowing = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}],
    });
    assert_eq!(ask(&allowing, "open_tree_attr", NO_ARGUMENTS), ALLOW);
    assert_eq!(ask(&allowing, "read", NO_ARGUMENTS), errno(libc::EPERM));
}

#[test]
fn arguments_are_compared_with_all_their_bits() {
    let big = 0x1_0000_0005_u64;
    let values = [0, 4, 5, 6, big - 1, big, big + 1, 0x2_0000_0000, u64::MAX];
    let comparisons: [(&str, Holds); 6] = [
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_GE", |a, b| a >= b),
        ("SCMP_CMP_GT", |a, b| a > b),
    ];
    for (op, holds) in comparisons {
        for wanted in values {
            let profile = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{
                    "names": ["read"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 2, "value": wanted, "op": op}],
                }],
            });
            for given in values {
                let answer = ask(&profile, "read", [1, 1, given, 1, 1, 1]);
                let denied = answer == errno(libc::EPERM);
                assert_eq!(denied, holds(given, wanted), "{given:#x} {op} {wanted:#x}");
            }
        }
    }
}

#[test]
fn masks_and_several_conditions() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            // As Docker's profile has it: no namespaces.
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2_114_060_288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
            ]},
            // Both must hold.
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"},
            ]},
            // Of two on one argument any.
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
            ]},
            // The one without conditions wins, the first of two with them.
            {"names": ["chmod", "kill"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_GE"},
            ]},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_GE"},
            ]},
            {"names": ["chmod"], "action": "SCMP_ACT_ALLOW"},
        ],
    });
    let with = |name, first, second| ask(&profile, name, [first, second, 0, 0, 0, 0]);
    assert_eq!(with("clone", 17, 0), ALLOW);
    assert_eq!(with("clone", 0x1000_0000, 0), errno(libc::EPERM));
    assert_eq!(with("socket", 2, 1), ALLOW);
    assert_eq!(with("socket", 2, 2), errno(libc::EPERM));
    assert_eq!(with("socket", 10, 1), errno(libc::EPERM));
    assert_eq!(with("personality", 0, 0), ALLOW);
    assert_eq!(with("personality", 8, 0), ALLOW);
    assert_eq!(with("personality", 9, 0), errno(libc::EPERM));
    assert_eq!(with("chmod", 5, 0), ALLOW);
    assert_eq!(with("kill", 5, 0), libc::SECCOMP_RET_LOG);
    assert_eq!(with("kill", 0, 0), errno(libc::EPERM));
}

#[test]
fn rules_depend_on_capabilities_architecture_and_kernel() {
    let rule = |name: &str, includes: Value, excludes: Value| {
        json!({
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "includes": includes,
            "excludes": excludes,
        })
    };
    let own = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            rule("mount", json!({"caps": ["CAP_SYS_ADMIN"]}), json!({})),
            rule("chown", json!({"caps": ["CAP_CHOWN"]}), json!({})),
            rule("fchown", json!({"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}), json!({})),
            rule("clone", json!({}), json!({"caps": ["CAP_SYS_ADMIN"]})),
            rule("kill", json!({}), json!({"caps": ["CAP_SYS_ADMIN", "CAP_KILL"]})),
            rule("read", json!({"arches": ["s390x", own]}), json!({})),
            rule("write", json!({"arches": ["s390x"]}), json!({})),
            rule("close", json!({}), json!({"arches": [own]})),
            rule("ptrace", json!({"minKernel": "4.8"}), json!({})),
            rule("bpf", json!({"minKernel": "5.10"}), json!({"minKernel": "5.11"})),
            rule("sync", json!({"minKernel": "6.0"}), json!({})),
        ],
    });
    for (name, allowed) in [
        ("mount", false),
        ("chown", true),
        ("fchown", false),
        ("clone", true),
        ("kill", false),
        ("read", true),
        ("write", false),
        ("close", false),
        ("ptrace", true),
        ("bpf", true),
        ("sync", false),
    ] {
        let answer = ask(&profile, name, NO_ARGUMENTS);
        assert_eq!(answer == ALLOW, allowed, "{name}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_architectures_are_let_in_by_name() {
    let rules = json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]);
    let listed = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_ARM"],
        "syscalls": rules,
    });
    let mapped = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": rules,
    });
    let native = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    for profile in [&listed, &mapped] {
        assert_eq!(ask_on(1, profile, "read", NO_ARGUMENTS), ALLOW);
        assert_eq!(ask_on(0, profile, "read", NO_ARGUMENTS), ALLOW);
    }
    let killed = libc::SECCOMP_RET_KILL_PROCESS;
    assert_eq!(ask_on(1, &native, "read", NO_ARGUMENTS), killed);
}

#[test]
fn what_is_wrong_with_a_profile_is_told() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let argument = |index: u8, op: &str| {
        let args = json!([{"index": index, "value": 0, "op": op}]);
        rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args}))
    };
    for (profile, want) in [
        (json!([]), "no seccomp profile in JSON"),
        (json!({"syscalls": []}), "no seccomp profile in JSON"),
        (
            json!({"defaultAction": "ALLOW"}),
            "unknown action \"ALLOW\"",
        ),
        (
            rule(json!({"names": ["read"], "action": "x"})),
            "unknown action \"x\"",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "`SCMP_ACT_NOTIFY` is not supported",
        ),
        (
            rule(json!({"name": "read", "names": ["write"], "action": "SCMP_ACT_KILL"})),
            "both `name` and `names`",
        ),
        (argument(6, "SCMP_CMP_EQ"), "no argument with the index 6"),
        (argument(0, "EQ"), "unknown comparison \"EQ\""),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["vax"]}),
            "unknown architecture \"vax\"",
        ),
        (
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
            }),
            "both `architectures` and `archMap`",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}),
            "unknown flag \"FAST\"",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}),
            "a `listenerPath` is not supported",
        ),
    ] {
        let error = read(&profile).unwrap_err().to_string();
        assert!(error.contains(want), "{profile}: {error}");
    }
    let many: Vec<Value> = (0..4000)
        .map(|number| {
            let args = json!([{"index": 0, "value": number, "op": "SCMP_CMP_EQ"}]);
            json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args})
        })
        .collect();
    let long = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many});
    assert!(matches!(read(&long), Err(ProfileError::TooLong(_))));
}
