//! A document made ready to be asked which of its words mean a node.
//!
//! Every word that rules use gets a number. A node's role is the set of the numbers that mean it; it follows from its
//! owner and its addresses, and does not depend on other nodes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::bits::Bits;
use crate::{
    language::{
        alias::{Alias, Nets, Role},
        document::{Document, Rule, SshUser, Target, Traffic},
        ports::Ports,
    },
    tailnet::{Node, User},
};

/// The number of a word.
pub(crate) type Word = usize;

/// A document and its words.
#[derive(Debug)]
pub(crate) struct Program {
    pub document: Arc<Document>,
    pub rules: Vec<RuleCode>,
    pub ssh: Vec<SshCode>,
    pub attributes: Vec<AttributeCode>,
    /// Whether rules tell the nodes of two users apart that no word tells apart.
    pub needs_user: bool,
    words: Words,
}

/// A rule in numbers.
#[derive(Debug)]
pub(crate) struct RuleCode {
    pub sources: Sources,
    pub targets: Vec<TargetCode>,
    pub traffic: Vec<Traffic>,
    /// In [`Document::rules`]; `None` is the rule of a tailnet without rules.
    pub rule: Option<usize>,
    /// Words of the routers' tags.
    pub via: Option<Bits>,
}

/// A list of words as sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sources {
    /// `*`.
    pub tailnet: bool,
    /// `autogroup:danger-all`.
    pub anything: bool,
    /// Users, groups, tags and autogroups.
    pub owners: Bits,
    /// Literals, each with its word.
    pub nets: Vec<(Word, IpNet)>,
}

#[derive(Debug)]
pub(crate) struct TargetCode {
    pub what: Destination,
    pub ports: Vec<Ports>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    Anything,
    Internet,
    /// Nodes of the source's own user.
    Own,
    /// Users, groups, tags and autogroups.
    Owners(Word),
    /// Literals.
    Nets(Word, Vec<IpNet>),
}

#[derive(Debug)]
pub(crate) struct SshCode {
    pub sources: Bits,
    /// Without `autogroup:self`.
    pub targets: Bits,
    pub own: bool,
    /// Words of the recorders' tags.
    pub recorders: Bits,
    pub local_parts: bool,
}

#[derive(Debug)]
pub(crate) struct AttributeCode {
    pub everybody: bool,
    pub targets: Bits,
}

/// Words and how they are found for a node.
#[derive(Debug, Default)]
struct Words {
    numbers: BTreeMap<Alias, Word>,
    /// A user's name or mail address, in lower case → users and groups.
    users: BTreeMap<String, Vec<Word>>,
    domains: BTreeMap<String, Vec<Word>>,
    /// Groups of the login provider, as it writes them.
    directories: BTreeMap<String, Vec<Word>>,
    tags: BTreeMap<String, Word>,
    member: Vec<Word>,
    tagged: Vec<Word>,
    roles: Vec<(Role, Word)>,
    /// Prefix length → first bits → literals. Addresses of both families as 128 bits.
    v4: BTreeMap<u8, BTreeMap<u32, Vec<Word>>>,
    v6: BTreeMap<u8, BTreeMap<u128, Vec<Word>>>,
}

impl Program {
    /// `unset`: there is no policy at all, and everything may reach everything.
    pub fn new(document: Arc<Document>, unset: bool) -> Program {
        let mut words = Words::default();
        let mut rules: Vec<RuleCode> = Vec::with_capacity(document.rules.len());
        for (index, rule) in document.rules.iter().enumerate() {
            let via: Bits = rule.via.iter().map(|tag| words.number(&document, &Alias::Tag(tag.clone()))).collect();
            rules.push(RuleCode {
                sources: words.sources(&document, &rule.sources),
                targets: rule.targets.iter().map(|target| words.target(&document, target)).collect(),
                traffic: rule.traffic.clone(),
                rule: Some(index),
                via: (!rule.via.is_empty()).then_some(via),
            });
        }
        if !document.restricts {
            rules.push(open_door(unset));
        }
        let ssh = document.ssh.iter().map(|rule| {
            let recorders = rule.recorders.iter().map(|tag| Alias::Tag(tag.clone())).collect::<Vec<_>>();
            SshCode {
                sources: words.owners(&document, &rule.sources),
                targets: words.owners(&document, &rule.targets),
                own: rule.targets.contains(&Alias::Own),
                recorders: words.owners(&document, &recorders),
                local_parts: rule.users.iter().any(|user| matches!(user, SshUser::LocalPart(_))),
            }
        });
        let ssh: Vec<SshCode> = ssh.collect();
        let attributes = document.node_attributes.iter().map(|entry| {
            let everybody = entry.targets.contains(&Alias::Everything);
            let targets = entry.targets.iter().filter(|alias| **alias != Alias::Everything);
            AttributeCode { everybody, targets: targets.map(|alias| words.number(&document, alias)).collect() }
        });
        let attributes: Vec<AttributeCode> = attributes.collect();
        let own = |rule: &RuleCode| rule.targets.iter().any(|target| target.what == Destination::Own);
        let needs_user = rules.iter().any(own) || ssh.iter().any(|rule| rule.own || rule.local_parts);
        Program { document, rules, ssh, attributes, needs_user, words }
    }

    /// The words that mean the nodes of a user.
    pub fn words_of_user(&self, user: &User) -> Bits {
        self.words.of_user(user)
    }

    /// The words that mean a node of these tags.
    pub fn words_of_tags(&self, tags: &[String]) -> Bits {
        let words = &self.words;
        words.tagged.iter().copied().chain(tags.iter().filter_map(|tag| words.tags.get(tag).copied())).collect()
    }

