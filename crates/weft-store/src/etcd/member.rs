//! One server of an etcd cluster: the connection to it, and who we are to it.
//!
//! etcd gives a token for user and password and takes it back whenever it likes: after a while, when it
//! restarts, when users and roles change. It tells so before it does anything, so the answer is to sign in and
//! ask again. Certificates are replaced on disk while a daemon runs: a handshake that fails is tried again
//! with what is there now. etcd-client renews tokens too, but not after changes of users and not for watches.

use super::{
    failover::Again,
    failure::{Failure, broke, is_wrong_password, of_certificates, unsent, wants_new_token, wants_no_token},
};
use crate::{OptionError, StoreError, StoreOptions, Tls, handshake};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{RwLock, watch},
    time::Instant,
};

/// How often a call signs in anew: on a slow day a token may have expired before it is used.
const SIGN_INS: u8 = 3;

/// A member, and what is known about it.
pub struct Member {
    pub endpoint: String,
    session: RwLock<Session>,
    /// Sent to when the member is left for another one: watches on it end.
    given_up: watch::Sender<()>,
    /// When it last answered, in ms after `since`, plus one; 0: never.
    answered: AtomicU64,
    since: Instant,
    /// Whether it has ever answered.
    known: AtomicBool,
}

/// One client for each endpoint, not one for all: etcd-client balances over several by load, which sends every
/// other call to a dead one.
#[derive(Clone)]
struct Session {
    client: Client,
    /// What its connections show and trust.
    tls: Option<Tls>,
    signed_in: bool,
    /// The password that it has signed in with.
    password: Option<String>,
    /// Tells one session from the next.
    number: u64,
}

/// What a call works with.
pub struct Connection {
    pub client: Client,
    /// Changes when the member is given up.
    pub given_up: watch::Receiver<()>,
}

/// How members are reached: the same for all of them.
pub struct Access {
    pub options: StoreOptions,
    pub connect: ConnectOptions,
}

