//! One state made ready for drawing maps.
//!
//! What all viewers share is serialised here, once for each version of it: every node as a peer, every profile, DNS,
//! relays, filters. Redrawing for a later state costs what changed, because the states' tables are compared instead of
//! read; a node that did not move keeps its very bytes.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Weak},
};

use ::policy::{Meaning, Rejection};
use imbl::{OrdMap, ordmap::DiffItem};
use state_machine::{NodeId, Revision, State, mutants};

use crate::{
    delta::DeltaCache,
    derp, dial_plan, dns, filter,
    inventory::Rules,
    node::{Look, Sheet},
    profiles, ssh,
    wire::{Bytes, to_bytes},
};

/// One state made ready; cheap to clone.
#[derive(Clone)]
pub struct Atlas(Arc<Plates>);

/// What an atlas holds.
pub(crate) struct Plates {
    pub state: Arc<State>,
    pub rules: Rules,
    /// Nodes that serve routes or could.
    pub routers: OrdMap<NodeId, ()>,
    /// The same in atlases in which the same routes are offered to the same classes.
    pub routing: Arc<()>,
    pub sheets: OrdMap<NodeId, Arc<Sheet>>,
    /// How long all nodes are as peers, with a comma each.
    pub peers_bytes: usize,
    /// How many nodes each owner has.
    owners: OrdMap<u64, u64>,
    /// The profiles of those owners.
    pub profiles: OrdMap<u64, Bytes>,
    pub pages: Pages,
    /// What was said before to get here from an earlier atlas.
    pub deltas: DeltaCache,
}

/// The pages that are the same for all viewers.
#[derive(Clone)]
pub(crate) struct Pages {
    pub derp_map: Bytes,
    /// Without a node's own name: see [`Pages::own_names`].
    pub dns: Bytes,
    /// Whether each node is told that it may have certificates for its own name.
    pub own_names: bool,
    /// A JSON text; absent while the tailnet has no name.
    pub domain: Option<Bytes>,
    pub debug: Option<Bytes>,
    /// At least one; a viewer's own is found by [`dial_plan::of`].
    pub dial_plans: Vec<Bytes>,
}

/// Who looks: nodes of one class see the same tailnet, and are told the same of it.
pub(crate) struct Eyes<'a> {
    pub class: u32,
    pub only_ipv6: bool,
    meaning: &'a Meaning,
}

impl Eyes<'_> {
    pub fn sees(&self, sheet: &Sheet) -> bool {
        self.meaning.class_sees(self.class, sheet.facts.class)
    }

    pub fn look(&self, sheet: &Sheet) -> Look {
        let routes = match sheet.facts.routes.is_empty() {
            true => Vec::new(),
            false => self.meaning.routes_for_class(self.class, sheet.row.id.0),
        };
        Look { routes, only_ipv6: self.only_ipv6 }
    }
}

impl Atlas {
    /// Draws from nothing.
    pub fn draw(state: &Arc<State>) -> Atlas {
        let mut plates = Plates {
            state: state.clone(),
            rules: Rules::of(state),
            routers: OrdMap::new(),
            routing: Arc::default(),
            sheets: OrdMap::new(),
            peers_bytes: 0,
            owners: OrdMap::new(),
            profiles: OrdMap::new(),
            pages: Pages::draw(state),
            deltas: DeltaCache::default(),
        };
        for (id, row) in state.nodes() {
            plates.put(*id, Arc::new(Sheet::draw(state, &plates.rules.meaning, row)));
        }
        Atlas(Arc::new(plates))
    }

