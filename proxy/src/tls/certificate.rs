//! The server certificate and its key, re-read when the files change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use zeroize::Zeroizing;

use super::failure::words;
use super::hello::{HTTP, Hello};
use super::session::Session;
use super::suites::provider;
use super::validity::Validity;
use super::x509::Facts;
use crate::file::{self, MAX_CONFIG_BYTES, ReadError};
use crate::fingerprint::FileFingerprint;
use crate::invalid_value::InvalidValue;

/// A certificate and its key.
pub struct ServerCertificate {
    certificate: PathBuf,
    key: PathBuf,
    seen: Mutex<[Option<FileFingerprint>; 2]>,
    shown: RwLock<Shown>,
}

/// The certificate presented to clients.
struct Shown {
    /// For clients that offer no known protocol by ALPN: none is chosen, and the handshake goes on.
    config: Arc<ServerConfig>,
    /// For clients that offer HTTP/1.1 by ALPN: it is chosen.
    config_for_http: Arc<ServerConfig>,
    facts: Option<Facts>,
}

impl ServerCertificate {
    /// Reads both PEM files: the certificate followed by its chain, and its key.
    ///
    /// # Errors
    /// Of each file the cause and the remedy.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Vec<PairError>> {
        let seen = Mutex::new([certificate, key].map(FileFingerprint::of));
        let shown = RwLock::new(read(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), seen, shown })
    }

    /// Returns true if a file has changed since the last read, successful or not.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.stamps() != *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again, for sessions from now on.
    ///
    /// # Errors
    /// As [`ServerCertificate::load`]; those from before go on being used.
    pub fn reload(&self) -> Result<(), String> {
        // Taken before the read, so that the next check notices a change in between.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = self.stamps();
        let shown = read(&self.certificate, &self.key)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// Returns the end of the certificate's validity for clients; `None` if unknown.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        self.shown().facts.as_ref().map(|facts| facts.until)
    }

    /// Returns the names and addresses in the certificate.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.shown().facts.as_ref().map(|facts| facts.names.clone()).unwrap_or_default()
    }

    /// Returns the reason clients refuse the certificate at `now`, or will soon: cause and remedy.
    #[must_use]
    pub fn validity_warning(&self, now: SystemTime) -> Option<(String, &'static str)> {
        let (cause, remedy) = Validity::of(self.shown().facts.as_ref()?).warning(now)?;
        Some((format!("--tls-cert {} {cause}", self.certificate.display()), remedy))
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a session with the client that sent this ClientHello.
    ///
    /// A server that shares no protocol with the client may refuse it (RFC 7301, 3.2), as rustls
    /// does. Clients name others by mistake (`http/1.0`, or `http 1.1` in https-proxy-agent 5), and
    /// servers by OpenSSL go on without one; so does this.
    ///
    /// # Errors
    /// As [`Session::server`].
    pub fn session(&self, hello: Hello) -> io::Result<Session> {
        let shown = self.shown();
        Session::server(Arc::clone(if hello.offers_http { &shown.config_for_http } else { &shown.config }))
    }

    fn stamps(&self) -> [Option<FileFingerprint>; 2] {
        [&self.certificate, &self.key].map(|file| FileFingerprint::of(file))
    }
}

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `--tls-cert`.
    Certificate,
    /// `--tls-key`.
    Key,
}

/// Fault of one of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairError {
    /// The file.
    pub half: Half,
    /// Cause, with option and path, and remedy.
    pub error: InvalidValue,
}

const CHAIN: &str = "write the certificate in PEM, followed by its intermediate certificates";
const KEY: &str = "write the key of the certificate in PEM, not encrypted: ECDSA by P-256 or P-384, Ed25519, or RSA from \
                   2048 bits on";

/// Reads both files; the errors are those of each.
fn read(certificate: &Path, key: &Path) -> Result<Shown, Vec<PairError>> {
    let provider = provider();
    let signing = signing_key(key, &provider);
    let (chain, signing) = match (chain(certificate), signing) {
        (Ok(chain), Ok(signing)) => (chain, signing),
        (chain, signing) => return Err(chain.err().into_iter().chain(signing.err()).collect()),
    };
    show(certificate, key, chain, signing, provider).map_err(|error| vec![error])
}

impl PairError {
    fn new(half: Half, file: &Path, error: InvalidValue) -> Self {
        Self { half, error: error.of(format_args!("--{} {}", half.option(), file.display())) }
    }
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Half {
    /// Returns the name of its option without the dashes.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Certificate => "tls-cert",
            Self::Key => "tls-key",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Certificate => CHAIN,
            Self::Key => KEY,
        }
    }

    fn read(self, file: &Path) -> Result<Zeroizing<Vec<u8>>, PairError> {
        let unread = |error: ReadError| error.invalid("check the path and its permissions");
        file::read(file, MAX_CONFIG_BYTES).map_err(|error| PairError::new(self, file, unread(error)))
    }

    fn not_pem(self, file: &Path, error: &pem::Error) -> PairError {
        let cause = match (error, self) {
            (pem::Error::NoItemsFound, Self::Certificate) => "contains no certificate".to_owned(),
            (pem::Error::NoItemsFound, Self::Key) => "contains no key".to_owned(),
            (error, _) => error.to_string(),
        };
        PairError::new(self, file, InvalidValue::new(cause, self.remedy()))
    }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let half = Half::Certificate;
    let text = half.read(file)?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if chain.is_empty() => Err(half.not_pem(file, &pem::Error::NoItemsFound)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(half.not_pem(file, &error)),
    }
}

fn signing_key(file: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, PairError> {
    let half = Half::Key;
    let text = half.read(file)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| half.not_pem(file, &error))?;
    let signing = provider.key_provider.load_private_key(private);
    signing.map_err(|error| PairError::new(half, file, InvalidValue::new(error.to_string(), KEY)))
}

/// Combines certificate and key; they must match.
fn show(
    certificate: &Path,
    key: &Path,
    chain: Vec<CertificateDer<'static>>,
    signing: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
) -> Result<Shown, PairError> {
    let facts = chain.first().and_then(|certificate| Facts::of(certificate));
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let cause = format!("does not match --tls-cert {}", certificate.display());
            let error = InvalidValue::new(cause, "use the key of the certificate");
            return Err(PairError::new(Half::Key, key, error));
        }
        Err(error) => {
            return Err(PairError::new(Half::Certificate, certificate, InvalidValue::new(words(&error), CHAIN)));
        }
    }
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            PairError::new(Half::Certificate, certificate, InvalidValue::without_remedy(error.to_string()))
        })?
        .with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.ignore_client_order = true;
    let mut config_for_http = config.clone();
    config_for_http.alpn_protocols = vec![HTTP.to_vec()];
    Ok(Shown { config: Arc::new(config), config_for_http: Arc::new(config_for_http), facts })
}

impl fmt::Debug for ServerCertificate {
    /// Nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
