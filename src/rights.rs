//! Rights of steps and containers: the options that `build` and `run` share.

use rbuild_runtime::{Seccomp, Security};

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
    /// `seccomp=unconfined`, `no-new-privileges`
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
                // Neither is set up for the sandbox.
                "label=disable" | "apparmor=unconfined" => {}
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
