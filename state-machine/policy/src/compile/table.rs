//! Who stands where in every rule, and who sees whom: class to class.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    bits::Bits,
    classes::{Class, Role},
    filter::{COUNTERPARTS, places},
    program::{Destination, Program, RuleCode, Sources},
};
use crate::{
    ranges::{Ranges, internet, overlap},
    tailnet::is_exit_route,
};

/// Relations between classes. Depends on roles, not on how many nodes have them.
#[derive(Debug)]
pub(crate) struct Table {
    pub rules: Vec<Standing>,
    /// Class → the classes it sees.
    pub sees: Vec<Bits>,
    /// Subnet routes of any node.
    pub subnets: BTreeSet<IpNet>,
    /// Classes of nodes of one user; only where rules tell users apart.
    pub of_user: BTreeMap<u64, Bits>,
    /// Route → classes that may use it through whoever is primary.
    plain_users: BTreeMap<IpNet, Bits>,
    /// Route → rules with `via` that lead there: the classes that may use it, and the classes they go through.
    via_users: BTreeMap<IpNet, Vec<(Bits, Bits)>>,
    /// What stands as a source somewhere.
    pub source_sets: Vec<SourceSet>,
    /// Source set and protocol → where the first rule of them stands.
    firsts: BTreeMap<(usize, Option<u8>), (usize, usize)>,
    /// The same of rules about a user's own nodes, by user.
    own_firsts: BTreeMap<(u64, usize, Option<u8>), (usize, usize)>,
}

/// The classes of one rule.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// By address.
    pub sources: Bits,
    /// By address or by a route.
    pub reaching: Bits,
    /// By address or by a route.
    pub reached: Bits,
    /// In [`Table::source_sets`].
    pub source_set: usize,
    /// Where targets stand as sources: applications that look back.
    pub target_set: Option<usize>,
    /// User → the set of that user's nodes, where the rule is about a user's own nodes.
    pub own_sets: Arc<BTreeMap<u64, usize>>,
}

/// Sources as nodes are told of them: equal sets are one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceSet {
    pub tailnet: bool,
    pub anything: bool,
    /// Whose nodes stand there with all their addresses.
    pub classes: Bits,
    /// Sorted; without those that are an address of these classes anyway.
    pub nets: Vec<IpNet>,
    /// Destinations of whole ranges.
    pub internet: bool,
}

impl SourceSet {
    pub fn is_empty(&self) -> bool {
        !self.tailnet && !self.anything && !self.internet && self.nets.is_empty() && self.classes.is_empty()
    }
}

