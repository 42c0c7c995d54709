//! Filters that users bring: Docker's JSON format, and the form that it takes in an OCI configuration.
//!
//! Docker's has conditions on whole rules (capabilities, architecture, kernel), which are answered when
//! the file is read; what is left is what the OCI form says. Where libseccomp leaves a choice, the rules
//! are: a rule without conditions on arguments wins over those with, else the first that matches. Names
//! of calls that nobody knows are skipped, since profiles name the calls of all architectures and of
//! kernels to come.

mod compile;
mod json;

use serde::{Deserialize, Serialize};

/// A system call filter as a profile describes it, with all conditions on the host answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompProfile {
    default: Action,
    /// Other than the native one: names as `SCMP_ARCH_X86`.
    architectures: Vec<String>,
    rules: Vec<Rule>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
}

impl SeccompProfile {
    /// Its bytes for a digest: the same for profiles that say the same in the same order.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data without maps is always written")
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// It is no JSON of the right form.
    #[error("it is no seccomp profile in JSON")]
    Json(#[from] serde_json::Error),
    /// It asks for something that does not exist, or contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// It asks for something that is not done here.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The kernel takes 4096 instructions.
    #[error("it is too long: it makes {0} instructions, and the kernel takes 4096")]
    TooLong(usize),
}

/// What is done about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
}

/// What is done about some calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    names: Vec<String>,
    action: Action,
    /// All of them must hold.
    conditions: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Condition {
    /// 0 to 5.
    argument: u8,
    comparison: Comparison,
    /// What it is compared with; for [`Comparison::Masked`] the mask.
    value: u64,
    /// For [`Comparison::Masked`] what is left of it.
    masked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    Masked,
}

#[cfg(test)]
mod tests;
