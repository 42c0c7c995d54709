//! What a file is to the kernel, by how it begins.

use rbuild_parser::Platform;

/// What a file is to the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A script and the program that its first line names.
    Script(String),
    /// A program, the platform it is for, and its loader.
    Program {
        machine: String,
        interpreter: Option<String>,
    },
    /// A file without content.
    Empty,
    /// Neither a program nor a script.
    Other,
    /// A program that cannot be read.
    Unknown,
}

/// Whether a file that begins so is a program for this machine that needs no loader.
pub(crate) fn is_static_program(head: &[u8]) -> bool {
    let host = Platform::host().architecture;
    matches!(kind_of(head), Kind::Program { machine, interpreter: None } if machine == host)
}

pub(super) fn kind_of(head: &[u8]) -> Kind {
    if head.is_empty() {
        return Kind::Empty;
    }
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let first = line.trim_start_matches([' ', '\t']);
        let program = first.split([' ', '\t']).next().unwrap_or_default();
        return Kind::Script(program.to_owned());
    }
    if !head.starts_with(b"\x7fELF") {
        return Kind::Other;
    }
    elf(head).unwrap_or(Kind::Unknown)
}

/// Reads the header of an ELF file (`elf(5)`), little or big endian, 32 or 64 bits.
fn elf(head: &[u8]) -> Option<Kind> {
    let wide = *head.get(4)? == 2;
    let little = *head.get(5)? == 1;
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if little {
            bytes.iter().rev().fold(0, add)
        } else {
            bytes.iter().fold(0, add)
        })
    };
    let machine = match (number(18, 2)?, little) {
        (3, _) => "386",
        (8, _) => "mips",
        (20 | 21, false) => "ppc64",
        (21, true) => "ppc64le",
        (22, _) => "s390x",
        (40, _) => "arm",
        (62, _) => "amd64",
        (183, _) => "arm64",
        (243, _) => "riscv64",
        (258, _) => "loong64",
        _ => "another processor",
    };
    let (table, size, count) = if wide {
        (number(32, 8)?, number(54, 2)?, number(56, 2)?)
    } else {
        (number(28, 4)?, number(42, 2)?, number(44, 2)?)
    };
    let interpreter = (0..count.min(64)).find_map(|index| {
        let at = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        // PT_INTERP
        (number(at, 4)? == 3).then_some(())?;
        let (offset, length) = if wide {
            (number(at + 8, 8)?, number(at + 32, 8)?)
        } else {
            (number(at + 4, 4)?, number(at + 16, 4)?)
        };
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let text = head.get(start..end)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    });
    Some(Kind::Program {
        machine: machine.to_owned(),
        interpreter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_tell_their_platform_and_loader() {
        let host = std::fs::read("/proc/self/exe").unwrap();
        let Kind::Program { machine, .. } = kind_of(&host[..4096]) else {
            panic!("no program");
        };
        assert_eq!(machine, Platform::host().architecture);
        assert_eq!(
            kind_of(b"#!/bin/bash -e\nx"),
            Kind::Script("/bin/bash".into())
        );
        assert_eq!(kind_of(b"#!/bin/sh\r\nx"), Kind::Script("/bin/sh\r".into()));
        assert_eq!(kind_of(b""), Kind::Empty);
        assert_eq!(kind_of(b"echo hi\n"), Kind::Other);
        // Any damage is no panic.
        for length in 0..256 {
            kind_of(&host[..length]);
        }
    }
}
