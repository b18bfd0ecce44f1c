//! A new member comes in.
//!
//! ```text
//! joiner                                              any member
//!   TLS without a certificate; the server's authority
//!   must be the one the token pins, or nothing is said
//!   token id, public key, facts, HMAC(secret hash,
//!   TLS exporter ‖ public key ‖ facts)          ───►  token known? proof right? clocks near?
//!                                                     AdmitMember through the log: its index is the member id
//!   member id, certificate, authority,          ◄───  certificate signed with the cluster's (unsealed) key
//!   sealing key, where the others are
//! ```
//!
//! The secret itself is never sent, and the proof is worth nothing on another connection. The request id is made of
//! token and public key, so a joiner whose answer got lost asks again and becomes the same member; another joiner with
//! the same token is refused. The leader then seats the member (membership.rs).

use std::{sync::Arc, time::Duration};

use ring::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use state_machine::{
    Command, Member, MemberId, MemberState, Outcome, Refusal, RequestId,
    codes::{self, Code},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use world::World;
use zeroize::Zeroizing;

use crate::{
    cluster::Core,
    encode::{Blob, decode, encode},
    error::{ProposeError, StartError},
    keyring::Successor,
    peers::{Caller, MESSAGE_BYTES_MAX, proto::Frame, proto::peers_client::PeersClient},
    pki::{self, JoinerTls},
    renewal::Trust,
    seal::unseal,
    token::Token,
};

/// RFC 5705 label of the keying material a proof is made over.
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL hsraft join v1";

/// Clocks further apart would make certificates and expiries guesswork.
const SKEW_MAX_MS: u64 = 5_000;
const SKEW_WARN_MS: u64 = 500;

/// A member that was silent for so long may be replaced.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// So long a joiner waits for the member it replaces to fall silent, before it takes the refusal for an answer: the
/// silence that is asked for, and what members need to tell each other of it.
const SILENT_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks whether it has.
const SILENCE_ASKED_EVERY: Duration = Duration::from_secs(1);

/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(15);

#[derive(Serialize, Deserialize)]
struct Request {
    token: String,
    public_key: Blob,
    /// [`Member`], encoded.
    member: Blob,
    clock_ms: u64,
    proof: Blob,
    /// The name of a member that is gone and whose place this one takes; empty: none.
    #[serde(default)]
    replaces: String,
    /// It can do with two sealing keys.
    #[serde(default)]
    takes_successor: bool,
}

/// What a member needs to begin.
#[derive(Serialize, Deserialize)]
struct Welcome {
    member: u64,
    certificate: Blob,
    sealing_key: Blob,
    peers: Vec<(u64, String)>,
    /// How often the authority was replaced, and what a member shows and believes while it is being replaced.
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    chain: Vec<Blob>,
    #[serde(default)]
    trusted: Vec<Blob>,
    /// The sealing key that may take the other's place at any moment.
    #[serde(default)]
    successor: Option<Successor>,
}

/// Why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Refused {
    /// Unknown, used, expired, or a wrong secret: the joiner is not told which of the last and the first.
    Token(String),
    Clock {
        behind_ms: i64,
    },
    /// The facts do not fit (a name that is taken, for instance).
    Member(String),
    /// Ask again.
    Later(String),
}

/// Refusals travel as texts, as they always did; the code stands at the end.
fn with_code(why: &str, code: &Code) -> String {
    format!("{why} [{code}]")
}

fn said(refusal: &Refusal) -> String {
    with_code(&refusal.to_string(), refusal.code())
}

fn taken_apart(text: &str) -> (String, Option<&'static Code>) {
    let parts = text.strip_suffix(']').and_then(|text| text.rsplit_once(" ["));
    match parts.and_then(|(why, code)| Some((why, Code::find(code)?))) {
        Some((why, code)) => (why.to_owned(), Some(code)),
        None => (text.to_owned(), None),
    }
}

fn proof_input(exporter: &[u8], public_key: &[u8], member: &[u8], replaces: &str) -> Vec<u8> {
    let mut input = exporter.to_vec();
    for part in [public_key, member, replaces.as_bytes()] {
        input.extend((part.len() as u64).to_be_bytes());
        input.extend(part);
    }
    input
}

