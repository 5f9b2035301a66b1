//! The certificate of a daemon that serves its embedded store, and the CA of its own that makes it.
//!
//! The CA is a key in the state directory, made at the first start; the join token carries a hash of its public half
//! ([`Pin`]), and that is all that another host needs to know. Certificates are made from the key when they are needed and
//! kept in memory: the CA's at the start, the server's when its half-life is over.

use crate::{
    Tls,
    pin::{NAME, Pin},
    replace_file,
    tls::roots,
    wire,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_hours(24);
/// From so long before its making on is a certificate valid: hosts' clocks differ.
const BEFORE: Duration = DAY.saturating_mul(30);
/// And so long after.
const AFTER: Duration = DAY.saturating_mul(90);
/// Then the next one is made.
const RENEWAL: Duration = DAY.saturating_mul(30);
/// The CA's own dates are looked at by nobody: who joins knows its key. Made at each start.
const AUTHORITY_AFTER: Duration = DAY.saturating_mul(3650);

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key's file cannot be read or written.
    #[error("the key of the store's CA, {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold a key.
    #[error(
        "the key of the store's CA, {path}, cannot be used: {reason}; put it back from a copy, or remove it: then the other \
         hosts need the new join token"
    )]
    BadKey {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// No certificate could be made.
    #[error("the certificate for the store: {0}")]
    Certificate(String),
}

/// See the module.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pin: Pin,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Authority").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Authority {
    /// The name of the key's file in the state directory.
    pub const FILE: &'static str = "store-ca.key";

    /// The CA whose key is in the file, or a new one whose key is written to it (mode 0600).
    pub fn load_or_create(path: &Path) -> Result<Self, AuthorityError> {
        let name = || path.display().to_string();
        let file = |source| AuthorityError::File { path: name(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let bad = |e: rcgen::Error| AuthorityError::BadKey { path: name(), reason: e.to_string() };
                Self::of(KeyPair::from_pem(&text).map_err(bad)?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(certificate)?;
                replace_file(path, 0o600, key.serialize_pem().as_bytes()).map_err(file)?;
                Self::of(key)
            }
            Err(e) => Err(file(e)),
        }
    }

    fn of(key: KeyPair) -> Result<Self, AuthorityError> {
        let pin = Pin::of_public_key(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "weft store CA");
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + AUTHORITY_AFTER).into());
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key).map_err(certificate)?, pin })
    }

    /// What tells this CA from all others.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// How the store is served: with a certificate of this CA, or, as `operators` says, with the operator's own. With a CA
    /// in there, every client has to show a certificate made by it.
    pub fn server_config(
        self: &Arc<Self>,
        operators: Option<&Tls>,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let failed = |e: &dyn fmt::Display| AuthorityError::Certificate(e.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| failed(&e))?;
        let builder = match operators.and_then(|tls| tls.ca.as_ref()) {
            Some(ca) => {
                let clients = Arc::new(roots(ca).map_err(|e| failed(&e))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(clients, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| failed(&e))?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config =
            match operators.map(Tls::chain_and_key).transpose().map_err(|e| failed(&e))?.flatten() {
                Some((chain, key)) => builder.with_single_cert(chain, key).map_err(|e| failed(&e))?,
                None => builder.with_cert_resolver(Arc::new(Renewing::new(Arc::clone(self))?)),
            };
        config.alpn_protocols = vec![wire::ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// A server's certificate that is made at `now`, with the CA's behind it.
    fn issue(&self, now: SystemTime) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate().map_err(certificate)?;
        let mut params = CertificateParams::new([NAME.to_owned()]).map_err(certificate)?;
        params.distinguished_name.push(DnType::CommonName, "weft store");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + AFTER).into());
        let own = params.signed_by(&key, &self.issuer).map_err(certificate)?;
        let chain: Vec<CertificateDer<'static>> = vec![own.der().clone(), self.issuer.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|e| AuthorityError::Certificate(e.to_string()))
    }
}

#[allow(clippy::needless_pass_by_value)] // For map_err.
fn certificate(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Certificate(error.to_string())
}

/// The server's certificate, and a new one in time. Also when the clock has been set back to before it was made.
struct Renewing {
    authority: Arc<Authority>,
    current: Mutex<(Arc<CertifiedKey>, SystemTime)>,
}

impl Renewing {
    fn new(authority: Arc<Authority>) -> Result<Self, AuthorityError> {
        let now = SystemTime::now();
        let first = Arc::new(authority.issue(now)?);
        Ok(Self { authority, current: Mutex::new((first, now)) })
    }

    fn at(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = now.duration_since(current.1).is_ok_and(|age| age < RENEWAL);
        if !is_fresh {
            match self.authority.issue(now) {
                Ok(key) => *current = (Arc::new(key), now),
                Err(error) => tracing::error!(%error, "the certificate for the store cannot be renewed"),
            }
        }
        Arc::clone(&current.0)
    }
}

impl fmt::Debug for Renewing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use x509_cert::{Certificate, der::Decode as _};

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Authority::FILE);
        let (first, second) =
            (Authority::load_or_create(&path).unwrap(), Authority::load_or_create(&path).unwrap());
        assert_eq!(first.pin(), second.pin());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains("PRIVATE"));
        std::fs::write(&path, "hello").unwrap();
        let error = Authority::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("new join token"), "{error}");
    }

    #[test]
    fn a_certificate_is_renewed_long_before_its_end_and_when_the_clock_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(&folder.path().join("key")).unwrap();
        let renewing = Renewing::new(Arc::new(authority)).unwrap();
        let now = SystemTime::now();
        let first = renewing.at(now);
        assert!(Arc::ptr_eq(&first, &renewing.at(now + DAY)));
        for later in [RENEWAL + DAY, AFTER * 4, Duration::ZERO] {
            let then = now + later - DAY;
            let key = renewing.at(then);
            assert!(!Arc::ptr_eq(&first, &key));
            let validity = Certificate::from_der(&key.cert[0]).unwrap().tbs_certificate.validity;
            assert!(
                validity.not_before.to_system_time() < then && then < validity.not_after.to_system_time()
            );
        }
    }
}
