//! Nodes of equal role are one class: every rule treats them alike.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use super::{bits::Bits, program::Program};
use crate::tailnet::{Node, Tailnet};

/// The number of a class in one [`Classes`].
pub(crate) type ClassId = u32;

/// What makes nodes equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Role {
    /// The words that mean the node.
    pub words: Bits,
    /// Only where rules tell users apart; 0 of tagged nodes.
    pub user: u64,
    pub tagged: bool,
    /// Routes it serves or could serve.
    pub routes: Vec<IpNet>,
}

/// One class.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub role: Arc<Role>,
    /// Sorted.
    pub members: Arc<Vec<u64>>,
}

/// All classes and who belongs where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    pub list: Vec<Class>,
    /// Sorted by node.
    of_node: Arc<Vec<(u64, ClassId)>>,
    by_role: Arc<BTreeMap<Arc<Role>, ClassId>>,
}

impl Classes {
    pub fn new(program: &Program, tailnet: &Tailnet) -> Classes {
        let mut sorter = Sorter { program, tailnet, users: BTreeMap::new(), tags: BTreeMap::new() };
        let mut by_role: BTreeMap<Arc<Role>, ClassId> = BTreeMap::new();
        let mut list: Vec<(Arc<Role>, Vec<u64>)> = Vec::new();
        let mut of_node = Vec::with_capacity(tailnet.nodes.len());
        // The class of an owner's nodes that have neither routes nor an address that rules name.
        let mut plain_user: BTreeMap<u64, ClassId> = BTreeMap::new();
        let mut plain_tags: BTreeMap<&[String], ClassId> = BTreeMap::new();
        for (id, node) in &tailnet.nodes {
            let plain = node.routes.is_empty() && !program.has_literals(node);
            let known = match (plain, node.is_tagged()) {
                (false, _) => None,
                (true, true) => plain_tags.get(node.tags.as_slice()).copied(),
                (true, false) => plain_user.get(&node.user.unwrap_or(0)).copied(),
            };
            let class = known.unwrap_or_else(|| {
                let role = Arc::new(sorter.role(node));
                let class = *by_role.entry(role.clone()).or_insert_with(|| {
                    list.push((role, Vec::new()));
                    (list.len() - 1) as ClassId
                });
                match (plain, node.is_tagged()) {
                    (false, _) => {}
                    (true, true) => _ = plain_tags.insert(&node.tags, class),
                    (true, false) => _ = plain_user.insert(node.user.unwrap_or(0), class),
                }
                class
            });
            list[class as usize].1.push(*id);
            of_node.push((*id, class));
        }
        let list = list.into_iter().map(|(role, members)| Class { role, members: Arc::new(members) }).collect();
        Classes { list, of_node: Arc::new(of_node), by_role: Arc::new(by_role) }
    }

    pub fn of(&self, node: u64) -> Option<ClassId> {
        let at = self.of_node.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        Some(self.of_node[at].1)
    }

    /// The classes after some nodes moved.
    pub fn moved(&self, program: &Program, tailnet: &Tailnet, nodes: &[u64]) -> Moved {
        let mut sorter = Sorter { program, tailnet, users: BTreeMap::new(), tags: BTreeMap::new() };
        let mut moved = Moved { classes: self.clone(), touched: Bits::default(), reshaped: false };
        for id in nodes {
            let old = moved.classes.of(*id);
            let new = tailnet.nodes.get(id).map(|node| moved.class_of_role(sorter.role(node)));
            // Also where it stays in its class its addresses may be others.
            old.into_iter().chain(new).for_each(|class| moved.touched.insert(class as usize));
            if old != new {
                moved.place(*id, old, new);
            }
        }
        moved
    }

    /// Nodes that serve routes or could, class by class.
    pub fn routers(&self) -> impl Iterator<Item = u64> + '_ {
        let routers = self.list.iter().filter(|class| !class.role.routes.is_empty());
        routers.flat_map(|class| class.members.iter().copied())
    }

    /// How many classes nobody is in.
    pub fn empty(&self) -> usize {
        self.list.iter().filter(|class| class.members.is_empty()).count()
    }
}

/// Classes after a change.
pub(crate) struct Moved {
    pub classes: Classes,
    /// Those whose members, or members' addresses, may be others.
    pub touched: Bits,
    /// Whether a class came, or lost its last member: then the relations between classes must be found anew.
    pub reshaped: bool,
}

impl Moved {
    fn class_of_role(&mut self, role: Role) -> ClassId {
        let classes = &mut self.classes;
        if let Some(class) = classes.by_role.get(&role) {
            return *class;
        }
        let (role, class) = (Arc::new(role), classes.list.len() as ClassId);
        classes.list.push(Class { role: role.clone(), members: Arc::default() });
        Arc::make_mut(&mut classes.by_role).insert(role, class);
        class
    }

    fn place(&mut self, id: u64, old: Option<ClassId>, new: Option<ClassId>) {
        let classes = &mut self.classes;
        let of_node = Arc::make_mut(&mut classes.of_node);
        match (of_node.binary_search_by_key(&id, |(id, _)| *id), new) {
            (Ok(at), Some(new)) => of_node[at].1 = new,
            (Ok(at), None) => _ = of_node.remove(at),
            (Err(at), Some(new)) => of_node.insert(at, (id, new)),
            (Err(_), None) => {}
        }
        if let Some(old) = old {
            let members = Arc::make_mut(&mut classes.list[old as usize].members);
            members.retain(|member| *member != id);
            self.reshaped |= members.is_empty();
        }
        if let Some(new) = new {
            let members = Arc::make_mut(&mut classes.list[new as usize].members);
            self.reshaped |= members.is_empty();
            let at = members.binary_search(&id).unwrap_or_else(|at| at);
            members.insert(at, id);
        }
    }
}

/// Finds roles; remembers those of owners.
struct Sorter<'a> {
    program: &'a Program,
    tailnet: &'a Tailnet,
    users: BTreeMap<u64, Bits>,
    tags: BTreeMap<Vec<String>, Bits>,
}

impl Sorter<'_> {
    fn role(&mut self, node: &Node) -> Role {
        let (program, tailnet) = (self.program, self.tailnet);
        let mut words = if node.is_tagged() {
            match self.tags.get(&node.tags) {
                Some(words) => words.clone(),
                None => {
                    let words = program.words_of_tags(&node.tags);
                    self.tags.insert(node.tags.clone(), words.clone());
                    words
                }
            }
        } else {
            let of_user = |user: u64| tailnet.users.get(&user).map(|user| program.words_of_user(user));
            let user = node.user.unwrap_or(0);
            self.users.entry(user).or_insert_with(|| of_user(user).unwrap_or_default()).clone()
        };
        program.add_literals(node, &mut words);
        let tagged = node.is_tagged();
        let user = if program.needs_user && !tagged { node.user.unwrap_or(0) } else { 0 };
        Role { words, user, tagged, routes: node.routes.clone() }
    }
}
