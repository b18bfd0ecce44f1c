//! What a policy means for a tailnet.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;

use crate::{
    Policy,
    compile::{
        attributes,
        classes::Classes,
        filter::{Capabilities, Drafter, FilterRule, Template},
        program::Program,
        routes,
        sources::Sources,
        ssh::{self, Shells, SshRule},
        table::{SourceSet, Table},
        why::{self, Verdict},
    },
    language::document::{CheckPeriod, Document},
    tailnet::Tailnet,
};

/// Filters, shells, attributes, routes and who sees whom. Cheap to clone.
///
/// What nodes are told is written when it is asked for, once for each class.
#[derive(Clone, Debug)]
pub struct Meaning(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: Arc<Program>,
    /// The same in meanings whose classes have the same numbers.
    numbering: Arc<()>,
    tailnet: Tailnet,
    classes: Classes,
    table: Arc<Table>,
    subnets: Vec<IpNet>,
    /// By the number of the source set.
    sources: Vec<Arc<OnceLock<Arc<Sources>>>>,
    /// By class.
    templates: Vec<OnceLock<Arc<Template>>>,
    shells: Vec<OnceLock<Arc<[SshRule]>>>,
    attributes: Vec<OnceLock<Arc<Capabilities>>>,
}

impl Meaning {
    /// Compiles a policy for a tailnet.
    pub fn compile(policy: &Policy, tailnet: Tailnet) -> Meaning {
        Meaning::new(Arc::new(policy.program()), tailnet)
    }

    /// Where no policy is set: everything may reach everything.
    pub fn unset(tailnet: Tailnet) -> Meaning {
        Meaning::new(Arc::new(Program::new(Arc::new(Document::default()), true)), tailnet)
    }

    fn new(program: Arc<Program>, tailnet: Tailnet) -> Meaning {
        let classes = Classes::new(&program, &tailnet);
        let table = Arc::new(Table::new(&program, &classes.list));
        let sources = table.source_sets.iter().map(|_| Arc::default()).collect();
        Meaning::of(program, Arc::default(), tailnet, classes, table, sources)
    }

    fn of(
        program: Arc<Program>,
        numbering: Arc<()>,
        tailnet: Tailnet,
        classes: Classes,
        table: Arc<Table>,
        sources: Vec<Arc<OnceLock<Arc<Sources>>>>,
    ) -> Meaning {
        let count = classes.list.len();
        let subnets = table.subnets.iter().copied().collect();
        let (templates, shells) = (vec![OnceLock::new(); count], vec![OnceLock::new(); count]);
        let attributes = vec![OnceLock::new(); count];
        Meaning(Arc::new(Inner {
            program,
            numbering,
            tailnet,
            classes,
            table,
            subnets,
            sources,
            templates,
            shells,
            attributes,
        }))
    }

    /// The same policy after the tailnet changed. `moved` are the nodes that came, went or are different, and all nodes
    /// of users that are different. Costs what moved, unless a class of nodes came or went.
    pub fn moved(&self, tailnet: Tailnet, moved: &[u64]) -> Meaning {
        let old = &*self.0;
        let change = old.classes.moved(&old.program, &tailnet, moved);
        if change.classes.empty() * 2 > change.classes.list.len() {
            return Meaning::new(old.program.clone(), tailnet);
        }
        if !change.reshaped {
            let keep =
                |(set, written): (&SourceSet, &Arc<OnceLock<Arc<Sources>>>)| match set.classes.meets(&change.touched) {
                    true => Arc::default(),
                    false => written.clone(),
                };
            let sources = old.table.source_sets.iter().zip(&old.sources).map(keep).collect();
            let (program, numbering) = (old.program.clone(), old.numbering.clone());
            return Meaning::of(program, numbering, tailnet, change.classes, old.table.clone(), sources);
        }
        let table = Table::new(&old.program, &change.classes.list);
        let same_subnets = table.subnets == old.table.subnets;
        let reusable = |set: &SourceSet| !set.classes.meets(&change.touched) && (same_subnets || !set.tailnet);
        let old_sets = old.table.source_sets.iter().zip(&old.sources).filter(|(set, _)| reusable(set));
        let written: BTreeMap<&SourceSet, &Arc<OnceLock<Arc<Sources>>>> = old_sets.collect();
        let sources =
            table.source_sets.iter().map(|set| written.get(set).map_or_else(Arc::default, |kept| (*kept).clone()));
        let sources = sources.collect();
        let (program, numbering) = (old.program.clone(), old.numbering.clone());
        Meaning::of(program, numbering, tailnet, change.classes, Arc::new(table), sources)
    }

    /// What it was compiled for.
    pub fn tailnet(&self) -> &Tailnet {
        &self.0.tailnet
    }

    /// The class of a node; `None` where there is no such node. The numbers mean something only in this meaning and in
    /// those of the [`Meaning::same_numbers`].
    pub fn class_of(&self, node: u64) -> Option<u32> {
        self.0.classes.of(node)
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.0.classes.list.len()
    }

    /// Whether classes have the same numbers in both. Then old classes also see each other in the same way in both.
    pub fn same_numbers(&self, other: &Meaning) -> bool {
        Arc::ptr_eq(&self.0.numbering, &other.0.numbering)
    }

