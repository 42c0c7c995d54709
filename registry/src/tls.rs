//! TLS settings: whom we trust and how we identify ourselves.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

use crate::error::RegistryError;
use crate::options::{ClientCertificate, ClientOptions, RegistryConfig};

/// Where distributions keep the certificate authorities that they trust.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// Largest PEM file that is read, in bytes.
const LARGEST_PEM: u64 = 16 << 20;

/// The TLS settings for a registry.
pub(crate) fn config(
    options: &ClientOptions,
    registry: Option<&RegistryConfig>,
) -> Result<TlsConfig, RegistryError> {
    let mut builder = TlsConfig::builder();
    if let Some(registry) = registry {
        builder = builder.disable_verification(registry.insecure);
        if let Some(certificate) = &registry.client_certificate {
            builder = builder.client_cert(Some(client_certificate(certificate)?));
        }
    }
    let own = registry.map_or(&[][..], |registry| &registry.ca_files);
    Ok(builder.root_certs(roots(options, own)?).build())
}

/// The system's authorities and the registry's own. On a system without any, as in an empty
/// container image, those that Mozilla trusts, unless the registry has its own.
fn roots(options: &ClientOptions, own: &[std::path::PathBuf]) -> Result<RootCerts, RegistryError> {
    const WHAT: &str = "the certificate authority";
    let mut certificates = Vec::new();
    for path in own {
        let found = read_certificates(WHAT, path)?;
        if found.is_empty() {
            return Err(RegistryError::Setting {
                what: WHAT,
                reason: format!("`{}` holds no PEM certificate", path.display()),
            });
        }
        certificates.extend(found);
    }
    if let Some(bundle) = &options.ca_bundle {
        certificates.extend(read_certificates(WHAT, bundle)?);
    } else {
        // A bundle that cannot be read is like one that is not there.
        let bundle = SYSTEM_BUNDLES
            .iter()
            .find_map(|path| read_certificates(WHAT, Path::new(path)).ok());
        certificates.extend(bundle.unwrap_or_default());
    }
    if certificates.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(LARGEST_PEM)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| RegistryError::SettingFile {
        what,
        path: path.to_path_buf(),
        source,
    })
}

fn read_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&read_file(what, path)?) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => {
                return Err(RegistryError::Setting {
                    what,
                    reason: format!("`{}` is not valid PEM", path.display()),
                });
            }
        }
    }
    Ok(certificates)
}

/// Reads and checks a client certificate: what follows takes it for granted that it is valid.
fn client_certificate(paths: &ClientCertificate) -> Result<ClientCert, RegistryError> {
    const WHAT: &str = "the client certificate";
    let refuse = |reason: String| RegistryError::Setting { what: WHAT, reason };
    let chain = read_certificates(WHAT, &paths.certificate)?;
    if chain.is_empty() {
        let path = paths.certificate.display();
        return Err(refuse(format!("`{path}` holds no PEM certificate")));
    }
    let pem = read_file(WHAT, &paths.key)?;
    let no_key = || refuse(format!("`{}` holds no private key", paths.key.display()));
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
    let key = PrivateKey::from_pem(&pem).map_err(|_| no_key())?;
    let ders = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    rustls::sign::CertifiedKey::from_der(ders, der, &rustls::crypto::ring::default_provider())
        .map_err(|error| refuse(error.to_string()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}
