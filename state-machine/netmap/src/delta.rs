//! What to say next, by comparing two atlases.
//!
//! No change list travels with a change; nobody can forget to declare one. The comparison costs what differs, its
//! result is the same for all viewers of a class, and so it is made once and kept with the later atlas. A viewer's own
//! part is small: it is no peer of itself, and it may be told of its own change.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use imbl::ordmap::DiffItem;
use state_machine::{NodeId, Revision};

use crate::{
    Atlas,
    atlas::{Class, Plates},
    capability,
    map::{self, Moment},
    node::{Change, Listed},
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
    let shared = latest.plates().deltas.get(known, latest, latest.class_of(viewer));

    let mut frame = Frame::new(shared.body.len() + 2048);
    if shared.capabilities_moved || (!Arc::ptr_eq(old, new) && old.self_differs(new)) {
        frame.page("Node", &new.self_json(latest.state()));
    }
    if shared.mentions(viewer) {
        frame.body(&shared.body_for(Some(viewer)));
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
    profiles: Vec<Bytes>,
    derp_map: Option<Bytes>,
    dns: Option<Bytes>,
    filters: Option<Bytes>,
    domain: Option<Bytes>,
    debug: Option<Bytes>,
    /// Whether every node's own capabilities differ.
    capabilities_moved: bool,
    /// All pages put together, for viewers that are not mentioned.
    body: Vec<u8>,
}

impl Shared {
    fn compare(known: &Atlas, latest: &Atlas) -> Shared {
        let (old, new) = (known.plates(), latest.plates());
        let mut shared = Shared::default();
        for item in old.sheets.diff(&new.sheets) {
            match item {
                DiffItem::Add(id, sheet) => shared.changed.push((*id, sheet.json.clone())),
                DiffItem::Remove(id, _) => shared.removed.push(*id),
                DiffItem::Update { old: (id, old), new: (_, new) } => match old.change(new) {
                    Change::Nothing => {}
                    Change::Patch(patch) => shared.patched.push((*id, to_bytes(&patch))),
                    Change::Whole => shared.changed.push((*id, new.json.clone())),
                },
            }
        }
        for item in old.profiles.diff(&new.profiles) {
            if let DiffItem::Add(_, profile) | DiffItem::Update { new: (_, profile), .. } = item {
                shared.profiles.push(profile.clone());
            }
        }
        let moved = |old: &Bytes, new: &Bytes| (old != new).then(|| new.clone());
        shared.derp_map = moved(&old.pages.derp_map, &new.pages.derp_map);
        shared.dns = moved(&old.pages.dns, &new.pages.dns);
        shared.filters = moved(&old.pages.filters, &new.pages.filters);
        shared.domain = new.pages.domain.clone().filter(|_| old.pages.domain != new.pages.domain);
        // An order that was given cannot be taken back: clients keep it until their process ends.
        shared.debug = new.pages.debug.clone().filter(|_| old.pages.debug != new.pages.debug);
        shared.capabilities_moved = capability::differ(old.state.settings(), new.state.settings());
        shared.body = shared.body_for(None);
        shared
    }

    fn mentions(&self, viewer: NodeId) -> bool {
        let in_list = |list: &[Listed]| list.binary_search_by_key(&viewer, |(id, _)| *id).is_ok();
        in_list(&self.changed) || in_list(&self.patched)
    }

    /// All pages, without the viewer in the lists of peers.
    fn body_for(&self, viewer: Option<NodeId>) -> Vec<u8> {
        let is_other = |(id, _): &Listed| Some(*id) != viewer;
        let mut frame = Frame::new(self.body.len() + 1024);
        let page = |frame: &mut Frame, name, page: &Option<Bytes>| page.iter().for_each(|page| frame.page(name, page));
        page(&mut frame, "DERPMap", &self.derp_map);
        if !self.removed.is_empty() {
            let ids: Vec<u64> = self.removed.iter().map(|id| id.0).collect();
            frame.page("PeersRemoved", &to_bytes(&ids));
        }
        frame.list("PeersChanged", self.changed.iter().filter(|one| is_other(one)).map(|(_, peer)| &**peer));
        frame.list("PeersChangedPatch", self.patched.iter().filter(|one| is_other(one)).map(|(_, patch)| &**patch));
        page(&mut frame, "DNSConfig", &self.dns);
        page(&mut frame, "Domain", &self.domain);
        page(&mut frame, "PacketFilters", &self.filters);
        frame.list("UserProfiles", self.profiles.iter().map(|profile| &**profile));
        page(&mut frame, "Debug", &self.debug);
        frame.into_body()
    }
}

/// Comparisons that were made to reach one atlas, by the atlas they started from.
#[derive(Default)]
pub(crate) struct DeltaCache {
    made: Mutex<BTreeMap<(Revision, Class), Made>>,
}

struct Made {
    /// The atlas it started from: two atlases may be of one revision.
    from: Weak<Plates>,
    shared: Arc<OnceLock<Arc<Shared>>>,
}

/// Sessions are at most a few atlases behind; the rest compare for themselves.
const REMEMBERED_MAX: usize = 64;

impl DeltaCache {
    /// The comparison, made by whoever asks first; others wait for it.
    fn get(&self, known: &Atlas, latest: &Atlas, class: Class) -> Arc<Shared> {
        let slot = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (known.revision(), class);
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
        slot.get_or_init(|| Arc::new(Shared::compare(known, latest))).clone()
    }
}
