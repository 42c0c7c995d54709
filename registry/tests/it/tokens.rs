//! A token server as `docker-registry` trusts it, and the registry that does so.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::SigningKey as _;

use crate::certificates::{Authority, Issued};
use crate::proxy::{Action, Proxy, Reply, Seen};
use crate::support::{PASSWORD, Setup, TestRegistry, USER};

/// Who the tokens are from.
const ISSUER: &str = "test-issuer";
/// Who they are for.
const SERVICE: &str = "test-service";

/// A refresh token that the server takes.
pub(crate) const REFRESH: &str = "refresh-token/with+odd=characters&more";

/// The token server.
pub(crate) struct TokenServer {
    pub(crate) proxy: Proxy,
    authority: Authority,
    /// Seconds that tokens live.
    pub(crate) life: Arc<Mutex<i64>>,
}

impl TokenServer {
    pub(crate) fn start() -> TokenServer {
        let authority = Authority::new();
        let signer = authority.issue(&["token"]);
        let life = Arc::new(Mutex::new(300));
        let lives = Arc::clone(&life);
        let proxy = Proxy::alone(move |request| serve(request, &signer, *lives.lock().unwrap()));
        TokenServer {
            proxy,
            authority,
            life,
        }
    }

    /// A registry that sends its clients here.
    pub(crate) fn registry(&self) -> TestRegistry {
        TestRegistry::start(|folder| {
            let bundle = folder.join("bundle.pem");
            std::fs::write(&bundle, &self.authority.pem).unwrap();
            Setup {
                top: format!(
                    "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    \
                     issuer: {ISSUER}\n    rootcertbundle: {}\n",
                    self.proxy.host(),
                    bundle.display()
                ),
                ..Setup::default()
            }
        })
    }

    /// How often a token was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.proxy.seen("GET", "/token").len() + self.proxy.seen("POST", "/token").len()
    }
}

/// Anonymous clients may pull from `public/`, the user everything.
fn serve(request: &Seen, signer: &Issued, life: i64) -> Action {
    let known = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let everything = match (request.method.as_str(), request.header("authorization")) {
        ("POST", _) if is_refresh(&request.body) => true,
        ("POST", _) => return Reply::status(400).into(),
        (_, Some(header)) if header == known => true,
        (_, Some(_)) => return Reply::status(401).into(),
        (_, None) => false,
    };
    let fields = match request.method.as_str() {
        "POST" => request.body.as_str(),
        _ => request
            .target
            .split_once('?')
            .map_or("", |(_, query)| query),
    };
    let scopes: Vec<String> = fields
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(decoded)
        .flat_map(|scopes| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let access: Vec<serde_json::Value> = scopes
        .iter()
        .filter_map(|scope| {
            let mut parts = scope.splitn(3, ':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let actions: Vec<&str> = actions
                .split(',')
                .filter(|action| everything || (name.starts_with("public/") && *action == "pull"))
                .collect();
            Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let token = token(signer, &access, life);
    let body = serde_json::json!({ "token": token, "expires_in": life });
    Reply::status(200)
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .into()
}

/// Whether it is the OAuth 2 form with our refresh token.
fn is_refresh(body: &str) -> bool {
    let field = |name: &str| {
        body.split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .map(decoded)
    };
    field("grant_type").as_deref() == Some("refresh_token")
        && field("service").as_deref() == Some(SERVICE)
        && field("refresh_token").as_deref() == Some(REFRESH)
}

/// A JSON web token signed with ES256, its certificate in the header.
fn token(signer: &Issued, access: &[serde_json::Value], life: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    let header = serde_json::json!({
        "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&signer.der)],
    });
    let claims = serde_json::json!({
        "iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + life, "nbf": now - 60,
        "iat": now, "jti": format!("{now}{life}"), "access": access,
    });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = raw_signature(&signer.key.sign(text.as_bytes()).unwrap());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The two numbers of a DER signature, 32 bytes each.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    raw
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let hex = std::str::from_utf8(&rest[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}