/// The serving side.
pub async fn serve(core: &Arc<Core>, caller: &Caller, bytes: &[u8]) -> impl Serialize + use<> {
    let answer = admit(core, caller, bytes).await;
    match &answer {
        Ok(welcome) => tracing::info!(member = welcome.member, from = %caller.from, "a member was admitted"),
        Err(refused) => tracing::warn!(from = %caller.from, ?refused, "a joiner was refused"),
    }
    answer
}

async fn admit(core: &Arc<Core>, caller: &Caller, bytes: &[u8]) -> Result<Welcome, Refused> {
    let unknown = || Refused::Token(said(&Refusal::TokenUnknown));
    let request: Request = decode(bytes).map_err(|error| Refused::Member(error.to_string()))?;
    let known = |id: &str| core.latest.borrow().join_token(id).cloned();
    let token = match known(&request.token) {
        Some(token) => token,
        // Made a moment ago at another member, perhaps.
        None => {
            core.confirm(Duration::from_secs(5)).await.map_err(|error| Refused::Later(error.to_string()))?;
            known(&request.token).ok_or_else(unknown)?
        }
    };
    let from = caller.from.ip().to_canonical();
    if !token.from.is_empty() && !token.from.iter().any(|network| network.contains(&from)) {
        let networks: Vec<String> = token.from.iter().map(ToString::to_string).collect();
        let why = format!("the token is for joiners from {}, this one calls from {from}", networks.join(", "));
        return Err(Refused::Token(with_code(&why, &codes::TOKEN_FROM)));
    }
    let input = proof_input(&caller.exporter, &request.public_key.0, &request.member.0, &request.replaces);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &token.secret_sha256);
    hmac::verify(&key, &input, &request.proof.0).map_err(|_| unknown())?;

    let behind_ms = core.world.clock.now_ms() as i64 - request.clock_ms as i64;
    if behind_ms.unsigned_abs() > SKEW_MAX_MS {
        return Err(Refused::Clock { behind_ms });
    }
    if behind_ms.unsigned_abs() > SKEW_WARN_MS {
        tracing::warn!(behind_ms, "the joiner's clock is off");
    }

    let member: Member = decode(&request.member.0).map_err(|error| Refused::Member(error.to_string()))?;
    refuse_to_replace_the_living(core, &request.replaces).await?;
    world::failpoint!("token.consume.before", |error: std::io::Error| Err(Refused::Later(error.to_string())));
    let address = member.peer_address.clone();
    let command = Command::AdmitMember { token: token.id.clone(), member, replaces: request.replaces };
    let applied = core.propose(request_id(&token.id, &request.public_key.0), "join", command).await.map_err(
        |error| match error {
            ProposeError::TooLarge(..) | ProposeError::Malformed(_) => Refused::Member(error.to_string()),
            _ => Refused::Later(error.to_string()),
        },
    )?;
    world::failpoint!("token.consume.after", |error: std::io::Error| Err(Refused::Later(error.to_string())));
    let id = match applied.answer {
        Ok(Outcome::Member(id)) => id,
        Ok(other) => return Err(Refused::Later(format!("unexpected answer {other:?}"))),
        Err(
            refusal @ (Refusal::TokenUnknown | Refusal::TokenExpired | Refusal::TokenUsed | Refusal::TokenOutdated),
        ) => return Err(Refused::Token(said(&refusal))),
        Err(refusal) => return Err(Refused::Member(said(&refusal))),
    };
    follow(core, id, address).await?;
    welcome(core, id, &request.public_key.0, request.takes_successor)
}

/// A joiner that was admitted, never came up, and asks again from elsewhere (its address was wrong the first time): the
/// leader must look for it there. It cannot say so itself before it is found.
async fn follow(core: &Arc<Core>, id: MemberId, address: String) -> Result<(), Refused> {
    let known = core.latest.borrow().member(id).cloned();
    let Some(known) = known
        .filter(|known| known.state == MemberState::Active && known.incarnation == 0 && known.peer_address != address)
    else {
        return Ok(());
    };
    let command = Command::AnnounceMember { member: Member { peer_address: address, ..(*known).clone() } };
    let applied = core.propose(core.new_request(), "join", command).await;
    match applied.map_err(|error| Refused::Later(error.to_string()))?.answer {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Refused::Member(said(&refusal))),
    }
}