    /// Draws a later state, reusing what did not move. The state may also be an earlier one or another's; what is reused
    /// is decided by comparing.
    pub fn redraw(&self, state: &Arc<State>) -> Atlas {
        let old = &*self.0;
        if Arc::ptr_eq(&old.state, state) {
            return self.clone();
        }
        let mut moved = moved(&old.state, state);
        let (rules, reconsidered) = match same_policy(&old.state, state) {
            true => old.rules.moved(&old.state, state, moved.iter().copied()),
            false => (Rules::of(state), Vec::new()),
        };
        moved.extend(reconsidered.into_iter().map(NodeId));
        let (before, after) = (&old.rules.meaning, &rules.meaning);
        if !before.same_numbers(after) {
            moved.extend(state.nodes().keys().chain(old.state.nodes().keys()));
        }
        let same_routing = before.same(after) || before.same_routing(after);
        let mut plates = Plates {
            state: state.clone(),
            rules: rules.clone(),
            routers: old.routers.clone(),
            routing: if same_routing { old.routing.clone() } else { Arc::default() },
            sheets: old.sheets.clone(),
            peers_bytes: old.peers_bytes,
            owners: old.owners.clone(),
            profiles: old.profiles.clone(),
            pages: old.pages.redraw(&old.state, state),
            deltas: DeltaCache::default(),
        };
        for id in moved {
            match (state.node(id), plates.sheets.get(&id).cloned()) {
                (Some(row), None) => plates.put(id, Arc::new(Sheet::draw(state, &rules.meaning, row))),
                (Some(row), Some(sheet)) => {
                    let drawn = sheet.redraw(state, &rules.meaning, row);
                    if !Arc::ptr_eq(&drawn, &sheet) {
                        plates.put(id, drawn);
                    }
                }
                (None, _) => plates.remove(id),
            }
        }
        for owner in changed_keys(old.state.users(), state.users()) {
            if plates.owners.contains_key(&owner.0) {
                plates.put_profile(owner.0);
            }
        }
        Atlas(Arc::new(plates))
    }

    /// The state it was drawn from.
    pub fn state(&self) -> &Arc<State> {
        &self.0.state
    }

    /// The log position it shows.
    pub fn revision(&self) -> Revision {
        self.0.state.revision()
    }

    pub(crate) fn plates(&self) -> &Plates {
        &self.0
    }

    pub(crate) fn downgrade(&self) -> Weak<Plates> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn is(&self, other: &Weak<Plates>) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), other.as_ptr())
    }

    pub(crate) fn sheet(&self, node: NodeId) -> Option<&Arc<Sheet>> {
        self.0.sheets.get(&node)
    }

    /// Why the policy in force is not understood by this program. Then nobody reaches anybody.
    pub fn policy_problem(&self) -> Option<&Rejection> {
        self.0.rules.problem.as_deref()
    }

    /// What the policy in force means.
    pub fn meaning(&self) -> &Meaning {
        &self.0.rules.meaning
    }

    /// The eyes of a viewer.
    pub(crate) fn eyes(&self, viewer: &Sheet) -> Eyes<'_> {
        Eyes { class: viewer.facts.class, only_ipv6: viewer.facts.hides_ipv4, meaning: self.meaning() }
    }

    /// What lets packets in to a viewer.
    pub(crate) fn filters(&self, viewer: NodeId) -> Bytes {
        filter::page(&self.meaning().filter(viewer.0))
    }

    /// Who may open a shell on nodes of a class.
    pub(crate) fn shells(&self, class: u32) -> Bytes {
        ssh::page(&self.meaning().ssh_of_class(class))
    }
}

impl fmt::Debug for Atlas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Atlas").field("revision", &self.revision()).field("nodes", &self.0.sheets.len()).finish()
    }
}

impl Plates {
    fn put(&mut self, id: NodeId, sheet: Arc<Sheet>) {
        let owner = sheet.facts.owner;
        match sheet.facts.routes.is_empty() {
            true => _ = self.routers.remove(&id),
            false => _ = self.routers.insert(id, ()),
        }
        self.peers_bytes += sheet.json.len() + 1;
        let old = self.sheets.insert(id, sheet);
        self.peers_bytes -= old.as_ref().map_or(0, |old| old.json.len() + 1);
        let old = old.map(|old| old.facts.owner);
        if old != Some(owner) {
            let count = self.owners.get(&owner).copied().unwrap_or(0);
            self.owners.insert(owner, count + 1);
            if count == 0 {
                self.put_profile(owner);
            }
            old.into_iter().for_each(|old| self.release(old));
        }
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(sheet) = self.sheets.remove(&id) {
            self.routers.remove(&id);
            self.peers_bytes -= sheet.json.len() + 1;
            self.release(sheet.facts.owner);
        }
    }

