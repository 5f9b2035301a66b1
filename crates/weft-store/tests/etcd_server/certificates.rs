//! Certificates for tests, made when they are needed: one CA, a server's and some clients'.

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

pub struct Certificates {
    folder: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// A CA as `ca.pem`, a server's certificate for 127.0.0.1 as `server.pem` and `.key`, a client's as
    /// `client.pem` and `.key`.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two CAs of one name differ in their keys only, as a renewed one does.
        params.distinguished_name.push(DnType::CommonName, "a CA for tests");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let all = Self { folder: tempfile::tempdir().unwrap(), ca };
        std::fs::write(all.path("ca.pem"), all.ca.pem()).unwrap();
        all.issue("server", "127.0.0.1", |_| {});
        all.issue("client", "client", |_| {});
        all
    }

    /// Writes a certificate for `subject` and its key.
    pub fn issue(&self, name: &str, subject: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([subject.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        change(&mut params);
        std::fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.ca).unwrap().pem())
            .unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// The same, out of date for years.
    pub fn issue_expired(&self, name: &str, subject: &str) {
        self.issue(name, subject, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 3));
        });
    }

    pub fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    /// Options with these CAs and the certificate of this name.
    pub fn options(&self, name: &str) -> String {
        format!(
            "kv.cacertfile={},kv.certfile={},kv.keyfile={}",
            self.path("ca.pem"),
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key"))
        )
    }

    /// The same for a client of the test's own.
    pub fn raw(&self) -> TlsOptions {
        let read = |file: &str| std::fs::read(self.path(file)).unwrap();
        TlsOptions::new()
            .ca_certificate(Certificate::from_pem(self.ca.pem()))
            .identity(Identity::from_pem(read("client.pem"), read("client.key")))
    }
}
