//! Certificates: one authority of the members replaces another; certificates for clients are ordered and come.
//!
//! ```text
//! RotateAuthority      a second row: everybody trusts both, new certificates are of the new one
//! MoveCertificate …    each member: trusts it, shows a certificate of it
//! the last of them     the row before goes: nobody trusts it any more
//! ```
//!
//! A member that is down keeps the second row there. It can be removed instead; then the others are enough.

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid, not_found, secrets::check_secret};

/// Under which the authority's key lies among the secrets.
const AUTHORITY_KEY: &str = "ca";
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
const CHAIN_BYTES_MAX: usize = 64 * 1024;
const CHALLENGES_MAX: usize = 16;
const ERROR_BYTES_MAX: usize = 1_024;
const CERTIFICATES_MAX: usize = 256;

impl State {
    /// How often the authority was replaced.
    pub fn authority_generation(&self) -> u64 {
        self.authorities().get_max().map_or(0, |(generation, _)| *generation)
    }

    /// Active members that do not trust the newest authority yet or show a certificate of another; nobody when none is
    /// being replaced.
    pub fn members_to_move(&self) -> Vec<MemberId> {
        let Some((_, newest)) = self.authorities().get_max() else { return Vec::new() };
        if newest.settled_at.is_some() {
            return Vec::new();
        }
        let active = self.members().values().filter(|member| member.state == MemberState::Active);
        active.map(|member| member.id).filter(|id| !newest.moved.contains(id)).collect()
    }

    pub(super) fn rotate_authority(&mut self, before: Der, certificate: Der, cross: Der, key: SealedSecret) -> Answer {
        for der in [&before, &certificate, &cross] {
            if der.0.is_empty() || der.0.len() > CERTIFICATE_BYTES_MAX {
                let why = format!("a certificate of an authority has 1 to {CERTIFICATE_BYTES_MAX} bytes");
                return Err(invalid(What::Certificate, why));
            }
        }
        check_secret(AUTHORITY_KEY, &key)?;
        self.check_seal(&key)?;
        let newest = self.authorities().get_max().map(|(_, newest)| newest.clone());
        if newest.as_ref().is_some_and(|newest| newest.settled_at.is_none()) {
            let waiting = self.members_to_move();
            let name = |id: &MemberId| self.member(*id).map_or_else(|| id.to_string(), |member| member.name.clone());
            return Err(Refusal::RotationUnderWay { waiting: waiting.iter().map(name).collect() });
        }
        if newest.as_ref().is_some_and(|newest| newest.certificate != before) {
            return Err(invalid(What::Certificate, "the authority was replaced meanwhile; look at hsraft cert status"));
        }
        if before == certificate {
            return Err(invalid(What::Certificate, "an authority does not replace itself"));
        }

        let now = self.now();
        if newest.is_none() {
            self.put_authority(Authority { certificate: before, settled_at: Some(now), ..Authority::default() });
        }
        let generation = newest.map_or(0, |newest| newest.generation) + 1;
        self.put_authority(Authority { generation, certificate, cross, begun_at: now, ..Authority::default() });
        self.put_secret(AUTHORITY_KEY.to_owned(), key);
        Ok(Outcome::Changed(generation))
    }

    pub(super) fn move_certificate(&mut self, member: MemberId, generation: u64) -> Answer {
        self.active_member(member)?;
        let newest = self.authorities().get_max().map(|(_, newest)| newest.clone());
        let Some(newest) = newest.filter(|newest| newest.generation == generation) else {
            return Err(not_found(What::Certificate, format!("authority {generation}")));
        };
        if newest.settled_at.is_some() || newest.moved.contains(&member) {
            return Ok(Outcome::Unchanged);
        }
        let mut moved = newest.moved.clone();
        moved.insert(member);
        self.put_authority(Authority { moved, ..(*newest).clone() });
        self.settle_authorities();
        Ok(Outcome::Member(member))
    }

    /// A member was removed: nobody waits for it, and it wants no certificate.
    pub(super) fn members_left(&mut self) {
        self.settle_authorities();
        let gone = |id: &MemberId| self.member(*id).is_none_or(|member| member.state == MemberState::Removed);
        let left = self.certificates().values().flat_map(|row| row.wanted_by.iter().copied()).filter(gone);
        let left: Vec<MemberId> = left.collect();
        for member in left {
            self.drop_wishes(member, "");
        }
    }

    /// Another cluster begins: it brings its own authority.
    pub(super) fn forget_authorities(&mut self) {
        self.tables.authorities = Default::default();
        let names: Vec<String> = self.certificates().keys().cloned().collect();
        names.iter().for_each(|name| self.forget_certificate(name));
    }

    fn settle_authorities(&mut self) {
        let newest = self.authorities().get_max().map(|(_, newest)| newest.clone());
        let Some(newest) = newest.filter(|newest| newest.settled_at.is_none()) else { return };
        if !self.members_to_move().is_empty() && !crate::mutants::is("authority-settles-early") {
            return;
        }
        let settled_at = Some(self.now());
        self.tables.authorities = Default::default();
        self.put_authority(Authority { settled_at, ..(*newest).clone() });
    }

