//! A TXT record comes to, or goes from, a DNS server of the operator's: RFC 2136, signed with a shared key (TSIG, RFC
//! 8945, HMAC-SHA256), over TCP. A server that does not sign its answer with the same key has not answered.

use std::{io, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType, TSigVerifier, TSigner,
        rdata::{TXT, tsig::TsigAlgorithm},
    },
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::World;

use super::guarded;
use crate::options::DnsUpdate;

/// From dialling to the answer: a server syncs its journal, and others may have to hear.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer repeats the zone and a signature.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// How far the two clocks may be apart (RFC 8945, section 10).
const FUDGE_SECS: u16 = 300;
/// Resolvers between us and the authority shall not keep it long.
const TTL_SECS: u32 = 5;

/// Why a DNS server was not told.
#[derive(Debug, Error)]
pub enum UpdateError {
    #[error("{server} cannot be reached")]
    Unreachable { server: String, source: io::Error },
    #[error("{server} did not answer within {} s", PATIENCE.as_secs())]
    Silent { server: String },
    #[error("{server} refused the update: {said}; may this key change the zone?")]
    Refused { server: String, said: ResponseCode },
    #[error(
        "{server} does not accept the key, or does not prove that it has it (it said {said}); are cluster.cert_dns.tsig_key_name, \
         tsig_secret and both clocks right?"
    )]
    Unproved { server: String, said: String },
    #[error("{server} answers with something else than DNS")]
    Malformed { server: String },
    #[error("{0:?} is no name in the zone")]
    Name(String),
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// Tells the server, and waits until it has said that it did so.
pub async fn tell(to: &DnsUpdate, change: Change, name: &str, value: &str, world: &World) -> Result<(), UpdateError> {
    let server = || to.server.clone();
    let mut message = message(to, change, name, value, u16::from_be_bytes(world.entropy.bytes()))?;
    let unproved = |said: &dyn ToString| UpdateError::Unproved { server: server(), said: said.to_string() };
    let key_name = Name::from_ascii(format!("{}.", to.key_name)).map_err(|_| UpdateError::Name(to.key_name.clone()))?;
    let signer = TSigner::new(to.secret.0.clone(), TsigAlgorithm::HmacSha256, key_name, FUDGE_SECS);
    let signer = signer.map_err(|error| unproved(&error))?;
    let now_secs = world.clock.now_ms() / 1_000;
    let verifier = message.finalize(&signer, now_secs).map_err(|error| unproved(&error))?;
    let mut verifier = verifier.ok_or_else(|| unproved(&"nothing can be signed"))?;
    let asked = message.to_vec().map_err(|_| UpdateError::Name(name.to_owned()))?;
    let exchanged = tokio::time::timeout(PATIENCE, exchange(&to.server, &asked, world)).await;
    let answer = exchanged
        .map_err(|_| UpdateError::Silent { server: server() })?
        .map_err(|source| UpdateError::Unreachable { server: server(), source })?;

    let read = guarded(|| judge(&answer, message.id, &mut verifier));
    match read.ok_or_else(|| UpdateError::Malformed { server: server() })? {
        Said::Done => Ok(()),
        Said::Refused(said) => Err(UpdateError::Refused { server: server(), said }),
        Said::Unproved(said) => Err(unproved(&said)),
        Said::Malformed => Err(UpdateError::Malformed { server: server() }),
    }
}

/// What an answer comes to.
enum Said {
    Done,
    Refused(ResponseCode),
    /// Not signed, or not with our key; it said so much of itself.
    Unproved(String),
    Malformed,
}

fn judge(answer: &[u8], id: u16, verifier: &mut TSigVerifier) -> Said {
    // Read before it is trusted: the library wants a signature to be the last of its records.
    let Ok(read) = Message::from_vec(answer) else { return Said::Malformed };
    if read.id != id || read.message_type != MessageType::Response || read.op_code != OpCode::Update {
        return Said::Malformed;
    }
    let Some(signature) = read.signature() else { return Said::Unproved(read.response_code.to_string()) };
    match (verifier.verify(answer), &signature.data.error, read.response_code) {
        (Ok(_), None, ResponseCode::NoError) => Said::Done,
        (Ok(_), None, code) => Said::Refused(code),
        (_, Some(error), code) => Said::Unproved(format!("{code}, {error:?}")),
        (Err(_), None, code) => Said::Unproved(code.to_string()),
    }
}

/// RFC 2136, 2.3 to 2.5: the zone, no conditions, one change. Adding what is there and removing what is not are no
/// errors.
fn message(to: &DnsUpdate, change: Change, name: &str, value: &str, id: u16) -> Result<Message, UpdateError> {
    let parsed = |text: &str| Name::from_ascii(format!("{text}.")).map_err(|_| UpdateError::Name(text.to_owned()));
    let (zone, owner) = (parsed(&to.zone)?, parsed(name)?);
    if !zone.zone_of(&owner) {
        return Err(UpdateError::Name(name.to_owned()));
    }
    let mut record = Record::from_rdata(owner, TTL_SECS, RData::TXT(TXT::new(vec![value.to_owned()])));
    if change == Change::Remove {
        record.dns_class = DNSClass::NONE;
        record.ttl = 0;
    }
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(zone, RecordType::SOA));
    message.add_authority(record);
    Ok(message)
}

/// One message there, one back.
async fn exchange(server: &str, asked: &[u8], world: &World) -> io::Result<Vec<u8>> {
    let mut stream = world.net.connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_be_bytes()[..], asked].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > ANSWER_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
