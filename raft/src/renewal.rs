//! A member's papers: its certificate is replaced long before it ends, and follows when the cluster's authority is
//! replaced, while the member runs.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use state_machine::{Command, State};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use world::World;

use crate::{
    cluster::{AUTHORITY_SECRET, Core},
    encode::Blob,
    error::StartError,
    identity::{Home, Identity},
    options::Options,
    pki::{self, MemberTls, Papers},
    seal::{SealingKey, unseal},
};

/// A third of a certificate's life: so much is left when it is renewed.
const RENEW_BEFORE_MS: u64 = pki::LEAF_DAYS * 24 * 3600 * 1000 / 3;
/// Nothing happened: look at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// A burst of changes is looked at once.
const GAP: Duration = Duration::from_millis(100);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Somebody wants a new certificate now, and hears what came of it.
pub type Wish = oneshot::Sender<Result<Renewed, String>>;

/// A new certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Renewed {
    /// Hexadecimal.
    pub serial: String,
    /// In milliseconds since 1970.
    pub not_after_ms: u64,
}

/// Whose certificates are taken, and who signs new ones.
#[derive(Clone)]
pub struct Trust {
    pub generation: u64,
    pub issuer: Blob,
    /// Shown behind the issuer.
    pub chain: Vec<Blob>,
    pub trusted: Vec<Blob>,
}

impl Trust {
    /// As State says; or the identity, when State says nothing or less.
    pub fn of(state: &State, identity: &Identity) -> Trust {
        match Trust::stated(state) {
            Some(stated) if stated.generation >= identity.generation => stated,
            _ => identity.trust(),
        }
    }

    fn stated(state: &State) -> Option<Trust> {
        let blob = |der: &state_machine::Der| Blob(der.0.clone().into());
        let (generation, newest) = state.authorities().get_max()?;
        let issuer = blob(&newest.certificate);
        let (mut chain, mut trusted) = (Vec::new(), vec![issuer.clone()]);
        if let Some((_, before)) =
            state.authorities().get_prev(&generation.saturating_sub(1)).filter(|_| newest.settled_at.is_none())
        {
            chain = vec![blob(&newest.cross), blob(&before.certificate)];
            trusted.push(blob(&before.certificate));
        }
        Some(Trust { generation: *generation, issuer, chain, trusted })
    }
}

impl Identity {
    /// What it was last told.
    fn trust(&self) -> Trust {
        let trusted = if self.trusted.is_empty() { vec![self.authority.clone()] } else { self.trusted.clone() };
        Trust { generation: self.generation, issuer: self.authority.clone(), chain: self.chain.clone(), trusted }
    }

