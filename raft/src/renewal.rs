//! A member's certificate is replaced long before it ends, while the member runs.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use world::World;
use zeroize::Zeroizing;

use crate::{
    cluster::{AUTHORITY_SECRET, Core},
    encode::Blob,
    error::StartError,
    identity::{Home, Identity},
    options::Options,
    pki,
};

/// Two thirds of a certificate's life.
const RENEW_BEFORE_MS: u64 = pki::LEAF_DAYS * 24 * 3600 * 1000 / 3;

/// Signs a new certificate when the old one nears its end; every member can, it holds the sealing key. Whether it did.
pub fn renew_if_due(
    identity: &mut Identity,
    authority_key: Option<Zeroizing<Vec<u8>>>,
    world: &World,
) -> Result<bool, StartError> {
    let due = pki::not_after_ms(&identity.certificate.0)
        .is_none_or(|not_after| not_after < world.clock.now_ms() + RENEW_BEFORE_MS);
    let Some(authority_key) = authority_key.filter(|_| due) else { return Ok(false) };
    let key = pki::new_key(&world.entropy);
    let public_key = pki::public_key(&key).map_err(StartError::engine)?;
    let (authority, member) = (&identity.authority.0, identity.member());
    let certificate = pki::sign_member(authority, &authority_key, &public_key, member, &identity.cluster_id, world)
        .map_err(StartError::engine)?;
    identity.certificate = Blob(certificate.into());
    identity.key = Blob(key.to_vec().into());
    tracing::info!("this member's certificate was renewed");
    Ok(true)
}

/// Looks once an hour; the next connections then use the new certificate.
pub async fn renew(core: Arc<Core>, mut identity: Identity, options: Options) {
    loop {
        sleep(Duration::from_secs(3600)).await;
        let result = renew_if_due(&mut identity, core.secret(AUTHORITY_SECRET), &core.world).and_then(|renewed| {
            if renewed {
                world::failpoint!("certificate.save.before");
                Home { disk: &*core.world.disk, folder: &options.data_dir }.put_identity(&identity)?;
                world::failpoint!("certificate.swap.before");
                let (certificate, key) = (&identity.certificate.0, &identity.key.0);
                core.dialer.tls.replace(certificate, key, &identity.authority.0).map_err(StartError::engine)?;
            }
            Ok(())
        });
        if let Err(error) = result {
            tracing::warn!(%error, "this member's certificate could not be renewed; it will be tried again");
        }
    }
}
