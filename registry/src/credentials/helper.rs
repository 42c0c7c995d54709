//! Credential helpers: programs `docker-credential-NAME` that keep secrets, asked over their
//! standard input and output.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::credentials::{Credential, CredentialError};

/// Largest answer that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The user name that says: the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// What helpers print when they do not know a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// Asks for the credential of a server.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
    get_from(&program(name)?, server)
}

pub(super) fn get_from(program: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
    let (success, output) = run(program, "get", server.as_bytes())?;
    if !success {
        let said = String::from_utf8_lossy(&output);
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(failed(program, &first_line(&said)));
    }
    let entry: Entry = serde_json::from_slice(&output)
        .map_err(|_| failed(program, "its answer is not what it should be"))?;
    Ok(match (entry.username.as_str(), entry.secret.as_str()) {
        (_, "") => None,
        (TOKEN_USER, _) => Some(Credential::IdentityToken(entry.secret)),
        _ => Some(Credential::Password {
            username: entry.username,
            password: entry.secret,
        }),
    })
}

/// Has a helper keep a credential.
pub(super) fn store(
    name: &str,
    server: &str,
    credential: &Credential,
) -> Result<(), CredentialError> {
    let program = program(name)?;
    let (username, secret) = match credential {
        Credential::Password { username, password } => (username.as_str(), password),
        Credential::IdentityToken(token) => (TOKEN_USER, token),
        Credential::RegistryToken(_) => {
            return Err(failed(&program, "it cannot keep a registry token"));
        }
    };
    let entry = Entry {
        server_url: server.to_owned(),
        username: username.to_owned(),
        secret: secret.clone(),
    };
    let input = serde_json::to_vec(&entry).map_err(|error| failed(&program, &error.to_string()))?;
    succeed(&program, "store", &input)
}

/// Has a helper forget a server.
pub(super) fn erase(name: &str, server: &str) -> Result<(), CredentialError> {
    succeed(&program(name)?, "erase", server.as_bytes())
}

/// The program of a helper. Its name comes from a file and must not become a path.
fn program(name: &str) -> Result<String, CredentialError> {
    let program = format!("docker-credential-{name}");
    let legal = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if legal {
        return Ok(program);
    }
    Err(failed(
        &program.escape_default().to_string(),
        "that is not a name of a program",
    ))
}

fn succeed(program: &str, action: &str, input: &[u8]) -> Result<(), CredentialError> {
    match run(program, action, input)? {
        (true, _) => Ok(()),
        (false, output) => Err(failed(
            program,
            &first_line(&String::from_utf8_lossy(&output)),
        )),
    }
}

/// Runs a helper; returns whether it succeeded, and what it printed.
fn run(program: &str, action: &str, input: &[u8]) -> Result<(bool, Vec<u8>), CredentialError> {
    let broke = |error: std::io::Error| failed(program, &error.to_string());
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(broke)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It may know the answer without reading the question.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(broke(error));
            }
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(LARGEST)
            .read_to_end(&mut output)
            .map_err(broke)?;
    }
    let status = child.wait().map_err(broke)?;
    Ok((status.success(), output))
}

fn failed(program: &str, reason: &str) -> CredentialError {
    CredentialError::Helper {
        program: program.to_owned(),
        reason: reason.to_string(),
    }
}

/// What a helper said, without what could follow: some print more than they should.
fn first_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or("it said nothing");
    line.chars()
        .take(200)
        .filter(|letter| !letter.is_control())
        .collect()
}
