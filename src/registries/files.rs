//! Settings of registries in the files of other tools: Podman's `registries.conf`, containerd's
//! `hosts.toml`, and the certificates of Docker's `certs.d`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rbuild_registry::{ClientCertificate, Mirror, Namespace, RegistryConfig};
use serde::Deserialize;

use crate::env::Environment;
use crate::failure::Failure;

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By host.
    pub(super) registries: BTreeMap<String, RegistryConfig>,
    /// Where repositories are to be had.
    pub(super) namespaces: Vec<Namespace>,
    /// What could not be used.
    pub(super) warnings: Vec<String>,
}

/// `registries.conf`, version 2; other keys are about short names, which always mean Docker Hub here.
#[derive(Debug, Default, Deserialize)]
struct RegistriesConf {
    #[serde(default)]
    registry: Vec<ConfEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfEntry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<ConfMirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// `hosts.toml` of one registry.
#[derive(Debug, Default, Deserialize)]
struct HostsToml {
    /// What is asked last, in place of the registry.
    server: Option<String>,
    /// How the server is spoken with.
    #[serde(flatten)]
    of_server: Host,
    #[serde(default)]
    host: toml::Table,
}

/// One `[host."URL"]`.
#[derive(Debug, Default, Deserialize)]
struct Host {
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    skip_verify: bool,
    ca: Option<OneOrMore>,
    client: Option<Client>,
}

/// Client certificates: a file with certificate and key, several, or pairs of files for each.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    One(PathBuf),
    More(Vec<PathBuf>),
    Pairs(Vec<Vec<PathBuf>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

/// Reads all files that are there.
pub(super) fn read_all(environment: &Environment, found: &mut Found) -> Result<(), Failure> {
    for path in registries_conf(environment)? {
        if let Some(text) = read(&path)? {
            let conf: RegistriesConf = parse(&path, &text)?;
            for entry in conf.registry {
                conf_entry(entry, found);
            }
        }
    }
    let home = environment.config_home();
    let own = |name: &str| home.as_ref().map(|home| home.join(name));
    let folders = [
        Some(PathBuf::from("/etc/containerd/certs.d")),
        Some(PathBuf::from("/etc/docker/certs.d")),
        Some(PathBuf::from("/etc/containers/certs.d")),
        own("docker/certs.d"),
        own("containers/certs.d"),
    ];
    for folder in folders.into_iter().flatten() {
        for host in list(&folder)? {
            let Some(name) = host.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !host.is_dir() || name == "_default" {
                continue;
            }
            let name = name.to_owned();
            certificates(&host, found.registries.entry(name.clone()).or_default())?;
            let path = host.join("hosts.toml");
            if let Some(text) = read(&path)? {
                let hosts: HostsToml = parse(&path, &text)?;
                hosts_toml(&path, &name, hosts, found)?;
            }
        }
    }
    found
        .registries
        .retain(|_, config| *config != RegistryConfig::default());
    Ok(())
}

/// The files of Podman that count: the one named, the user's, or the system's with its drop-ins.
fn registries_conf(environment: &Environment) -> Result<Vec<PathBuf>, Failure> {
    if let Some(path) = &environment.registries_conf {
        return Ok(vec![path.clone()]);
    }
    let own = environment
        .config_home()
        .map(|home| home.join("containers/registries.conf"));
    if let Some(own) = own.filter(|own| own.exists()) {
        return Ok(vec![own]);
    }
    let mut files = vec![PathBuf::from("/etc/containers/registries.conf")];
    let drop_ins = list(Path::new("/etc/containers/registries.conf.d"))?;
    files.extend(
        drop_ins
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "conf")),
    );
    Ok(files)
}

fn conf_entry(entry: ConfEntry, found: &mut Found) {
    let Some(prefix) = entry.prefix.clone().or_else(|| entry.location.clone()) else {
        return;
    };
    let mut insecure = |place: &str| {
        let host = place.split('/').next().unwrap_or(place).to_owned();
        found.registries.entry(host).or_default().insecure = true;
    };
    let mut mirrors = Vec::new();
    for mirror in &entry.mirror {
        let resolve = match mirror.pull_from_mirror.as_deref() {
            Some("digest-only") => false,
            _ => !entry.mirror_by_digest_only,
        };
        mirrors.push(mirror_at(&mirror.location, resolve));
        if mirror.insecure {
            insecure(&mirror.location);
        }
    }
    let location = entry.location.filter(|location| *location != prefix);
    if entry.insecure {
        insecure(location.as_ref().unwrap_or(&prefix));
    }
    let namespace = Namespace {
        mirrors,
        instead: location.map(|location| mirror_at(&location, true)),
        blocked: entry.blocked,
        prefix,
    };
    add(namespace, found);
}

