//! Tables ⇄ rows of a key-value store.
//!
//! A key is the table's byte and the row's id (numbers big-endian, so that stores keep our order); a value is what
//! `codec` writes. [`State::changed_rows`] compares two states table by table; its cost follows the number of changes,
//! because shared parts of persistent maps are recognised by address.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    codec::{self, DecodeError, ROW_BYTES_MAX},
    model::*,
    state::{State, Tables},
};

/// Calls a macro with every table: its byte, its name and its field. Bytes are for ever; new tables get new ones.
macro_rules! every_table {
    ($call:ident) => {
        $call! {
            4 "users" users;
            5 "nodes" nodes;
            6 "presences" presences;
            7 "pre_auth_keys" pre_auth_keys;
            8 "api_keys" api_keys;
            9 "logins" logins;
            10 "policies" policies;
            11 "members" members;
            12 "join_tokens" join_tokens;
            13 "secrets" secrets;
            14 "derp_regions" derp_regions;
            15 "primaries" primaries;
            16 "requests" requests;
            17 "ssh_checks" ssh_checks;
            18 "sign_ins" sign_ins;
            19 "audit" audit;
            20 "webhooks" webhooks;
            21 "text_records" text_records;
            24 "authorities" authorities;
            25 "certificates" certificates;
        }
    };
}

// Three rows that are always there, under a key of one byte.
const CLOCK: u8 = 1;
const CLUSTER: u8 = 2;
const SETTINGS: u8 = 3;

impl State {
    /// Every row, ordered by key.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let tables = &self.tables;
        let single = [
            (vec![CLOCK], codec::encode(&tables.clock)),
            (vec![CLUSTER], codec::encode(&*tables.cluster)),
            (vec![SETTINGS], codec::encode(&*tables.settings)),
        ];
        macro_rules! chain {
            ($($byte:literal $name:literal $field:ident;)*) => {
                single.into_iter()$(.chain(table_rows($byte, &tables.$field)))*
            };
        }
        every_table!(chain)
    }

    /// The rows that are different from an earlier (or any other) state; `None` for rows that are gone.
    pub fn changed_rows(&self, since: &State) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let (old, new) = (&since.tables, &self.tables);
        let mut changed = Vec::new();
        if old.clock != new.clock {
            changed.push((vec![CLOCK], Some(codec::encode(&new.clock))));
        }
        if old.cluster != new.cluster {
            changed.push((vec![CLUSTER], Some(codec::encode(&*new.cluster))));
        }
        if old.settings != new.settings {
            changed.push((vec![SETTINGS], Some(codec::encode(&*new.settings))));
        }
        macro_rules! compare {
            ($($byte:literal $name:literal $field:ident;)*) => {
                $(compare_table($byte, &old.$field, &new.$field, &mut changed);)*
            };
        }
        every_table!(compare);
        changed
    }

    /// The state these rows describe, in whatever order they come.
    pub fn from_rows(
        rows: impl IntoIterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>,
    ) -> Result<State, DecodeError> {
        let mut tables = Tables::default();
        for (key, value) in rows {
            read_row(&mut tables, key.as_ref(), value.as_ref())?;
        }
        Ok(State::of(tables))
    }

    /// A fingerprint of all rows: equal on two members exactly when their states are.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (key, value) in self.rows() {
            for part in [key, value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(&part);
            }
        }
        hash.finalize().into()
    }
}

fn read_row(tables: &mut Tables, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    let (&table, id) = key.split_first().ok_or(DecodeError::Empty)?;
    macro_rules! read {
        ($($byte:literal $name:literal $field:ident;)*) => {
            match table {
                CLOCK if id.is_empty() => tables.clock = codec::decode(value, ROW_BYTES_MAX)?,
                CLUSTER if id.is_empty() => tables.cluster = Arc::new(codec::decode(value, ROW_BYTES_MAX)?),
                SETTINGS if id.is_empty() => tables.settings = Arc::new(codec::decode(value, ROW_BYTES_MAX)?),
                CLOCK | CLUSTER | SETTINGS => return Err(DecodeError::Key { table: "singles" }),
                $($byte => insert_row($name, &mut tables.$field, id, value)?,)*
                unknown => return Err(DecodeError::UnknownTable(unknown)),
            }
        };
    }
    every_table!(read);
    Ok(())
}

