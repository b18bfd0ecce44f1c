//! Certificates from an authority of the public (RFC 8555), for names that members want.
//!
//! Account, orders, answers to challenges and certificates are facts of the cluster: the leader speaks to the authority,
//! every member answers its questions, and whoever leads next goes on where the one before stopped.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use raft::Cluster;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use state_machine::{CertificateOrder, Challenge, ChallengeKind, Command, ManagedCertificate, Revision, Timestamp};
use thiserror::Error;
use world::World;
use zeroize::Zeroizing;

use crate::{fetch, listen::tls};

/// No answer of an authority is longer: a chain of four certificates with large keys.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How long an authority may think about an order.
const PATIENCE: Duration = Duration::from_secs(90);
/// Every member should have the answers before the authority asks; one that lags is not waited for longer.
const SPREAD: Duration = Duration::from_secs(5);
/// After the first failure; doubled with each one more. The best-known authority takes five failures an hour.
const RETRY: Duration = Duration::from_secs(5 * 60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// An order that is older has been forgotten by its authority.
const ORDER_AGE_MAX: Duration = Duration::from_secs(6 * 3600);

/// Why a certificate did not come.
#[derive(Debug, Error)]
pub enum AcmeError {
    #[error("the authority says: {0}")]
    Authority(#[from] instant_acme::Error),
    #[error("the authority offers no {0} challenge for this name")]
    NoChallenge(&'static str),
    #[error("the authority did not believe that the name is ours; does it lead to this cluster, and is the port open?")]
    NotBelieved,
    #[error("the authority sent a certificate that cannot be used: {0}")]
    Unusable(String),
    #[error("the key for it cannot be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the cluster did not take it: {0}")]
    Cluster(String),
}

/// When to try again.
pub fn retry_after(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(8)).min(RETRY_MAX)
}

/// The authority, through the world's network.
#[derive(Clone)]
pub struct Outside {
    pub world: World,
    /// A PEM file of authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
}

impl HttpClient for Outside {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let outside = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(impossible) => match impossible {},
            };
            let request = http::Request::from_parts(head, body);
            let answer = fetch::exchange(request, ANSWER_BYTES_MAX, outside.authorities.as_deref(), &outside.world);
            let answer = Box::pin(answer).await.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(http_body_util::Full::new)))
        })
    }
}

/// One attempt at one certificate, by the leader.
pub struct Attempt<'a> {
    pub cluster: &'a Cluster,
    pub outside: &'a Outside,
    /// Who proposes.
    pub by: &'a str,
}

