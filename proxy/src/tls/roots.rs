//! Whom parents are believed to be.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::file::{self, MAX_CONFIG_BYTES};

use super::Session;
use super::suites::provider;

/// The roots that are trusted.
#[derive(Clone)]
pub struct RootStore(Arc<ClientConfig>);

impl RootStore {
    /// Those of the system.
    ///
    /// # Errors
    /// When there is none, with the remedy.
    pub fn of_host() -> Result<Self, String> {
        // It reads what SSL_CERT_FILE and SSL_CERT_DIR name, and else what OpenSSL's build does.
        let found = file::with_deadline(Path::new("the host's certificates"), rustls_native_certs::load_native_certs);
        let found = found.map_err(|error| error.with_remedy("check SSL_CERT_FILE and SSL_CERT_DIR"))?;
        Self::of(found.certs).map_err(|cause| {
            let cause = found.errors.first().map_or(cause, ToString::to_string);
            format!("this host trusts no certificate authority: {cause}; install ca-certificates, or name a file with --parent-ca")
        })
    }

    /// Those of a file, which is PEM.
    ///
    /// # Errors
    /// The file and the cause, with the remedy.
    pub fn of_file(file: &Path) -> Result<Self, String> {
        let text = file::read(file, MAX_CONFIG_BYTES).map_err(|error| {
            format!("{}: {}", file.display(), error.with_remedy("check the path and its permissions"))
        })?;
        let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let trust = certificates.map_err(|error| error.to_string()).and_then(Self::of);
        trust.map_err(|cause| format!("{}: {cause}; write the CA certificates of the parents in PEM", file.display()))
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(certificates);
        if usable == 0 {
            return Err("contains no certificate".to_owned());
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// A session with a server that has to prove to be `name`.
    ///
    /// # Errors
    /// As [`Session::client`].
    pub fn session(&self, name: ServerName<'static>) -> io::Result<Session> {
        Session::client(Arc::clone(&self.0), name)
    }
}

/// What rustls says of a failure, with the remedy where its own words are none (`rustls-webpki`, `error.rs`).
pub(super) fn words(error: &Error) -> String {
    let Error::InvalidCertificate(wrong) = error else { return error.to_string() };
    let known = match wrong {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate is not signed by a trusted CA; name its CA with --parent-ca"
        }
        // Its errors are of a crate that is not used here for anything else.
        CertificateError::Other(wrong) => match wrong.to_string().as_str() {
            wrong if wrong.contains("CaUsedAsEndEntity") => {
                "a CA certificate does not identify a server: use one with basicConstraints=CA:FALSE"
            }
            wrong if wrong.contains("UnsupportedCertVersion") => {
                "not a certificate of X.509 version 3, so it has no names: make another one"
            }
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    known.to_owned()
}

/// What a server is called: its name, or its address.
///
/// # Errors
/// A name that no certificate can be for.
pub fn server_name(name: Result<IpAddr, &str>) -> Result<ServerName<'static>, String> {
    match name {
        Ok(address) => Ok(ServerName::from(address)),
        Err(name) => ServerName::try_from(name.to_owned()).map_err(|_| format!("no certificate can be for `{name}`")),
    }
}

impl fmt::Debug for RootStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootStore")
    }
}
