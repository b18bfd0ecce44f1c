//! What to say next, by comparing two atlases.
//!
//! No change list travels with a change; nobody can forget to declare one. The comparison costs what differs, its
//! result is the same for all viewers of a class, and so it is made once and kept with the later atlas. A viewer's own
//! part is small: it is no peer of itself, and it may be told of its own change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use imbl::ordmap::DiffItem;
use state_machine::{NodeId, Revision, UserId};

use crate::{
    Atlas,
    atlas::Plates,
    capability, dial_plan,
    map::{self, Moment},
    node::{Change, Listed, Look, Sheet},
    wire::{Bytes, Frame, to_bytes},
};

/// What to say next.
#[derive(Debug, PartialEq, Eq)]
pub enum Delta {
    /// The viewer knows all it should.
    Nothing,
    /// This frame, as JSON bytes.
    Frame(Vec<u8>),
    /// The viewer's node was deleted: its stream should end.
    Gone,
}

/// What the viewer should hear that knows one atlas and should know a later one.
pub fn delta(known: &Atlas, latest: &Atlas, viewer: NodeId, moment: &Moment) -> Delta {
    if std::ptr::eq(known.plates(), latest.plates()) {
        return Delta::Nothing;
    }
    let (old, new) = match (known.sheet(viewer), latest.sheet(viewer)) {
        (Some(old), Some(new)) => (old, new),
        (_, None) => return Delta::Gone,
        // It cannot know a map it was not in.
        (None, Some(_)) => return map::full(latest, viewer, moment).map_or(Delta::Gone, Delta::Frame),
    };
    let shared = latest.plates().deltas.get(known, latest, old, new);

    let mut frame = Frame::new(shared.body.len() + 2048);
    if shared.capabilities_moved || (!Arc::ptr_eq(old, new) && old.self_differs(new)) {
        frame.page("Node", &new.self_json(latest.state()));
    }
    // The filter names the viewer's own addresses.
    if shared.filters_moved || (old.row.ipv4, old.row.ipv6) != (new.row.ipv4, new.row.ipv6) {
        frame.page("PacketFilters", &latest.filters(viewer));
    }
    let pages = &latest.plates().pages;
    if pages.own_names && (shared.dns_moved || old.facts.name != new.facts.name) {
        frame.page("DNSConfig", &pages.dns_for(new));
    }
    let [plan_before, plan] = [known, latest].map(|atlas| dial_plan::of(&atlas.plates().pages.dial_plans, viewer));
    if !Arc::ptr_eq(plan_before, plan) && plan_before != plan {
        frame.page("ControlDialPlan", plan);
    }
    let own_profile = shared.own_profile(known, latest, old, new);
    if own_profile.is_some() || shared.mentions(viewer) {
        frame.body(&shared.body_for(Some(viewer), own_profile.as_ref()));
    } else {
        frame.body(&shared.body);
    }
    if frame.is_empty() { Delta::Nothing } else { Delta::Frame(frame.finish(moment)) }
}

/// What all viewers of a class are told, except of themselves.
#[derive(Default)]
pub(crate) struct Shared {
    /// Peers that came or must be sent anew, by id.
    changed: Vec<Listed>,
    removed: Vec<NodeId>,
    /// Peers of whom a patch says enough, by id.
    patched: Vec<Listed>,
    /// Owners of nodes that came into sight.
    owners: BTreeSet<u64>,
    /// By owner.
    profiles: BTreeMap<u64, Bytes>,
    derp_map: Option<Bytes>,
    /// Where it is the same for all.
    dns: Option<Bytes>,
    dns_moved: bool,
    shells: Option<Bytes>,
    domain: Option<Bytes>,
    debug: Option<Bytes>,
    /// Whether every node's own capabilities differ.
    capabilities_moved: bool,
    /// Whether the class' filters differ.
    filters_moved: bool,
    /// All pages put together, for viewers that are not mentioned.
    body: Vec<u8>,
}