    /// Adds the literals that contain an address of the node; whether there are any.
    pub fn add_literals(&self, node: &Node, role: &mut Bits) -> bool {
        let mut any = false;
        for address in node.addresses() {
            self.words.literals(address, |word| {
                role.insert(word);
                any = true;
            });
        }
        any
    }

    /// Whether a literal contains the address of a node.
    pub fn has_literals(&self, node: &Node) -> bool {
        let mut any = false;
        node.addresses().for_each(|address| self.words.literals(address, |_| any = true));
        any
    }

    /// The rule of the document behind a rule; `None` for the one a document without rules has.
    pub fn written(&self, rule: &RuleCode) -> Option<&Rule> {
        rule.rule.map(|index| &self.document.rules[index])
    }
}

fn open_door(unset: bool) -> RuleCode {
    RuleCode {
        sources: Sources { tailnet: !unset, anything: unset, ..Sources::default() },
        targets: vec![TargetCode { what: Destination::Anything, ports: Vec::new() }],
        traffic: vec![Traffic { protocol: None, ports: vec![Ports::ALL] }],
        rule: None,
        via: None,
    }
}

impl Words {
    fn number(&mut self, document: &Document, alias: &Alias) -> Word {
        if let Some(word) = self.numbers.get(alias) {
            return *word;
        }
        let word = self.numbers.len();
        self.numbers.insert(alias.clone(), word);
        match alias {
            Alias::User(name) => self.users.entry(name.to_lowercase()).or_default().push(word),
            Alias::Domain(domain) => self.domains.entry(domain.clone()).or_default().push(word),
            Alias::Directory(group) => self.directories.entry(group.clone()).or_default().push(word),
            Alias::Group(group) => {
                for member in document.names.groups.get(group).into_iter().flatten() {
                    match member {
                        Alias::User(name) => self.users.entry(name.to_lowercase()).or_default().push(word),
                        Alias::Domain(domain) => self.domains.entry(domain.clone()).or_default().push(word),
                        Alias::Directory(group) => {
                            self.directories.entry(group.clone()).or_default().push(word);
                        }
                        _ => {}
                    }
                }
            }
            Alias::Tag(tag) => _ = self.tags.insert(tag.clone(), word),
            Alias::Member => self.member.push(word),
            Alias::Tagged => self.tagged.push(word),
            Alias::Role(role) => self.roles.push((*role, word)),
            Alias::Nets(nets) => nets.nets.iter().for_each(|net| self.add_net(net, word)),
            Alias::Everything | Alias::Danger | Alias::Internet | Alias::Own => {}
        }
        word
    }

    fn add_net(&mut self, net: &IpNet, word: Word) {
        match net {
            IpNet::V4(net) => {
                let by_bits = self.v4.entry(net.prefix_len()).or_default();
                by_bits.entry(net.network().to_bits()).or_default().push(word);
            }
            IpNet::V6(net) => {
                let by_bits = self.v6.entry(net.prefix_len()).or_default();
                by_bits.entry(net.network().to_bits()).or_default().push(word);
            }
        }
    }

    fn sources(&mut self, document: &Document, aliases: &[Alias]) -> Sources {
        let mut sources = Sources::default();
        for alias in aliases {
            match alias {
                Alias::Everything => sources.tailnet = true,
                Alias::Danger => sources.anything = true,
                Alias::Nets(Nets { nets, .. }) => {
                    let word = self.number(document, alias);
                    sources.nets.extend(nets.iter().map(|net| (word, *net)));
                }
                alias => sources.owners.insert(self.number(document, alias)),
            }
        }
        sources
    }

    fn target(&mut self, document: &Document, target: &Target) -> TargetCode {
        let what = match &target.alias {
            Alias::Everything | Alias::Danger => Destination::Anything,
            Alias::Internet => Destination::Internet,
            Alias::Own => Destination::Own,
            alias @ Alias::Nets(nets) => Destination::Nets(self.number(document, alias), nets.nets.clone()),
            alias => Destination::Owners(self.number(document, alias)),
        };
        TargetCode { what, ports: target.ports.clone() }
    }

    fn owners(&mut self, document: &Document, aliases: &[Alias]) -> Bits {
        let named = aliases.iter().filter(|alias| **alias != Alias::Own);
        named.map(|alias| self.number(document, alias)).collect()
    }

    fn of_user(&self, user: &User) -> Bits {
        let mut bits: Bits = self.member.iter().copied().collect();
        for called in user.called() {
            self.users.get(&called.to_lowercase()).into_iter().flatten().for_each(|word| bits.insert(*word));
        }
        if let Some(domain) = user.domain() {
            self.domains.get(&domain.to_lowercase()).into_iter().flatten().for_each(|word| bits.insert(*word));
        }
        for group in &user.groups {
            self.directories.get(group).into_iter().flatten().for_each(|word| bits.insert(*word));
        }
        // An owner is an administrator too.
        self.roles.iter().filter(|(role, _)| user.role >= *role).for_each(|(_, word)| bits.insert(*word));
        bits
    }

    fn literals(&self, address: IpAddr, mut found: impl FnMut(Word)) {
        match address {
            IpAddr::V4(address) => {
                for (length, by_bits) in &self.v4 {
                    let kept = address.to_bits() & u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                    by_bits.get(&kept).into_iter().flatten().for_each(|word| found(*word));
                }
            }
            IpAddr::V6(address) => {
                for (length, by_bits) in &self.v6 {
                    let kept = address.to_bits() & u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
                    by_bits.get(&kept).into_iter().flatten().for_each(|word| found(*word));
                }
            }
        }
    }
}