impl Table {
    pub fn new(program: &Program, classes: &[Class]) -> Table {
        let living = || classes.iter().enumerate().filter(|(_, class)| !class.members.is_empty());
        let routes = living().flat_map(|(_, class)| &class.role.routes);
        let subnets: BTreeSet<IpNet> = routes.filter(|route| !is_exit_route(route)).copied().collect();
        let mut of_user: BTreeMap<u64, Bits> = BTreeMap::new();
        for (number, class) in living().filter(|(_, class)| !class.role.tagged && program.needs_user) {
            of_user.entry(class.role.user).or_default().insert(number);
        }
        let index = Index::new(classes);
        let mut table = Table {
            rules: Vec::with_capacity(program.rules.len()),
            sees: Vec::new(),
            subnets,
            of_user: BTreeMap::new(),
            plain_users: BTreeMap::new(),
            via_users: BTreeMap::new(),
            source_sets: Vec::new(),
            firsts: BTreeMap::new(),
            own_firsts: BTreeMap::new(),
        };
        let mut sets: BTreeMap<SourceSet, usize> = BTreeMap::new();
        let mut intern = |table: &mut Table, set: SourceSet| {
            *sets.entry(set).or_insert_with_key(|set| {
                table.source_sets.push(set.clone());
                table.source_sets.len() - 1
            })
        };
        // Rules of equal sources share them.
        let mut own_sets_of: BTreeMap<Bits, Arc<BTreeMap<u64, usize>>> = BTreeMap::new();
        for (number, rule) in program.rules.iter().enumerate() {
            let sources = index.sources(&rule.sources);
            let reaching = index.reaching(&rule.sources, &sources);
            let reached = index.reached(rule);
            let source_set = intern(&mut table, index.source_set(&rule.sources, &sources));
            let looks_back = program.written(rule).is_some_and(|written| looks_back(&written.app));
            let target_set = looks_back.then(|| intern(&mut table, index.target_set(rule)));
            for (protocol, at) in places(number, rule, false) {
                table.firsts.entry((source_set, protocol)).or_insert(at);
            }
            let mut own_sets = Arc::default();
            if rule.targets.iter().any(|target| target.what == Destination::Own) {
                own_sets = match own_sets_of.get(&sources) {
                    Some(known) => known.clone(),
                    None => {
                        let own = of_user.iter().map(|(user, own)| (*user, own.both(&sources)));
                        let own = own.filter(|(_, classes)| !classes.is_empty());
                        let of_classes = |classes| SourceSet { classes, ..SourceSet::default() };
                        let own = own.map(|(user, classes)| (user, intern(&mut table, of_classes(classes))));
                        let sets = Arc::new(own.collect::<BTreeMap<u64, usize>>());
                        own_sets_of.insert(sources.clone(), sets.clone());
                        sets
                    }
                };
                for (protocol, at) in places(number, rule, true) {
                    for (user, set) in own_sets.iter() {
                        table.own_firsts.entry((*user, *set, protocol)).or_insert(at);
                    }
                }
            }
            table.rules.push(Standing { sources, reaching, reached, source_set, target_set, own_sets });
        }
        table.of_user = of_user;
        table.sees = table.visibility(program, classes.len());
        table.routes(program, classes);
        table
    }

    fn visibility(&self, program: &Program, classes: usize) -> Vec<Bits> {
        let mut sees = vec![Bits::default(); classes];
        // Rules differ in ports more often than in who stands where.
        let mut pairs: BTreeMap<&Bits, Bits> = BTreeMap::new();
        for (rule, standing) in program.rules.iter().zip(&self.rules) {
            pairs.entry(&standing.reaching).or_default().add(&standing.reached);
            if rule.targets.iter().any(|target| target.what == Destination::Own) {
                for own in self.of_user.values() {
                    let sources = own.both(&standing.sources);
                    sources.iter().for_each(|class| sees[class].add(own));
                }
            }
        }
        for (reaching, reached) in pairs {
            reaching.iter().for_each(|class| sees[class].add(&reached));
        }
        for from in 0..classes {
            for to in sees[from].clone().iter() {
                sees[to].insert(from);
            }
        }
        sees
    }

    fn routes(&mut self, program: &Program, classes: &[Class]) {
        let routes: BTreeSet<IpNet> = classes.iter().flat_map(|class| &class.role.routes).copied().collect();
        for route in routes {
            let (mut plain, mut via) = (Bits::default(), Vec::new());
            for (rule, standing) in program.rules.iter().zip(&self.rules) {
                if leads_to(rule, &route) {
                    match &rule.via {
                        None => plain.add(&standing.reaching),
                        Some(tags) => {
                            let has_tag = |(_, class): &(usize, &Class)| class.role.words.meets(tags);
                            let through =
                                classes.iter().enumerate().filter(has_tag).map(|(number, _)| number).collect();
                            via.push((standing.reaching.clone(), through));
                        }
                    }
                }
                if rule.via.is_none() && comes_from(rule, &route) {
                    plain.add(&standing.reached);
                }
            }
            // Who stands by for a route knows who serves it.
            for (number, class) in classes.iter().enumerate() {
                if !is_exit_route(&route) && class.role.routes.contains(&route) {
                    plain.insert(number);
                }
            }
            self.plain_users.insert(route, plain);
            if !via.is_empty() {
                self.via_users.insert(route, via);
            }
        }
    }