    pub(super) fn want_certificate(&mut self, member: MemberId, wish: Option<CertificateWish>) -> Answer {
        self.active_member(member)?;
        if let Some(wish) = &wish {
            check_wish(wish)?;
            if !self.certificates().contains_key(&wish.name) && self.certificates().len() >= CERTIFICATES_MAX {
                return Err(invalid(What::Certificate, format!("more than {CERTIFICATES_MAX} names")));
            }
        }
        let dropped = self.drop_wishes(member, wish.as_ref().map_or("", |wish| &wish.name));
        let Some(wish) = wish else { return Ok(if dropped { Outcome::Done } else { Outcome::Unchanged }) };
        let known = self.certificates().get(&wish.name).map(|known| (**known).clone()).unwrap_or_default();
        if known.wish == wish && known.wanted_by.contains(&member) {
            return Ok(if dropped { Outcome::Done } else { Outcome::Unchanged });
        }
        let mut next = known;
        if next.wish != wish {
            // Another authority or another way: what is under way there does not count, and old failures neither.
            next.order = None;
            (next.failures, next.retry_at) = (0, Timestamp(0));
            next.error.clear();
            self.drop_secret(&ManagedCertificate::next_key(&wish.name));
        }
        next.wanted_by.insert(member);
        self.put_certificate(ManagedCertificate { wish, ..next });
        Ok(Outcome::Done)
    }

    /// All a member wanted but `but`. What nobody wants goes, its key too.
    fn drop_wishes(&mut self, member: MemberId, but: &str) -> bool {
        let others = self.certificates().values().filter(|row| row.wish.name != but && row.wanted_by.contains(&member));
        let others: Vec<ManagedCertificate> = others.map(|row| (**row).clone()).collect();
        let any = !others.is_empty();
        for mut row in others {
            row.wanted_by.remove(&member);
            match row.wanted_by.is_empty() {
                true => self.forget_certificate(&row.wish.name),
                false => self.put_certificate(row),
            }
        }
        any
    }

    fn forget_certificate(&mut self, name: &str) {
        self.drop_certificate(name);
        self.drop_secret(&ManagedCertificate::key(name));
        self.drop_secret(&ManagedCertificate::next_key(name));
    }

    fn certificate(&self, name: &str) -> Result<ManagedCertificate, Refusal> {
        let known = self.certificates().get(name).ok_or_else(|| not_found(What::Certificate, name))?;
        Ok((**known).clone())
    }

    pub(super) fn order_certificate(&mut self, name: &str, order: CertificateOrder, key: SealedSecret) -> Answer {
        let known = self.certificate(name)?;
        let secret = ManagedCertificate::next_key(name);
        check_secret(&secret, &key)?;
        self.check_seal(&key)?;
        check_text(What::Certificate, "URL of the order", &order.url, 2_048)?;
        if order.challenges.len() > CHALLENGES_MAX {
            return Err(invalid(What::Certificate, format!("more than {CHALLENGES_MAX} challenges")));
        }
        for challenge in &order.challenges {
            check_text(What::Certificate, "token of a challenge", &challenge.token, 512)?;
            check_text(What::Certificate, "answer to a challenge", &challenge.authorization, 1_024)?;
        }
        self.put_secret(secret, key);
        let order = Some(CertificateOrder { begun_at: self.now(), ..order });
        self.put_certificate(ManagedCertificate { order, ..known });
        Ok(Outcome::Done)
    }

    pub(super) fn issue_certificate(
        &mut self,
        name: &str,
        chain: String,
        not_before: Timestamp,
        not_after: Timestamp,
        key: SealedSecret,
    ) -> Answer {
        let known = self.certificate(name)?;
        let secret = ManagedCertificate::key(name);
        check_secret(&secret, &key)?;
        self.check_seal(&key)?;
        if chain.is_empty() || chain.len() > CHAIN_BYTES_MAX {
            return Err(invalid(What::Certificate, format!("a chain has 1 to {CHAIN_BYTES_MAX} bytes")));
        }
        if not_after <= not_before {
            return Err(invalid(What::Certificate, "it ends before it begins"));
        }
        self.put_secret(secret, key);
        self.drop_secret(&ManagedCertificate::next_key(name));
        self.put_certificate(ManagedCertificate {
            chain,
            issuer: known.wish.directory.clone(),
            not_before,
            not_after,
            order: None,
            failures: 0,
            error: String::new(),
            retry_at: Timestamp(0),
            ..known
        });
        Ok(Outcome::Done)
    }

    pub(super) fn fail_certificate(&mut self, name: &str, error: String, retry_at: Timestamp) -> Answer {
        let known = self.certificate(name)?;
        let mut error: String = error.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        while error.len() > ERROR_BYTES_MAX {
            error.pop();
        }
        self.drop_secret(&ManagedCertificate::next_key(name));
        let failures = known.failures.saturating_add(1);
        self.put_certificate(ManagedCertificate { order: None, failures, error, retry_at, ..known });
        Ok(Outcome::Done)
    }
}

fn check_wish(wish: &CertificateWish) -> Result<(), Refusal> {
    names::check_domain(&wish.name)
        .map_err(|why| invalid(What::Certificate, format!("name {:?}: {why}", wish.name)))?;
    for (field, text, max) in [("name", &wish.name, 253), ("directory", &wish.directory, 2_048)] {
        if text.is_empty() {
            return Err(invalid(What::Certificate, format!("it needs a {field}")));
        }
        check_text(What::Certificate, field, text, max)?;
    }
    check_text(What::Certificate, "e-mail address", &wish.email, 320)
}
