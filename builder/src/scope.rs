//! Variables: which names a FROM line and a stage can see, and where their values come from.
//!
//! Language reference, sections 2.3 and 3.3.

use std::collections::BTreeMap;

use rbuild_parser::{Platform, Variables};

/// Proxy arguments that every RUN gets without a declaration.
pub(crate) const PROXY_ARGUMENTS: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// `PATH` of a stage whose base image sets none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An ordered list of variables; setting an existing name changes it in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VariableList {
    entries: Vec<(String, String)>,
}

impl VariableList {
    /// An empty list.
    pub(crate) fn new() -> VariableList {
        VariableList::default()
    }

    /// From `NAME=value` strings, as an image config has them.
    pub(crate) fn from_env(env: &[String]) -> VariableList {
        let mut list = VariableList::new();
        for entry in env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            list.set(name, value);
        }
        list
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.entries.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }
}

impl Variables for VariableList {
    fn get(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The predefined platform arguments of section 3.3, before build-args override them.
pub(crate) fn platform_arguments(
    build: &Platform,
    target: &Platform,
    target_stage: &str,
) -> Vec<(String, String)> {
    let mut arguments = Vec::with_capacity(11);
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let mut push = |suffix: &str, value: String| {
            arguments.push((format!("{prefix}{suffix}"), value));
        };
        push("PLATFORM", platform.to_string());
        push("OS", platform.os.clone());
        push("OSVERSION", String::new());
        push("ARCH", platform.architecture.clone());
        push("VARIANT", platform.variant.clone().unwrap_or_default());
    }
    arguments.push(("TARGETSTAGE".to_owned(), target_stage.to_owned()));
    arguments
}

/// The proxy variables that RUN steps get from build-args: upper and lower case of each.
pub(crate) fn proxy_environment(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut environment = Vec::new();
    for name in PROXY_ARGUMENTS {
        let given = build_args
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given {
            environment.push((name.to_owned(), value.clone()));
            environment.push((name.to_ascii_lowercase(), value.clone()));
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_an_existing_name_keeps_its_position() {
        let mut list = VariableList::from_env(&["a=1".into(), "b=2".into()]);
        list.set("a", "3");
        assert_eq!(list.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
    }

    #[test]
    fn proxy_arguments_come_in_both_cases() {
        let args = BTreeMap::from([("no_proxy".to_owned(), "x".to_owned())]);
        assert_eq!(
            proxy_environment(&args),
            [
                ("NO_PROXY".to_owned(), "x".to_owned()),
                ("no_proxy".to_owned(), "x".to_owned())
            ]
        );
    }
}
