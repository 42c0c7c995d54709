//! `WWW-Authenticate`: what a server wants before it lets us in.

/// A challenge that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request. RFC 7617.
    Basic,
    /// A token from elsewhere. Docker registry token authentication.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// What the token is for, passed on to the token server.
        service: Option<String>,
        /// What the registry thinks we need, space separated.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The part that holds for the whole server and not for one request only.
    pub(crate) fn without_scope(&self) -> Challenge {
        match self {
            Challenge::Basic => Challenge::Basic,
            Challenge::Bearer { realm, service, .. } => Challenge::Bearer {
                realm: realm.clone(),
                service: service.clone(),
                scope: None,
            },
        }
    }
}

/// Longest header value that is looked at.
const LONGEST: usize = 8 << 10;

/// Picks the best challenge from all `WWW-Authenticate` values: Bearer, else Basic.
pub(crate) fn best<'h>(values: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut basic = None;
    for value in values.filter(|value| value.len() <= LONGEST) {
        for (scheme, parameters) in challenges(value) {
            let get = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
                    .filter(|value| !value.is_empty())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = get("realm")
            {
                return Some(Challenge::Bearer {
                    realm,
                    service: get("service"),
                    scope: get("scope"),
                });
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Splits a value into challenges. RFC 9110, section 11.6.1; what is malformed is skipped.
fn challenges(value: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            // A stray `=`: the padding of a token68, or garbage.
            rest = &rest[1..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            found.push((word.to_owned(), Parameters::new()));
            rest = after;
            continue;
        };
        let (text, after) = parameter_value(value.trim_start_matches([' ', '\t']));
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), text));
        }
        rest = after;
    }
}

/// Reads a token or a quoted string; returns it and what follows.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((position, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        best(values.iter().copied())
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn the_usual_forms_are_read() {
        assert_eq!(of(&["Basic realm=\"Registry\""]), Some(Challenge::Basic));
        assert_eq!(
            of(&[
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                 scope=\"repository:library/alpine:pull,push\""
            ]),
            Some(bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/alpine:pull,push")
            ))
        );
        assert_eq!(
            of(&["bearer  Realm = https://a/t , service=x"]),
            Some(bearer("https://a/t", Some("x"), None))
        );
    }

    #[test]
    fn bearer_is_preferred_wherever_it_stands() {
        let expected = Some(bearer("https://a/t", None, None));
        assert_eq!(
            of(&["Basic realm=\"x\"", "Bearer realm=\"https://a/t\""]),
            expected
        );
        assert_eq!(
            of(&["Basic realm=\"x, y\", Bearer realm=\"https://a/t\""]),
            expected
        );
        assert_eq!(
            of(&["Negotiate abc==, Bearer realm=\"https://a/t\", Basic"]),
            expected
        );
    }

    #[test]
    fn escapes_and_garbage_do_not_confuse() {
        assert_eq!(
            of(&["Bearer realm=\"https://a/\\\"t\\\\\",service=\"\""]),
            Some(bearer("https://a/\"t\\", None, None))
        );
        for none in [
            "",
            ",,,",
            "=",
            "Bearer",
            "Bearer service=\"x\"",
            "Digest realm=\"x\"",
            "realm=\"x\"",
        ] {
            assert_eq!(of(&[none]), None, "{none:?}");
        }
        assert_eq!(
            of(&["Bearer realm=\"unfinished"]),
            Some(bearer("unfinished", None, None))
        );
        let long = format!("Bearer realm=\"{}\"", "x".repeat(LONGEST));
        assert_eq!(of(&[&long]), None);
    }
}