impl Member {
    pub async fn new(endpoint: &str, access: &Access, tls: Option<Tls>) -> Result<Self, Error> {
        let session = Session::new(endpoint, access, tls, 0).await?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            session: RwLock::new(session),
            given_up: watch::Sender::new(()),
            answered: AtomicU64::new(0),
            since: Instant::now(),
            known: AtomicBool::new(false),
        })
    }

    /// Makes a call. What fails because a token or a certificate is out of date is made once more with a new one,
    /// unless it may have had an effect and must not be made twice.
    pub async fn call<T, F, Fut>(&self, access: &Access, again: Again, operation: &F) -> Result<T, Failure>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let mut sign_ins = if access.options.user().is_some() { SIGN_INS } else { 0 };
        let mut may_reload = access.options.uses_tls();
        loop {
            let session = self.session.read().await.clone();
            let failure = match self.call_once(access, &session, operation).await {
                Ok(answer) => {
                    self.note_answer();
                    return Ok(answer);
                }
                Err(failure) => self.look_closer(&session, failure).await,
            };
            if sign_ins > 0 && wants_new_token(&failure) {
                sign_ins -= 1;
                self.forget_token(&session).await;
            } else if may_reload && of_certificates(&failure, &access.options) {
                may_reload = false;
                let reloaded = self.reload_certificates(access, &session).await?;
                if !reloaded || (again == Again::IfUnsent && !unsent(&failure)) {
                    return Err(failure);
                }
            } else {
                return Err(failure);
            }
        }
    }

    /// HTTP/2 makes "connection closed" of the word on our certificate.
    async fn look_closer(&self, session: &Session, failure: Failure) -> Failure {
        match &session.tls {
            Some(tls) if broke(&failure) => {
                let Ok(tls) = tls.client_config() else { return failure };
                handshake::alert(&self.endpoint, tls).await.map_or(failure, Failure::Alert)
            }
            _ => failure,
        }
    }

    async fn call_once<T, F, Fut>(
        &self,
        access: &Access,
        session: &Session,
        operation: &F,
    ) -> Result<T, Failure>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        if access.options.user().is_some() && !session.signed_in {
            self.sign_in(access, session.number).await?;
        }
        let connection = Connection { client: session.client.clone(), given_up: self.given_up.subscribe() };
        Ok(operation(connection).await?)
    }

    /// Gets a token, unless another call has got one since session `seen`: the calls that an expired token fails
    /// come together, and etcd makes checking a password expensive.
    async fn sign_in(&self, access: &Access, seen: u64) -> Result<(), Failure> {
        let mut session = self.session.write().await;
        if session.number != seen {
            return Ok(());
        }
        let before = session.password.clone();
        // While a password is being changed, its file may be empty, or have the new one before etcd has.
        let now = match (access.options.password(), &before) {
            (Ok(now), _) => now.unwrap_or_default(),
            (Err(_), Some(before)) => before.clone(),
            (Err(error), None) => return Err(Failure::Option(error)),
        };
        let signed_in = match session.sign_in(access, &now).await {
            Err(error) if is_wrong_password(&error) => match &before {
                Some(before) if *before != now => session.sign_in(access, before).await,
                _ => Err(error),
            },
            other => other,
        };
        signed_in.map_err(Failure::Etcd)?;
        session.number = seen + 1;
        Ok(())
    }

    async fn forget_token(&self, of: &Session) {
        let mut session = self.session.write().await;
        if session.number == of.number {
            session.signed_in = false;
        }
    }

    /// Starts a new session with the certificates that are on disk now, if they are others. Returns whether.
    async fn reload_certificates(&self, access: &Access, of: &Session) -> Result<bool, Failure> {
        let tls = access.options.tls().map_err(Failure::Option)?;
        let mut session = self.session.write().await;
        if session.number != of.number && session.tls != of.tls {
            // Another call has done it.
            return Ok(true);
        }
        if session.tls == tls {
            return Ok(false);
        }
        let next = Session::new(&self.endpoint, access, tls, session.number + 1).await?;
        *session = Session { password: session.password.take(), ..next };
        tracing::info!(endpoint = %self.endpoint, "the certificates for etcd have changed on disk: read again");
        Ok(true)
    }

    /// Leaves the connection for a new one, and ends the watches on it.
    pub async fn reconnect(&self, access: &Access) {
        let mut session = self.session.write().await;
        match Session::new(&self.endpoint, access, session.tls.clone(), session.number + 1).await {
            Ok(next) => *session = Session { password: session.password.take(), ..next },
            Err(error) => {
                tracing::warn!(endpoint = %self.endpoint, %error, "the connection to etcd cannot be begun anew");
            }
        }
        drop(session);
        self.give_up();
    }

    fn note_answer(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered.store(now.saturating_add(1), Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
    }

    /// Whether it has ever answered: then the way there is right.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Whether it has answered within the last `span`.
    pub fn answered_within(&self, span: Duration) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        answered > 0 && self.since.elapsed() <= Duration::from_millis(answered) + span
    }

    /// It does not do what it is asked: who watches there shall go elsewhere.
    pub fn give_up(&self) {
        self.answered.store(0, Ordering::Relaxed);
        self.given_up.send_replace(());
    }
}

impl Session {
    /// Sends nothing.
    async fn new(endpoint: &str, access: &Access, tls: Option<Tls>, number: u64) -> Result<Self, Error> {
        let mut connect = access.connect.clone();
        if let Some(tls) = &tls {
            connect = connect.with_tls(tls_options(endpoint, tls));
        }
        let client = Client::connect([endpoint], Some(connect)).await?;
        Ok(Self { client, tls, signed_in: false, password: None, number })
    }

    async fn sign_in(&mut self, access: &Access, password: &str) -> Result<(), Error> {
        let user = access.options.user().unwrap_or_default().to_owned();
        match self.client.update_user(Some((user, password.to_owned()))).await {
            Err(error) if !wants_no_token(&error) => return Err(error),
            _ => self.signed_in = true,
        }
        self.password = Some(password.to_owned());
        Ok(())
    }
}

fn tls_options(endpoint: &str, tls: &Tls) -> TlsOptions {
    let mut options = TlsOptions::new().domain_name(handshake::host(endpoint));
    options = match &tls.ca {
        Some(ca) => options.ca_certificate(Certificate::from_pem(ca)),
        None => options.with_native_roots(),
    };
    match &tls.identity {
        Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key)),
        None => options,
    }
}

/// The certificates for the first sessions.
pub fn certificates(options: &StoreOptions) -> Result<Option<Tls>, StoreError> {
    options.tls().map_err(|e: OptionError| StoreError::Invalid(e.to_string()))
}
