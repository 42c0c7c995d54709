//! The system call filter: Docker's default profile as a classic BPF program.
//!
//! The numbers of an architecture become a line of ranges with equal answers, and the line becomes
//! a binary tree: some seven comparisons a call and about a hundred instructions in all, where a
//! chain with one comparison for each name has four hundred. The kernel's work at installation and
//! at each call is linear in what is executed.

mod table;

use crate::spec::{CapabilitySet, Seccomp, Security};
use crate::sys::Instruction;
use table::{CALLS, HIGHEST, NONE};

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Always,
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

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`, for little-endian machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// `AUDIT_ARCH_*` and the column of the table, for each architecture whose programs run here.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[(u32, usize)] = &[(0xc000_003e, 0), (0x4000_0003, 1)];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[(u32, usize)] = &[(0xc000_00b7, 2)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the system call filter needs the numbers of this architecture");

/// Returns the filter that a sandbox asks for, if any.
pub(crate) fn filter_of(security: &Security) -> Option<Vec<Instruction>> {
    if security.privileged || security.seccomp == Seccomp::Unconfined {
        return None;
    }
    Some(compile(security.capabilities))
}

fn compile(capabilities: CapabilitySet) -> Vec<Instruction> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for &(architecture, column) in ARCHITECTURES {
        let mut body = vec![statement(LOAD, NUMBER)];
        tree(&ranges(capabilities, column), &mut body);
        program.push(jump(EQUAL, architecture, 1, 0));
        program.push(statement(JUMP, body.len() as u32));
        program.append(&mut body);
    }
    // Code of another architecture would be judged by the wrong numbers.
    program.push(statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// First number and answer of each range, ascending, covering all numbers.
fn ranges(capabilities: CapabilitySet, column: usize) -> Vec<(u32, Answer)> {
    let mut answers = [Answer::Errno(libc::EPERM as u16); HIGHEST as usize + 1];
    for (_, numbers, rule) in CALLS {
        if numbers[column] != NONE {
            answers[usize::from(numbers[column])] = answer(*rule, capabilities);
        }
    }
    let mut ranges: Vec<(u32, Answer)> = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        if ranges.last().is_none_or(|last| last.1 != answer) {
            ranges.push((number as u32, answer));
        }
    }
    // The x32 numbers (bit 30) are above, too: as on a kernel without x32.
    ranges.push((u32::from(HIGHEST) + 1, Answer::Errno(libc::ENOSYS as u16)));
    ranges
}

fn answer(rule: Rule, capabilities: CapabilitySet) -> Answer {
    let admin = capabilities.0 & CAP_SYS_ADMIN != 0;
    match rule {
        Rule::Always => Answer::Allow,
        Rule::AnyOf(set) if capabilities.0 & set != 0 => Answer::Allow,
        Rule::AnyOf(_) => Answer::Errno(libc::EPERM as u16),
        Rule::PlainClone | Rule::NoSuchCall if admin => Answer::Allow,
        Rule::PlainClone => Answer::PlainClone,
        Rule::NoSuchCall => Answer::Errno(libc::ENOSYS as u16),
        Rule::Personality => Answer::Personality,
        Rule::NotVsock => Answer::NotVsock,
    }
}

/// Appends a program for a part of the line; the number is in the accumulator.
fn tree(ranges: &[(u32, Answer)], program: &mut Vec<Instruction>) {
    let [(_, answer)] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let mut lower = Vec::new();
        tree(left, &mut lower);
        // Conditional jumps reach 255 instructions; plain ones any number.
        if let Ok(distance) = u8::try_from(lower.len()) {
            program.push(jump(AT_LEAST, right[0].0, distance, 0));
        } else {
            program.push(jump(AT_LEAST, right[0].0, 0, 1));
            program.push(statement(JUMP, lower.len() as u32));
        }
        program.append(&mut lower);
        return tree(right, program);
    };
    leaf(*answer, program);
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

fn statement(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests;
