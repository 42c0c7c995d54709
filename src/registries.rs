//! How registries are spoken with: flags, environment and the files of other tools made into the
//! options of the client.

mod files;

use std::path::PathBuf;
use std::sync::Arc;

use rbuild_builder::image::ImageError;
use rbuild_registry::{
    Client, ClientOptions, Credential, CredentialStore, Notice, Notify, ProxyConfig,
    RegistryConfig, RegistryError,
};

use crate::config::Settings;
use crate::failure::{Failure, plain_words, status};
use crate::truth::Truth as _;
use crate::ui;

/// Options of every command that speaks with registries.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Check the certificates of registries; without, plain http is spoken too
    #[arg(long, truth = "BOOL", help_heading = "Registries")]
    pub(crate) tls_verify: Option<bool>,
    /// File with credentials, instead of Docker's and Podman's own
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    pub(crate) authfile: Option<PathBuf>,
    /// Directory with certificates (`*.crt`, `*.cert`, `*.key`) for all registries
    #[arg(long, value_name = "DIR", help_heading = "Registries")]
    pub(crate) cert_dir: Option<PathBuf>,
}

/// The options of a client. Nothing is connected yet.
pub(crate) fn client_options(
    settings: &Settings,
    args: &RegistryArgs,
) -> Result<ClientOptions, Failure> {
    let environment = &settings.environment;
    let mut found = files::Found::default();
    files::read_all(environment, &mut found)?;
    for warning in &found.warnings {
        ui::warn(&settings.palette, warning);
    }
    let mut options = ClientOptions {
        credentials: credentials(settings, args),
        registries: found.registries,
        namespaces: found.namespaces,
        ca_bundle: environment.certificates.clone(),
        proxy: proxy(settings),
        ..ClientOptions::default()
    };
    let mut other = RegistryConfig::default();
    if let Some(directory) = &args.cert_dir {
        files::certificates(directory, &mut other)?;
        for config in options.registries.values_mut() {
            files::certificates(directory, config)?;
        }
    }
    if let Some(verify) = args.tls_verify {
        other.insecure = !verify;
        for config in options.registries.values_mut() {
            config.insecure = !verify;
        }
    }
    if other != RegistryConfig::default() {
        options.other_registries = Some(other);
    }
    Ok(options)
}

/// The file that `login` writes to and `logout` removes from.
pub(crate) fn credentials_file(
    settings: &Settings,
    args: &RegistryArgs,
) -> Result<PathBuf, Failure> {
    let environment = &settings.environment;
    args.authfile
        .clone()
        .or_else(|| environment.registry_auth_file.clone())
        .or_else(|| docker_config(settings))
        .ok_or_else(|| {
            Failure::new("no place for credentials: neither `HOME` nor `DOCKER_CONFIG` is set")
                .hint("name a file with `--authfile FILE`")
        })
}

fn docker_config(settings: &Settings) -> Option<PathBuf> {
    let environment = &settings.environment;
    let folder = environment.docker_config.clone();
    let folder = folder.or_else(|| Some(environment.home.as_ref()?.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// Where credentials are looked for: a file that was named is the only one.
fn credentials(settings: &Settings, args: &RegistryArgs) -> CredentialStore {
    let environment = &settings.environment;
    let named = args
        .authfile
        .clone()
        .or_else(|| environment.registry_auth_file.clone());
    if let Some(path) = named {
        return CredentialStore::new().with_file(path);
    }
    let runtime = environment.runtime_dir.as_ref();
    let places = [
        docker_config(settings),
        runtime.map(|folder| folder.join("containers/auth.json")),
        environment
            .config_home()
            .map(|folder| folder.join("containers/auth.json")),
    ];
    let places = places.into_iter().flatten();
    places.fold(CredentialStore::new(), CredentialStore::with_file)
}

/// The proxies that the environment names.
pub(crate) fn proxy(settings: &Settings) -> Option<ProxyConfig> {
    let environment = &settings.environment;
    if environment.http_proxy.is_none() && environment.https_proxy.is_none() {
        return None;
    }
    Some(ProxyConfig {
        http: environment.http_proxy.clone(),
        https: environment.https_proxy.clone(),
        no_proxy: environment.no_proxy.clone().unwrap_or_default(),
    })
}

/// A client of a command. Its news go to standard error.
pub(crate) fn client(
    settings: &Settings,
    args: &RegistryArgs,
    change: impl FnOnce(&mut ClientOptions) -> Result<(), Failure>,
) -> Result<Client, Failure> {
    let mut options = client_options(settings, args)?;
    change(&mut options)?;
    let palette = settings.palette;
    options.notify = Some(Notify(Arc::new(move |notice: &Notice| {
        ui::warn(&palette, &notice.to_string());
    })));
    Ok(Client::new(options))
}

/// Takes `USER:PASSWORD` for a registry.
pub(crate) fn add_credential(
    options: &mut ClientOptions,
    host: &str,
    given: Option<&str>,
) -> Result<(), Failure> {
    let Some(given) = given else {
        return Ok(());
    };
    let Some((username, password)) = given.split_once(':') else {
        return Err(
            Failure::new("`--creds` must be of the form USER:PASSWORD").with_status(status::USAGE)
        );
    };
    let credential = Credential::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    };
    let known = std::mem::take(&mut options.credentials);
    options.credentials = known.with_credential(host, credential);
    Ok(())
}

/// The host that a user means by `https://host/v2/`, or by nothing.
pub(crate) fn registry_host(given: Option<&str>) -> String {
    let text = given.unwrap_or("docker.io");
    let text = text.trim_start_matches("https://");
    let text = text.trim_start_matches("http://");
    let host = text.split('/').next().unwrap_or(text);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// The failure of a pull or push, with what can be done about it.
pub(crate) fn registry_failure(error: &ImageError) -> Failure {
    let mut causes: Vec<String> = rbuild_builder::error::chain(error)
        .iter()
        .map(|text| plain_words(text))
        .collect();
    // What failed comes first, then how often it was tried.
    if matches!(error, ImageError::Registry(RegistryError::GaveUp { .. })) && causes.len() > 1 {
        let gave_up = causes.remove(0);
        causes[0] = format!("{} ({gave_up})", causes[0]);
    }
    let mut causes = causes.into_iter();
    let mut failure = Failure::new(causes.next().unwrap_or_default());
    failure.causes = causes.collect();
    failure.disk = rbuild_cache::DiskTrouble::of(error);
    error.hints().into_iter().fold(failure, Failure::hint)
}