    /// One node less.
    fn release(&mut self, owner: u64) {
        match self.owners.get(&owner).copied().unwrap_or(0) {
            0 | 1 => {
                self.owners.remove(&owner);
                self.profiles.remove(&owner);
            }
            count => _ = self.owners.insert(owner, count - 1),
        }
    }

    fn put_profile(&mut self, owner: u64) {
        let bytes = to_bytes(&profiles::of_owner(&self.state, owner));
        if self.profiles.get(&owner) != Some(&bytes) {
            self.profiles.insert(owner, bytes);
        }
    }
}

impl Pages {
    /// How a node resolves names, and which names it may have certificates for.
    pub fn dns_for(&self, sheet: &Sheet) -> Bytes {
        match self.own_names {
            true => dns::with_own_name(&self.dns, &sheet.facts.name).into(),
            false => self.dns.clone(),
        }
    }

    fn draw(state: &State) -> Pages {
        let settings = state.settings();
        let debug = tailcfg::Debug { disable_log_tail: true, ..tailcfg::Debug::default() };
        Pages {
            derp_map: to_bytes(&derp::map(state)),
            dns: to_bytes(&dns::config(settings)),
            own_names: !settings.node_certificates.is_off(),
            domain: domain(settings).map(|domain| to_bytes(&tailcfg::plain(domain))),
            debug: (!settings.logtail).then(|| to_bytes(&debug)),
            dial_plans: dial_plan::pages(state),
        }
    }

    fn redraw(&self, old: &State, new: &State) -> Pages {
        let same = Arc::ptr_eq(old.settings(), new.settings())
            && old.members().ptr_eq(new.members())
            && old.derp_regions().ptr_eq(new.derp_regions());
        if same {
            return self.clone();
        }
        let mut pages = Pages::draw(new);
        keep(&mut pages.derp_map, &self.derp_map);
        keep(&mut pages.dns, &self.dns);
        if pages.dial_plans == self.dial_plans {
            pages.dial_plans.clone_from(&self.dial_plans);
        }
        pages
    }
}

/// Equal bytes stay the same bytes, so that comparing atlases later is comparing pointers.
fn keep(new: &mut Bytes, old: &Bytes) {
    if *new == *old {
        *new = old.clone();
    }
}

/// The tailnet's name: the host of the server's URL, as Headscale has it; else the base domain.
fn domain(settings: &state_machine::Settings) -> Option<&str> {
    let url = settings.server_url.as_str();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    [host, settings.base_domain.trim_matches('.')].into_iter().find(|name| !name.is_empty())
}

/// Whether the same policy is in force.
fn same_policy(old: &State, new: &State) -> bool {
    if mutants::is("policy-not-told") {
        return old.policy().is_some();
    }
    match (old.policy(), new.policy()) {
        (None, None) => true,
        (Some(old), Some(new)) => Arc::ptr_eq(&old.text, &new.text) || old.text == new.text,
        _ => false,
    }
}

/// Nodes about which something in maps may differ.
fn moved(old: &State, new: &State) -> BTreeSet<NodeId> {
    if old.settings().base_domain != new.settings().base_domain {
        return old.nodes().keys().chain(new.nodes().keys()).copied().collect();
    }
    let mut moved: BTreeSet<NodeId> = changed_keys(old.nodes(), new.nodes()).collect();
    moved.extend(changed_keys(old.presences(), new.presences()));
    moved.extend(changed_keys(old.expired(), new.expired()));
    for item in old.primaries().diff(new.primaries()) {
        match item {
            DiffItem::Add(_, node) | DiffItem::Remove(_, node) => _ = moved.insert(*node),
            DiffItem::Update { old: (_, old), new: (_, new) } => moved.extend([*old, *new]),
        }
    }
    for item in old.users().diff(new.users()) {
        // A change of a user is about the profile only.
        if let DiffItem::Add(user, _) | DiffItem::Remove(user, _) = item {
            moved.extend(old.nodes_of_user(*user).chain(new.nodes_of_user(*user)).map(|node| node.id));
        }
    }
    moved
}

pub(crate) fn changed_keys<K: Copy + Ord, V: PartialEq>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
) -> impl Iterator<Item = K> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => *key,
    })
}
