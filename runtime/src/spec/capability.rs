//! Capabilities by number and name.

use serde::{Deserialize, Serialize};

/// Names by number, without `CAP_` (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit for each number of `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// The fourteen that Docker leaves.
    pub const DOCKER_DEFAULT: Self = Self(0xa804_25fb);
    /// All that the kernel knows. What the host does not hold is left out silently.
    pub const ALL: Self = Self((1 << 41) - 1);
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Says whether capability number `number` is in the set.
    pub const fn contains(self, number: u32) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// Finds the number of a capability by its name, in any case, with or without `CAP_`.
    pub fn number_of(name: &str) -> Option<u32> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = NAMES.iter().position(|known| *known == bare)?;
        u32::try_from(found).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_the_fourteen_names() {
        let names: Vec<&str> = (0..)
            .zip(NAMES)
            .filter(|(number, _)| CapabilitySet::DOCKER_DEFAULT.contains(*number))
            .map(|(_, name)| name)
            .collect();
        assert_eq!(
            names,
            [
                "CHOWN",
                "DAC_OVERRIDE",
                "FOWNER",
                "FSETID",
                "KILL",
                "SETGID",
                "SETUID",
                "SETPCAP",
                "NET_BIND_SERVICE",
                "NET_RAW",
                "SYS_CHROOT",
                "MKNOD",
                "AUDIT_WRITE",
                "SETFCAP"
            ]
        );
    }

    #[test]
    fn names_are_found_in_any_form() {
        for name in ["SYS_ADMIN", "cap_sys_admin", "CAP_SYS_ADMIN"] {
            assert_eq!(CapabilitySet::number_of(name), Some(21), "{name}");
        }
        assert_eq!(CapabilitySet::number_of("CAP_CAP_CHOWN"), None);
    }
}
