//! Members coming and going. Who votes is decided elsewhere; here is who belongs.

use std::net::IpAddr;

use crate::{
    model::*,
    mutants, names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{changed, check_text, features::OPERATION, invalid, not_found};

/// A ticket for a whole rack, and no more.
const USES_MAX: u32 = 7;
const NETWORKS_MAX: usize = 16;

/// Clients race all candidates of all members; more of one member would only delay the others.
const ADDRESSES_MAX: usize = 8;

impl State {
    pub(super) fn create_join_token(&mut self, token: JoinToken) -> Answer {
        if token.id.is_empty() {
            return Err(invalid(What::JoinToken, "a token needs an id"));
        }
        check_text(What::JoinToken, "id", &token.id, 64)?;
        check_text(What::JoinToken, "member name", &token.name, names::LABEL_BYTES_MAX)?;
        if self.join_token(&token.id).is_some() {
            return Err(Refusal::Taken { what: What::JoinToken, name: token.id });
        }
        if token.expires_at <= self.now() {
            return Err(invalid(What::JoinToken, "it would have expired already"));
        }
        // One use is written as tokens always were.
        let uses = if token.uses <= 1 { 0 } else { token.uses };
        if uses > 0 || !token.from.is_empty() {
            self.need_level(OPERATION)?;
        }
        if uses > USES_MAX {
            return Err(invalid(What::JoinToken, format!("a token is good for at most {USES_MAX} members")));
        }
        if uses > 0 && !token.name.is_empty() {
            return Err(invalid(What::JoinToken, "a token for one name is good for one member"));
        }
        if token.from.len() > NETWORKS_MAX {
            return Err(invalid(What::JoinToken, format!("a token names at most {NETWORKS_MAX} networks")));
        }
        let generation = self.authority_generation();
        self.put_join_token(JoinToken { created_at: self.now(), used_by: None, used: 0, uses, generation, ..token });
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_join_token(&mut self, id: &str) -> Answer {
        self.join_token(id).ok_or_else(|| not_found(What::JoinToken, id))?;
        self.drop_join_token(id);
        Ok(Outcome::Done)
    }

    pub(super) fn admit_member(&mut self, id: MemberId, token: &str, member: Member, replaces: &str) -> Answer {
        let token = self.join_token(token).cloned().ok_or(Refusal::TokenUnknown)?;
        if token.is_spent() && !mutants::is("token-used-twice") {
            return Err(Refusal::TokenUsed);
        }
        if token.expires_at <= self.now() {
            return Err(Refusal::TokenExpired);
        }
        if token.generation < self.authority_generation() {
            return Err(Refusal::TokenOutdated);
        }
        if !token.name.is_empty() && token.name != member.name {
            let why = format!("the token is for a member named {:?}, not {:?}", token.name, member.name);
            return Err(invalid(What::Member, why));
        }
        let addresses = Vec::new();
        let member = Member { id, role: token.role, draining: false, insist: false, addresses, ..member };
        let before = self.predecessor(&token, &member, replaces)?;
        self.check_new_member(&member, before)?;
        self.check_feature_level(&member)?;

        if let Some(before) = before.and_then(|before| self.member(before).cloned()) {
            self.put_member(Member { state: MemberState::Removed, ..(*before).clone() });
            self.forget_sessions(before.id);
        }
        let used = if token.uses > 1 { token.used + 1 } else { 0 };
        self.put_join_token(JoinToken { used_by: Some(id), used, ..(*token).clone() });
        self.seat_member(member);
        self.members_left();
        Ok(Outcome::Member(id))
    }

    /// Whose place a newcomer takes: the member it says it replaces, or one that was admitted under this name and has
    /// never come up.
    fn predecessor(&self, token: &JoinToken, member: &Member, replaces: &str) -> Result<Option<MemberId>, Refusal> {
        let mut active = self.members().values().filter(|known| known.state == MemberState::Active);
        if replaces.is_empty() {
            let never_came = active.find(|known| known.name == member.name && known.incarnation == 0);
            return Ok(never_came.map(|known| known.id));
        }
        if token.name != replaces || member.name != replaces {
            let why = format!(
                "only a token for {replaces:?}, used by a member of this name, can replace it; make one with: hsraft token create --name {replaces}"
            );
            return Err(invalid(What::Member, why));
        }
        let known = active.find(|known| known.name == replaces).ok_or_else(|| not_found(What::Member, replaces))?;
        Ok(Some(known.id))
    }

    pub(super) fn set_member_role(&mut self, id: MemberId, role: JoinRole, insist: bool) -> Answer {
        let known = self.active_member(id)?.clone();
        let insist = insist && role == JoinRole::Voter;
        if known.role == role && known.insist == insist {
            return Ok(Outcome::Unchanged);
        }
        let other_voters = self
            .members()
            .values()
            .filter(|member| member.id != id && member.state == MemberState::Active && member.role == JoinRole::Voter);
        if role == JoinRole::Learner && other_voters.count() == 0 {
            return Err(invalid(What::Member, "the last voter has to vote"));
        }
        self.put_member(Member { role, insist, ..known });
        Ok(Outcome::Member(id))
    }

    pub(super) fn set_member_draining(&mut self, id: MemberId, draining: bool) -> Answer {
        let known = self.active_member(id)?.clone();
        if known.draining == draining {
            return Ok(Outcome::Unchanged);
        }
        self.put_member(Member { draining, ..known });
        Ok(Outcome::Member(id))
    }

    pub(super) fn set_member_addresses(&mut self, id: MemberId, addresses: Vec<IpAddr>) -> Answer {
        let known = self.active_member(id)?.clone();
        if addresses.len() > ADDRESSES_MAX {
            let why = format!("{} addresses are more than the {ADDRESSES_MAX} a member may have", addresses.len());
            return Err(invalid(What::Member, why));
        }
        if let Some(address) = addresses.iter().find(|address| address.is_unspecified() || address.is_multicast()) {
            return Err(invalid(What::Member, format!("{address} is no address a client can dial")));
        }
        if known.addresses == addresses {
            return Ok(Outcome::Unchanged);
        }
        self.put_member(Member { addresses, ..known });
        Ok(Outcome::Member(id))
    }

    pub(super) fn announce_member(&mut self, member: Member) -> Answer {
        let known = self.active_member(member.id)?.clone();
        check_facts(&member)?;
        self.check_feature_level(&member)?;
        let next = Member {
            peer_address: member.peer_address,
            client_url: member.client_url,
            version: member.version,
            feature_level: member.feature_level,
            relay: member.relay,
            incarnation: member.incarnation.max(known.incarnation),
            ..known.clone()
        };
        if next == known {
            return Ok(Outcome::Unchanged);
        }
        self.put_member(next);
        self.raise_feature_level();
        Ok(Outcome::Member(member.id))
    }

    pub(super) fn remove_member(&mut self, id: MemberId) -> Answer {
        let known = self.member(id).cloned().ok_or_else(|| not_found(What::Member, id))?;
        if known.state == MemberState::Removed {
            return Ok(Outcome::Unchanged);
        }
        let active = self.members().values().filter(|member| member.state == MemberState::Active);
        if active.count() == 1 {
            return Err(invalid(What::Member, "the last member cannot be removed"));
        }
        self.put_member(Member { state: MemberState::Removed, ..(*known).clone() });
        self.forget_sessions(id);
        self.raise_feature_level();
        self.members_left();
        Ok(Outcome::Member(id))
    }

    pub(super) fn member_silence(&mut self, id: MemberId, silent: bool) -> Answer {
        let known = self.active_member(id)?.clone();
        let forgotten = if silent { self.forget_sessions(id) } else { 0 };
        let news = known.silent != silent;
        if news {
            self.put_member(Member { silent, ..known });
        }
        changed(forgotten + u64::from(news))
    }

    /// The member, when it still belongs to the cluster.
    pub(super) fn active_member(&self, id: MemberId) -> Result<&Member, Refusal> {
        let member = self.member(id).ok_or_else(|| not_found(What::Member, id))?;
        match member.state {
            MemberState::Active => Ok(member),
            MemberState::Removed => Err(invalid(What::Member, format!("member {id} was removed from the cluster"))),
        }
    }

    /// `but`: a member that goes when this one comes.
    pub(super) fn check_new_member(&self, member: &Member, but: Option<MemberId>) -> Result<(), Refusal> {
        self.check_facts_of_new(member)?;
        let mut active = self.members().values().filter(|known| known.state == MemberState::Active);
        if active.any(|known| known.name == member.name && Some(known.id) != but) {
            return Err(Refusal::Taken { what: What::Member, name: member.name.clone() });
        }
        Ok(())
    }

    /// Everything but whether the name is taken.
    pub(super) fn check_facts_of_new(&self, member: &Member) -> Result<(), Refusal> {
        names::check_label(&member.name).map_err(|why| invalid(What::Member, why))?;
        check_facts(member)?;
        if self.member(member.id).is_some() {
            return Err(Refusal::Taken { what: What::Member, name: member.id.to_string() });
        }
        Ok(())
    }

    /// A checked member takes its seat: its region is the next one nobody ever had.
    pub(super) fn seat_member(&mut self, member: Member) {
        let mut region_id = self.tables.cluster.last_region + 1;
        while self.derp_regions().contains_key(&region_id) {
            region_id += 1;
        }
        self.cluster_mut().last_region = region_id;
        self.put_member(Member { region_id, joined_at: self.now(), state: MemberState::Active, ..member });
        self.raise_feature_level();
    }
}

fn check_facts(member: &Member) -> Result<(), Refusal> {
    check_text(What::Member, "peer address", &member.peer_address, 512)?;
    check_text(What::Member, "client URL", &member.client_url, 512)?;
    check_text(What::Member, "version", &member.version, 128)?;
    let Some(relay) = &member.relay else { return Ok(()) };
    for text in [&relay.region_code, &relay.region_name, &relay.host_name, &relay.ipv4, &relay.ipv6] {
        check_text(What::Member, "description of its relay", text, 255)?;
    }
    Ok(())
}
