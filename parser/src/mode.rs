//! `--chmod` and `--chown`.

use nom::branch::alt;
use nom::bytes::complete::take_while1;
use nom::character::complete::{char, one_of};
use nom::combinator::{all_consuming, map, value};
use nom::multi::{fold_many0, many0, many1, separated_list1};
use nom::{IResult, Parser};

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;

/// What `a`, or nothing before the operator, stands for.
const EVERYONE: u32 = SET_USER | SET_GROUP | USER | GROUP | OTHER;

/// A mode of `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChmodMode {
    /// Octal digits, at most 07777.
    Octal(u32),
    /// A list as in chmod(1).
    Symbolic(SymbolicMode),
}

/// A symbolic mode such as `u=rwX,go=rX`, umask 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolicMode {
    clauses: Vec<Clause>,
}

/// `ugo` and the operations on them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    /// Bits that the clause may touch; 0 when no class is named.
    who: u32,
    operations: Vec<Operation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Operation {
    operator: char,
    permissions: Vec<Permission>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Bits(u32),
    /// `s`
    SetId,
    /// `t`
    Sticky,
    /// `X`: execute for directories and what is executable already.
    Search,
    /// The present permissions of a class, moved to the others.
    Copy(u32),
}

impl ChmodMode {
    /// Parses an expanded `--chmod` value. The error is `BuildKit`'s text.
    pub fn parse(value: &str) -> Result<Self, String> {
        let octal = Some(value).filter(|value| !value.starts_with('+'));
        match octal.and_then(|digits| u32::from_str_radix(digits, 8).ok()) {
            Some(mode) if mode <= 0o7777 => return Ok(Self::Octal(mode)),
            None if !value.starts_with(|c: char| c.is_ascii_digit()) => {}
            _ => {
                return Err(format!(
                    "invalid chmod parameter: '{value}'. it should be octal string and between 0 \
                     and 07777"
                ));
            }
        }
        let clauses: IResult<&str, Vec<Clause>> =
            all_consuming(separated_list1(char(','), clause)).parse(value);
        match clauses {
            Ok((_, clauses)) => Ok(Self::Symbolic(SymbolicMode { clauses })),
            Err(_) => Err("invalid syntax".to_owned()),
        }
    }

    /// Returns the permission bits (07777) that a file with `mode` gets. Not for symbolic links.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(list) => list.apply(mode & 0o7777, is_dir),
        }
    }
}

impl SymbolicMode {
    fn apply(&self, before: u32, is_dir: bool) -> u32 {
        let searchable = is_dir || before & EXECUTE != 0;
        let mut mode = before;
        for clause in &self.clauses {
            for operation in &clause.operations {
                mode = operation.apply(mode, clause.who, searchable);
            }
        }
        mode
    }
}

impl Operation {
    fn apply(&self, mut mode: u32, who: u32, searchable: bool) -> u32 {
        // Set-id and sticky mean nothing for "other" alone.
        let special = who == 0 || who & !OTHER != 0;
        let mut mask = if who == 0 { EVERYONE } else { who };
        let mut bits = 0;
        for permission in &self.permissions {
            match *permission {
                Permission::Bits(more) => bits |= more,
                Permission::SetId if special => bits |= SET_USER | SET_GROUP,
                Permission::Sticky if special => {
                    mask |= STICKY;
                    bits |= STICKY;
                }
                // Taking away does not ask whether it is there.
                Permission::Search if searchable || self.operator == '-' => bits |= EXECUTE,
                Permission::SetId | Permission::Sticky | Permission::Search => {}
                Permission::Copy(class) => {
                    let shift = class.trailing_zeros();
                    let three = (mode & class) >> shift;
                    bits |= three << 6 | three << 3 | three;
                }
            }
        }
        let bits = bits & mask;
        match self.operator {
            '+' => mode |= bits,
            '-' => mode &= !bits,
            _ => {
                // Copying a class leaves set-id alone, as in the reference implementation.
                let copies = self
                    .permissions
                    .iter()
                    .all(|p| matches!(p, Permission::Copy(_)));
                let cleared = if copies && !self.permissions.is_empty() {
                    mask & 0o777
                } else {
                    mask
                };
                mode = mode & !cleared | bits;
            }
        }
        mode
    }
}

fn clause(input: &str) -> IResult<&str, Clause> {
    let class = alt((
        value(EVERYONE, char('a')),
        value(SET_USER | USER, char('u')),
        value(SET_GROUP | GROUP, char('g')),
        value(OTHER, char('o')),
    ));
    map(
        (
            fold_many0(class, || 0, |who, class| who | class),
            many1(operation),
        ),
        |(who, operations)| Clause { who, operations },
    )
    .parse(input)
}

