//! `--cluster-store-opt`: what a store must be told besides its URL, by the names that Docker 20.10 had for it.
//!
//! TLS is used when one of the three files for it is given, as with Docker; the URL has no word for it. A secret
//! is an option only as the name of a file: everyone on a host can read the arguments of its processes.

use crate::{
    StoreUrl,
    tls::{self, Tls},
    url,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A file with the certificates of the CAs that the store's certificate must be signed by, in PEM.
const CA_FILE: &str = "kv.cacertfile";
/// A file with this daemon's certificate, and those between it and its CA, in PEM.
const CERT_FILE: &str = "kv.certfile";
/// A file with the private key of that certificate, in PEM.
const KEY_FILE: &str = "kv.keyfile";
/// What stands before every key of the store, instead of the URL's prefix.
const PATH: &str = "kv.path";
/// The user as whom this daemon signs in to etcd.
const USER: &str = "kv.user";
/// A file with that user's password.
const PASSWORD_FILE: &str = "kv.passwordfile";
/// A file with Consul's ACL token.
const TOKEN_FILE: &str = "kv.tokenfile";

const KNOWN: [&str; 7] = [CA_FILE, CERT_FILE, KEY_FILE, PATH, USER, PASSWORD_FILE, TOKEN_FILE];

/// Options with a secret in them, and the ones to give instead.
const SECRETS: [(&str, &str); 2] = [("kv.password", PASSWORD_FILE), ("kv.token", TOKEN_FILE)];

/// The options of a store, each given once at most. In writing: `KEY=VALUE`, several with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<&'static str, String>);

impl StoreOptions {
    /// These options and those, if none is in both.
    pub fn and(mut self, others: Self) -> Result<Self, OptionError> {
        for (key, value) in others.0 {
            if self.0.insert(key, value).is_some() {
                return Err(OptionError::Twice(key));
            }
        }
        Ok(self)
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The user to sign in as.
    pub fn user(&self) -> Option<&str> {
        self.text(USER)
    }

    /// Where that user's password is.
    pub fn password_file(&self) -> Option<&Path> {
        self.file(PASSWORD_FILE)
    }

    /// Where the certificates of the CAs are.
    pub fn ca_file(&self) -> Option<&Path> {
        self.file(CA_FILE)
    }

    /// Where this daemon's certificate is.
    pub fn cert_file(&self) -> Option<&Path> {
        self.file(CERT_FILE)
    }

    /// Whether the store is to be spoken to by TLS.
    pub fn uses_tls(&self) -> bool {
        [CA_FILE, CERT_FILE, KEY_FILE].iter().any(|key| self.0.contains_key(key))
    }

    /// The certificates and the key, read now and checked: they are of use, belong together and are valid today.
    /// `None`: no TLS.
    pub fn tls(&self) -> Result<Option<Tls>, OptionError> {
        if !self.uses_tls() {
            return Ok(None);
        }
        let file = |key| {
            let path = self.file(key)?;
            Some(read(key, path).map(|text| tls::Pem { option: key, path: path.to_owned(), text }))
        };
        Ok(Some(Tls::new(
            file(CA_FILE).transpose()?,
            file(CERT_FILE).transpose()?,
            file(KEY_FILE).transpose()?,
        )?))
    }

    /// The password, read now. `None`: no user was given.
    pub fn password(&self) -> Result<Option<String>, OptionError> {
        self.secret(PASSWORD_FILE)
    }

    /// Consul's token, read now. `None`: none was given.
    pub fn token(&self) -> Result<Option<String>, OptionError> {
        self.secret(TOKEN_FILE)
    }

    /// Whether the options make sense for this store, every file among them included. Returns the URL with the
    /// prefix that holds. Nothing is sent and nothing is changed.
    pub fn check(&self, url: &StoreUrl) -> Result<StoreUrl, OptionError> {
        let misplaced = |options: &[&'static str], why| match options.iter().find(|o| self.0.contains_key(*o))
        {
            Some(option) => Err(OptionError::Misplaced { option, store: url.to_string(), why }),
            None => Ok(()),
        };
        let checked = match url {
            StoreUrl::Local | StoreUrl::Remote { .. } => {
                let others = [PATH, USER, PASSWORD_FILE, TOKEN_FILE];
                misplaced(&others, "it is for a store with servers of its own, as etcd is: leave it out")?;
                url.clone()
            }
            StoreUrl::Etcd { endpoints, prefix } => {
                misplaced(&[TOKEN_FILE], "etcd knows users: give kv.user and kv.passwordfile")?;
                StoreUrl::Etcd { endpoints: endpoints.clone(), prefix: self.prefix(url, prefix)? }
            }
            StoreUrl::Consul { endpoints, prefix } => {
                misplaced(&[USER, PASSWORD_FILE], "Consul knows tokens: give kv.tokenfile")?;
                StoreUrl::Consul { endpoints: endpoints.clone(), prefix: self.prefix(url, prefix)? }
            }
        };
        for (one, other) in [(CERT_FILE, KEY_FILE), (USER, PASSWORD_FILE)] {
            match (self.0.contains_key(one), self.0.contains_key(other)) {
                (true, false) => return Err(OptionError::Alone { given: one, missing: other }),
                (false, true) => return Err(OptionError::Alone { given: other, missing: one }),
                _ => {}
            }
        }
        self.tls()?;
        self.password()?;
        self.token()?;
        Ok(checked)
    }

    /// The prefix that holds: the URL's, unless an option names one.
    fn prefix(&self, url: &StoreUrl, of_url: &str) -> Result<String, OptionError> {
        let Some(path) = self.text(PATH) else { return Ok(of_url.to_owned()) };
        let prefix =
            url::check_prefix(path, path).map_err(|_| OptionError::BadPath { path: path.to_owned() })?;
        if of_url == url::DEFAULT_PREFIX || of_url == prefix {
            Ok(prefix)
        } else {
            Err(OptionError::TwoPrefixes { url: url.to_string(), path: path.to_owned() })
        }
    }

    fn secret(&self, key: &'static str) -> Result<Option<String>, OptionError> {
        let Some(path) = self.file(key) else { return Ok(None) };
        let bad = |reason: &str| OptionError::file(key, path, reason);
        let text = String::from_utf8(read(key, path)?).map_err(|_| bad("it is not text"))?;
        // Editors and echo end a file with a line break; a secret has none.
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() || secret.contains(['\r', '\n']) {
            return Err(bad("expected one line, the secret and nothing else"));
        }
        Ok(Some(secret.to_owned()))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn file(&self, key: &str) -> Option<&Path> {
        self.text(key).map(Path::new)
    }
}

impl FromStr for StoreOptions {
    type Err = OptionError;
    fn from_str(text: &str) -> Result<Self, OptionError> {
        text.split(',').map(|part| one(part.trim())).try_fold(Self::default(), |all, next| all.and(next?))
    }
}

/// One option.
fn one(text: &str) -> Result<StoreOptions, OptionError> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(OptionError::NotKeyValue(text.to_owned()));
    };
    if let Some((option, instead)) = SECRETS.into_iter().find(|(secret, _)| *secret == key) {
        return Err(OptionError::Secret { option, instead });
    }
    let Some(key) = KNOWN.into_iter().find(|known| *known == key) else {
        return Err(OptionError::Unknown { key: key.to_owned(), known: KNOWN.join(", ") });
    };
    if value.is_empty() {
        return Err(OptionError::Empty(key));
    }
    Ok(StoreOptions(BTreeMap::from([(key, value.to_owned())])))
}

impl fmt::Display for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&all.join(","))
    }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, OptionError> {
    std::fs::read(path).map_err(|e| OptionError::file(option, path, &e.to_string()))
}

