//! Whom parents are believed to be.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::Session;

/// The roots that this host trusts.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those of the system, or of the file or folder that `SSL_CERT_FILE` or `SSL_CERT_DIR` names.
    ///
    /// # Errors
    /// When there is none, with the remedy.
    pub fn of_host() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let cause = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
            return Err(format!(
                "this host trusts no certificate authority: {cause}; install ca-certificates, or name a file by SSL_CERT_FILE"
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
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

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}
