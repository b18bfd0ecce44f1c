//! A cluster of one begins: authority, keys, and the first command of the log.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};
use state_machine::{Command, Member, MemberId, Outcome, Refusal, RequestId};
use world::World;

use crate::{
    cluster::{AUTHORITY_SECRET, Core},
    encode::Blob,
    error::StartError,
    identity::Identity,
    options::{Options, StartAs},
    pki,
    seal::{DataKey, SealingKey},
    types::Seat,
};

/// The founder's id; entry 1 is the first a leader ever writes, so no later member can get it.
const FOUNDER: MemberId = MemberId(1);

/// What a founder puts down before its first start.
pub fn prepare(options: &Options, world: &World) -> Result<(Identity, SealingKey), StartError> {
    let cluster_id = crate::token::base32(&world.entropy.bytes::<5>());
    let authority_key = pki::new_key(&world.entropy);
    let authority = pki::new_authority(&authority_key, &cluster_id, 0, world).map_err(StartError::engine)?;
    let key = pki::new_key(&world.entropy);
    let public_key = pki::public_key(&key).map_err(StartError::engine)?;
    let certificate = pki::sign_member(&authority, &authority_key, &public_key, FOUNDER, &cluster_id, world)
        .map_err(StartError::engine)?;
    let identity = Identity {
        cluster_id,
        member: FOUNDER.0,
        name: options.name.clone(),
        incarnation: 0,
        certificate: Blob(certificate.into()),
        key: Blob(key.to_vec().into()),
        authority: Blob(authority.into()),
        authority_key: Some(Blob(authority_key.to_vec().into())),
        ..Identity::default()
    };
    Ok((identity, SealingKey::new(&world.entropy)))
}

/// Gets the first command into the log of a new cluster; also after a start that was interrupted.
pub async fn finish(
    core: &Arc<Core>,
    options: &Options,
    facts: &Member,
    identity: &mut Identity,
) -> Result<(), StartError> {
    let Some(authority_key) = identity.authority_key.clone() else { return Ok(()) };
    if !core.raft.is_initialized().await.map_err(StartError::engine)? {
        world::failpoint!("founding.initialize.before", |error| Err(StartError::engine(error)));
        let seat = Seat { address: facts.peer_address.clone(), learner_only: false };
        core.raft.initialize(BTreeMap::from([(core.me.0, seat)])).await.map_err(StartError::engine)?;
    }
    world::failpoint!("founding.initialize.after", |error| Err(StartError::engine(error)));
    if !core.latest.borrow().is_founded() {
        let StartAs::FoundIfEmpty { settings, secrets } = &options.start else {
            return Err(StartError::NothingThere(options.data_dir.display().to_string()));
        };
        let (entropy, data_key) = (&core.world.entropy, DataKey::after(0, &core.world.entropy));
        let seal = |name: &str, secret: &[u8]| (name.to_string(), data_key.seal(name, secret, entropy));
        let mut sealed = vec![data_key.row(&core.sealing.both().0, entropy), seal(AUTHORITY_SECRET, &authority_key.0)];
        sealed.extend(
            secrets.iter().filter(|(name, _)| name != AUTHORITY_SECRET).map(|(name, secret)| seal(name, secret)),
        );
        let command = Command::Found {
            cluster_id: core.cluster_id.to_string(),
            member: Member { id: core.me, ..facts.clone() },
            settings: settings.clone(),
            secrets: sealed,
        };
        let hash: [u8; 32] = Sha256::digest(format!("hsraft found {}", core.cluster_id)).into();
        let request = RequestId(u128::from_be_bytes(*hash.first_chunk().expect("32 bytes have a first 16")));
        let applied = core.propose(request, "founder", command).await.map_err(StartError::engine)?;
        world::failpoint!("founding.found.after", |error| Err(StartError::engine(error)));
        match applied.answer {
            Ok(Outcome::Member(_)) | Err(Refusal::AlreadyFounded) => {}
            Ok(other) => return Err(StartError::Engine(format!("unexpected answer {other:?}"))),
            Err(refusal) => return Err(StartError::Refused { why: refusal.to_string(), code: refusal.code() }),
        }
        tracing::info!(cluster = %core.cluster_id, "founded");
    }
    identity.authority_key = None;
    Ok(())
}
