use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{MemberId, Timestamp};

/// One hsraft server. Who votes is Raft's business (`raft::Cluster::members`); this is what members know of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub id: MemberId,
    /// Unique among members that are not removed: `hs1`.
    pub name: String,
    /// `host:port` other members dial.
    pub peer_address: String,
    /// The URL clients and people may use for this very member; empty when it only serves behind a shared name.
    pub client_url: String,
    /// Version of the program, for people.
    pub version: String,
    /// The highest feature level its program can apply.
    pub feature_level: u32,
    /// Its relay; absent when the member runs none.
    pub relay: Option<RelayFacts>,
    /// The DERP region given to this member, never to another: 901, 902, ….
    pub region_id: u32,
    pub joined_at: Timestamp,
    pub state: MemberState,
    /// The leader has not heard of it for long: its relay is left out of the DERP map until it is back.
    pub silent: bool,
    /// How often it was started; zero until it has come up for the first time. Never falls.
    pub incarnation: u64,
    /// What it shall be. Raft's membership follows.
    pub role: JoinRole,
    /// It is about to be stopped: it leads no more, says it is not ready, and sends its clients elsewhere.
    pub draining: bool,
    /// It shall vote although the number of voters becomes even.
    #[serde(skip_serializing_if = "is_false")]
    pub insist: bool,
    /// Where clients reach it besides asking DNS, in its own order: candidates of the dial plan. Level 3.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Rows that know nothing of a later field are written as they always were.
fn is_false(value: &bool) -> bool {
    !*value
}

/// Whether a member still belongs to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    #[default]
    Active,
    /// Fenced for ever: calls under this id are refused even with a valid certificate.
    Removed,
}

/// Where a member's relay is found: the node entry of its region in the DERP map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayFacts {
    pub region_code: String,
    pub region_name: String,
    pub host_name: String,
    /// A literal, empty or `none`.
    pub ipv4: String,
    pub ipv6: String,
    pub derp_port: u16,
    /// -1 = no STUN.
    pub stun_port: i32,
    pub can_port_80: bool,
    /// Clients shall not verify the certificate: laboratories only.
    pub insecure_for_tests: bool,
}

/// One ticket into the cluster: `hsr1.…`. One use unless said otherwise; expires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The public 8 characters; unique.
    pub id: String,
    /// SHA-256 of the secret part; the secret itself is shown once.
    pub secret_sha256: [u8; 32],
    /// Only a member of this name may use it; empty = any.
    pub name: String,
    pub role: JoinRole,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// The member that used it.
    pub used_by: Option<MemberId>,
    /// The authority it names ([`Authority::generation`]); decided by apply.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// How many members may come in with it; zero stands for one. More than one: [`JoinToken::used`] counts.
    #[serde(default, skip_serializing_if = "is_none")]
    pub uses: u32,
    /// How many came in, of a token for several.
    #[serde(default, skip_serializing_if = "is_none")]
    pub used: u32,
    /// Joiners must call from one of these networks; empty: from anywhere. The member that is called looks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
}

impl JoinToken {
    /// Nobody else may come in with it.
    pub fn is_spent(&self) -> bool {
        if self.uses > 1 { self.used >= self.uses } else { self.used_by.is_some() }
    }
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Rows that know nothing of a later field are written as they always were.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a joiner becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRole {
    #[default]
    Voter,
    /// Follows the log, never votes.
    Learner,
}

/// A secret of the cluster, encrypted outside the log with the cluster's sealing key. State cannot read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which sealing key.
    pub key_id: u32,
    #[serde(with = "serde_bytes_vec")]
    pub nonce: Vec<u8>,
    #[serde(with = "serde_bytes_vec")]
    pub ciphertext: Vec<u8>,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedSecret")
    }
}

/// Bytes as bytes: a plain `Vec<u8>` would be written as a list of numbers.
pub(super) mod serde_bytes_vec {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}
