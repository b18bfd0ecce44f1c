//! The login provider, as seen from here: discovered in the background, asked once for each person.
//!
//! Whatever it does or does not answer, this member goes on: every exchange has a deadline and a size, and few take place
//! at once. What it says is believed only when signed by a key it publishes, for us, now, and for this very question.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::DateTime;
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AsyncHttpClient, AuthType, AuthorizationCode, ClaimsVerificationError, Client,
    ClientId, ClientSecret, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, IdTokenFields, IdTokenVerifier, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, SignatureVerificationError, StandardErrorResponse, StandardTokenResponse, TokenResponse,
    UserInfoClaims,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreRevocableToken,
        CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use state_machine::Timestamp;
use thiserror::Error;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use world::World;

use crate::{
    fetch::{self, FetchError},
    options::{Oidc, Pkce},
};

/// Metadata, keys and tokens have a few kilobytes; somebody in a thousand groups has sixty.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// People at the provider at once; each holds a connection of ours for a second.
const EXCHANGES_MAX: usize = 32;
/// How long a page waits for a provider that has not been discovered yet.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(3);
/// Keys and addresses change rarely.
const DISCOVER_EVERY: Duration = Duration::from_secs(3600);
/// Between two discoveries, whoever asks for one.
const DISCOVER_PAUSE: Duration = Duration::from_secs(10);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LAST: Duration = Duration::from_secs(60);

/// Why nobody was proved to be anybody.
#[derive(Debug, Error)]
pub enum Trouble {
    /// Nobody there, too slow, or nonsense.
    #[error("the login provider cannot be asked: {0}")]
    Unreachable(String),
    /// It says no, or what it says is not good.
    #[error("{0}")]
    NotProved(String),
    /// Too many at once.
    #[error("too many people are signing in at this moment")]
    Busy,
}

/// What a provider said of somebody, verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    pub username: String,
    pub name: String,
    pub email: String,
    pub email_verified: bool,
    pub picture: String,
    pub groups: Vec<String>,
    /// The end of the ID token.
    pub expires: Timestamp,
}

/// What is asked for beyond the standard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct More {
    /// A list, or one text.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}
impl AdditionalClaims for More {}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Groups {
        Many(Vec<String>),
        One(String),
        /// Some providers write objects; they name nobody we know.
        Other(serde::de::IgnoredAny),
    }
    Ok(match Option::<Groups>::deserialize(deserializer)? {
        Some(Groups::Many(groups)) => Some(groups),
        Some(Groups::One(group)) => Some(vec![group]),
        Some(Groups::Other(_)) | None => None,
    })
}

type Fields = IdTokenFields<
    More,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Tokens = StandardTokenResponse<Fields, CoreTokenType>;
type Knocker = Client<
    More,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Tokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A provider and how far we know it.
pub struct Provider {
    pub options: Oidc,
    outside: Outside,
    known: watch::Sender<Result<Arc<CoreProviderMetadata>, String>>,
    wanted: Notify,
    exchanges: Semaphore,
}

/// One question: what the browser carries and what must come back.
pub struct Question<'a> {
    pub redirect: &'a str,
    pub state: &'a str,
    pub nonce: &'a str,
    /// The proof key; 43 characters.
    pub verifier: &'a str,
}

impl Provider {
    /// A provider that is not known yet: [`Provider::discover_for_ever`] gets to know it.
    pub fn new(options: Oidc, world: World) -> Provider {
        Provider {
            outside: Outside { world, authorities: options.authorities.clone() },
            options,
            known: watch::Sender::new(Err("it has not been asked yet".to_owned())),
            wanted: Notify::new(),
            exchanges: Semaphore::new(EXCHANGES_MAX),
        }
    }

    /// For rows: which provider a sign-in went to.
    pub fn name(&self) -> String {
        format!("{} {}", self.options.issuer, self.options.client_id)
    }

    /// Asks for metadata and keys: at once, every hour, and when somebody comes with a key that is not known.
    pub async fn discover_for_ever(self: Arc<Self>) {
        let mut pause = AGAIN_FIRST;
        loop {
            let began = Instant::now();
            let next = match self.discover().await {
                Ok(()) => {
                    pause = AGAIN_FIRST;
                    DISCOVER_EVERY
                }
                Err(why) => {
                    tracing::warn!(issuer = self.options.issuer, why, "the login provider cannot be reached");
                    pause = (pause * 2).min(AGAIN_LAST);
                    pause
                }
            };
            tokio::select! { biased;
                () = tokio::time::sleep(next) => {}
                () = self.wanted.notified() => tokio::time::sleep_until(began + DISCOVER_PAUSE.min(next)).await,
            }
        }
    }