fn operation(input: &str) -> IResult<&str, Operation> {
    let permission = alt((
        value(Permission::Bits(READ), char('r')),
        value(Permission::Bits(WRITE), char('w')),
        value(Permission::Bits(EXECUTE), char('x')),
        value(Permission::Search, char('X')),
        value(Permission::SetId, char('s')),
        value(Permission::Sticky, char('t')),
        value(Permission::Copy(USER), char('u')),
        value(Permission::Copy(GROUP), char('g')),
        value(Permission::Copy(OTHER), char('o')),
    ));
    map(
        (one_of("+-="), many0(permission)),
        |(operator, permissions)| Operation {
            operator,
            permissions,
        },
    )
    .parse(input)
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    /// A name to look up in the destination stage.
    Name(String),
    /// A number, used as it is.
    Id(u32),
}

impl NameOrId {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "root" {
            return Ok(Self::Id(0));
        }
        let digits: IResult<&str, &str> =
            all_consuming(take_while1(|c: char| c.is_ascii_digit())).parse(text);
        if digits.is_ok() {
            return match text.parse() {
                Ok(id) => Ok(Self::Id(id)),
                Err(_) => Err(format!("invalid user index: {text}")),
            };
        }
        if let Some(number) = text.strip_prefix('-')
            && number.parse::<u32>().is_ok()
        {
            return Err(format!("invalid user index: {text}"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// An expanded `--chown` value, `user[:group]`.
///
/// A user number without a group also gives the group; a user name gives the group of its passwd
/// entry; a group alone has user 0. The caller does this, since it has the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChownSpec {
    /// User, absent in `:group`.
    pub user: Option<NameOrId>,
    /// Group, absent in `user`.
    pub group: Option<NameOrId>,
}

impl ChownSpec {
    /// Parses an expanded `--chown` value.
    pub fn parse(value: &str) -> Result<Self, String> {
        let (user, group) = match value.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (value, None),
        };
        let user = Some(user)
            .filter(|user| !user.is_empty())
            .map(NameOrId::parse)
            .transpose()?;
        Ok(Self {
            user,
            group: group.map(NameOrId::parse).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: &str, before: u32, is_dir: bool, after: u32) {
        let parsed = ChmodMode::parse(mode).unwrap_or_else(|error| panic!("{mode}: {error}"));
        let applied = parsed.apply(before, is_dir);
        assert_eq!(
            applied, after,
            "{mode} on {before:o} gave {applied:o}, wanted {after:o}"
        );
    }

    #[test]
    fn octal_modes() {
        check("751", 0o644, false, 0o751);
        check("04755", 0o644, false, 0o4755);
        check("0", 0o644, false, 0);
        for value in ["999", "17777", "7x", "0o755", "8"] {
            let error = ChmodMode::parse(value).unwrap_err();
            assert!(
                error.starts_with(&format!("invalid chmod parameter: '{value}'.")),
                "{error}"
            );
        }
    }

    #[test]
    fn symbolic_modes() {
        check("u=rwX,go=rX", 0o600, false, 0o644);
        check("u=rwX,go=rX", 0o700, true, 0o755);
        check("u=rwX,go=rX", 0o700, false, 0o755);
        check("+x", 0o644, false, 0o755);
        check("go-w", 0o666, false, 0o644);
        check("a=r,u+w", 0o777, false, 0o644);
        check("=rw,+X", 0o755, false, 0o777);
        check("=rw,+X", 0o600, false, 0o666);
        check("go=", 0o777, false, 0o700);
        check("g=u-w", 0o740, false, 0o750);
        check("go=u", 0o750, false, 0o777);
        check("u+s,g+s", 0o755, false, 0o6755);
        check("u=rwx", 0o4755, false, 0o755);
        check("+t", 0o755, true, 0o1755);
        check("o+s", 0o755, false, 0o755);
        check("-X", 0o755, false, 0o644);
        check("g=u", 0o2750, false, 0o2770);
        check("u+r-w", 0o200, false, 0o400);
        for value in ["foo", "", "u", "u=rwz", "+x,", "+755", ",+x", "u=r w"] {
            assert_eq!(
                ChmodMode::parse(value),
                Err("invalid syntax".to_owned()),
                "{value}"
            );
        }
    }

    #[test]
    fn owners() {
        let name = |name: &str| Some(NameOrId::Name(name.to_owned()));
        let id = |id| Some(NameOrId::Id(id));
        for (value, user, group) in [
            ("5", id(5), None),
            ("5:6", id(5), id(6)),
            ("app", name("app"), None),
            ("app:staff", name("app"), name("staff")),
            (":staff", None, name("staff")),
            ("root", id(0), None),
            ("7:root", id(7), id(0)),
            ("12ab", name("12ab"), None),
            ("4294967295", id(u32::MAX), None),
        ] {
            assert_eq!(
                ChownSpec::parse(value),
                Ok(ChownSpec { user, group }),
                "{value}"
            );
        }
        assert_eq!(
            ChownSpec::parse("-1"),
            Err("invalid user index: -1".to_owned())
        );
        assert!(ChownSpec::parse("4294967296").is_err());
    }
}
