//! `rbuild version`.

use rbuild_parser::Platform;

use crate::failure::Failure;
use crate::format::{Template, Value};
use crate::ui;

/// Show the version
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild version
  rbuild version -f json")]
pub(crate) struct VersionArgs {
    /// Show it by a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Shows the version.
pub(crate) fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let platform = Platform::host();
    let side = Value::Struct(vec![
        ("Version", version.into()),
        ("Os", platform.os.clone().into()),
        ("Arch", platform.architecture.clone().into()),
    ]);
    // There is no daemon: both sides are this program, for scripts that ask for one of them.
    let value = Value::Struct(vec![("Client", side.clone()), ("Server", side)]);
    match args.format.as_deref() {
        None => ui::println(&format!("rbuild {version} {platform}")),
        Some("json") => ui::println(&value.to_json()),
        Some(template) => ui::println(&Template::parse(template)?.render(&value)?),
    }
}