impl Attempt<'_> {
    /// Orders a certificate, or goes on with the order under way, until it is there.
    pub async fn fetch(&self, row: &ManagedCertificate) -> Result<(), AcmeError> {
        let account = Box::pin(self.account(row, false)).await?;
        match Box::pin(self.with_account(row, &account)).await {
            Err(AcmeError::Authority(instant_acme::Error::Api(problem)))
                if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist")) =>
            {
                tracing::warn!(name = row.wish.name, "the authority has forgotten the account; another one is made");
                let account = Box::pin(self.account(row, true)).await?;
                Box::pin(self.with_account(row, &account)).await
            }
            done => done,
        }
    }

    async fn with_account(&self, row: &ManagedCertificate, account: &Account) -> Result<(), AcmeError> {
        let name = &row.wish.name;
        let (mut order, key) = match Box::pin(self.resume(row, account)).await {
            Some(resumed) => resumed,
            None => Box::pin(self.begin(row, account)).await?,
        };
        if order.state().status == OrderStatus::Pending {
            Box::pin(self.say_ready(row, &mut order)).await?;
            let polled = order.poll_ready(&RetryPolicy::new().timeout(PATIENCE)).await?;
            if polled == OrderStatus::Invalid {
                return Err(AcmeError::NotBelieved);
            }
        }
        if order.state().status == OrderStatus::Ready {
            let mut params = CertificateParams::new(vec![name.clone()])?;
            params.distinguished_name = DistinguishedName::new();
            order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        }
        let chain = order.poll_certificate(&RetryPolicy::new().timeout(PATIENCE)).await?;
        self.take(row, chain, &key).await
    }

    /// The account at this authority; made when there is none.
    async fn account(&self, row: &ManagedCertificate, anew: bool) -> Result<Account, AcmeError> {
        let secret = ManagedCertificate::account(&row.wish.directory);
        let builder = || Account::builder_with_http(Box::new(self.outside.clone()));
        if !anew && let Some(bytes) = self.cluster.secret(&secret) {
            match serde_json::from_slice::<AccountCredentials>(&bytes) {
                Ok(known) => return Ok(builder().from_credentials(known).await?),
                Err(error) => tracing::warn!(%error, "the account cannot be read; another one is made"),
            }
        }
        let contact = format!("mailto:{}", row.wish.email);
        let contact: &[&str] = if row.wish.email.is_empty() { &[] } else { &[&contact] };
        let wish = NewAccount { contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, made) = builder().create(&wish, row.wish.directory.clone(), None).await?;
        let bytes = Zeroizing::new(serde_json::to_vec(&made).map_err(instant_acme::Error::from)?);
        let put = self.cluster.put_secret(&secret, &bytes, self.by).await.map_err(cluster)?;
        put.answer.map_err(cluster)?;
        tracing::info!(directory = row.wish.directory, "an account was made at the authority");
        Ok(account)
    }

    /// The order that was under way, when the authority still knows it.
    async fn resume(&self, row: &ManagedCertificate, account: &Account) -> Option<(Order, KeyPair)> {
        let known = row.order.as_ref()?;
        if known.begun_at.after(ORDER_AGE_MAX) < self.now() {
            return None;
        }
        let pem = self.cluster.secret(&ManagedCertificate::next_key(&row.wish.name))?;
        let key = KeyPair::from_pem(std::str::from_utf8(&pem).ok()?).ok()?;
        let mut order = account.order(known.url.clone()).await.ok()?;
        tracing::info!(name = row.wish.name, "going on with the order under way");
        (order.state().status != OrderStatus::Invalid).then_some((order, key))
    }

    /// A new order. Its key and the answers to its challenges are with every member before the authority is told.
    async fn begin(&self, row: &ManagedCertificate, account: &Account) -> Result<(Order, KeyPair), AcmeError> {
        let name = &row.wish.name;
        let mut order = account.new_order(&NewOrder::new(&[Identifier::Dns(name.clone())])).await?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut challenges = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let challenge = authorization.challenge(kind(row)).ok_or(AcmeError::NoChallenge(kind_name(row)))?;
            let answer = challenge.key_authorization().as_str().to_owned();
            challenges.push(Challenge { token: challenge.token.clone(), authorization: answer });
        }
        let pem = Zeroizing::new(key.serialize_pem());
        let sealed = self.cluster.seal(&ManagedCertificate::next_key(name), pem.as_bytes());
        let told = CertificateOrder { url: order.url().to_owned(), begun_at: self.now(), challenges };
        let command = Command::OrderCertificate { name: name.clone(), order: told, key: sealed };
        let revision = self.propose(command).await?;
        let spread = async {
            while !self.cluster.all_have(revision) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(SPREAD, spread).await.is_err() {
            tracing::warn!(name, "not every member has the answers for the authority yet; it is told all the same");
        }
        Ok((order, key))
    }

    async fn say_ready(&self, row: &ManagedCertificate, order: &mut Order) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Pending => {
                    let challenge = authorization.challenge(kind(row));
                    challenge.ok_or(AcmeError::NoChallenge(kind_name(row)))?.set_ready().await?;
                }
                AuthorizationStatus::Valid => {}
                _ => return Err(AcmeError::NotBelieved),
            }
        }
        Ok(())
    }

    /// Looks at what came before anybody shows it.
    async fn take(&self, row: &ManagedCertificate, chain: String, key: &KeyPair) -> Result<(), AcmeError> {
        let unusable = |why: String| AcmeError::Unusable(why);
        let pem = Zeroizing::new(key.serialize_pem());
        tls::Chain::from_pem(chain.as_bytes(), pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let facts = tls::facts(&leaf).map_err(unusable)?;
        let name = &row.wish.name;
        if !facts.names.contains(name) {
            return Err(unusable(format!("it is for {:?}", facts.names)));
        }
        if facts.not_after <= self.now() {
            return Err(unusable("it has ended already; is this clock right?".into()));
        }
        let key = self.cluster.seal(&ManagedCertificate::key(name), pem.as_bytes());
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        self.propose(Command::IssueCertificate { name: name.clone(), chain, not_before, not_after, key }).await?;
        tracing::info!(name, until = %not_after, "a certificate came");
        Ok(())
    }

    /// Tells that it did not work, and when it is tried again.
    pub async fn failed(&self, row: &ManagedCertificate, error: &AcmeError) {
        let wait = retry_after(row.failures);
        let name = row.wish.name.clone();
        tracing::warn!(name, error = %chain_of(error), again_in_secs = wait.as_secs(), "no certificate");
        let command = Command::FailCertificate { name, error: chain_of(error), retry_at: self.now().after(wait) };
        if let Err(error) = self.propose(command).await {
            tracing::debug!(%error, "the failure was not told");
        }
    }

    async fn propose(&self, command: Command) -> Result<Revision, AcmeError> {
        let applied = self.cluster.propose(self.by, command).await.map_err(cluster)?;
        applied.answer.map_err(cluster)?;
        Ok(applied.revision)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.outside.world.clock.now_ms())
    }
}

fn cluster(error: impl ToString) -> AcmeError {
    AcmeError::Cluster(error.to_string())
}

/// With the causes, for a person.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

fn kind(row: &ManagedCertificate) -> ChallengeType {
    match row.wish.challenge {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn kind_name(row: &ManagedCertificate) -> &'static str {
    match row.wish.challenge {
        ChallengeKind::Http01 => "HTTP-01",
        ChallengeKind::TlsAlpn01 => "TLS-ALPN-01",
    }
}

/// What orders of a State wait for: what an authority may ask any member.
pub fn challenges(state: &state_machine::State) -> impl Iterator<Item = (&str, &Challenge)> {
    state.certificates().values().flat_map(|row| {
        let challenges = row.order.iter().flat_map(|order| &order.challenges);
        challenges.map(|challenge| (row.wish.name.as_str(), challenge))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_spread_out() {
        let spans: Vec<u64> = (0..6).map(|failures| retry_after(failures).as_secs() / 60).collect();
        assert_eq!(spans, [5, 10, 20, 40, 60, 60]);
        assert_eq!(retry_after(u32::MAX), RETRY_MAX);
        // Five an hour are what the best-known authority takes.
        let mut at = 0;
        let within_an_hour = spans.iter().take_while(|span| (at < 60).then(|| at += **span).is_some()).count();
        assert!(within_an_hour <= 5, "{within_an_hour}");
    }
}