    /// Hands its papers to whoever speaks TLS with them.
    pub fn with_papers<T>(&self, take: impl FnOnce(Papers<'_>) -> T) -> T {
        let trust = self.trust();
        let chain: Vec<&[u8]> = std::iter::once(&trust.issuer).chain(&trust.chain).map(|blob| &*blob.0).collect();
        let trusted: Vec<&[u8]> = trust.trusted.iter().map(|blob| &*blob.0).collect();
        take(Papers { certificate: &self.certificate.0, key: &self.key.0, chain: &chain, trusted: &trusted })
    }
}

/// Brings the papers up to date: signs a new certificate when the old one nears its end, is of an authority that is
/// being replaced, or when somebody asked; every member can, it holds the sealing key. Whether anything changed.
pub fn renew_if_due(
    identity: &mut Identity,
    state: &State,
    sealing: &SealingKey,
    world: &World,
    asked: bool,
) -> Result<bool, StartError> {
    let trust = Trust::of(state, identity);
    let ends = pki::not_after_ms(&identity.certificate.0);
    let due = ends.is_none_or(|not_after| not_after < world.clock.now_ms() + RENEW_BEFORE_MS);
    let mut changed = false;
    if (due || asked || trust.generation != identity.generation)
        && state.authority_generation() == trust.generation
        && let Some(authority_key) = unseal(sealing, state, AUTHORITY_SECRET)
    {
        let key = pki::new_key(&world.entropy);
        let public_key = pki::public_key(&key).map_err(StartError::engine)?;
        let member = identity.member();
        let certificate =
            pki::sign_member(&trust.issuer.0, &authority_key, &public_key, member, &identity.cluster_id, world)
                .map_err(StartError::engine)?;
        identity.certificate = Blob(certificate.into());
        identity.key = Blob(key.to_vec().into());
        identity.authority = trust.issuer.clone();
        identity.generation = trust.generation;
        tracing::info!(authority = trust.generation, "this member's certificate was renewed");
        changed = true;
    }
    if identity.generation == trust.generation {
        let same =
            |ours: &[Blob], theirs: &[Blob]| ours.iter().map(|blob| &blob.0).eq(theirs.iter().map(|blob| &blob.0));
        // Programs of before remembered the authority their token named, and showed that one to whoever came to join.
        if identity.authority.0 != trust.issuer.0 {
            identity.authority = trust.issuer;
            changed = true;
        }
        if !same(&identity.trust().trusted, &trust.trusted) || !same(&identity.chain, &trust.chain) {
            (identity.chain, identity.trusted) = (trust.chain, trust.trusted);
            changed = true;
        }
    }
    Ok(changed)
}

/// Keeps the papers up to date as long as the member lives: looks when State changed, when somebody asks, and once an
/// hour. New connections use the new ones, and those of before end by themselves (peers/listen.rs).
pub async fn keep(core: Arc<Core>, mut identity: Identity, options: Options, mut wishes: mpsc::Receiver<Wish>) {
    let mut latest = core.latest.clone();
    let mut wish: Option<Wish> = None;
    loop {
        let state = latest.borrow_and_update().clone();
        let renewed = renew(&core, &mut identity, &state, &options, wish.is_some());
        if let Err(error) = &renewed {
            tracing::warn!(%error, "this member's certificate could not be renewed; it will be tried again");
        }
        if let Some(asked) = wish.take() {
            let facts = pki::Facts::of(&identity.certificate.0);
            let done = renewed.as_ref().map_err(ToString::to_string).and_then(|_| facts.ok_or("unreadable".into()));
            // Whoever asked may be gone.
            _ = asked.send(done.map(|facts| Renewed { serial: facts.serial, not_after_ms: facts.not_after_ms }));
        }
        core.metrics.certificate_left(core.dialer.tls.left(&identity.certificate.0));
        let authority_left = core.dialer.tls.left(&identity.authority.0);
        core.metrics.authority_left.set(i64::try_from(authority_left.as_secs()).unwrap_or(i64::MAX));
        let behind = renewed.is_err() || !tell(&core, &identity, &state, &options.name).await;
        let next = if behind { RETRY } else { LOOK_EVERY };
        tokio::select! { biased;
            asked = wishes.recv() => match asked {
                Some(asked) => wish = Some(asked),
                None => return,
            },
            moved = latest.changed() => {
                if moved.is_err() {
                    return;
                }
                sleep(GAP).await;
            }
            () = sleep(next) => {}
        }
    }
}

fn renew(
    core: &Core,
    identity: &mut Identity,
    state: &State,
    options: &Options,
    asked: bool,
) -> Result<(), StartError> {
    let mut next = identity.clone();
    if renew_if_due(&mut next, state, &core.sealing.of(state), &core.world, asked)? {
        world::failpoint!("certificate.save.before");
        Home { disk: &*core.world.disk, folder: &options.data_dir }.put_identity(&next)?;
        world::failpoint!("certificate.swap.before");
        replace(&core.dialer.tls, &next).map_err(StartError::engine)?;
        *identity = next;
    }
    Ok(())
}

fn replace(tls: &MemberTls, identity: &Identity) -> Result<(), pki::PkiError> {
    identity.with_papers(|papers| tls.replace(papers))
}

/// Tells the cluster that this member has moved, if that is waited for. False: it has to be told again.
async fn tell(core: &Arc<Core>, identity: &Identity, state: &State, by: &str) -> bool {
    let generation = state.authority_generation();
    if !state.members_to_move().contains(&core.me) {
        return true;
    }
    if identity.generation != generation {
        return false;
    }
    let command = Command::MoveCertificate { member: core.me, generation };
    match core.propose(core.new_request(), by, command).await {
        Ok(_) => true,
        Err(error) => {
            tracing::info!(%error, "that this member moved to the new authority could not be told yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use state_machine::{Der, Member, MemberId, Revision, Settings, Stamp, Timestamp};

    use super::*;

    #[test]
    fn who_joined_while_the_authority_was_replaced_shows_the_newest() {
        let (world, sealing) = (world::real::world(), SealingKey::new(&world::real::world().entropy));
        let authority = |generation| {
            let key = pki::new_key(&world.entropy);
            (pki::new_authority(&key, "abcd2345", generation, &world).unwrap(), key)
        };
        let ((old, _), (new, key)) = (authority(0), authority(1));
        let mut state = State::default();
        let mut apply = |command| {
            let stamp = Stamp { at: Timestamp(1_767_225_600_000), revision: Revision(state.revision().0 + 1) };
            state.apply(stamp, command).unwrap();
            state.clone()
        };
        let me = Member {
            id: MemberId(1),
            name: "hs1".into(),
            feature_level: state_machine::FEATURE_LEVEL,
            ..Member::default()
        };
        let founded = apply(Command::Found {
            cluster_id: "abcd2345".into(),
            member: me,
            settings: Settings::default(),
            secrets: Vec::new(),
        });
        let sealed = sealing.seal_in(&founded, AUTHORITY_SECRET, &key, &world.entropy);
        let der = |bytes: &[u8]| Der(bytes.to_vec());
        let state = apply(Command::RotateAuthority {
            before: der(&old),
            certificate: der(&new),
            cross: der(&new),
            key: sealed,
        });
        let own = pki::new_key(&world.entropy);
        let public = pki::public_key(&own).unwrap();
        let leaf = pki::sign_member(&new, &key, &public, MemberId(1), "abcd2345", &world).unwrap();
        // What a token of before named, with a certificate of now.
        let mut identity = Identity {
            cluster_id: "abcd2345".into(),
            member: 1,
            certificate: Blob(leaf.clone().into()),
            authority: Blob(old.into()),
            generation: 1,
            ..Identity::default()
        };
        assert!(renew_if_due(&mut identity, &state, &sealing, &world, false).unwrap());
        assert_eq!((&*identity.authority.0, &*identity.certificate.0), (&*new, &*leaf));
        assert!(!renew_if_due(&mut identity, &state, &sealing, &world, false).unwrap(), "once is enough");
    }
}