fn insert_row<K: Key, V: Row<K>>(
    table: &'static str,
    rows: &mut OrdMap<K, V>,
    id: &[u8],
    value: &[u8],
) -> Result<(), DecodeError> {
    let key = K::read(id).ok_or(DecodeError::Key { table })?;
    let row: V = codec::decode(value, ROW_BYTES_MAX)?;
    if !row.belongs_under(&key) {
        return Err(DecodeError::Misplaced { table });
    }
    rows.insert(key, row);
    Ok(())
}

fn table_rows<K: Key, V: Row<K>>(table: u8, rows: &OrdMap<K, V>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    rows.iter().map(move |(key, row)| (row_key(table, key), codec::encode(row)))
}

fn compare_table<K: Key, V: Row<K>>(
    table: u8,
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
    changed: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>,
) {
    for item in old.diff(new) {
        changed.push(match item {
            DiffItem::Add(key, row) | DiffItem::Update { new: (key, row), .. } => {
                (row_key(table, key), Some(codec::encode(row)))
            }
            DiffItem::Remove(key, _) => (row_key(table, key), None),
        });
    }
}

fn row_key<K: Key>(table: u8, key: &K) -> Vec<u8> {
    let mut bytes = vec![table];
    key.write(&mut bytes);
    bytes
}

/// An id as part of a row's key.
trait Key: Ord + Clone {
    fn write(&self, bytes: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! number_keys {
    ($($name:ident)*) => {$(
        impl Key for $name {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.0.to_be_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(u64::from_be_bytes).map($name)
            }
        }
    )*};
}
number_keys!(UserId NodeId PreAuthKeyId ApiKeyId MemberId);

impl Key for u64 {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_be_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

impl Key for u32 {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_be_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u32::from_be_bytes)
    }
}

impl Key for RequestId {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_be_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u128::from_be_bytes).map(RequestId)
    }
}

impl Key for String {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.as_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl Key for LoginId {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.0.write(bytes);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        String::read(bytes).map(LoginId)
    }
}

/// The family, the address, the length.
impl Key for IpNet {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            IpNet::V4(net) => {
                bytes.push(4);
                bytes.extend(net.addr().octets());
            }
            IpNet::V6(net) => {
                bytes.push(6);
                bytes.extend(net.addr().octets());
            }
        }
        bytes.push(self.prefix_len());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&family, rest) = bytes.split_first()?;
        let (&length, address) = rest.split_last()?;
        match family {
            4 => IpNet::new(<[u8; 4]>::try_from(address).ok()?.into(), length).ok(),
            6 => IpNet::new(<[u8; 16]>::try_from(address).ok()?.into(), length).ok(),
            _ => None,
        }
    }
}

/// A row of a table with keys of this kind. A row that repeats its id must stand under it.
trait Row<K>: Clone + PartialEq + Serialize + DeserializeOwned {
    fn belongs_under(&self, key: &K) -> bool;
}

macro_rules! rows_with_ids {
    ($($row:ident . $field:ident: $key:ty;)*) => {$(
        impl Row<$key> for Arc<$row> {
            fn belongs_under(&self, key: &$key) -> bool {
                self.$field == *key
            }
        }
    )*};
}
rows_with_ids! {
    User.id: UserId;
    Node.id: NodeId;
    PreAuthKey.id: PreAuthKeyId;
    ApiKey.id: ApiKeyId;
    Login.id: LoginId;
    PolicyVersion.number: u64;
    Member.id: MemberId;
    JoinToken.id: String;
    SshCheck.id: String;
    SignIn.id: String;
    AuditRow.number: u64;
    Webhook.id: String;
    DerpRegion.id: u32;
    Authority.generation: u64;
}

impl Row<String> for Arc<TextRecord> {
    fn belongs_under(&self, key: &String) -> bool {
        TextRecord::key(&self.name, &self.value) == *key
    }
}

macro_rules! rows_without_ids {
    ($($row:ty: $key:ty;)*) => {$(
        impl Row<$key> for $row {
            fn belongs_under(&self, _: &$key) -> bool {
                true
            }
        }
    )*};
}
rows_without_ids! {
    Arc<Presence>: NodeId;
    Arc<SealedSecret>: String;
    Arc<ManagedCertificate>: String;
    NodeId: IpNet;
    Arc<crate::state::Remembered>: RequestId;
}