    /// Whether the same routes are offered to the same classes.
    pub fn same_routing(&self, other: &Meaning) -> bool {
        let (old, new) = (&*self.0, &*other.0);
        Arc::ptr_eq(&old.table, &new.table)
            && old.tailnet.primaries.ptr_eq(&new.tailnet.primaries)
            && old.classes.routers().eq(new.classes.routers())
            && old.classes.routers().all(|router| old.tailnet.nodes.get(&router) == new.tailnet.nodes.get(&router))
    }

    /// Whether they are the same.
    pub fn same(&self, other: &Meaning) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nodes of one class see those of another.
    pub fn class_sees(&self, viewer: u32, peer: u32) -> bool {
        self.0.table.sees.get(viewer as usize).is_some_and(|seen| seen.contains(peer as usize))
    }

    /// Whether a node is told of another: one of them may reach the other, or its routes.
    pub fn sees(&self, viewer: u64, peer: u64) -> bool {
        let classes = (self.class_of(viewer), self.class_of(peer));
        viewer != peer && matches!(classes, (Some(viewer), Some(peer)) if self.class_sees(viewer, peer))
    }

    /// What the nodes of a class may be sent, up to their own addresses.
    pub fn template(&self, class: u32) -> Arc<Template> {
        let inner = &*self.0;
        let Some(slot) = inner.templates.get(class as usize) else { return Arc::default() };
        let sources = |set: usize| self.sources(set);
        let drafter = Drafter { program: &inner.program, table: &inner.table, sources: &sources };
        let draw = || Arc::new(drafter.template(class as usize, &inner.classes.list[class as usize].role));
        slot.get_or_init(draw).clone()
    }

    fn sources(&self, set: usize) -> Arc<Sources> {
        let inner = &*self.0;
        let render =
            || Sources::render(&inner.table.source_sets[set], &inner.classes.list, &inner.tailnet, &inner.subnets);
        inner.sources[set].get_or_init(|| Arc::new(render())).clone()
    }

    /// The packet filter of a node.
    pub fn filter(&self, node: u64) -> Vec<FilterRule> {
        let class = self.class_of(node);
        let node = self.0.tailnet.nodes.get(&node);
        class.zip(node).map_or_else(Vec::new, |(class, node)| self.template(class).filter(node))
    }

    /// Who may open a shell on nodes of a class.
    pub fn ssh_of_class(&self, class: u32) -> Arc<[SshRule]> {
        let Some(slot) = self.0.shells.get(class as usize) else { return Arc::from([]) };
        slot.get_or_init(|| self.shells().of_class(class as usize).into()).clone()
    }

    /// Who may open a shell on a node.
    pub fn ssh(&self, node: u64) -> Arc<[SshRule]> {
        self.class_of(node).map_or_else(|| Arc::from([]), |class| self.ssh_of_class(class))
    }

    fn shells(&self) -> Shells<'_> {
        let inner = &*self.0;
        Shells {
            program: &inner.program,
            classes: &inner.classes,
            of_user: &inner.table.of_user,
            tailnet: &inner.tailnet,
        }
    }

    /// How long a check of `source` entering `target` as `user` holds; `None` where no rule with a check lets it in.
    pub fn ssh_check_period(&self, source: u64, target: u64, user: &str) -> Option<CheckPeriod> {
        ssh::check_period(&self.shells(), source, target, user)
    }

    /// What `nodeAttrs` gives to nodes of a class.
    pub fn attributes_of_class(&self, class: u32) -> Arc<Capabilities> {
        let inner = &*self.0;
        let Some(slot) = inner.attributes.get(class as usize) else { return Arc::default() };
        let role = &inner.classes.list[class as usize].role;
        slot.get_or_init(|| Arc::new(attributes::of_role(&inner.program, role))).clone()
    }

    /// What `nodeAttrs` gives to a node.
    pub fn attributes(&self, node: u64) -> Arc<Capabilities> {
        self.class_of(node).map_or_else(Arc::default, |class| self.attributes_of_class(class))
    }

    /// The routes a class of viewers may use through a router, sorted.
    pub fn routes_for_class(&self, viewer: u32, router: u64) -> Vec<IpNet> {
        let inner = &*self.0;
        let router = inner.tailnet.nodes.get(&router);
        let offered = |router| routes::offered(&inner.table, &inner.classes, &inner.tailnet, viewer as usize, router);
        router.map_or_else(Vec::new, |router| offered(router))
    }

    /// The routes a node may use through another, sorted.
    pub fn routes(&self, viewer: u64, router: u64) -> Vec<IpNet> {
        self.class_of(viewer).map_or_else(Vec::new, |class| self.routes_for_class(class, router))
    }

    /// Which rule lets packets from one address to another, or what comes nearest.
    pub fn why(&self, source: IpAddr, target: IpAddr, port: Option<u16>, protocol: Option<u8>) -> Verdict {
        let inner = &*self.0;
        why::ask(&why::Case { program: &inner.program, tailnet: &inner.tailnet, source, target, port, protocol })
    }
}