/// What is compared: two atlases through the eyes of a viewer that may have been of another class before.
struct Comparison<'a> {
    atlases: [&'a Atlas; 2],
    viewers: [&'a Sheet; 2],
}

impl Comparison<'_> {
    fn shared(&self) -> Shared {
        let [known, latest] = self.atlases;
        let (old, new) = (known.plates(), latest.plates());
        let mut shared = Shared::default();
        self.peers(&mut shared);
        for item in old.profiles.diff(&new.profiles) {
            if let DiffItem::Add(owner, profile) | DiffItem::Update { new: (owner, profile), .. } = item
                && self.is_owner_seen(*owner, 1)
            {
                shared.profiles.insert(*owner, profile.clone());
            }
        }
        for owner in std::mem::take(&mut shared.owners) {
            // Whose node they saw before, they know.
            if let Some(profile) = new.profiles.get(&owner).filter(|_| !self.is_owner_seen(owner, 0)) {
                shared.profiles.insert(owner, profile.clone());
            }
        }
        shared.derp_map = (old.pages.derp_map != new.pages.derp_map).then(|| new.pages.derp_map.clone());
        shared.dns_moved = old.pages.dns != new.pages.dns || old.pages.own_names != new.pages.own_names;
        shared.dns = (shared.dns_moved && !new.pages.own_names).then(|| new.pages.dns.clone());
        shared.domain = new.pages.domain.clone().filter(|_| old.pages.domain != new.pages.domain);
        // An order that was given cannot be taken back: clients keep it until their process ends.
        shared.debug = new.pages.debug.clone().filter(|_| old.pages.debug != new.pages.debug);
        shared.capabilities_moved = capability::differ(old.state.settings(), new.state.settings());
        let (meanings, classes) = ([known.meaning(), latest.meaning()], self.viewers.map(|viewer| viewer.facts.class));
        if !meanings[0].same(meanings[1]) || classes[0] != classes[1] {
            shared.filters_moved = meanings[0].template(classes[0]) != meanings[1].template(classes[1]);
            shared.shells = (meanings[0].ssh_of_class(classes[0]) != meanings[1].ssh_of_class(classes[1]))
                .then(|| latest.shells(classes[1]));
        }
        shared.body = shared.body_for(None, None);
        shared
    }

    fn peers(&self, shared: &mut Shared) {
        let [known, latest] = self.atlases;
        let (old, new) = (known.plates(), latest.plates());
        let same_eyes = known.meaning().same_numbers(latest.meaning())
            && self.viewers[0].facts.class == self.viewers[1].facts.class
            && self.viewers[0].facts.hides_ipv4 == self.viewers[1].facts.hides_ipv4;
        if !same_eyes {
            // Anybody may have come into sight or left it.
            let ids: BTreeSet<NodeId> = old.sheets.keys().chain(new.sheets.keys()).copied().collect();
            ids.into_iter().for_each(|id| self.peer(id, old.sheets.get(&id), new.sheets.get(&id), shared));
            return;
        }
        let mut ids: BTreeSet<NodeId> = BTreeSet::new();
        for item in old.sheets.diff(&new.sheets) {
            match item {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => {
                    ids.insert(*id)
                }
            };
        }
        if !Arc::ptr_eq(&old.routing, &new.routing) {
            ids.extend(old.routers.keys().chain(new.routers.keys()).copied());
        }
        ids.into_iter().for_each(|id| self.peer(id, old.sheets.get(&id), new.sheets.get(&id), shared));
    }

    /// What is said of one peer.
    fn peer(&self, id: NodeId, old: Option<&Arc<Sheet>>, new: Option<&Arc<Sheet>>, shared: &mut Shared) {
        let [eyes_before, eyes_now] = [0, 1].map(|at| self.atlases[at].eyes(self.viewers[at]));
        let old = old.filter(|sheet| eyes_before.sees(sheet));
        let new = new.filter(|sheet| eyes_now.sees(sheet));
        let Some(new) = new else {
            shared.removed.extend(old.map(|_| id));
            return;
        };
        let look = eyes_now.look(new);
        let change = match old {
            None => Change::Whole,
            Some(old) => {
                let before: Look = eyes_before.look(old);
                old.change(new, [&before, &look])
            }
        };
        match change {
            Change::Nothing => return,
            Change::Patch(patch) => shared.patched.push((id, to_bytes(&patch))),
            Change::Whole => shared.changed.push((id, new.json_for(&look))),
        }
        if old.is_none_or(|old| old.facts.owner != new.facts.owner) {
            shared.owners.insert(new.facts.owner);
        }
    }

    /// Whether viewers of the class see a node of this owner, in the first or the second atlas.
    fn is_owner_seen(&self, owner: u64, at: usize) -> bool {
        let atlas = self.atlases[at];
        let eyes = atlas.eyes(self.viewers[at]);
        let sees = |id: &NodeId| atlas.sheet(*id).is_some_and(|sheet| sheet.facts.owner == owner && eyes.sees(sheet));
        match owner == crate::TAGGED_DEVICES {
            true => atlas.plates().sheets.keys().any(sees),
            false => atlas.state().nodes_of_user(UserId(owner)).any(|node| sees(&node.id)),
        }
    }
}

