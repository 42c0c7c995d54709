//! How this machine reaches the outside: proxies, certificates, the `git` program.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rbuild_builder::{GitProgram, Remote};
use rbuild_registry::{ClientOptions, RegistryLimits};

use crate::config::Settings;
use crate::env;
use crate::registries::proxy;

/// Redirections of one download, as Go's client follows.
const REDIRECTS: u32 = 10;

/// Makes the means of fetching; `limit` is the most bytes of one download.
pub(crate) fn remote(settings: &Settings, limit: Option<u64>) -> Remote {
    let environment = &settings.environment;
    let web = ClientOptions {
        proxy: proxy(settings),
        ca_bundle: environment.certificates.clone(),
        limits: RegistryLimits {
            redirects: REDIRECTS,
            ..RegistryLimits::default()
        },
        ..ClientOptions::default()
    };
    Remote {
        web,
        download_limit: limit.unwrap_or(Remote::DOWNLOAD_LIMIT),
        git: GitProgram {
            program: environment
                .path
                .as_deref()
                .and_then(|path| find("git", path)),
            environment: env::for_git(),
        },
    }
}

/// Finds a program in the directories of a `PATH`.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_files_that_can_be_executed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("git");
        std::fs::write(&file, "").unwrap();
        let path = directory.path().as_os_str();
        assert_eq!(find("git", path), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("git", path), Some(file));
        assert_eq!(find("git", OsStr::new("relative:")), None);
    }
}