/// A member that answers is not gone. It may have answered its replacement's first request, whose answer got lost: that
/// is settled by the request id before this is asked again.
async fn refuse_to_replace_the_living(core: &Arc<Core>, name: &str) -> Result<(), Refused> {
    let state = core.latest.borrow().clone();
    let known = state.members().values().find(|member| member.name == name && member.state == MemberState::Active);
    let Some(known) = known.filter(|known| known.incarnation > 0) else { return Ok(()) };
    let board = core.board();
    let silence = board.members.get(&known.id).and_then(|seen| seen.last_contact);
    match silence.filter(|silence| *silence < GONE_AFTER) {
        Some(silence) => Err(Refused::Member(format!(
            "{name} is not gone: it answered {} ms ago, and is taken for gone after {} s of silence; if it is dead, ask \
             again in {} s; if it runs, stop it first, or take it out: hsraft member remove {name} [{}]",
            silence.as_millis(),
            GONE_AFTER.as_secs(),
            (GONE_AFTER - silence).as_secs() + 1,
            codes::REPLACES_LIVING
        ))),
        None => Ok(()),
    }
}

fn welcome(core: &Core, id: MemberId, public_key: &[u8], takes_successor: bool) -> Result<Welcome, Refused> {
    let state = core.latest.borrow().clone();
    if state.member(id).is_none_or(|member| member.state == MemberState::Removed) {
        return Err(Refused::Token(said(&Refusal::TokenUsed)));
    }
    let trust = core.trust(&state);
    let (sealing, successor) = core.sealing.both();
    if successor.is_some() && !takes_successor {
        return Err(Refused::Later(
            "the sealing key is being replaced, which the joiner's program cannot follow".into(),
        ));
    }
    let authority_key = unseal(&core.sealing.of(&state), &state, crate::cluster::AUTHORITY_SECRET)
        .ok_or_else(|| Refused::Later("this member cannot open the cluster's key".into()))?;
    let certificate = pki::sign_member(&trust.issuer.0, &authority_key, public_key, id, &core.cluster_id, &core.world)
        .map_err(|error| Refused::Member(error.to_string()))?;
    let peers = state
        .members()
        .values()
        .filter(|member| member.state == MemberState::Active && member.id != id)
        .map(|member| (member.id.0, member.peer_address.clone()))
        .collect();
    let sealing_key = Blob(sealing.bytes().to_vec().into());
    let Trust { generation, chain, trusted, .. } = trust;
    let certificate = Blob(certificate.into());
    Ok(Welcome { member: id.0, certificate, sealing_key, peers, generation, chain, trusted, successor })
}

/// The same for the same joiner with the same token.
fn request_id(token: &str, public_key: &[u8]) -> RequestId {
    let mut hash = Sha256::new();
    hash.update(b"hsraft join");
    hash.update((token.len() as u64).to_be_bytes());
    hash.update(token);
    hash.update(public_key);
    let hash: [u8; 32] = hash.finalize().into();
    RequestId(u128::from_be_bytes(*hash.first_chunk().expect("32 bytes have a first 16")))
}

/// What a joiner brings home.
pub struct Joined {
    pub member: MemberId,
    pub certificate: Vec<u8>,
    pub authority: Vec<u8>,
    pub sealing_key: Zeroizing<Vec<u8>>,
    pub peers: Vec<(u64, String)>,
    pub generation: u64,
    pub chain: Vec<Blob>,
    pub trusted: Vec<Blob>,
    pub successor: Option<Successor>,
}

/// The joining side: asks one address after the other until one lets us in.
pub async fn ask(
    addresses: &[String],
    token: &Token,
    key: &[u8],
    member: &Member,
    replaces: &str,
    within: Duration,
    world: &World,
) -> Result<Joined, StartError> {
    if addresses.is_empty() {
        return Err(StartError::Option("no address to join at".into()));
    }
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(200);
    // Since when we are told that the member to be replaced still answers.
    let mut living: Option<Instant> = None;
    loop {
        let mut why = String::new();
        let mut answers = None;
        for address in addresses {
            match timeout(ATTEMPT, ask_one(address, token, key, member, replaces, world)).await {
                Ok(Ok(joined)) => return Ok(joined),
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::Again(error))) => why = format!("{address}: {error}"),
                Ok(Err(Attempt::Living(error))) => {
                    answers = Some(error);
                    break;
                }
                Err(_) => why = format!("{address}: no answer in {ATTEMPT:?}"),
            }
            tracing::info!(why, "could not join yet");
        }
        if let Some(why) = answers {
            let since = *living.get_or_insert_with(Instant::now);
            let left = (since + SILENT_WITHIN).min(deadline).saturating_duration_since(Instant::now());
            if left < SILENCE_ASKED_EVERY {
                return Err(StartError::Refused { why, code: &codes::REPLACES_LIVING });
            }
            let waited_secs = since.elapsed().as_secs();
            tracing::info!(why, waited_secs, left_secs = left.as_secs(), "waiting for {replaces} to fall silent");
            sleep(SILENCE_ASKED_EVERY).await;
            continue;
        }
        if Instant::now() + pause > deadline {
            return Err(StartError::Unreachable(why));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(3));
    }
}

