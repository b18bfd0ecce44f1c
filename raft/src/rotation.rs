//! Another sealing key, for whoever had the old one: `hsraft key rotate --sealing-key`.
//!
//! The key never enters the log, so members hand it to each other; and State is sealed with it in one entry of the log,
//! so all of them must have it before that.
//!
//! 1. All secrets get a new data key, still under the old sealing key. That State is this rotation's alone: whatever
//!    another one began earlier can never come to pass after it.
//! 2. Each active member puts the new key beside the old one, on disk, and says so. Members that were admitted meanwhile
//!    are asked as well; whoever is admitted later is given both keys (join.rs).
//! 3. One command, which only fits the State of step 1, brings all secrets under another data key, sealed with the new
//!    sealing key, and a new recovery key. Who has applied it lets the new key take the old one's place (keyring.rs).
//!
//! Should somebody die on the way, either the command is in the log or it never will be, and each member tells by trying
//! which of its two keys opens its State.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use state_machine::{Command, Member, MemberId, MemberState, Refusal, State, codes};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use crate::{
    archive::{RECOVERY_SECRET, RecoveryKey},
    cluster::{Cluster, Core},
    encode::{Call, decode, encode},
    error::ProposeError,
    keyring::{Declined, Successor},
    peers::proto::Frame,
    seal::SealingKey,
};

/// A member puts a key away within moments, or cannot.
const HAND_WITHIN: Duration = Duration::from_secs(10);
/// So long a member that is asked waits until it has come as far as the asker.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOKS: Duration = Duration::from_millis(20);
/// Somebody else writes a secret at the same moment: again, but not for ever.
const ATTEMPTS: usize = 5;

/// What a rotation came to.
pub struct Rotated {
    /// The id of the newest data key.
    pub data_key: u32,
    /// How many secrets were sealed anew.
    pub secrets: usize,
    /// Opens backups from now on; shown once.
    pub recovery_key: Zeroizing<String>,
}

fn failed(error: impl ToString) -> ProposeError {
    ProposeError::Impossible(error.to_string())
}

fn held_up(why: impl Into<String>) -> ProposeError {
    ProposeError::Unready { code: codes::SEALING_KEY_HELD_UP.number, why: why.into() }
}

impl Core {
    /// The asked side of step 2.
    pub async fn take_successor(&self, successor: Successor) -> Result<(), Declined> {
        let until = Instant::now() + CATCH_UP;
        loop {
            let state = self.latest.borrow().clone();
            match self.sealing.take(successor.clone(), &state) {
                // It may be about to let an earlier successor take its place.
                Err(Declined::Behind | Declined::Locked) if Instant::now() < until => sleep(LOOKS).await,
                done => return done,
            }
        }
    }
}

impl Cluster {
    /// Replaces the sealing key of all members, and with it data key and recovery key. Refused, by name, when a member
    /// cannot take the new one.
    pub async fn rotate_sealing_key(&self, by: &str) -> Result<Result<Rotated, Refusal>, ProposeError> {
        for _ in 0..ATTEMPTS {
            match self.try_to_rotate(by).await? {
                Err(Refusal::SecretsChanged) => {}
                done => return Ok(done),
            }
        }
        Ok(Err(Refusal::SecretsChanged))
    }

