//! CA certificates for verifying https:// parents.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::file::{self, MAX_CONFIG_BYTES};

use super::session::Session;
use super::suites::provider;
use crate::invalid_value::InvalidValue;

/// The trusted root certificates.
#[derive(Clone)]
pub struct RootStore(Arc<ClientConfig>);

impl RootStore {
    /// Reads the CA certificates of the system.
    ///
    /// # Errors
    /// No CA certificate found; the text includes the remedy.
    pub fn of_host() -> Result<Self, InvalidValue> {
        // Reads the files named by SSL_CERT_FILE and SSL_CERT_DIR, or else the defaults of
        // OpenSSL's build.
        let found = file::with_deadline(Path::new("the host's certificates"), rustls_native_certs::load_native_certs);
        let found = found.map_err(|error| error.invalid("check SSL_CERT_FILE and SSL_CERT_DIR"))?;
        Self::of(found.certs).map_err(|cause| {
            let cause = found.errors.first().map_or(cause, ToString::to_string);
            InvalidValue::new(
                format!("this host trusts no certificate authority: {cause}"),
                "install ca-certificates, or name a file with --parent-ca",
            )
        })
    }

    /// Reads the roots from a PEM file.
    ///
    /// # Errors
    /// The cause and the remedy; the caller names the file.
    pub fn of_file(file: &Path) -> Result<Self, InvalidValue> {
        let text =
            file::read(file, MAX_CONFIG_BYTES).map_err(|error| error.invalid("check the path and its permissions"))?;
        let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let trust = certificates.map_err(|error| error.to_string()).and_then(Self::of);
        trust.map_err(|cause| InvalidValue::new(cause, "write the CA certificates of the parents in PEM"))
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

    /// Creates a session with a server that must present a certificate for `name`.
    ///
    /// # Errors
    /// As [`Session::client`].
    pub fn session(&self, name: ServerName<'static>) -> io::Result<Session> {
        Session::client(Arc::clone(&self.0), name)
    }
}

/// Converts a host name or an address to a server name.
///
/// # Errors
/// A name for which no certificate can exist.
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