    /// Where the network rule of a source set stands in the filters of a class.
    pub fn first_of(&self, set: usize, protocol: Option<u8>, role: &Role) -> (usize, usize) {
        let own = Some((role.user, set, protocol)).filter(|_| !role.tagged).and_then(|key| self.own_firsts.get(&key));
        let all = self.firsts.get(&(set, protocol));
        own.into_iter().chain(all).min().copied().unwrap_or_default()
    }

    /// The set of a user's own nodes, of which one is of this class.
    pub fn own_set(&self, standing: &Standing, class: usize, role: &Role) -> Option<usize> {
        let set = standing.own_sets.get(&role.user).filter(|_| !role.tagged && !standing.own_sets.is_empty())?;
        standing.sources.contains(class).then_some(*set)
    }

    /// Whether a class may use a route through whoever serves it for the tailnet.
    pub fn uses(&self, class: usize, route: &IpNet) -> bool {
        self.plain_users.get(route).is_some_and(|users| users.contains(class))
    }

    /// The classes of routers through which a class is steered to a route.
    pub fn steered(&self, class: usize, route: &IpNet) -> Bits {
        let mut through = Bits::default();
        for (users, routers) in self.via_users.get(route).into_iter().flatten() {
            if users.contains(class) {
                through.add(routers);
            }
        }
        through
    }

    /// Whether any route is steered at all.
    pub fn steers(&self) -> bool {
        !self.via_users.is_empty()
    }
}

/// Whether an application also tells sources of their destinations: the other end needs the counterpart.
fn looks_back(app: &BTreeMap<String, Vec<serde_json::Value>>) -> bool {
    COUNTERPARTS.iter().any(|(name, _)| app.contains_key(*name))
}

/// Whether the destinations of a rule cover a part of a route.
fn leads_to(rule: &RuleCode, route: &IpNet) -> bool {
    rule.targets.iter().any(|target| match &target.what {
        Destination::Anything => true,
        Destination::Internet => is_exit_route(route),
        Destination::Own | Destination::Owners(_) => false,
        Destination::Nets(_, nets) => !is_exit_route(route) && nets.iter().any(|net| overlap(net, route)),
    })
}

/// Whether the sources of a rule cover a part of a subnet route.
fn comes_from(rule: &RuleCode, route: &IpNet) -> bool {
    let sources = &rule.sources;
    !is_exit_route(route)
        && (sources.anything || sources.tailnet || sources.nets.iter().any(|(_, net)| overlap(net, route)))
}

/// Classes by what they are asked for.
struct Index<'a> {
    classes: &'a [Class],
    /// Word → classes.
    by_word: Vec<Bits>,
    all: Bits,
    /// Classes with subnet routes, each with them.
    routers: Vec<(usize, Vec<IpNet>)>,
    with_subnets: Bits,
    exits: Bits,
    internet: Ranges,
}