enum Attempt {
    Final(StartError),
    Again(String),
    /// The member that shall be replaced was heard from a moment ago.
    Living(String),
}

impl Attempt {
    fn again(error: impl ToString) -> Attempt {
        Attempt::Again(error.to_string())
    }
}

async fn ask_one(
    address: &str,
    token: &Token,
    key: &[u8],
    member: &Member,
    replaces: &str,
    world: &World,
) -> Result<Joined, Attempt> {
    let wrong = |error: pki::PkiError| Attempt::Final(StartError::engine(error));
    let tls = JoinerTls::new(token.pin, &token.cluster_id, world.clock.clone()).map_err(wrong)?;
    let stream = world.net.connect(address).await.map_err(Attempt::again)?;
    let name = format!("join.{}.hsraft", token.cluster_id).try_into().map_err(Attempt::again)?;
    let stream = match TlsConnector::from(tls.client.clone()).connect(name, stream).await {
        Ok(stream) => stream,
        Err(_) if tls.wrong_pin() => return Err(Attempt::Final(StartError::WrongPin(address.into()))),
        Err(error) => return Err(Attempt::again(error)),
    };
    let exporter =
        stream.get_ref().1.export_keying_material([0u8; 32], EXPORTER_LABEL, None).map_err(Attempt::again)?;
    let authority = tls.authority().ok_or_else(|| Attempt::again("the server showed no authority"))?;

    let public_key = pki::public_key(key).map_err(wrong)?;
    let member = encode(member);
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, &token.secret_sha256());
    let proof = hmac::sign(&hmac_key, &proof_input(&exporter, &public_key, &member, replaces));
    let request = encode(&Request {
        token: token.id.clone(),
        public_key: Blob(public_key.into()),
        member: Blob(member.into()),
        clock_ms: world.clock.now_ms(),
        proof: Blob(bytes::Bytes::copy_from_slice(proof.as_ref())),
        replaces: replaces.into(),
        takes_successor: true,
    });

    let mut once = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_: hyper::Uri| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("the connection ended"));
        async move { stream }
    });
    let channel =
        Endpoint::from_static("http://join.hsraft").connect_with_connector(connector).await.map_err(Attempt::again)?;
    let mut client = PeersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = client.join(Frame { kind: 0, data: request.into() }).await;
    let frame = answer.map_err(|status| Attempt::again(status.message()))?.into_inner();
    match decode::<Result<Welcome, Refused>>(&frame.data).map_err(Attempt::again)? {
        Ok(welcome) => Ok(Joined {
            member: MemberId(welcome.member),
            certificate: welcome.certificate.0.to_vec(),
            authority,
            sealing_key: Zeroizing::new(welcome.sealing_key.0.to_vec()),
            peers: welcome.peers,
            generation: welcome.generation,
            chain: welcome.chain,
            trusted: welcome.trusted,
            successor: welcome.successor,
        }),
        Err(Refused::Token(why)) => {
            let (why, code) = taken_apart(&why);
            Err(Attempt::Final(StartError::Token { why, code: code.unwrap_or(&codes::START_TOKEN) }))
        }
        Err(Refused::Member(why)) => {
            let (why, code) = taken_apart(&why);
            if code == Some(&codes::REPLACES_LIVING) {
                return Err(Attempt::Living(why));
            }
            Err(Attempt::Final(StartError::Refused { why, code: code.unwrap_or(&codes::START_REFUSED) }))
        }
        Err(Refused::Clock { behind_ms }) => Err(Attempt::Final(StartError::Clock(behind_ms))),
        Err(Refused::Later(why)) => Err(Attempt::Again(why)),
    }
}
