//! `rbuild login`.

use std::io::{BufRead as _, Read as _};

use rbuild_registry::{Credential, CredentialStore};

use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::registries::{RegistryArgs, client, credentials_file, registry_failure, registry_host};
use crate::terminal::Hidden;
use crate::ui;

/// Longest password that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// Log in to a registry
///
/// Credentials are checked, then kept where Docker and Podman look for them too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild login registry.example
  echo \"$TOKEN\" | rbuild login -u robot --password-stdin registry.example")]
pub(crate) struct LoginArgs {
    /// Host of the registry [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// Name of the user
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password; other users of this machine can see it
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Logs in.
pub(crate) fn run(settings: &Settings, args: &LoginArgs) -> Result<(), Failure> {
    let usage = |text: &str| Failure::new(text).with_status(status::USAGE);
    if args.password_stdin && args.password.is_some() {
        return Err(usage(
            "--password and --password-stdin are mutually exclusive",
        ));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(usage("Must provide --username with --password-stdin"));
    }
    let host = registry_host(args.server.as_deref());
    let path = credentials_file(settings, &args.registries)?;
    if args.password.is_some() {
        let text = "Using --password via the CLI is insecure. Use --password-stdin.";
        ui::warn(&settings.palette, text);
    }
    let username = match &args.username {
        Some(name) => name.clone(),
        None => ask(settings, "Username: ")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => password_from_stdin()?,
        None => ask_hidden(settings, "Password: ")?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("username and password must not be empty"));
    }
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let login = client
        .login(&host, &Credential::Password { username, password })
        .map_err(|error| registry_failure(&error.into()))?;
    let helper = CredentialStore::save(&path, &host, &login.credential)?;
    if helper.is_none() {
        let text = format!(
            "Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning.",
            path.display()
        );
        for line in text.lines() {
            ui::warn(&settings.palette, line);
        }
    }
    ui::println("Login Succeeded")
}

fn password_from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn ask(settings: &Settings, question: &str) -> Result<String, Failure> {
    if !settings.stdin_terminal {
        return Err(
            Failure::new("Cannot perform an interactive login from a non TTY device")
                .hint("give `--username NAME --password-stdin`"),
        );
    }
    ui::message(question);
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Asks without showing the answer.
fn ask_hidden(settings: &Settings, question: &str) -> Result<String, Failure> {
    if !settings.stdin_terminal {
        return ask(settings, question);
    }
    let hidden = Hidden::enter(std::os::fd::AsFd::as_fd(&std::io::stdin()))?;
    let answer = ask(settings, question);
    drop(hidden);
    ui::message("\n");
    answer
}