impl Shared {
    fn mentions(&self, viewer: NodeId) -> bool {
        let in_list = |list: &[Listed]| list.binary_search_by_key(&viewer, |(id, _)| *id).is_ok();
        in_list(&self.changed) || in_list(&self.patched) || self.removed.binary_search(&viewer).is_ok()
    }

    /// The profile of the viewer's own owner, where it changed and the class is not told anyway.
    fn own_profile(&self, known: &Atlas, latest: &Atlas, old: &Sheet, new: &Sheet) -> Option<Bytes> {
        let owner = new.facts.owner;
        let profile = latest.plates().profiles.get(&owner)?;
        let same = old.facts.owner == owner && known.plates().profiles.get(&owner) == Some(profile);
        (!same && !self.profiles.contains_key(&owner)).then(|| profile.clone())
    }

    /// All pages, without the viewer in the lists of peers, and with one more profile.
    fn body_for(&self, viewer: Option<NodeId>, own_profile: Option<&Bytes>) -> Vec<u8> {
        let is_other = |(id, _): &Listed| Some(*id) != viewer;
        let mut frame = Frame::new(self.body.len() + 1024);
        let page = |frame: &mut Frame, name, page: &Option<Bytes>| page.iter().for_each(|page| frame.page(name, page));
        page(&mut frame, "DERPMap", &self.derp_map);
        let removed: Vec<u64> = self.removed.iter().filter(|id| Some(**id) != viewer).map(|id| id.0).collect();
        if !removed.is_empty() {
            frame.page("PeersRemoved", &to_bytes(&removed));
        }
        frame.list("PeersChanged", self.changed.iter().filter(|one| is_other(one)).map(|(_, peer)| &**peer));
        frame.list("PeersChangedPatch", self.patched.iter().filter(|one| is_other(one)).map(|(_, patch)| &**patch));
        page(&mut frame, "DNSConfig", &self.dns);
        page(&mut frame, "Domain", &self.domain);
        frame.list("UserProfiles", self.profiles.values().chain(own_profile).map(|profile| &**profile));
        page(&mut frame, "SSHPolicy", &self.shells);
        page(&mut frame, "Debug", &self.debug);
        frame.into_body()
    }
}

/// Two atlases, and the class of a viewer in both, with whether IPv4 was and is hidden from it.
type Pair = (Revision, [(u32, bool); 2]);

/// Comparisons that were made to reach one atlas, by the atlas they started from.
#[derive(Default)]
pub(crate) struct DeltaCache {
    made: Mutex<BTreeMap<Pair, Made>>,
}

struct Made {
    /// The atlas it started from: two atlases may be of one revision.
    from: Weak<Plates>,
    shared: Arc<OnceLock<Arc<Shared>>>,
}

/// Sessions are at most a few atlases behind, in some hundred classes; the rest compare for themselves.
const REMEMBERED_MAX: usize = 4096;

impl DeltaCache {
    /// The comparison, made by whoever asks first; others wait for it.
    fn get(&self, known: &Atlas, latest: &Atlas, old: &Sheet, new: &Sheet) -> Arc<Shared> {
        let slot = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            let viewers = [old, new];
            let key = (known.revision(), viewers.map(|viewer| (viewer.facts.class, viewer.facts.hides_ipv4)));
            match made.get(&key) {
                Some(entry) if known.is(&entry.from) => entry.shared.clone(),
                _ => {
                    while made.len() >= REMEMBERED_MAX {
                        made.pop_first();
                    }
                    let shared = Arc::new(OnceLock::new());
                    made.insert(key, Made { from: known.downgrade(), shared: shared.clone() });
                    shared
                }
            }
        };
        let comparison = Comparison { atlases: [known, latest], viewers: [old, new] };
        slot.get_or_init(|| Arc::new(comparison.shared())).clone()
    }
}
