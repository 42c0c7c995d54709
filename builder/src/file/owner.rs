//! `--chown` and the owner of WORKDIR: names looked up in the stage's own passwd and group files.
//!
//! Language reference, section 5.3.

use rbuild_cache::RootView;
use rbuild_parser::{ChownSpec, NameOrId};

use crate::error::BuildError;
use crate::users::{Accounts, AccountsError};

/// A resolved owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Whether a name was given that is in no file, and root was taken.
    pub unknown_name: bool,
}

/// Resolves `user[:group]` against the files of a stage; empty means root.
///
/// A user number without group takes the same number as group; a user name takes its group from
/// passwd; an unknown name is root, unless the stage has no files at all to look in.
pub(crate) fn resolve_owner(
    view: &RootView,
    spec: &str,
    empty_root: bool,
) -> Result<Owner, BuildError> {
    let mut owner = Owner {
        uid: 0,
        gid: 0,
        unknown_name: false,
    };
    if spec.is_empty() {
        return Ok(owner);
    }
    let parsed = ChownSpec::parse(spec).map_err(BuildError::user)?;
    let names_needed = [&parsed.user, &parsed.group]
        .into_iter()
        .flatten()
        .any(|part| matches!(part, NameOrId::Name(name) if name != "root"));
    if names_needed && empty_root {
        return Err(
            BuildError::user("invalid user index: -1").with_help(format!(
                "`{spec}` names a user or group, and there is no /etc/passwd to look in here \
             (FROM scratch or --link): use numbers"
            )),
        );
    }
    let accounts = if names_needed {
        Accounts::read(view)
            .map_err(|error: AccountsError| BuildError::io("could not look up the owner", &error))?
    } else {
        Accounts::default()
    };
    match &parsed.user {
        None => {}
        Some(NameOrId::Id(id)) => (owner.uid, owner.gid) = (*id, *id),
        Some(NameOrId::Name(name)) if name == "root" => {}
        Some(NameOrId::Name(name)) => match accounts.user(name) {
            Some(user) => (owner.uid, owner.gid) = (user.uid, user.gid),
            None => owner.unknown_name = true,
        },
    }
    match &parsed.group {
        None => {}
        Some(NameOrId::Id(id)) => owner.gid = *id,
        Some(NameOrId::Name(name)) if name == "root" => owner.gid = 0,
        Some(NameOrId::Name(name)) => {
            let known = accounts.group(name);
            owner.gid = known.unwrap_or(0);
            owner.unknown_name |= known.is_none();
        }
    }
    Ok(owner)
}
