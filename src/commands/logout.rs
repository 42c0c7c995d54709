//! `rbuild logout`.

use rbuild_registry::CredentialStore;

use crate::config::Settings;
use crate::failure::Failure;
use crate::registries::{RegistryArgs, credentials_file, registry_host};
use crate::ui;

/// Log out of a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild logout registry.example")]
pub(crate) struct LogoutArgs {
    /// Host of the registry [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// File with credentials, instead of Docker's own
    #[arg(long, value_name = "FILE")]
    authfile: Option<std::path::PathBuf>,
}

/// Forgets credentials.
pub(crate) fn run(settings: &Settings, args: &LogoutArgs) -> Result<(), Failure> {
    let host = registry_host(args.server.as_deref());
    let registries = RegistryArgs {
        authfile: args.authfile.clone(),
        ..RegistryArgs::default()
    };
    let path = credentials_file(settings, &registries)?;
    if CredentialStore::erase(&path, &host)? {
        ui::println(&format!("Removing login credentials for {host}"))
    } else {
        ui::println(&format!("Not logged in to {host}"))
    }
}