/// Why the options of a store make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No `=` in it.
    #[error(
        "{0:?} is not KEY=VALUE, as in kv.cacertfile=/etc/weft/ca.pem (a comma stands between two options)"
    )]
    NotKeyValue(String),
    /// An option nobody knows.
    #[error("unknown option {key:?}; known are {known}")]
    Unknown {
        /// The option.
        key: String,
        /// Those that mean something.
        known: String,
    },
    /// An option without a value.
    #[error("{0} has no value: give one, or leave the option out")]
    Empty(&'static str),
    /// One option, two values.
    #[error("{0} is given twice: give it once")]
    Twice(&'static str),
    /// A secret where everyone can read it.
    #[error(
        "{option} would show the secret to everyone who lists the processes of this host: write it to a file, \
         and give {instead}=FILE"
    )]
    Secret {
        /// The option.
        option: &'static str,
        /// The one that names a file.
        instead: &'static str,
    },
    /// One of two that need each other.
    #[error("{given} is given without {missing}: each needs the other")]
    Alone {
        /// The one.
        given: &'static str,
        /// The other.
        missing: &'static str,
    },
    /// An option that this kind of store does not have.
    #[error("{option} means nothing to the store {store}: {why}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// The store's URL.
        store: String,
        /// Whose it is, and what to do.
        why: &'static str,
    },
    /// A prefix that is none.
    #[error("kv.path={path}: it may hold letters, digits, '-', '_', '.' and '/'")]
    BadPath {
        /// The value.
        path: String,
    },
    /// Two prefixes.
    #[error("kv.path={path} and the URL {url} name two places for the records: leave one of them out")]
    TwoPrefixes {
        /// The store's URL.
        url: String,
        /// The option's value.
        path: String,
    },
    /// A file that is of no use.
    #[error("{option}={path}: {reason}")]
    File {
        /// The option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do where that is not plain.
        reason: String,
    },
}

impl OptionError {
    pub(crate) fn file(option: &'static str, path: &Path, reason: &str) -> Self {
        Self::File { option, path: path.to_owned(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
