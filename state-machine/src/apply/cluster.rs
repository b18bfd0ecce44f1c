//! The cluster as such: its founding, relays that are not ours.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::{REGION_BEFORE_FIRST, State},
};

use super::{check_text, invalid, secrets::check_secret, settings::check_settings};

const REGIONS_MAX: usize = 1_000;
const NODES_PER_REGION_MAX: usize = 64;

impl State {
    pub(super) fn found(
        &mut self,
        cluster_id: String,
        member: Member,
        settings: Settings,
        secrets: Vec<(String, SealedSecret)>,
    ) -> Answer {
        if self.is_founded() {
            return Err(Refusal::AlreadyFounded);
        }
        if cluster_id.is_empty() {
            return Err(invalid(What::Member, "a cluster needs an id"));
        }
        check_text(What::Member, "cluster id", &cluster_id, 64)?;
        self.check_new_member(&member, None)?;
        check_settings(&settings)?;
        for (name, secret) in &secrets {
            check_secret(name, secret)?;
        }

        let (id, level) = (member.id, member.feature_level);
        self.cluster_mut().id = cluster_id;
        self.put_settings(settings);
        for (name, secret) in secrets {
            self.put_secret(name, secret);
        }
        self.begin_feature_level(level);
        self.seat_member(member);
        Ok(Outcome::Member(id))
    }

    pub(super) fn refound(
        &mut self,
        cluster_id: String,
        member: Member,
        secrets: Vec<(String, SealedSecret)>,
    ) -> Answer {
        if cluster_id.is_empty() || *self.cluster_id() == cluster_id {
            return Err(invalid(What::Member, "a cluster that begins again needs an id of its own"));
        }
        check_text(What::Member, "cluster id", &cluster_id, 64)?;
        self.check_facts_of_new(&member)?;
        for (name, secret) in &secrets {
            check_secret(name, secret)?;
        }

        let known: Vec<Arc<Member>> = self.members().values().cloned().collect();
        for old in known.into_iter().filter(|old| old.state == MemberState::Active) {
            self.put_member(Member { state: MemberState::Removed, ..(*old).clone() });
            self.forget_sessions(old.id);
        }
        let tokens: Vec<String> = self.join_tokens().keys().cloned().collect();
        for token in tokens {
            self.drop_join_token(&token);
        }
        self.forget_authorities();
        let id = member.id;
        self.cluster_mut().id = cluster_id;
        for (name, secret) in secrets {
            self.put_secret(name, secret);
        }
        self.seat_member(member);
        Ok(Outcome::Member(id))
    }

    pub(super) fn set_derp_regions(&mut self, regions: Vec<DerpRegion>) -> Answer {
        if regions.len() > REGIONS_MAX {
            return Err(invalid(What::Region, format!("more than {REGIONS_MAX} regions")));
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for region in &regions {
            self.check_region(region)?;
            if !ids.insert(region.id) {
                return Err(Refusal::Taken { what: What::Region, name: region.id.to_string() });
            }
            for node in &region.nodes {
                if !names.insert(node.name.clone()) {
                    return Err(Refusal::Taken { what: What::Region, name: node.name.clone() });
                }
            }
        }

        let new: imbl::OrdMap<u32, Arc<DerpRegion>> =
            regions.into_iter().map(|region| (region.id, Arc::new(region))).collect();
        if *self.derp_regions() == new {
            return Ok(Outcome::Unchanged);
        }
        self.tables.derp_regions = new;
        Ok(Outcome::Done)
    }

    fn check_region(&self, region: &DerpRegion) -> Result<(), Refusal> {
        let id = region.id;
        if id == 0 || id > 65_535 {
            return Err(invalid(What::Region, format!("id {id} is not between 1 and 65535")));
        }
        if id > REGION_BEFORE_FIRST && id <= self.tables.cluster.last_region {
            return Err(invalid(What::Region, format!("id {id} belongs to a member of the cluster")));
        }
        if region.nodes.len() > NODES_PER_REGION_MAX {
            return Err(invalid(What::Region, format!("region {id} has more than {NODES_PER_REGION_MAX} relays")));
        }
        for (field, text) in [("code", &region.code), ("name", &region.name)] {
            check_text(What::Region, field, text, 255)?;
        }
        for node in &region.nodes {
            if node.name.is_empty() {
                return Err(invalid(What::Region, format!("a relay of region {id} has no name")));
            }
            for text in [&node.name, &node.host_name, &node.cert_name, &node.ipv4, &node.ipv6] {
                check_text(What::Region, "description of a relay", text, 255)?;
            }
        }
        Ok(())
    }
}