/// `host/path`.
fn mirror_at(location: &str, resolve: bool) -> Mirror {
    let (host, prefix) = location.split_once('/').unwrap_or((location, ""));
    Mirror {
        host: host.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        resolve,
    }
}

fn hosts_toml(
    path: &Path,
    registry: &str,
    hosts: HostsToml,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut namespace = Namespace {
        prefix: registry.to_owned(),
        ..Namespace::default()
    };
    let server = hosts.server.as_deref().unwrap_or(registry);
    let server = host(path, server, hosts.of_server, found)?;
    if server.host != registry || !server.prefix.is_empty() {
        namespace.instead = Some(server);
    }
    for (url, value) in hosts.host {
        let said: Host = value.try_into().map_err(|error: toml::de::Error| {
            Failure::new(format!("could not read `{}`", path.display())).because(&error)
        })?;
        let pull = said.can("pull");
        let mirror = host(path, &url, said, found)?;
        if pull && mirror.host != registry {
            namespace.mirrors.push(mirror);
        }
    }
    add(namespace, found);
    Ok(())
}

/// Adds what is said of a namespace to what another file said.
fn add(namespace: Namespace, found: &mut Found) {
    let mut known = found.namespaces.iter_mut();
    match known.find(|known| known.prefix == namespace.prefix) {
        Some(known) => {
            known.mirrors.extend(namespace.mirrors);
            known.instead = known.instead.take().or(namespace.instead);
            known.blocked |= namespace.blocked;
        }
        None => found.namespaces.push(namespace),
    }
}

impl Host {
    fn can(&self, what: &str) -> bool {
        let capabilities = self.capabilities.as_ref();
        capabilities.is_none_or(|list| list.iter().any(|capability| capability == what))
    }
}

/// Notes how the host of a URL is spoken with; returns where that is.
fn host(path: &Path, url: &str, said: Host, found: &mut Found) -> Result<Mirror, Failure> {
    let place = url
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let (name, below) = place.split_once('/').unwrap_or((place, ""));
    // Paths begin with the version of the protocol, or leave it out.
    let below = below.trim_matches('/');
    let below = match below.strip_prefix("v2") {
        Some("") => "",
        Some(rest) => rest.strip_prefix('/').unwrap_or(below),
        None => below,
    };
    let mut mirror = mirror_at(name, said.can("resolve"));
    below.clone_into(&mut mirror.prefix);
    let config = found.registries.entry(mirror.host.clone()).or_default();
    config.plain_http |= url.starts_with("http://");
    config.insecure |= said.skip_verify;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let authorities = match said.ca {
        Some(OneOrMore::One(file)) => vec![file],
        Some(OneOrMore::More(files)) => files,
        None => Vec::new(),
    };
    config
        .ca_files
        .extend(authorities.iter().map(|file| folder.join(file)));
    let pairs = match said.client {
        Some(Client::One(file)) => vec![vec![file]],
        Some(Client::More(files)) => files.into_iter().map(|file| vec![file]).collect(),
        Some(Client::Pairs(pairs)) => pairs,
        None => Vec::new(),
    };
    let several = pairs.len() > 1;
    for pair in pairs.into_iter().take(1) {
        let ([certificate] | [certificate, _]) = pair.as_slice() else {
            let text = format!("could not read `{}`", path.display());
            return Err(Failure::new(text).hint("`client` takes pairs of certificate and key"));
        };
        // Without a key of its own the certificate's file has it, too.
        let key = pair.get(1).filter(|key| !key.as_os_str().is_empty());
        config.client_certificate = Some(ClientCertificate {
            certificate: folder.join(certificate),
            key: folder.join(key.unwrap_or(certificate)),
        });
    }
    if several {
        found.warnings.push(format!(
            "`{}`: of the certificates in `client` of `{url}` only the first is used",
            path.display()
        ));
    }
    Ok(mirror)
}

