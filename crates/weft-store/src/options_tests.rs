use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

fn error(text: &str) -> String {
    text.parse::<StoreOptions>().unwrap_err().to_string()
}

fn etcd() -> StoreUrl {
    "etcd://h:2379".parse().unwrap()
}

/// What the check says of these options for a store.
fn complaint(options: &str, url: &str) -> String {
    options.parse::<StoreOptions>().unwrap().check(&url.parse().unwrap()).unwrap_err().to_string()
}

#[test]
fn options_are_read_and_written_as_key_and_value() {
    let options: StoreOptions = "kv.path=a/b, kv.user=ann,kv.passwordfile=/p".parse().unwrap();
    assert_eq!(options.user(), Some("ann"));
    assert_eq!(options.password_file(), Some(Path::new("/p")));
    assert_eq!(options.to_string(), "kv.passwordfile=/p,kv.path=a/b,kv.user=ann");
    assert_eq!(options.to_string().parse::<StoreOptions>().unwrap(), options);
    assert!(!options.uses_tls());
    for option in ["kv.cacertfile=/a", "kv.certfile=/a", "kv.keyfile=/a"] {
        assert!(option.parse::<StoreOptions>().unwrap().uses_tls(), "{option}");
    }
}

#[test]
fn what_is_no_option_is_told_with_what_would_be_one() {
    for (text, expected) in [
        ("kv.cacertfile", "\"kv.cacertfile\" is not KEY=VALUE, as in kv.cacertfile=/etc/weft/ca.pem"),
        ("kv.cacertfile=/a,/b", "\"/b\" is not KEY=VALUE"),
        (
            "kv.cafile=/a",
            "unknown option \"kv.cafile\"; known are kv.cacertfile, kv.certfile, kv.keyfile, kv.path, ",
        ),
        ("kv.path=", "kv.path has no value"),
        ("kv.path=a,kv.path=b", "kv.path is given twice"),
    ] {
        assert!(error(text).starts_with(expected), "{text}: {}", error(text));
    }
}

#[test]
fn a_secret_among_the_arguments_is_refused_without_being_repeated() {
    for (text, instead) in
        [("kv.password=hush", "kv.passwordfile=FILE"), ("kv.token=hush", "kv.tokenfile=FILE")]
    {
        let error = error(text);
        assert!(error.contains("everyone who lists the processes") && error.contains(instead), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn the_path_is_the_prefix_unless_the_url_has_another() {
    let prefix = |options: &str, url: &str| {
        let checked = options.parse::<StoreOptions>().unwrap().check(&url.parse().unwrap());
        checked.map(|url| url.to_string()).map_err(|e| e.to_string())
    };
    assert_eq!(prefix("kv.path=/a/b/", "etcd://h:1").unwrap(), "etcd://h:1/a/b");
    assert_eq!(prefix("kv.path=a", "etcd://h:1/a").unwrap(), "etcd://h:1/a");
    let two = prefix("kv.path=a", "etcd://h:1/b").unwrap_err();
    assert!(two.contains("kv.path=a and the URL etcd://h:1/b name two places"), "{two}");
    let bad = prefix("kv.path=a b", "etcd://h:1").unwrap_err();
    assert!(bad.starts_with("kv.path=a b: it may hold letters"), "{bad}");
    assert_eq!(StoreOptions::default().check(&etcd()).unwrap(), etcd());
}

#[test]
fn options_that_do_not_fit_are_told() {
    for (options, url, expected) in [
        ("kv.certfile=/a", "etcd://h:1", "kv.certfile is given without kv.keyfile"),
        ("kv.keyfile=/a", "etcd://h:1", "kv.keyfile is given without kv.certfile"),
        ("kv.user=ann", "etcd://h:1", "kv.user is given without kv.passwordfile"),
        (
            "kv.tokenfile=/a",
            "etcd://h:1",
            "kv.tokenfile means nothing to the store etcd://h:1/weft: etcd knows users",
        ),
        ("kv.path=a", "local", "kv.path means nothing to the store local"),
        ("kv.user=a", "weft://h:1", "kv.user means nothing to the store weft://h:1"),
        (
            "kv.cacertfile=/nonexistent/ca.pem",
            "etcd://h:1",
            "kv.cacertfile=/nonexistent/ca.pem: No such file or directory",
        ),
    ] {
        let complaint = complaint(options, url);
        assert!(complaint.starts_with(expected), "{options} for {url}: {complaint}");
    }
}

#[test]
fn a_password_is_one_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    let options: StoreOptions = format!("kv.user=ann,kv.passwordfile={}", file.display()).parse().unwrap();
    for (text, password) in
        [("a b \n", Some("a b ")), ("x\r\n", Some("x")), ("", None), ("\n", None), ("a\nb\n", None)]
    {
        std::fs::write(&file, text).unwrap();
        match options.password() {
            Ok(read) => assert_eq!(read.as_deref(), password, "{text:?}"),
            Err(error) => {
                assert_eq!(password, None, "{error}");
                assert!(error.to_string().contains("one line"), "{error}");
            }
        }
    }
}

/// Files with certificates of one CA.
struct Files {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self { folder: TempDir::new().unwrap(), ca };
        files.write("ca", &files.ca.pem());
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A certificate for a client and its key, as `NAME.pem` and `NAME.key`.
    fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
        change(&mut params);
        self.write(&format!("{name}.pem"), &params.signed_by(&key, &self.ca).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn options(&self, ca: &str, cert: &str, key: &str) -> StoreOptions {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        format!("kv.cacertfile={},kv.certfile={},kv.keyfile={}", path(ca), path(cert), path(key))
            .parse()
            .unwrap()
    }
}

#[test]
fn certificates_and_keys_are_checked_before_they_are_used() {
    let files = Files::new();
    files.client("good", |_| {});
    files.client("other", |_| {});
    files.client("old", |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 3));
    });
    files.client("new", |params| params.not_before = date_time_ymd(2090, 1, 1));
    files.write("junk", "no PEM at all\n");
    files.write("torn", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let tls = files.options("ca", "good.pem", "good.key").tls().unwrap().unwrap();
    assert!(tls.ca.is_some() && tls.identity.is_some());
    for (ca, cert, key, expected) in [
        ("junk", "good.pem", "good.key", "junk: there is no certificate in it"),
        ("torn", "good.pem", "good.key", "torn: a certificate in it is no CA's"),
        ("ca", "good.key", "good.key", "good.key: there is no certificate in it"),
        ("ca", "good.pem", "good.pem", "good.pem: there is no private key in it"),
        ("ca", "good.pem", "other.key", "other.key: it is not the key of the certificate in "),
        ("ca", "old.pem", "old.key", "old.pem: the certificate in it has expired on 2002-02-03T00:00:00Z"),
        (
            "ca",
            "new.pem",
            "new.key",
            "new.pem: the certificate in it is valid from 2090-01-01T00:00:00Z on only",
        ),
    ] {
        let error = files.options(ca, cert, key).check(&etcd()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.starts_with("kv."), "{error}");
    }
    assert_eq!(format!("{tls:?}"), "Tls { ca: true, identity: true }");
}
