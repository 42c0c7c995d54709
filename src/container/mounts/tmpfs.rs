//! `--tmpfs`, and the options of directories in memory.

use rbuild_parser::parse_size;
use rbuild_runtime::TmpfsOptions;

use super::{Volume, VolumeKind, absolute, octal};
use crate::failure::Failure;

/// Parses `--tmpfs DST[:OPTIONS]`; without options no programs, devices and set-user-id programs work in
/// it, as in Docker.
pub(crate) fn parse_tmpfs(value: &str) -> Result<Volume, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid tmpfs `{value}`: {reason}"));
    let (target, words) = value.split_once(':').unwrap_or((value, ""));
    let target =
        absolute(target).ok_or_else(|| invalid("the target must be an absolute path".into()))?;
    let (kind, readonly) = tmpfs_words(words, &invalid)?;
    Ok(Volume {
        target,
        kind,
        readonly,
    })
}

/// The options of a directory in memory, and whether it is read-only.
pub(crate) fn tmpfs_words(
    words: &str,
    invalid: &dyn Fn(String) -> Failure,
) -> Result<(VolumeKind, bool), Failure> {
    let (mut readonly, mut size, mut mode) = (false, None, None);
    let mut options = TmpfsOptions {
        noexec: true,
        ..TmpfsOptions::default()
    };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let number = |value: &str| {
            let number = value.parse::<u32>();
            number.map_err(|_| invalid(format!("`{word}` needs a number")))
        };
        match word.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).map_err(invalid)?),
            Some(("mode", value)) => {
                let parsed = octal(value);
                mode = Some(parsed.ok_or_else(|| invalid(format!("invalid mode: {value}")))?);
            }
            Some(("uid", value)) => options.uid = Some(number(value)?),
            Some(("gid", value)) => options.gid = Some(number(value)?),
            Some(("nr_inodes", value)) => {
                options.inodes = Some(parse_size(value).map_err(invalid)?);
            }
            None => match word {
                "ro" => readonly = true,
                "exec" => options.noexec = false,
                "noexec" => options.noexec = true,
                "suid" => options.suid = true,
                "nosuid" => options.suid = false,
                // Devices never work there; when a file was read is never noted in memory.
                "rw" | "nodev" | "noatime" | "relatime" | "rprivate" | "private" => {}
                _ => return Err(unknown_tmpfs(word)),
            },
            _ => return Err(unknown_tmpfs(word)),
        }
    }
    let kind = VolumeKind::Tmpfs {
        size,
        mode,
        options,
    };
    Ok((kind, readonly))
}

fn unknown_tmpfs(word: &str) -> Failure {
    Failure::unsupported(&format!("the tmpfs option `{word}`")).hint(
        "known options: size=, mode=, uid=, gid=, nr_inodes=, ro, rw, exec, noexec, suid, nosuid, nodev",
    )
}