    async fn try_to_rotate(&self, by: &str) -> Result<Result<Rotated, Refusal>, ProposeError> {
        let (core, entropy) = (&self.core, &self.core.world.entropy);
        let state = self.confirm().await.map_err(failed)?;
        if !state.secrets().contains_key(RECOVERY_SECRET) {
            return Err(held_up(
                "there is no recovery key, and without one nothing would open the backups made until now; make one \
                 first: hsraft recovery-key rotate",
            ));
        }
        let sealing = core.sealing.of(&state);
        let (secrets, dropped) = sealing.reseal(&state, entropy).map_err(failed)?;
        let (name, row) = secrets.first().cloned().ok_or_else(|| failed("no data key was made"))?;
        let command = Command::ResealSecrets { seen: state.secrets_fingerprint(), secrets, dropped };
        if let Err(refusal) = self.propose(by, command).await?.answer {
            return Ok(Err(refusal));
        }
        let state = self.confirm().await.map_err(failed)?;
        if state.secrets().get(&name).is_none_or(|now| **now != row) {
            return Ok(Err(Refusal::SecretsChanged));
        }

        let key = SealingKey::new(entropy);
        world::failpoint!("sealing.hand.before", |error| Err(failed(error)));
        match core.hand_to_all(&Successor::new(&key, &state)).await {
            Ok(true) => {}
            Ok(false) => return Ok(Err(Refusal::SecretsChanged)),
            Err(error) => {
                // Whoever has taken it forgets it once the State it was made for is no more; if that cannot be, later.
                if let Err(left) = self.rotate_data_key(by).await {
                    tracing::info!(%left, "a sealing key that was not used waits for the next change of secrets");
                }
                return Err(error);
            }
        }
        let sealing = core.sealing.of(&state);
        let (mut secrets, dropped) = sealing.reseal_under(&key, &state, entropy).map_err(failed)?;
        let data_key = secrets.iter().map(|(_, sealed)| sealed.key_id).max().unwrap_or(0);
        let count = secrets.len() - 1;
        let recovery = RecoveryKey::new(entropy);
        secrets.push((RECOVERY_SECRET.to_owned(), recovery.wrap(&key, entropy)));
        world::failpoint!("sealing.propose.before", |error| Err(failed(error)));
        let command = Command::ResealSecrets { seen: state.secrets_fingerprint(), secrets, dropped };
        let answer = self.propose(by, command).await?.answer;
        world::failpoint!("sealing.propose.after", |error| Err(failed(error)));
        Ok(answer.map(|_| Rotated { data_key, secrets: count, recovery_key: recovery.text() }))
    }
}

impl Core {
    /// Until every active member has the successor. False: the secrets changed meanwhile, and it is worth nothing.
    ///
    /// The last look is one after the last answer. A member that is admitted after it was admitted by one that has both
    /// keys, and hands on both.
    async fn hand_to_all(self: &Arc<Core>, successor: &Successor) -> Result<bool, ProposeError> {
        let mut have = BTreeSet::new();
        loop {
            let state = self.confirm(HAND_WITHIN).await.map_err(failed)?;
            if *successor.seen.0 != state.secrets_fingerprint() {
                return Ok(false);
            }
            let missing: Vec<Arc<Member>> = active(&state).filter(|member| !have.contains(&member.id)).collect();
            if missing.is_empty() {
                return Ok(true);
            }
            for done in join_all(missing.iter().map(|member| self.hand_to(member, successor))).await {
                match done? {
                    Ok(member) => have.insert(member),
                    Err(Declined::Changed) => return Ok(false),
                    Err(_) => unreachable!("every other reason is an error"),
                };
            }
        }
    }

    async fn hand_to(
        &self,
        member: &Member,
        successor: &Successor,
    ) -> Result<Result<MemberId, Declined>, ProposeError> {
        let name = &member.name;
        let taken = match member.id == self.me {
            true => self.take_successor(successor.clone()).await,
            false => {
                let frame = Frame { kind: Call::TakeSealingKey as u32, data: encode(successor).into() };
                let silent = || {
                    held_up(format!(
                        "{name} does not answer, and every member must have the new key before it is used; start it, or take \
                         it out: hsraft member remove {name}"
                    ))
                };
                let answer = timeout(HAND_WITHIN, self.dialer_client(member.id).call(frame)).await;
                let frame = answer.map_err(|_| silent())?.map_err(|status| match status.code() {
                    tonic::Code::Unimplemented => {
                        held_up(format!("{name} runs a program that cannot do this; upgrade it"))
                    }
                    _ => silent(),
                })?;
                decode(&frame.into_inner().data).map_err(failed)?
            }
        };
        match taken {
            Ok(()) => Ok(Ok(member.id)),
            Err(Declined::Changed) => Ok(Err(Declined::Changed)),
            Err(Declined::Behind) => Err(held_up(format!(
                "{name} is behind and does not catch up; wait until it has: hsraft members --watch"
            ))),
            Err(Declined::Place(why)) => Err(held_up(format!(
                "{name} cannot put the new key away ({why}); make the place of its sealing key one it can write to \
                 (cluster.sealing_key_path) for the rotation, and restart it"
            ))),
            Err(Declined::Locked) => {
                Err(held_up(format!("{name} cannot open the secrets with the sealing key it has; look at its log")))
            }
        }
    }
}

fn active(state: &State) -> impl Iterator<Item = Arc<Member>> {
    state.members().values().filter(|member| member.state == MemberState::Active).cloned()
}
