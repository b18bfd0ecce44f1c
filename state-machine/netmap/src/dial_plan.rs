//! Where clients dial next time: the members that are well, so that neither a dead address nor dead DNS keeps them out.
//!
//! Clients race the candidates, each after its own delay, before they ask DNS; host name and port stay those of the login
//! URL (`controlhttp/client.go`). A plan lives as long as the client's process, so one that was given must be taken back:
//! whole maps always carry a plan, an empty one where there is none.

use state_machine::{Member, MemberState, NodeId, State};
use tailcfg::{ControlDialPlan, ControlIpCandidate};

use crate::wire::{Bytes, to_bytes};

/// Between the first attempts at two candidates: what Go waits between two addresses of one name (`dnscache.go`).
const NEXT_AFTER_MS: usize = 300;
/// More candidates help nobody: the last would be tried after three seconds.
const CANDIDATES_MAX: usize = 10;

/// One plan for each member to begin with, so that nodes spread over the members; or the empty one.
pub(crate) fn pages(state: &State) -> Vec<Bytes> {
    let members: Vec<&Member> = match state.settings().dial_plan {
        true => state.members().values().map(|member| &**member).filter(|member| is_well(member)).collect(),
        false => Vec::new(),
    };
    match members.len() {
        0 => vec![to_bytes(&ControlDialPlan::default())],
        count => (0..count).map(|first| to_bytes(&plan(&members, first))).collect(),
    }
}

/// The plan of one viewer.
pub(crate) fn of(pages: &[Bytes], viewer: NodeId) -> &Bytes {
    let at = usize::try_from(viewer.0 % pages.len() as u64).unwrap_or_default();
    &pages[at]
}

fn is_well(member: &Member) -> bool {
    member.state == MemberState::Active && !member.silent && !member.draining && !member.addresses.is_empty()
}

/// The first address of every member, then the second of every member: the dead one costs one step.
fn plan(members: &[&Member], first: usize) -> ControlDialPlan {
    let (before, after) = members.split_at(first);
    let in_turn = || after.iter().chain(before);
    let most = members.iter().map(|member| member.addresses.len()).max().unwrap_or_default();
    let addresses = (0..most).flat_map(|nth| in_turn().filter_map(move |member| member.addresses.get(nth)));
    let candidate = |(step, address): (usize, &std::net::IpAddr)| {
        ControlIpCandidate::new(*address, (step * NEXT_AFTER_MS) as f64 / 1000.0)
    };
    ControlDialPlan { candidates: addresses.take(CANDIDATES_MAX).enumerate().map(candidate).collect() }
}
