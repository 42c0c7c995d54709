//! Rights of steps and containers: the options that `build` and `run` share.

use std::path::Path;

use rbuild_runtime::{CapabilitySet, Seccomp, SeccompProfile, Security};

use crate::container::capabilities;
use crate::failure::Failure;

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RightsArgs {
    /// Add a capability, or ALL
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Rights"
    )]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Rights"
    )]
    pub(crate) cap_drop: Vec<String>,
    /// `seccomp=FILE` (a profile in JSON), `seccomp=unconfined`, `no-new-privileges`,
    /// `systempaths=unconfined`
    #[arg(long, value_name = "OPTION", help_heading = "Rights")]
    pub(crate) security_opt: Vec<String>,
}

impl RightsArgs {
    /// The rights in typed form.
    pub(crate) fn security(&self) -> Result<Security, Failure> {
        let mut security = Security {
            capabilities: capabilities::combine(&self.cap_add, &self.cap_drop)?,
            ..Security::default()
        };
        self.apply_options(&mut security)?;
        Ok(security)
    }

    /// Takes over the values of `--security-opt`.
    pub(crate) fn apply_options(&self, security: &mut Security) -> Result<(), Failure> {
        for option in &self.security_opt {
            let option = match option.split_once(':') {
                // The old way to write it.
                Some((name, value)) if !name.contains('=') => format!("{name}={value}"),
                _ => option.clone(),
            };
            match option.as_str() {
                "seccomp=unconfined" => security.seccomp = Seccomp::Unconfined,
                "seccomp=builtin" => security.seccomp = Seccomp::Default,
                "no-new-privileges" | "no-new-privileges=true" => {
                    security.no_new_privileges = true;
                }
                "no-new-privileges=false" => security.no_new_privileges = false,
                "systempaths=unconfined" => security.masked_paths = false,
                // Neither is set up for the sandbox.
                "label=disable" | "apparmor=unconfined" => {}
                other if other.starts_with("seccomp=") => {
                    let path = other.trim_start_matches("seccomp=");
                    let profile = seccomp_profile(Path::new(path), security.capabilities)?;
                    security.seccomp = Seccomp::Profile(profile);
                }
                other if other.starts_with("label=") || other.starts_with("apparmor=") => {
                    return Err(Failure::unsupported(&format!("`--security-opt {other}`")).hint(
                        "no labels of SELinux and no profiles of AppArmor are set: what holds for \
                         rbuild itself holds inside",
                    ));
                }
                other => {
                    return Err(Failure::unsupported(&format!("`--security-opt {other}`")));
                }
            }
        }
        Ok(())
    }
}

/// Reads a profile of system calls in the format of Docker.
fn seccomp_profile(path: &Path, capabilities: CapabilitySet) -> Result<SeccompProfile, Failure> {
    let shown = path.display();
    let text = std::fs::read(path).map_err(|error| {
        Failure::new(format!("could not read the seccomp profile `{shown}`")).because(&error)
    })?;
    SeccompProfile::parse(&text, capabilities).map_err(|error| {
        Failure::new(format!("could not use the seccomp profile `{shown}`")).because(&error)
    })
}
