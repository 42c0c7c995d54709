//! Users and groups of an image, from its own `/etc/passwd` and `/etc/group`.
//!
//! Read through [`RootView`], so no link in the image can lead to a file of this machine, and with
//! a limit, so no huge or endless file can be put there (CVE-2024-9676).

use rbuild_cache::{RootView, ViewError};

/// Larger passwd and group files are refused.
const FILE_LIMIT: u64 = 10 * 1024 * 1024;

/// Highest user or group id that is accepted: the kernel's `(uid_t) -1` and everything that would
/// be negative as a signed number is refused (CVE-2024-40635).
const HIGHEST_ID: u32 = i32::MAX as u32;

/// One line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// One line of group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of further members.
    pub members: Vec<String>,
}

/// The accounts of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<UserEntry>,
    groups: Vec<GroupEntry>,
}

/// The files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// Reading failed.
    #[error("could not read /etc/passwd or /etc/group of the image")]
    View(#[from] ViewError),
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
    /// `HOME`.
    pub home: String,
}

/// Why a `USER` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// No such group name.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that is no id.
    #[error("invalid user or group id {0}: it must be a whole number from 0 to {HIGHEST_ID}")]
    InvalidId(String),
    /// The files could not be read.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}

impl Accounts {
    /// Reads both files; a missing one is empty, malformed lines are passed over.
    pub fn read(view: &RootView) -> Result<Accounts, AccountsError> {
        let read = |path: &str| -> Result<String, ViewError> {
            let bytes = view.read_small(path, FILE_LIMIT)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Accounts::parse(&read("/etc/passwd")?, &read("/etc/group")?))
    }

    /// Parses the text of both files.
    pub fn parse(passwd: &str, group: &str) -> Accounts {
        let users = passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some(UserEntry {
                name: (*fields.first()?).to_owned(),
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: fields.get(5).copied().unwrap_or_default().to_owned(),
            })
        });
        let groups = group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let members = fields.get(3).copied().unwrap_or_default();
            Some(GroupEntry {
                name: (*fields.first()?).to_owned(),
                gid: fields.get(2)?.parse().ok()?,
                members: members
                    .split(',')
                    .filter(|member| !member.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        });
        Accounts {
            users: users.collect(),
            groups: groups.collect(),
        }
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&UserEntry> {
        self.users.iter().find(|user| user.name == name)
    }

    /// A group's id by name.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups
            .iter()
            .find(|group| group.name == name)
            .map(|group| group.gid)
    }

    /// Who `name|uid[:group|gid]` is; empty is root.
    ///
    /// A number that is in passwd takes its group, further groups and home from there. A group
    /// that is given is the only one.
    pub fn resolve(&self, spec: &str) -> Result<ResolvedUser, UserError> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let entry = self.find_user(user)?;
        let (uid, mut gid) = match (&entry, user) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, "") => (0, 0),
            (None, number) => (parse_id(number)?, 0),
        };
        let mut groups = Vec::new();
        if let Some(group) = group {
            gid = match self.group(group) {
                Some(gid) => gid,
                None if is_number(group) => parse_id(group)?,
                None => return Err(UserError::UnknownGroup(group.to_owned())),
            };
        } else if let Some(entry) = &entry {
            groups.extend(
                self.groups
                    .iter()
                    .filter(|group| group.members.contains(&entry.name))
                    .map(|group| group.gid),
            );
        }
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        let home = entry
            .map(|entry| entry.home.clone())
            .filter(|home| !home.is_empty());
        let home = home.unwrap_or_else(|| {
            if uid == 0 && user.is_empty() {
                "/root"
            } else {
                "/"
            }
            .to_owned()
        });
        Ok(ResolvedUser {
            uid,
            gid,
            groups,
            home,
        })
    }

    fn find_user(&self, user: &str) -> Result<Option<&UserEntry>, UserError> {
        if user.is_empty() {
            return Ok(self.users.iter().find(|entry| entry.uid == 0));
        }
        if let Some(entry) = self.user(user) {
            return Ok(Some(entry));
        }
        if is_number(user) {
            let uid = parse_id(user)?;
            return Ok(self.users.iter().find(|entry| entry.uid == uid));
        }
        if user.starts_with('-') && is_number(&user[1..]) || user.starts_with("0x") {
            return Err(UserError::InvalidId(user.to_owned()));
        }
        if user == "root" {
            return Ok(None.or(Some(&ROOT)));
        }
        Err(UserError::UnknownUser(user.to_owned()))
    }
}

/// Root of an image without a passwd file.
static ROOT: UserEntry = UserEntry {
    name: String::new(),
    uid: 0,
    gid: 0,
    home: String::new(),
};

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_id(text: &str) -> Result<u32, UserError> {
    text.parse()
        .ok()
        .filter(|id| *id <= HIGHEST_ID)
        .ok_or_else(|| UserError::InvalidId(text.to_owned()))
}

/// Looks up `name|uid[:group|gid]` in the files of a root file system.
pub fn lookup_user(view: &RootView, spec: &str) -> Result<ResolvedUser, UserError> {
    Accounts::read(view)?.resolve(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002:app:/home/app:/bin/sh\n",
            "root:x:0:\napp:x:1002:\nstaff:x:50:app\n",
        )
    }

    #[test]
    fn users_resolve_as_observed() {
        let resolve = |spec: &str| accounts().resolve(spec).unwrap();
        let user = resolve("app");
        assert_eq!(
            (user.uid, user.gid, user.home.as_str()),
            (1001, 1002, "/home/app")
        );
        assert_eq!(user.groups, [50, 1002]);
        assert_eq!(resolve("1001"), user);
        let user = resolve("4242");
        assert_eq!((user.uid, user.gid, user.home.as_str()), (4242, 0, "/"));
        assert_eq!(user.groups, [0]);
        let user = resolve("app:staff");
        assert_eq!((user.gid, user.groups), (50, vec![50]));
        assert_eq!(resolve("55:66").groups, [66]);
        assert_eq!(resolve("").home, "/root");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for spec in ["2147483648", "4294967295", "4294967296", "-1", "0x0"] {
            assert!(
                matches!(accounts().resolve(spec), Err(UserError::InvalidId(_))),
                "{spec} is refused"
            );
        }
        assert!(matches!(
            accounts().resolve("nope"),
            Err(UserError::UnknownUser(_))
        ));
    }
}
