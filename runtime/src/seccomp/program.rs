//! Classic BPF: the instructions, and the tree that finds what holds for a number.

use crate::sys::Instruction;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
pub(super) const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`, for little-endian machines.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const FIRST_ARGUMENT: u32 = 16;

/// An architecture whose programs run on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Architecture {
    /// `AUDIT_ARCH_*`.
    pub(super) audit: u32,
    /// Column of the table.
    pub(super) column: usize,
    /// Its arguments have 64 bits.
    pub(super) wide: bool,
    /// As profiles have it.
    pub(super) name: &'static str,
}

/// The native one first.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        audit: 0xc000_003e,
        column: 0,
        wide: true,
        name: "SCMP_ARCH_X86_64",
    },
    Architecture {
        audit: 0x4000_0003,
        column: 1,
        wide: false,
        name: "SCMP_ARCH_X86",
    },
];
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    audit: 0xc000_00b7,
    column: 2,
    wide: true,
    name: "SCMP_ARCH_AARCH64",
}];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the system call filter needs the numbers of this architecture");

pub(super) fn statement(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Puts a program together from the parts for each architecture, which find the number in the
/// accumulator and return.
pub(super) fn by_architecture(
    parts: impl IntoIterator<Item = (Architecture, Vec<Instruction>)>,
) -> Vec<Instruction> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for (architecture, part) in parts {
        program.push(jump(EQUAL, architecture.audit, 1, 0));
        program.push(statement(JUMP, part.len() as u32 + 1));
        program.push(statement(LOAD, NUMBER));
        program.extend(part);
    }
    // Code of another architecture would be judged by the wrong numbers.
    program.push(statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// First number and answer of each range of equal answers.
pub(super) fn ranges<A: PartialEq>(answers: impl IntoIterator<Item = A>) -> Vec<(u32, A)> {
    let mut ranges: Vec<(u32, A)> = Vec::new();
    for (number, answer) in (0..).zip(answers) {
        if ranges.last().is_none_or(|last| last.1 != answer) {
            ranges.push((number, answer));
        }
    }
    ranges
}

/// Makes the program that finds the range of a number in the accumulator. `leaf` appends what is done
/// for an answer.
///
/// Of ranges with the same answer all jump to the same instructions, if those are in reach: a
/// conditional jump goes 255 instructions far. What the kernel does when a filter is installed costs
/// as much as the filter is long.
pub(super) fn find<A: PartialEq>(
    ranges: &[(u32, A)],
    leaf: &impl Fn(&A, &mut Vec<Instruction>),
) -> Vec<Instruction> {
    let comparisons = ranges.len().saturating_sub(1);
    let mut ends: Vec<(&A, usize)> = Vec::new();
    let mut bodies = Vec::new();
    for (_, answer) in ranges {
        if !ends.iter().any(|end| end.0 == answer) {
            ends.push((answer, comparisons + bodies.len()));
            leaf(answer, &mut bodies);
        }
    }
    let mut program = Vec::with_capacity(comparisons + bodies.len());
    if comparisons + bodies.len() > usize::from(u8::MAX) {
        long_tree(ranges, leaf, &mut program);
        return program;
    }
    short_tree(ranges, &ends, &mut program);
    program.append(&mut bodies);
    program
}

/// Appends comparisons that jump to the ends.
fn short_tree<A: PartialEq>(
    ranges: &[(u32, A)],
    ends: &[(&A, usize)],
    program: &mut Vec<Instruction>,
) {
    if ranges.len() < 2 {
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let next = program.len() + 1;
    // A tree of some ranges has one comparison less than ranges; a single range is its end.
    let distance = |side: &[(u32, A)], behind: usize| match side {
        [(_, answer)] => {
            let end = ends.iter().find(|end| end.0 == answer);
            end.map_or(0, |end| end.1 - next)
        }
        _ => behind,
    };
    // The caller has seen that all is in reach.
    let below = distance(left, 0) as u8;
    let above = distance(right, left.len() - 1) as u8;
    program.push(jump(AT_LEAST, right[0].0, above, below));
    short_tree(left, ends, program);
    short_tree(right, ends, program);
}

/// Appends a program for a part of the line of ranges, each with instructions of its own.
fn long_tree<A>(
    ranges: &[(u32, A)],
    leaf: &impl Fn(&A, &mut Vec<Instruction>),
    program: &mut Vec<Instruction>,
) {
    let [(_, answer)] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let mut lower = Vec::new();
        long_tree(left, leaf, &mut lower);
        // Conditional jumps reach 255 instructions; plain ones any number.
        if let Ok(distance) = u8::try_from(lower.len()) {
            program.push(jump(AT_LEAST, right[0].0, distance, 0));
        } else {
            program.push(jump(AT_LEAST, right[0].0, 0, 1));
            program.push(statement(JUMP, lower.len() as u32));
        }
        program.append(&mut lower);
        return long_tree(right, leaf, program);
    };
    leaf(answer, program);
}

/// Runs a program as the kernel would: the few instructions that are emitted here.
#[cfg(test)]
pub(super) fn interpret(
    program: &[Instruction],
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            LOAD => {
                accumulator = match k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    FIRST_ARGUMENT..64 => {
                        let offset = (k - FIRST_ARGUMENT) as usize;
                        (arguments[offset / 8] >> (offset % 8 * 8)) as u32
                    }
                    other => panic!("load of {other}"),
                }
            }
            AND => accumulator &= k,
            EQUAL => branch(accumulator == k),
            AT_LEAST => branch(accumulator >= k),
            ABOVE => branch(accumulator > k),
            ANY_BIT => branch(accumulator & k != 0),
            JUMP => at += k as usize,
            RETURN => return k,
            other => panic!("instruction {other}"),
        }
    }
}
