//! Profiles as they are written.

use serde::Deserialize;

use super::{Action, Comparison, Condition, ProfileError, Rule, SeccompProfile};
use crate::seccomp::program::ARCHITECTURES;
use crate::spec::CapabilitySet;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
const MOST_INSTRUCTIONS: usize = 4096;

/// The errno where a profile names none.
const EPERM: u16 = libc::EPERM as u16;

/// This architecture as Go calls it, and the names in profiles that mean it.
#[cfg(target_arch = "x86_64")]
const OWN_NAMES: [&str; 2] = ["amd64", "x86_64"];
#[cfg(target_arch = "aarch64")]
const OWN_NAMES: [&str; 2] = ["arm64", "aarch64"];

/// All that libseccomp knows; programs of others than [`ARCHITECTURES`] cannot run here.
const KNOWN_ARCHITECTURES: [&str; 24] = [
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_NATIVE",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchitectureMap>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Calls>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Conditions on the host and the container.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl SeccompProfile {
    /// Reads a profile for processes with these capabilities, on this machine.
    ///
    /// # Errors
    ///
    /// What is wrong with it. A profile that comes back can be installed.
    pub fn parse(text: &[u8], capabilities: CapabilitySet) -> Result<Self, ProfileError> {
        let kernel = rustix::system::uname();
        Self::parse_for(text, capabilities, &kernel.release().to_string_lossy())
    }

    pub(super) fn parse_for(
        text: &[u8],
        capabilities: CapabilitySet,
        kernel: &str,
    ) -> Result<Self, ProfileError> {
        let file: File = serde_json::from_slice(text)?;
        if file.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err(ProfileError::Unsupported("a `listenerPath`".into()));
        }
        let kernel = version(kernel).unwrap_or_default();
        let mut rules = Vec::new();
        for calls in file.syscalls.into_iter().flatten() {
            if calls.applies(capabilities, kernel)? {
                calls.into_rules(&mut rules)?;
            }
        }
        let profile = Self {
            default: action(&file.default_action, file.default_errno_ret)?,
            architectures: architectures(file.architectures, file.arch_map)?,
            rules,
            flags: flags(file.flags.unwrap_or_default())?,
        };
        match profile.compile().program.len() {
            length if length > MOST_INSTRUCTIONS => Err(ProfileError::TooLong(length)),
            _ => Ok(profile),
        }
    }
}

impl Calls {
    /// Answers the conditions: one match excludes, all must match to include.
    fn applies(
        &self,
        capabilities: CapabilitySet,
        kernel: (u32, u32),
    ) -> Result<bool, ProfileError> {
        let holds = |name: &String| {
            CapabilitySet::number_of(name).is_some_and(|number| capabilities.contains(number))
        };
        let is_own = |name: &String| OWN_NAMES.contains(&name.as_str());
        let at_least = |wanted: &Option<String>| match wanted.as_deref() {
            None | Some("") => Ok(None),
            Some(wanted) => match version(wanted) {
                Some(version) => Ok(Some(kernel >= version)),
                None => Err(invalid(format!("`minKernel`: {wanted:?} is not a version"))),
            },
        };
        let (excludes, includes) = (&self.excludes, &self.includes);
        if excludes.arches.iter().flatten().any(is_own)
            || excludes.caps.iter().flatten().any(holds)
            || at_least(&excludes.min_kernel)? == Some(true)
        {
            return Ok(false);
        }
        let arches = includes.arches.as_deref().unwrap_or_default();
        Ok((arches.is_empty() || arches.iter().any(is_own))
            && includes.caps.iter().flatten().all(holds)
            && at_least(&includes.min_kernel)? != Some(false))
    }

    fn into_rules(self, rules: &mut Vec<Rule>) -> Result<(), ProfileError> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names) {
            (Some(_), Some(names)) if !names.is_empty() => {
                return Err(invalid("a rule has both `name` and `names`".into()));
            }
            (Some(name), _) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        let action = action(&self.action, self.errno_ret)?;
        let conditions = self
            .args
            .unwrap_or_default()
            .iter()
            .map(condition)
            .collect::<Result<Vec<_>, _>>()?;
        let repeated = conditions.iter().enumerate().any(|(at, condition)| {
            let others = &conditions[..at];
            others
                .iter()
                .any(|other| other.argument == condition.argument)
        });
        if !repeated {
            rules.push(Rule {
                names,
                action,
                conditions,
            });
            return Ok(());
        }
        // As in runc: of several conditions on one argument any is enough.
        rules.extend(conditions.into_iter().map(|condition| Rule {
            names: names.clone(),
            action,
            conditions: vec![condition],
        }));
        Ok(())
    }
}

fn invalid(text: String) -> ProfileError {
    ProfileError::Invalid(text)
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    if argument.index > 5 {
        return Err(invalid(format!(
            "there is no argument with the index {}: a system call has six",
            argument.index
        )));
    }
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual,
        "SCMP_CMP_LT" => Comparison::Less,
        "SCMP_CMP_LE" => Comparison::LessOrEqual,
        "SCMP_CMP_EQ" => Comparison::Equal,
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual,
        "SCMP_CMP_GT" => Comparison::Greater,
        "SCMP_CMP_MASKED_EQ" => Comparison::Masked,
        other => return Err(invalid(format!("unknown comparison {other:?}"))),
    };
    Ok(Condition {
        argument: argument.index,
        comparison,
        value: argument.value,
        masked: argument.value_two,
    })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, ProfileError> {
    // Larger ones than the kernel has come out as its largest.
    let data = errno.unwrap_or(EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(data.min(4095)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(data),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => return Err(ProfileError::Unsupported(format!("the action `{name}`"))),
        other => return Err(invalid(format!("unknown action {other:?}"))),
    })
}

/// The architectures beside the native one.
fn architectures(
    listed: Option<Vec<String>>,
    mapped: Option<Vec<ArchitectureMap>>,
) -> Result<Vec<String>, ProfileError> {
    let listed = listed.unwrap_or_default();
    let mapped = mapped.unwrap_or_default();
    if !listed.is_empty() && !mapped.is_empty() {
        return Err(invalid("it has both `architectures` and `archMap`".into()));
    }
    let native = ARCHITECTURES[0].name;
    let of_native = mapped
        .into_iter()
        .filter(|map| map.architecture == native)
        .flat_map(|map| map.sub_architectures.unwrap_or_default());
    let all: Vec<String> = listed.into_iter().chain(of_native).collect();
    match all
        .iter()
        .find(|name| !KNOWN_ARCHITECTURES.contains(&name.as_str()))
    {
        Some(unknown) => Err(invalid(format!("unknown architecture {unknown:?}"))),
        None => Ok(all.into_iter().filter(|name| name != native).collect()),
    }
}

fn flags(names: Vec<String>) -> Result<u32, ProfileError> {
    let mut flags = 0;
    for name in names {
        flags |= match name.as_str() {
            // There is one thread.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // About listeners, which are not supported.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                return Err(ProfileError::Unsupported(format!("the flag `{name}`")));
            }
            other => return Err(invalid(format!("unknown flag {other:?}"))),
        };
    }
    Ok(flags)
}

/// Major and minor number of a kernel's version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().filter(|text| !text.is_empty());
    Some((major, minor.map_or(Some(0), |text| text.parse().ok())?))
}