/// Takes the certificates of a directory as Docker does: `*.crt` are authorities, `NAME.cert` and
/// `NAME.key` are what we identify ourselves with.
pub(super) fn certificates(folder: &Path, config: &mut RegistryConfig) -> Result<(), Failure> {
    for path in list(folder)? {
        match path.extension().and_then(|end| end.to_str()) {
            Some("crt") => config.ca_files.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    let text = format!("`{}` has no key beside it", path.display());
                    return Err(Failure::new(text).hint(format!("missing: {}", key.display())));
                }
                config.client_certificate = Some(ClientCertificate {
                    certificate: path,
                    key,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Entries of a directory, sorted; none if it is not there or not for us.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry?.path());
            }
        }
        Err(error) if absent(&error) => {}
        Err(error) => {
            let text = format!("could not list `{}`", folder.display());
            return Err(Failure::new(text).because(&error));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => {
            Err(Failure::new(format!("could not read `{}`", path.display())).because(&error))
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        Failure::new(format!("could not read `{}`", path.display()))
            .because(&error)
            .hint("it is one of the files that say how registries are reached")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Found {
        let mut found = Found::default();
        let conf: RegistriesConf = toml::from_str(text).unwrap();
        for entry in conf.registry {
            conf_entry(entry, &mut found);
        }
        found
    }

    #[test]
    fn podmans_file_names_mirrors_and_insecure_registries() {
        let found = conf(
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "docker.io"
            location = "cache.example/hub"
            [[registry.mirror]]
            location = "mirror.example:5000/a/b"
            insecure = true
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "plain.example"
            insecure = true
            [[registry]]
            prefix = "quay.io/team"
            location = "other.example"
            insecure = true
            [[registry]]
            prefix = "*.example.org"
            blocked = true
            "#,
        );
        let of = |prefix: &str| {
            let mut known = found.namespaces.iter();
            known.find(|known| known.prefix == prefix).unwrap()
        };
        let mirrors = &of("docker.io").mirrors;
        let text =
            |mirror: &Mirror| format!("{}|{}|{}", mirror.host, mirror.prefix, mirror.resolve);
        assert_eq!(
            mirrors.iter().map(text).collect::<Vec<_>>(),
            ["mirror.example:5000|a/b|true", "digests.example||false",]
        );
        let instead = of("docker.io").instead.as_ref().unwrap();
        assert_eq!(text(instead), "cache.example|hub|true");
        assert!(found.registries["mirror.example:5000"].insecure);
        assert!(found.registries["plain.example"].insecure);
        assert!(found.registries["other.example"].insecure);
        let instead = of("quay.io/team").instead.as_ref().unwrap();
        assert_eq!(text(instead), "other.example||true");
        assert!(of("*.example.org").blocked);
    }

    #[test]
    fn containerds_file_names_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.toml");
        let hosts: HostsToml = toml::from_str(
            r#"
            server = "https://docker.io"
            [host."http://mirror.example:5000"]
            capabilities = ["pull"]
            [host."https://own.example/v2"]
            capabilities = ["pull", "resolve"]
            skip_verify = true
            ca = "ca.pem"
            client = [["one.cert", "one.key"], ["two.pem", ""]]
            [host."https://hub.example/v2/proxy"]
            override_path = true
            client = "both.pem"
            "#,
        )
        .unwrap();
        let mut found = Found::default();
        hosts_toml(&path, "docker.io", hosts, &mut found).unwrap();
        let namespace = &found.namespaces[0];
        let mirrors = &namespace.mirrors;
        assert_eq!((mirrors.len(), &namespace.instead), (3, &None));
        let proxy = mirrors.iter().find(|m| m.host == "hub.example").unwrap();
        assert_eq!(proxy.prefix, "proxy");
        let plain = mirrors.iter().find(|m| m.host == "mirror.example:5000");
        assert!(!plain.unwrap().resolve);
        assert!(found.registries["mirror.example:5000"].plain_http);
        let own = &found.registries["own.example"];
        assert!(own.insecure);
        assert_eq!(own.ca_files, [folder.path().join("ca.pem")]);
        let pair = |host: &str| {
            let pair = found.registries[host].client_certificate.clone();
            pair.map(|pair| (pair.certificate, pair.key)).unwrap()
        };
        let file = |name: &str| folder.path().join(name);
        assert_eq!(pair("own.example"), (file("one.cert"), file("one.key")));
        assert_eq!(pair("hub.example"), (file("both.pem"), file("both.pem")));
        assert!(found.warnings[0].contains("only the first"), "{found:?}");
    }

    #[test]
    fn containerds_server_takes_the_place_of_the_registry() {
        let hosts: HostsToml = toml::from_str(
            r#"
            server = "http://upstream.example:5000/v2/all/"
            skip_verify = true
            "#,
        )
        .unwrap();
        let mut found = Found::default();
        hosts_toml(Path::new("/c/hosts.toml"), "r.example", hosts, &mut found).unwrap();
        let server = found.namespaces[0].instead.as_ref().unwrap();
        assert_eq!(server.host, "upstream.example:5000");
        assert_eq!(server.prefix, "all");
        let config = &found.registries["upstream.example:5000"];
        assert!(config.plain_http && config.insecure);
    }

    #[test]
    fn certificates_lie_in_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["ca.crt", "client.cert", "notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let mut config = RegistryConfig::default();
        assert!(certificates(folder.path(), &mut config).is_err());
        std::fs::write(folder.path().join("client.key"), "").unwrap();
        let mut config = RegistryConfig::default();
        certificates(folder.path(), &mut config).unwrap();
        assert_eq!(config.ca_files.len(), 1);
        assert!(config.client_certificate.is_some());
    }
}