    /// Asks for metadata and keys once. What was known stays when this fails.
    pub async fn discover(&self) -> Result<(), String> {
        let found = match IssuerUrl::new(self.options.issuer.clone()) {
            Ok(issuer) => CoreProviderMetadata::discover_async(issuer, &self.outside).await.map_err(|e| chain(&e)),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(metadata) => {
                if self.known.borrow().is_err() {
                    tracing::info!(issuer = self.options.issuer, "the login provider is known");
                }
                drop(self.known.send_replace(Ok(Arc::new(metadata))));
                Ok(())
            }
            Err(why) => {
                self.known.send_if_modified(|known| match known {
                    Ok(_) => false,
                    Err(old) => {
                        old.clone_from(&why);
                        false
                    }
                });
                Err(why)
            }
        }
    }

    async fn metadata(&self) -> Result<Arc<CoreProviderMetadata>, Trouble> {
        let mut known = self.known.subscribe();
        if known.borrow().is_err() {
            self.wanted.notify_one();
            let _ = tokio::time::timeout(DISCOVERY_PATIENCE, known.wait_for(Result::is_ok)).await;
        }
        let found = self.known.borrow().clone();
        found.map_err(Trouble::Unreachable)
    }

    /// Where to send a browser.
    pub async fn address(&self, question: &Question<'_>) -> Result<url::Url, Trouble> {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        use sha2::{Digest, Sha256};
        let metadata = self.metadata().await?;
        let mut url = metadata.authorization_endpoint().url().clone();
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("response_type", "code")
                .append_pair("client_id", &self.options.client_id)
                .append_pair("redirect_uri", question.redirect)
                .append_pair("scope", &self.options.scope.join(" "))
                .append_pair("state", question.state)
                .append_pair("nonce", question.nonce);
            match self.options.pkce {
                Pkce::Off => {}
                Pkce::Plain => {
                    query
                        .append_pair("code_challenge", question.verifier)
                        .append_pair("code_challenge_method", "plain");
                }
                Pkce::S256 => {
                    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(question.verifier));
                    query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256");
                }
            }
            for (name, value) in &self.options.extra_params {
                query.append_pair(name, value);
            }
        }
        Ok(url)
    }

    /// Trades a code for who it is.
    pub async fn ask(&self, question: &Question<'_>, code: &str) -> Result<Claims, Trouble> {
        let _seat = self.exchanges.try_acquire().map_err(|_| Trouble::Busy)?;
        let metadata = self.metadata().await?;
        let client = self.client(&metadata, question.redirect)?;
        let mut request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| Trouble::Unreachable("it names no token endpoint".to_owned()))?;
        if self.options.pkce != Pkce::Off {
            request = request.set_pkce_verifier(PkceCodeVerifier::new(question.verifier.to_owned()));
        }
        let tokens = request.request_async(&self.outside).await.map_err(|error| match error {
            RequestTokenError::Request(error) => Trouble::Unreachable(error.to_string()),
            RequestTokenError::ServerResponse(said) => {
                Trouble::NotProved(format!("the provider does not take the code: {}", said.error().as_ref()))
            }
            // The answer itself may hold tokens: not told.
            RequestTokenError::Parse(..) => Trouble::NotProved("the provider's answer makes no sense".to_owned()),
            RequestTokenError::Other(why) => Trouble::NotProved(why),
        })?;
        let token = tokens.id_token().ok_or_else(|| Trouble::NotProved("the answer holds no ID token".to_owned()))?;
        let verifier = self.verifier(&client, &metadata);
        let claims = match token.claims(&verifier, &Nonce::new(question.nonce.to_owned())) {
            Ok(claims) => claims,
            Err(error) => {
                if matches!(
                    error,
                    ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey)
                ) {
                    // It may have new keys; the next try knows them.
                    self.wanted.notify_one();
                }
                return Err(Trouble::NotProved(plainly(&error)));
            }
        };
        if claims.authorized_party().is_some_and(|party| party.as_str() != self.options.client_id) {
            return Err(Trouble::NotProved("the token was made for another application".to_owned()));
        }
        if let Some(expected) = claims.access_token_hash() {
            let actual = token.signing_alg().ok().zip(token.signing_key(&verifier).ok());
            let actual =
                actual.and_then(|(alg, key)| AccessTokenHash::from_token(tokens.access_token(), alg, key).ok());
            if actual.as_ref() != Some(expected) {
                return Err(Trouble::NotProved("two parts of the provider's answer do not belong together".to_owned()));
            }
        }
        let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
        let mut found = Claims {
            issuer: claims.issuer().as_str().to_owned(),
            subject: claims.subject().as_str().to_owned(),
            username: text(claims.preferred_username().map(|name| name.as_str())),
            name: text(claims.name().and_then(|name| name.get(None)).map(|name| name.as_str())),
            email: text(claims.email().map(|email| email.as_str())),
            email_verified: claims.email_verified().unwrap_or(false),
            picture: text(claims.picture().and_then(|picture| picture.get(None)).map(|url| url.as_str())),
            groups: claims.additional_claims().groups.clone().unwrap_or_default(),
            expires: Timestamp(u64::try_from(claims.expiration().timestamp_millis()).unwrap_or(0)),
        };
        self.look_closer(&client, &tokens, &mut found).await;
        Ok(found)
    }

    /// The userinfo endpoint knows more than the token at some providers. Without it the token will do.
    async fn look_closer(&self, client: &Knocker, tokens: &Tokens, found: &mut Claims) {
        let subject = openidconnect::SubjectIdentifier::new(found.subject.clone());
        let Ok(request) = client.user_info(tokens.access_token().clone(), Some(subject)) else { return };
        let asked: Result<UserInfoClaims<More, CoreGenderClaim>, _> = request.request_async(&self.outside).await;
        let info = match asked {
            Ok(info) => info,
            Err(error) => {
                return tracing::warn!(why = chain(&error), "the login provider told no more than the token");
            }
        };
        let take = |into: &mut String, from: Option<&str>| {
            if let Some(text) = from.map(str::trim).filter(|text| !text.is_empty()) {
                text.clone_into(into);
            }
        };
        take(&mut found.username, info.preferred_username().map(|name| name.as_str()));
        take(&mut found.name, info.name().and_then(|name| name.get(None)).map(|name| name.as_str()));
        take(&mut found.picture, info.picture().and_then(|picture| picture.get(None)).map(|url| url.as_str()));
        if let Some(email) = info.email().map(|email| email.as_str().trim()).filter(|email| !email.is_empty()) {
            // An address and whether it is verified are one fact.
            let same = email == found.email;
            email.clone_into(&mut found.email);
            found.email_verified = info.email_verified().unwrap_or(same && found.email_verified);
        }
        if let Some(groups) = &info.additional_claims().groups {
            found.groups.clone_from(groups);
        }
    }

    fn client(&self, metadata: &CoreProviderMetadata, redirect: &str) -> Result<Knocker, Trouble> {
        let secret = &self.options.client_secret.0;
        let secret = (!secret.is_empty()).then(|| ClientSecret::new(secret.clone()));
        let redirect = RedirectUrl::new(redirect.to_owned())
            .map_err(|error| Trouble::Unreachable(format!("server_url is no base for a way back: {error}")))?;
        let client =
            Client::from_provider_metadata(metadata.clone(), ClientId::new(self.options.client_id.clone()), secret);
        // RFC 6749 wants Basic understood by all; a provider that says otherwise is believed.
        let basic = metadata.token_endpoint_auth_methods_supported().is_none_or(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
                || !methods.contains(&CoreClientAuthMethod::ClientSecretPost)
        });
        let way = if basic { AuthType::BasicAuth } else { AuthType::RequestBody };
        Ok(client.set_redirect_uri(redirect).set_auth_type(way))
    }

    /// Signatures with published keys only: never none, never with the client's own secret.
    fn verifier<'a>(
        &self,
        client: &'a Knocker,
        metadata: &CoreProviderMetadata,
    ) -> IdTokenVerifier<'a, CoreJsonWebKey> {
        use CoreJwsSigningAlgorithm as Alg;
        let good = [
            Alg::RsaSsaPkcs1V15Sha256,
            Alg::RsaSsaPkcs1V15Sha384,
            Alg::RsaSsaPkcs1V15Sha512,
            Alg::RsaSsaPssSha256,
            Alg::RsaSsaPssSha384,
            Alg::RsaSsaPssSha512,
            Alg::EcdsaP256Sha256,
            Alg::EcdsaP384Sha384,
            Alg::EdDsa,
        ];
        let offered = metadata.id_token_signing_alg_values_supported();
        let clock = self.outside.world.clock.clone();
        client
            .id_token_verifier()
            .set_allowed_algs(good.into_iter().filter(|alg| offered.contains(alg)))
            // Whether we are among the audiences is checked by the library, which one is meant by `azp`.
            .set_other_audience_verifier_fn(|_| true)
            .set_time_fn(move || {
                let now = i64::try_from(clock.now_ms()).unwrap_or(i64::MAX);
                DateTime::from_timestamp_millis(now).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC)
            })
    }
}

/// What a tired person understands, without what an attacker could learn from.
fn plainly(error: &ClaimsVerificationError) -> String {
    match error {
        ClaimsVerificationError::Expired(_) => "the token has expired already; is a clock wrong?",
        ClaimsVerificationError::InvalidAudience(_) => "the token was made for another application",
        ClaimsVerificationError::InvalidIssuer(_) => "the token was made by another provider",
        ClaimsVerificationError::InvalidNonce(_) => "the token answers another sign-in",
        ClaimsVerificationError::InvalidSubject(_) => "the token speaks of somebody else",
        ClaimsVerificationError::SignatureVerification(_) => "the token is not signed by the provider",
        _ => "the token is not as it must be",
    }
    .to_owned()
}

/// An error and its causes, on one line of bounded length.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The one way out: this member's world, bounded.
struct Outside {
    world: World,
    authorities: Option<std::path::PathBuf>,
}

impl<'c> AsyncHttpClient<'c> for Outside {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let request = request.map(Bytes::from);
            let answer = fetch::exchange(request, ANSWER_BYTES_MAX, self.authorities.as_deref(), &self.world).await?;
            Ok(answer.map(|body| body.to_vec()))
        })
    }
}
