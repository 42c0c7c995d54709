//! From a profile to the program that the kernel runs.

use super::{Action, Comparison, Condition, SeccompProfile};
use crate::seccomp::program::{
    ABOVE, AND, ARCHITECTURES, AT_LEAST, Architecture, EQUAL, FIRST_ARGUMENT, LOAD, RETURN,
    by_architecture, find, jump, ranges, statement,
};
use crate::seccomp::table::{CALLS, NONE};
use crate::sys::{Filter, Instruction};

/// Stands for the distance to the end of a rule until that is known.
const NO_MATCH: u8 = u8::MAX;

/// What is done about one number: the first case whose conditions hold, else what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict<'p> {
    cases: Vec<(&'p [Condition], Action)>,
    otherwise: Action,
}

impl SeccompProfile {
    /// Makes the program.
    pub(in crate::seccomp) fn compile(&self) -> Filter {
        let parts = ARCHITECTURES
            .iter()
            .filter(|architecture| {
                **architecture == ARCHITECTURES[0]
                    || self
                        .architectures
                        .iter()
                        .any(|name| name == architecture.name)
            })
            .map(|architecture| {
                let leaf = |verdict: &Verdict<'_>, part: &mut Vec<_>| {
                    verdict.emit(architecture.wide, part);
                };
                let part = find(&ranges(self.verdicts(*architecture)), &leaf);
                (*architecture, part)
            });
        Filter {
            program: by_architecture(parts),
            flags: self.flags,
        }
    }

    /// A verdict for each number up to the highest named, and one for all above.
    fn verdicts(&self, architecture: Architecture) -> Vec<Verdict<'_>> {
        let number = |name: &str| {
            let at = CALLS.binary_search_by(|call| call.0.cmp(name)).ok()?;
            Some(CALLS[at].1[architecture.column]).filter(|number| *number != NONE)
        };
        let default = Verdict {
            cases: Vec::new(),
            otherwise: self.default,
        };
        let mut verdicts = Vec::new();
        let mut decided = Vec::new();
        for rule in &self.rules {
            // What says the same as the default says nothing: so does libseccomp.
            let numbers = rule.names.iter().filter_map(|name| number(name));
            for number in numbers.map(usize::from) {
                if verdicts.len() <= number {
                    verdicts.resize(number + 1, default.clone());
                    decided.resize(number + 1, false);
                }
                if decided[number] || rule.action == self.default {
                    continue;
                }
                if rule.conditions.is_empty() {
                    decided[number] = true;
                    verdicts[number] = Verdict {
                        cases: Vec::new(),
                        otherwise: rule.action,
                    };
                } else {
                    verdicts[number].cases.push((&rule.conditions, rule.action));
                }
            }
        }
        verdicts.push(Verdict {
            cases: Vec::new(),
            otherwise: self.beyond(),
        });
        verdicts
    }

    /// What is done about numbers that the author of the profile cannot have known: as in runc, a C
    /// library that tries a newer call shall fall back to an older one, not give up.
    fn beyond(&self) -> Action {
        match self.default {
            Action::Allow | Action::Log | Action::Trace(_) => self.default,
            _ if self.rules.is_empty() => self.default,
            _ => Action::Errno(libc::ENOSYS as u16),
        }
    }
}

impl Verdict<'_> {
    fn emit(&self, wide: bool, program: &mut Vec<Instruction>) {
        for (conditions, action) in &self.cases {
            let mut case = Vec::new();
            for condition in *conditions {
                condition.emit(wide, &mut case);
            }
            case.push(action.emit());
            let length = case.len();
            for (at, instruction) in case.iter_mut().enumerate() {
                // Six conditions have some fifty instructions at most.
                let end = (length - at - 1) as u8;
                for distance in [&mut instruction.jt, &mut instruction.jf] {
                    if *distance == NO_MATCH {
                        *distance = end;
                    }
                }
            }
            program.append(&mut case);
        }
        program.push(self.otherwise.emit());
    }
}

impl Condition {
    /// Appends what goes on behind itself if the condition holds, and to [`NO_MATCH`] otherwise.
    fn emit(&self, wide: bool, program: &mut Vec<Instruction>) {
        let low = FIRST_ARGUMENT + 8 * u32::from(self.argument);
        let (value, high_value) = (self.value as u32, (self.value >> 32) as u32);
        let (masked, high_masked) = (self.masked as u32, (self.masked >> 32) as u32);
        if wide {
            program.push(statement(LOAD, low + 4));
            // What follows the upper half: two instructions on the lower one.
            match self.comparison {
                Comparison::Equal => program.push(jump(EQUAL, high_value, 0, NO_MATCH)),
                Comparison::NotEqual => program.push(jump(EQUAL, high_value, 0, 2)),
                Comparison::Greater | Comparison::GreaterOrEqual => program.extend([
                    jump(ABOVE, high_value, 3, 0),
                    jump(EQUAL, high_value, 0, NO_MATCH),
                ]),
                Comparison::Less | Comparison::LessOrEqual => program.extend([
                    jump(ABOVE, high_value, NO_MATCH, 0),
                    jump(EQUAL, high_value, 0, 2),
                ]),
                Comparison::Masked => program.extend([
                    statement(AND, high_value),
                    jump(EQUAL, high_masked, 0, NO_MATCH),
                ]),
            }
        }
        program.push(statement(LOAD, low));
        match self.comparison {
            Comparison::Equal => program.push(jump(EQUAL, value, 0, NO_MATCH)),
            Comparison::NotEqual => program.push(jump(EQUAL, value, NO_MATCH, 0)),
            Comparison::Greater => program.push(jump(ABOVE, value, 0, NO_MATCH)),
            Comparison::GreaterOrEqual => program.push(jump(AT_LEAST, value, 0, NO_MATCH)),
            Comparison::Less => program.push(jump(AT_LEAST, value, NO_MATCH, 0)),
            Comparison::LessOrEqual => program.push(jump(ABOVE, value, NO_MATCH, 0)),
            Comparison::Masked => {
                program.extend([statement(AND, value), jump(EQUAL, masked, 0, NO_MATCH)]);
            }
        }
    }
}

impl Action {
    fn emit(self) -> Instruction {
        let answer = match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
            Self::Log => libc::SECCOMP_RET_LOG,
        };
        statement(RETURN, answer)
    }
}
