//! The certificates for a store on the network: read from their files, and checked before anything is sent.

use crate::{
    options::OptionError,
    pin::{Pin, Pinned},
};
use rustls::{
    AlertDescription, ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{error::Error, fmt, io, path::PathBuf, sync::Arc, time::SystemTime};
use x509_cert::{Certificate, der::Decode};

/// What TLS needs, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The CAs to trust; `None`: those that this system trusts.
    pub ca: Option<Vec<u8>>,
    /// This daemon's certificate with those between it and its CA, and its key; `None`: it shows none.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl Tls {
    /// The same for a connection of our own making.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let roots = if let Some(ca) = &self.ca {
            roots(ca)?
        } else {
            let mut roots = RootCertStore::empty();
            let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        self.identified(config)
    }

    /// The same for a server whose CA is known by its public key.
    pub(crate) fn pinned_config(&self, pin: Pin) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider }));
        self.identified(config)
    }

    /// With this daemon's certificate, if it has one.
    fn identified(
        &self,
        config: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, rustls::Error> {
        match self.chain_and_key()? {
            Some((chain, key)) => config.with_client_auth_cert(chain, key),
            None => Ok(config.with_no_client_auth()),
        }
    }

    /// The certificate with those between it and its CA, and its key.
    pub(crate) fn chain_and_key(&self) -> Result<Option<Identity>, rustls::Error> {
        let Some((certificate, key)) = &self.identity else { return Ok(None) };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(damaged)?;
        Ok(Some((chain, PrivateKeyDer::from_pem_slice(key).map_err(damaged)?)))
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// CAs to trust, from PEM.
pub(crate) fn roots(ca: &[u8]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.map_err(damaged)?)?;
    }
    if roots.is_empty() {
        return Err(rustls::Error::General("there is no CA's certificate in it; PEM is expected".to_owned()));
    }
    Ok(roots)
}

#[allow(clippy::needless_pass_by_value)] // For map_err.
fn damaged(error: pem::Error) -> rustls::Error {
    rustls::Error::General(format!("{error:?}"))
}

/// The alerts about the certificate that the other side was shown, or not shown.
const OF_CERTIFICATES: [AlertDescription; 10] = {
    use AlertDescription as Alert;
    [
        Alert::HandshakeFailure,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        // A CA of the right name with another key.
        Alert::DecryptError,
        Alert::AccessDenied,
        Alert::CertificateRequired,
    ]
};

/// Whether the alert is about the certificate that the other side was shown, or not shown.
pub(crate) fn is_of_certificates(alert: AlertDescription) -> bool {
    OF_CERTIFICATES.contains(&alert)
}

/// The alert about our certificate that an HTTP/2 connection ended with. Of an I/O error it hands on what that says, and not
/// what it is.
pub(crate) fn alert_in(cause: &str) -> Option<AlertDescription> {
    OF_CERTIFICATES.into_iter().find(|alert| cause == rustls::Error::AlertReceived(*alert).to_string())
}

/// The error of TLS in a chain of causes. An I/O error hides the one it was made from.
pub(crate) fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = hidden.map(|hidden| hidden as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// A file that an option names, and what is in it.
pub struct Pem {
    pub option: &'static str,
    pub path: PathBuf,
    pub text: Vec<u8>,
}

impl Pem {
    fn bad(&self, reason: &str) -> OptionError {
        OptionError::file(self.option, &self.path, reason)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, OptionError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        match found {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => {
                Err(self.bad("there is no certificate in it; PEM is expected, -----BEGIN CERTIFICATE-----"))
            }
            Err(error) => Err(self.bad(&format!("a certificate in it is damaged: {error:?}"))),
        }
    }
}

impl Tls {
    /// Checks what the files hold. The certificate and the key come together or not at all.
    pub(crate) fn new(ca: Option<Pem>, cert: Option<Pem>, key: Option<Pem>) -> Result<Self, OptionError> {
        if let Some(ca) = &ca {
            let mut roots = RootCertStore::empty();
            for certificate in ca.certificates()? {
                roots
                    .add(certificate)
                    .map_err(|e| ca.bad(&format!("a certificate in it is no CA's: {e}")))?;
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => {
                check_identity(&cert, &key)?;
                Some((cert.text, key.text))
            }
            _ => None,
        };
        Ok(Self { ca: ca.map(|ca| ca.text), identity })
    }
}

fn check_identity(cert: &Pem, key: &Pem) -> Result<(), OptionError> {
    let chain = cert.certificates()?;
    if let Some(own) = chain.first() {
        check_dates(cert, own)?;
    }
    let secret = PrivateKeyDer::from_pem_slice(&key.text).map_err(|_| {
        key.bad("there is no private key in it; PEM without a passphrase is expected, -----BEGIN PRIVATE KEY-----")
    })?;
    match CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(key.bad(&format!("it is not the key of the certificate in {}", cert.path.display())))
        }
        Err(error) => Err(key.bad(&format!("the key cannot be used: {error}"))),
    }
}

/// The other side would refuse a certificate that is out of date, and say so in one word at most.
fn check_dates(file: &Pem, certificate: &CertificateDer<'_>) -> Result<(), OptionError> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|e| file.bad(&format!("the certificate in it is damaged: {e}")))?;
    let validity = parsed.tbs_certificate.validity;
    let now = SystemTime::now();
    if now > validity.not_after.to_system_time() {
        let end = validity.not_after;
        return Err(file.bad(&format!("the certificate in it has expired on {end}: have it renewed")));
    }
    if now < validity.not_before.to_system_time() {
        let start = validity.not_before;
        let reason =
            format!("the certificate in it is valid from {start} on only: is this host's clock right?");
        return Err(file.bad(&reason));
    }
    Ok(())
}
