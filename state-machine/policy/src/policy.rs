//! A policy: a text that was read.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use crate::{
    compile::program::Program,
    language::{alias::Alias, document::Document, read},
    parties,
    rejection::{Place, Rejection, Warning},
    tailnet::{Node, Tailnet, User, is_exit_route},
};

/// A policy whose text means something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) text: Arc<str>,
    pub(crate) document: Arc<Document>,
}

/// A policy and what in it deserves a second look.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub policy: Policy,
    pub warnings: Vec<Warning>,
}

impl Policy {
    /// Reads a text; bounded in size, depth and time. What depends on users and nodes is judged by [`Policy::check`].
    pub fn parse(text: &str) -> Result<Parsed, Rejection> {
        let (document, warnings) = read::document(text)?;
        Ok(Parsed { policy: Policy { text: text.into(), document }, warnings })
    }

    /// Reads bytes that should be a text.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Parsed, Rejection> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Policy::parse(text),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let place = Place::of(&text, u32::try_from(text.len()).unwrap_or(u32::MAX));
                let hint = Some("save the file as UTF-8".to_owned());
                Err(Rejection { message: "the text is not UTF-8 from here".to_owned(), place: Some(place), hint })
            }
        }
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has rules at all; without a section for them everything may reach everything.
    pub fn restricts(&self) -> bool {
        self.document.restricts
    }

    /// Whether the policy may be set in this tailnet: mail domains are the tailnet's, and its own tests hold.
    pub fn check(&self, tailnet: &Tailnet) -> Result<(), Rejection> {
        crate::checks::domains(self, tailnet)?;
        self.run_tests(tailnet)
    }

    /// Runs `tests` and `sshTests`. They ask what the rules say of users and tags; nodes need not exist.
    pub fn run_tests(&self, tailnet: &Tailnet) -> Result<(), Rejection> {
        crate::checks::run(self, tailnet)
    }

    /// Whether `tagOwners` defines the tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.document.names.tag_owners.contains_key(tag)
    }

    /// All tags that `tagOwners` defines.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.document.names.tag_owners.keys().map(String::as_str)
    }

    /// Whether a user may give the tag: named as an owner, in a group that is, or an owner of a tag that is.
    pub fn may_own_tag(&self, user: &User, tag: &str) -> bool {
        self.owns_tag(&Owner::User(user), tag)
    }

    /// Whether a node that has tags may give itself another.
    pub fn tags_may_own_tag(&self, tags: &[String], tag: &str) -> bool {
        self.owns_tag(&Owner::Tags(tags), tag)
    }

    fn owns_tag(&self, owner: &Owner, tag: &str) -> bool {
        let owners_of = &self.document.names.tag_owners;
        let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
        let mut open = vec![tag];
        while let Some(tag) = open.pop() {
            let Some((tag, owners)) = owners_of.get_key_value(tag) else { continue };
            if seen.insert(tag, ()).is_some() {
                continue;
            }
            if self.means(owners, owner) {
                return true;
            }
            open.extend(owners.iter().filter_map(|alias| match alias {
                Alias::Tag(tag) => Some(tag.as_str()),
                _ => None,
            }));
        }
        false
    }

    /// Whether `autoApprovers` approves a route of the node. `user` is the node's, absent of tagged nodes.
    pub fn auto_approves(&self, node: &Node, user: Option<&User>, route: &IpNet) -> bool {
        let owner = match (node.is_tagged(), user) {
            (true, _) => Owner::Tags(&node.tags),
            (false, Some(user)) => Owner::User(user),
            (false, None) => return false,
        };
        let route = route.trunc();
        let covers = |prefix: &IpNet| prefix.contains(&route);
        let mut listed = self.document.approvers.iter().filter(|(prefix, _)| covers(prefix));
        match is_exit_route(&route) {
            // Being a way out is a right of its own: a prefix that covers everything does not give it.
            true => self.means(&self.document.exit_approvers, &owner),
            false => listed.any(|(_, owners)| self.means(owners, &owner)),
        }
    }

    /// Where the address of a new node comes from (`ipPool` of `nodeAttrs`), in the order of the text. `user` is the
    /// node's, absent of tagged nodes.
    pub fn pools_of(&self, tags: &[String], user: Option<&User>) -> Vec<IpNet> {
        let owner = match (tags.is_empty(), user) {
            (false, _) => Owner::Tags(tags),
            (true, Some(user)) => Owner::User(user),
            (true, None) => return Vec::new(),
        };
        let entries = self.document.node_attributes.iter().filter(|entry| !entry.pools.is_empty());
        entries.filter(|entry| self.means(&entry.targets, &owner)).flat_map(|entry| entry.pools.clone()).collect()
    }

    /// All pools there are.
    pub fn pools(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.document.node_attributes.iter().flat_map(|entry| entry.pools.iter().copied())
    }

    /// Whether one of the words means the owner.
    fn means(&self, aliases: &[Alias], owner: &Owner) -> bool {
        aliases.iter().any(|alias| match (alias, owner) {
            (Alias::Everything, _) => true,
            (Alias::Tag(tag), Owner::Tags(tags)) => tags.contains(tag),
            (Alias::Tagged, Owner::Tags(_)) => true,
            (_, Owner::Tags(_)) => false,
            (alias, Owner::User(user)) => parties::means_user(&self.document.names, alias, user),
        })
    }

    pub(crate) fn program(&self) -> Program {
        Program::new(self.document.clone(), false)
    }
}

enum Owner<'a> {
    User(&'a User),
    Tags(&'a [String]),
}