impl Index<'_> {
    fn new(classes: &[Class]) -> Index<'_> {
        let mut by_word: Vec<Bits> = Vec::new();
        let (mut routers, mut exits) = (Vec::new(), Bits::default());
        // Classes whose last member left are kept, so that the numbers of the others stay; nothing leads to them.
        for (number, class) in classes.iter().enumerate().filter(|(_, class)| !class.members.is_empty()) {
            for word in class.role.words.iter() {
                if by_word.len() <= word {
                    by_word.resize(word + 1, Bits::default());
                }
                by_word[word].insert(number);
            }
            let (exit, subnets): (Vec<IpNet>, Vec<IpNet>) =
                class.role.routes.iter().partition(|route| is_exit_route(route));
            if !subnets.is_empty() {
                routers.push((number, subnets));
            }
            if !exit.is_empty() {
                exits.insert(number);
            }
        }
        let living = classes.iter().enumerate().filter(|(_, class)| !class.members.is_empty());
        let all = living.map(|(number, _)| number).collect();
        let with_subnets = routers.iter().map(|(number, _)| *number).collect();
        Index { classes, by_word, all, routers, with_subnets, exits, internet: internet() }
    }

    fn word(&self, word: usize, into: &mut Bits) {
        if let Some(classes) = self.by_word.get(word) {
            into.add(classes);
        }
    }

    /// By address.
    fn sources(&self, sources: &Sources) -> Bits {
        if sources.tailnet || sources.anything {
            return self.all.clone();
        }
        let mut classes = Bits::default();
        sources
            .owners
            .iter()
            .chain(sources.nets.iter().map(|(word, _)| *word))
            .for_each(|word| self.word(word, &mut classes));
        classes
    }

    fn reaching(&self, sources: &Sources, by_address: &Bits) -> Bits {
        let mut classes = by_address.clone();
        if sources.tailnet || sources.anything {
            classes.add(&self.with_subnets);
        }
        sources.nets.iter().for_each(|(_, net)| self.routers_to(net, &mut classes));
        classes
    }

    fn routers_to(&self, net: &IpNet, into: &mut Bits) {
        for (number, subnets) in &self.routers {
            if subnets.iter().any(|subnet| overlap(subnet, net)) {
                into.insert(*number);
            }
        }
    }

    /// By address or by a route.
    fn reached(&self, rule: &RuleCode) -> Bits {
        let mut classes = Bits::default();
        for target in &rule.targets {
            match &target.what {
                Destination::Anything => classes.add(&self.all),
                Destination::Internet => classes.add(&self.exits),
                Destination::Own => {}
                Destination::Owners(word) => self.word(*word, &mut classes),
                Destination::Nets(word, nets) => {
                    if rule.via.is_none() {
                        self.word(*word, &mut classes);
                    }
                    nets.iter().for_each(|net| self.routers_to(net, &mut classes));
                    if self.on_the_internet(nets) {
                        classes.add(&self.exits);
                    }
                }
            }
        }
        match &rule.via {
            None => classes,
            // Only routers with the tag, and only as routers.
            Some(tags) => {
                let is_router = |class: &usize| {
                    let role = &self.classes[*class].role;
                    role.words.meets(tags) && role.routes.iter().any(|route| leads_to(rule, route))
                };
                classes.iter().filter(is_router).collect()
            }
        }
    }

    /// An exit node leads to public addresses, not to private ones.
    fn on_the_internet(&self, nets: &[IpNet]) -> bool {
        let nets = Ranges::of(nets);
        nets.without(&self.internet) != nets
    }

    fn source_set(&self, sources: &Sources, by_address: &Bits) -> SourceSet {
        if sources.anything {
            // Whatever else is named is in it.
            return SourceSet { anything: true, ..SourceSet::default() };
        }
        let mut classes = Bits::default();
        sources.owners.iter().for_each(|word| self.word(word, &mut classes));
        debug_assert!(sources.tailnet || classes.iter().all(|class| by_address.contains(class)));
        SourceSet {
            tailnet: sources.tailnet,
            anything: false,
            nets: self.literals(&sources.nets, &classes),
            classes,
            internet: false,
        }
    }

    /// A single address of a node that is listed anyway is left out, so that equal sets are equal.
    fn literals(&self, nets: &[(usize, IpNet)], listed: &Bits) -> Vec<IpNet> {
        let is_listed = |word: usize, net: &IpNet| {
            net.prefix_len() == net.max_prefix_len() && self.by_word.get(word).is_some_and(|owner| owner.meets(listed))
        };
        let nets: BTreeSet<IpNet> =
            nets.iter().filter(|(word, net)| !is_listed(*word, net)).map(|(_, net)| *net).collect();
        nets.into_iter().collect()
    }

    /// The destinations of a rule as sources.
    fn target_set(&self, rule: &RuleCode) -> SourceSet {
        let (mut set, mut nets) = (SourceSet::default(), Vec::new());
        for target in &rule.targets {
            match &target.what {
                Destination::Anything => set.tailnet = true,
                Destination::Internet => set.internet = true,
                Destination::Own => {}
                Destination::Owners(word) => self.word(*word, &mut set.classes),
                Destination::Nets(word, literals) => nets.extend(literals.iter().map(|net| (*word, *net))),
            }
        }
        set.nets = self.literals(&nets, &set.classes);
        set
    }
}
