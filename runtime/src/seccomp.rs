//! The system call filter: Docker's default profile as a classic BPF program.
//!
//! The numbers of an architecture become a line of ranges with equal answers, and the line becomes
//! a binary tree: some seven comparisons a call and about a hundred instructions for an architecture,
//! where a chain with one comparison for each name has four hundred. The kernel's work at installation and
//! at each call is linear in what is executed.

mod profile;
mod program;
mod table;

use crate::spec::{CapabilitySet, Seccomp, Security};
use crate::sys::{Filter, Instruction};
pub use profile::{ProfileError, SeccompProfile};
use program::{
    ANY_BIT, ARCHITECTURES, Architecture, EQUAL, FIRST_ARGUMENT, LOAD, RETURN, by_architecture,
    find, jump, ranges, statement,
};
use table::{CALLS, HIGHEST, NONE};

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Always,
    Never,
    /// With at least one capability of the set.
    AnyOf(u64),
    /// Without new namespaces, unless `CAP_SYS_ADMIN` is there.
    PlainClone,
    /// The kernel pretends not to know it, so that libc falls back to `clone`, whose flags can be
    /// checked; allowed with `CAP_SYS_ADMIN`.
    NoSuchCall,
    /// For the personalities that only change the looks of the system.
    Personality,
    /// Not for virtual machine sockets, which reach beyond the network namespace.
    NotVsock,
}

/// What the filter answers to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(u16),
    PlainClone,
    Personality,
    NotVsock,
}

const CAP_SYS_ADMIN: u64 = 1 << 21;
/// `CLONE_NEW*` except the time namespace, whose bit means something else to `clone`.
const NAMESPACES: u32 = 0x7e02_0000;
/// The default, 32 bit, each also with `UNAME26`, and the question for the current one.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u32 = 40;

/// Returns the filter that a sandbox asks for, if any.
pub(crate) fn filter_of(security: &Security) -> Option<Filter> {
    match &security.seccomp {
        // Asked for by name: it holds for privileged sandboxes, too.
        Seccomp::Profile(profile) => Some(profile.compile()),
        Seccomp::Default if !security.privileged => Some(Filter {
            program: compile(security.capabilities),
            flags: 0,
        }),
        Seccomp::Default | Seccomp::Unconfined => None,
    }
}

fn compile(capabilities: CapabilitySet) -> Vec<Instruction> {
    by_architecture(ARCHITECTURES.iter().map(|architecture| {
        let answers = answers(capabilities, *architecture);
        let leaf = |answer: &Answer, part: &mut Vec<_>| leaf(*answer, part);
        (*architecture, find(&answers, &leaf))
    }))
}

/// First number and answer of each range, ascending, covering all numbers.
fn answers(capabilities: CapabilitySet, architecture: Architecture) -> Vec<(u32, Answer)> {
    // The last is for all above. The x32 numbers (bit 30) are there, too: as on a kernel without x32.
    let mut answers = [Answer::Errno(libc::EPERM as u16); HIGHEST as usize + 2];
    answers[usize::from(HIGHEST) + 1] = Answer::Errno(libc::ENOSYS as u16);
    for (_, numbers, rule) in CALLS {
        let number = numbers[architecture.column];
        if number != NONE {
            answers[usize::from(number)] = answer(*rule, capabilities);
        }
    }
    ranges(answers)
}

fn answer(rule: Rule, capabilities: CapabilitySet) -> Answer {
    let admin = capabilities.0 & CAP_SYS_ADMIN != 0;
    match rule {
        Rule::Always => Answer::Allow,
        Rule::AnyOf(set) if capabilities.0 & set != 0 => Answer::Allow,
        Rule::AnyOf(_) | Rule::Never => Answer::Errno(libc::EPERM as u16),
        Rule::PlainClone | Rule::NoSuchCall if admin => Answer::Allow,
        Rule::PlainClone => Answer::PlainClone,
        Rule::NoSuchCall => Answer::Errno(libc::ENOSYS as u16),
        Rule::Personality => Answer::Personality,
        Rule::NotVsock => Answer::NotVsock,
    }
}

fn leaf(answer: Answer, program: &mut Vec<Instruction>) {
    let allow = statement(RETURN, libc::SECCOMP_RET_ALLOW);
    let deny = |errno: u16| statement(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(errno));
    let not_permitted = deny(libc::EPERM as u16);
    match answer {
        Answer::Allow => program.push(allow),
        Answer::Errno(errno) => program.push(deny(errno)),
        Answer::PlainClone => program.extend([
            statement(LOAD, FIRST_ARGUMENT),
            jump(ANY_BIT, NAMESPACES, 1, 0),
            allow,
            not_permitted,
        ]),
        Answer::NotVsock => program.extend([
            statement(LOAD, FIRST_ARGUMENT),
            jump(EQUAL, AF_VSOCK, 1, 0),
            allow,
            not_permitted,
        ]),
        Answer::Personality => {
            program.push(statement(LOAD, FIRST_ARGUMENT));
            let count = PERSONALITIES.len() as u8;
            for (index, personality) in (0..count).zip(PERSONALITIES) {
                program.push(jump(EQUAL, personality, count - index, 0));
            }
            program.extend([not_permitted, allow]);
        }
    }
}

#[cfg(test)]
mod tests;
