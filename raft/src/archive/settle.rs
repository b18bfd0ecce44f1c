//! From a State to a member's folder: the same tailnet goes on as a new cluster of one.
//!
//! Users, nodes, keys, policy and the Noise key stay, so clients find what they pinned. The cluster itself is another:
//! a new id, a new authority, a new member under an id nobody had. Whoever survived of the old one cannot speak to it.

use std::path::Path;

use state_machine::{Command, Member, MemberId, Revision, SealedSecret, Stamp, State, Timestamp};
use world::World;

use super::ArchiveError;
use crate::{
    StartError,
    cluster::AUTHORITY_SECRET,
    encode::{Ballot, Blob, Position, SeatRow, Seating, StoredSeating, encode},
    identity::{Home, Identity},
    keyring::KeyPlace,
    metrics::Metrics,
    pki,
    seal::SealingKey,
    store::{Change, Marker, Store, StoreOptions, Table, key},
};

/// What was put down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub cluster_id: String,
    pub member: MemberId,
    pub revision: Revision,
    pub users: usize,
    pub nodes: usize,
}

fn unusable(error: impl ToString) -> ArchiveError {
    ArchiveError::Unusable(error.to_string())
}

/// Puts a member named `name` into the empty folder. `term`: the last one of the old cluster.
pub async fn settle(
    folder: &Path,
    name: &str,
    state: State,
    term: u64,
    sealing: &SealingKey,
    world: &World,
) -> Result<Settled, ArchiveError> {
    settle_with(name, state, term, sealing, &KeyPlace::new(folder, None), world).await
}

/// The same, with the key where this member keeps it.
pub(super) async fn settle_with(
    name: &str,
    mut state: State,
    term: u64,
    sealing: &SealingKey,
    keys: &KeyPlace,
    world: &World,
) -> Result<Settled, ArchiveError> {
    let folder = keys.folder();
    if !world.disk.list(folder).map_err(|error| StartError::disk(folder, error))?.is_empty() {
        return Err(ArchiveError::Start(StartError::Foreign(format!("{} is not empty", folder.display()))));
    }
    let index = state.revision().0 + 1;
    let me = MemberId(index);
    let cluster_id = crate::token::base32(&world.entropy.bytes::<5>());
    let authority_key = pki::new_key(&world.entropy);
    let authority = pki::new_authority(&authority_key, &cluster_id, 0, world).map_err(unusable)?;
    let key = pki::new_key(&world.entropy);
    let public_key = pki::public_key(&key).map_err(unusable)?;
    let certificate =
        pki::sign_member(&authority, &authority_key, &public_key, me, &cluster_id, world).map_err(unusable)?;

    let sealed: SealedSecret = sealing.seal_in(&state, AUTHORITY_SECRET, &authority_key, &world.entropy);
    let member = Member { id: me, name: name.into(), feature_level: state_machine::FEATURE_LEVEL, ..Member::default() };
    if state.feature_level() > state_machine::FEATURE_LEVEL {
        return Err(unusable("the state is of a newer program; use that one"));
    }
    let command = Command::Refound {
        cluster_id: cluster_id.clone(),
        member,
        secrets: vec![(AUTHORITY_SECRET.to_owned(), sealed)],
    };
    let stamp = Stamp { at: Timestamp(world.clock.now_ms()), revision: Revision(index) };
    state.apply(stamp, command).map_err(unusable)?;

    let identity = Identity {
        cluster_id: cluster_id.clone(),
        member: me.0,
        name: name.into(),
        incarnation: 0,
        certificate: Blob(certificate.into()),
        key: Blob(key.to_vec().into()),
        authority: Blob(authority.into()),
        ..Identity::default()
    };
    let settled = Settled {
        cluster_id,
        member: me,
        revision: state.revision(),
        users: state.users().len(),
        nodes: state.nodes().len(),
    };
    put_down(&identity, &state, term + 1, sealing, keys, world).await?;
    Ok(settled)
}

async fn put_down(
    identity: &Identity,
    state: &State,
    term: u64,
    sealing: &SealingKey,
    keys: &KeyPlace,
    world: &World,
) -> Result<(), ArchiveError> {
    let folder = keys.folder();
    let failed = |error| StartError::disk(folder, error);
    world.disk.create_dir_all(folder).map_err(failed)?;
    let lock = world.disk.lock(folder).map_err(failed)?;
    let (store, _, broken) = Store::open(StoreOptions {
        folder: folder.to_path_buf(),
        disk: world.disk.clone(),
        entropy: world.entropy.clone(),
        lock,
        metrics: Metrics::default().store.clone(),
        drills: crate::Drills::forbidden(),
    })
    .map_err(StartError::from)?;
    let me = identity.member;
    let at = Position { term, member: me, index: state.revision().0 };
    let seats = [(me, SeatRow::default())].into();
    let seating = StoredSeating { at: Some(at), seating: Seating { voters: vec![[me].into()], seats } };
    let mut changes: Vec<Change> = state.rows().map(|(name, row)| Change::Put(Table::State, name, row)).collect();
    changes.push(Change::Put(Table::Meta, key::APPLIED.into(), encode(&at)));
    changes.push(Change::Put(Table::Meta, key::PURGED.into(), encode(&at)));
    changes.push(Change::Put(Table::Meta, key::MEMBERSHIP.into(), encode(&seating)));
    world::failpoint!("restore.rows.before");
    store.write_durably(changes).await.map_err(failed)?;
    world::failpoint!("restore.rows.after");
    let ballot = Ballot { term, member: me, committed: true };
    let change = Change::Put(Table::Meta, key::VOTE.into(), encode(&ballot));
    store.write_vote(ballot.into(), change).await.map_err(failed)?;
    store.write_marker(&Marker { cluster_id: identity.cluster_id.clone(), member: me }).await.map_err(failed)?;

    world::failpoint!("restore.identity.before");
    let home = Home { disk: &*world.disk, folder };
    keys.put(&*world.disk, sealing)?;
    home.put_identity(identity)?;
    let closed = store.closed();
    drop((store, broken));
    closed.wait().await;
    Ok(())
}
