//! Runs the program as the kernel would, and compares it with a plain look into the table.

use super::program::interpret;
use super::*;

/// The answer to a call with one argument that counts.
fn run(program: &[Instruction], architecture: u32, number: u32, argument: u32) -> u32 {
    let arguments = [argument.into(), 0, 0, 0, 0, 0];
    interpret(program, architecture, number, arguments)
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fn number(name: &str, column: usize) -> u32 {
    let call = CALLS.iter().find(|call| call.0 == name).unwrap();
    call.1[column].into()
}

#[test]
fn every_number_of_every_architecture_gets_the_answer_of_the_table() {
    for capabilities in [
        CapabilitySet::DOCKER_DEFAULT,
        CapabilitySet::ALL,
        CapabilitySet::EMPTY,
    ] {
        let program = compile(capabilities);
        for &Architecture { audit, column, .. } in ARCHITECTURES {
            for nr in 0..=u32::from(HIGHEST) {
                let rule = CALLS.iter().find(|call| u32::from(call.1[column]) == nr);
                let expected = match rule.map(|call| answer(call.2, capabilities)) {
                    None => EPERM,
                    Some(Answer::Errno(errno)) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
                    Some(_) => ALLOW,
                };
                assert_eq!(
                    run(&program, audit, nr, 0),
                    expected,
                    "{rule:?} number {nr}"
                );
            }
        }
    }
}

#[test]
fn the_program_is_short() {
    let program = compile(CapabilitySet::DOCKER_DEFAULT);
    assert!(
        program.len() < 120 * ARCHITECTURES.len(),
        "{} instructions",
        program.len()
    );
}

#[test]
fn numbers_beyond_the_table_are_unknown_and_foreign_code_is_killed() {
    let program = compile(CapabilitySet::DOCKER_DEFAULT);
    let Architecture {
        audit: native,
        column,
        ..
    } = ARCHITECTURES[0];
    for nr in [
        u32::from(HIGHEST) + 1,
        600,
        0x4000_0000,
        0x4000_0000 | number("read", column),
    ] {
        assert_eq!(run(&program, native, nr, 0), ENOSYS, "{nr}");
    }
    assert_eq!(run(&program, 0xdead, 0, 0), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn arguments_decide_for_clone_personality_and_socket() {
    let program = compile(CapabilitySet::DOCKER_DEFAULT);
    let Architecture {
        audit: native,
        column,
        ..
    } = ARCHITECTURES[0];
    let ask = |name, argument| run(&program, native, number(name, column), argument);
    assert_eq!(ask("clone", libc::SIGCHLD as u32), ALLOW);
    for flag in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        assert_eq!(ask("clone", flag as u32), EPERM);
    }
    assert_eq!(ask("clone3", 0), ENOSYS);
    for (personality, answer) in [
        (0, ALLOW),
        (8, ALLOW),
        (0x2_0008, ALLOW),
        (0xffff_ffff, ALLOW),
    ] {
        assert_eq!(ask("personality", personality), answer);
    }
    assert_eq!(ask("personality", 0x004_0000), EPERM, "ADDR_NO_RANDOMIZE");
    assert_eq!(ask("socket", 2), ALLOW);
    assert_eq!(ask("socket", AF_VSOCK), EPERM);
}

#[test]
fn the_table_agrees_with_libc_and_has_no_number_twice() {
    let column = ARCHITECTURES[0].column;
    for (name, expected) in [
        ("read", libc::SYS_read),
        ("mount", libc::SYS_mount),
        ("openat2", libc::SYS_openat2),
        ("statx", libc::SYS_statx),
        ("unshare", libc::SYS_unshare),
        ("renameat2", libc::SYS_renameat2),
        ("prlimit64", libc::SYS_prlimit64),
    ] {
        assert_eq!(i64::from(number(name, column)), expected, "{name}");
    }
    for column in 0..3 {
        let mut numbers: Vec<u16> = CALLS
            .iter()
            .map(|call| call.1[column])
            .filter(|&n| n != NONE)
            .collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "column {column}");
        assert!(numbers.iter().all(|&n| n <= HIGHEST));
    }
    assert!(CALLS.is_sorted_by(|a, b| a.0 < b.0));
}
