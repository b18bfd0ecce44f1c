//! All sections of a text, one after the other.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use super::{
    alias::{Alias, Names},
    document::{Document, NodeAttributes, Rule, Section, SshTest, Test},
    fields::{Fields, entries, list, texts},
    names, rules, ssh,
    tree::{self, Located},
};
use crate::{
    hujson,
    rejection::{Fault, Place, Rejection, Warning},
};

/// The most rules of one kind that are read. The hosted control plane's own limit is not published; the largest policies
/// people speak of have some thousands.
pub(crate) const RULES_MAX: usize = 10_000;

/// The most rules about users' own nodes: each of them is as many rules as there are users.
const OWN_RULES_MAX: usize = 1_000;

/// What is gathered while reading.
pub(crate) struct Reader<'a> {
    text: &'a str,
    warnings: Vec<Warning>,
}

/// More are not of use to anybody.
const WARNINGS_MAX: usize = 200;

impl Reader<'_> {
    pub fn warn(&mut self, at: u32, message: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(Warning { message, place: Some(Place::of(self.text, at)) });
        }
    }
}

/// Reads a text.
pub(crate) fn document(text: &str) -> Result<(Arc<Document>, Vec<Warning>), Rejection> {
    let plain = hujson::standardize(text).map_err(|error| match looks_like_yaml(text) {
        true => Rejection {
            hint: Some("this looks like YAML: hsraft policy convert writes it as HuJSON".into()),
            ..Rejection::from(error)
        },
        false => error.into(),
    })?;
    let tree = tree::build(&plain);
    let mut reader = Reader { text, warnings: Vec::new() };
    match sections(&mut reader, &tree) {
        Ok(document) => Ok((Arc::new(document), reader.warnings)),
        Err(fault) => Err(fault.in_text(text)),
    }
}

fn looks_like_yaml(text: &str) -> bool {
    let first = text.lines().map(str::trim_end).find(|line| !line.trim_start().is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| line == "---" || (line.ends_with(':') && !line.contains(['{', '"', '['])))
}

fn sections(reader: &mut Reader, tree: &Located) -> Result<Document, Fault> {
    let mut fields = Fields::of(tree, "a policy").map_err(|fault| fault.hint("write { \"acls\": [ … ] }"))?;
    let mut document = Document::default();

    let mut known = Names { groups: names::groups(reader, fields.take("groups")?)?, ..Names::default() };
    known.hosts = names::hosts(fields.take("hosts")?)?;
    known.ip_sets = names::ip_sets(&known, fields.take("ipsets")?)?;
    known.tag_owners = names::tag_owners(reader, &known.groups, fields.take("tagOwners")?)?;

    refuse_postures(&mut fields)?;

    let acls = fields.take("acls")?;
    let grants = fields.take("grants")?;
    document.restricts = acls.is_some() || grants.is_some();
    for (index, value) in bounded(grants, "grants")?.iter().enumerate() {
        document.rules.push(rules::grant(reader, &known, index, value)?);
    }
    for (index, value) in bounded(acls, "acls")?.iter().enumerate() {
        document.rules.push(rules::acl(reader, &known, index, value)?);
    }
    let own = |rule: &&Rule| rule.targets.iter().any(|target| target.alias == Alias::Own);
    if let Some(last) = document.rules.iter().filter(own).nth(OWN_RULES_MAX) {
        return Err(Fault::new(last.at, format!("at most {OWN_RULES_MAX} rules may be about autogroup:self"))
            .hint("name several groups as src of one rule"));
    }
    for value in bounded(fields.take("ssh")?, "ssh")? {
        document.ssh.push(ssh::rule(reader, &known, value)?);
    }
    for value in bounded(fields.take("nodeAttrs")?, "nodeAttrs")? {
        document.node_attributes.push(node_attributes(reader, &known, value)?);
    }
    if let Some(value) = fields.take("autoApprovers")? {
        (document.approvers, document.exit_approvers) = auto_approvers(reader, &known, value)?;
    }
    for (index, value) in bounded(fields.take("tests")?, "tests")?.iter().enumerate() {
        document.tests.push(test(index, value)?);
    }
    for (index, value) in bounded(fields.take("sshTests")?, "sshTests")?.iter().enumerate() {
        document.ssh_tests.push(ssh_test(&known, index, value)?);
    }
    document.randomize_client_port = fields.flag("randomizeClientPort")?;
    document.disable_ipv4 = fields.flag("disableIPv4")?;
    if let Some(value) = fields.take("OneCGNATRoute")? {
        reader.warn(value.at, "OneCGNATRoute does nothing here: clients decide it themselves".into());
    }
    elsewhere(&mut fields)?;
    fields.finish()?;
    document.names = known;
    Ok(document)
}

/// Sections of the language that mean devices' state, which is not collected.
fn refuse_postures(fields: &mut Fields) -> Result<(), Fault> {
    for name in ["postures", "defaultSrcPosture"] {
        let empty = |value: &Located| {
            entries(value, name).is_ok_and(<[_]>::is_empty) || list(value, name).is_ok_and(<[_]>::is_empty)
        };
        if let Some(value) = fields.take(name)?.filter(|value| !empty(value)) {
            return Err(Fault::new(value.at, format!("{name}: device postures are not supported"))
                .hint("leave the section out: a rule that needs a posture would let nobody through"));
        }
    }
    Ok(())
}

/// Sections that are settings here.
fn elsewhere(fields: &mut Fields) -> Result<(), Fault> {
    for (name, place) in
        [("derpMap", "derp.paths in the configuration"), ("extraDNSRecords", "dns.extra_records in the configuration")]
    {
        if let Some(value) = fields.take(name)? {
            return Err(
                Fault::new(value.at, format!("{name} is not part of the policy here")).hint(format!("use {place}"))
            );
        }
    }
    Ok(())
}

fn bounded<'a>(value: Option<&'a Located>, what: &str) -> Result<&'a [Located], Fault> {
    let Some(value) = value else { return Ok(&[]) };
    let items = list(value, what)?;
    match items.len() {
        0..=RULES_MAX => Ok(items),
        many => Err(Fault::new(value.at, format!("{what} has {many} entries, at most {RULES_MAX} are allowed"))
            .hint("name groups and tags instead of single users and addresses")),
    }
}

fn node_attributes(reader: &mut Reader, names: &Names, value: &Located) -> Result<NodeAttributes, Fault> {
    let mut fields = Fields::of(value, "an entry of nodeAttrs")?;
    let mut targets = Vec::new();
    for (word, at) in fields.texts("target")? {
        let wrong = |message: String| Fault::new(at, message);
        match names.alias(word) {
            Ok((alias @ (Alias::Own | Alias::Internet | Alias::Danger), _)) => {
                return Err(wrong(format!("{alias} not valid as a target of nodeAttrs")));
            }
            Ok((alias, old)) => {
                old.into_iter().for_each(|warning| reader.warn(at, warning));
                targets.push(alias);
            }
            Err(error) => return Err(Fault { hint: error.hint, ..wrong(error.message) }),
        }
    }
    let mut attributes = Vec::new();
    for (word, at) in fields.texts("attr")? {
        if word.trim().is_empty() {
            return Err(Fault::new(at, "attr values cannot be empty"));
        }
        if word.contains(['"', '\\']) || word.chars().any(char::is_control) {
            return Err(Fault::new(
                at,
                format!("attr {word:?}: quotes, backslashes and control characters are not allowed"),
            ));
        }
        attributes.push(word.to_owned());
    }
    let app = rules::app(&mut fields)?;
    let pools = fields.texts("ipPool")?;
    let pools_at = pools.first().map(|(_, at)| *at);
    let mut nets = Vec::new();
    for (word, at) in pools {
        let net = super::alias::net(word).ok_or_else(|| Fault::new(at, format!("ipPool: {word:?}: invalid prefix")))?;
        nets.push(net.trunc());
    }
    if let Some(Alias::Nets(named)) = targets.iter().find(|target| matches!(target, Alias::Nets(_)))
        && let Some(at) = pools_at
    {
        reader.warn(at, format!("ipPool: {:?} is an address, and a node has none before it gets one", named.name));
    }
    fields.finish()?;
    Ok(NodeAttributes { targets, attributes, app, pools: nets })
}

type Approvers = (Vec<(IpNet, Vec<Alias>)>, Vec<Alias>);

fn auto_approvers(reader: &mut Reader, names: &Names, value: &Located) -> Result<Approvers, Fault> {
    let mut fields = Fields::of(value, "autoApprovers")?;
    let mut routes: BTreeMap<IpNet, Vec<Alias>> = BTreeMap::new();
    for (key, value) in fields.take("routes")?.map_or(Ok(&[][..]), |value| entries(value, "routes"))? {
        let what = format!("autoApprovers.routes[{:?}]", key.name);
        let Some(net) = super::alias::net(key.name.trim()) else {
            return Err(
                Fault::new(key.at, format!("{what}: invalid prefix")).hint("write a prefix, such as 10.0.0.0/8")
            );
        };
        for (word, at) in texts(value, &key.name)? {
            routes.entry(net).or_default().push(names::owner(reader, names, word, at, &what)?);
        }
    }
    let mut exit = Vec::new();
    for (word, at) in fields.texts("exitNode")? {
        exit.push(names::owner(reader, names, word, at, "autoApprovers.exitNode")?);
    }
    if let Some(value) = fields.take("services")? {
        reader.warn(value.at, "autoApprovers.services does nothing here: services are not supported".into());
    }
    fields.finish()?;
    Ok((routes.into_iter().collect(), exit))
}

fn words(words: Vec<(&str, u32)>) -> Vec<String> {
    words.into_iter().map(|(word, _)| word.trim().to_owned()).collect()
}

fn test(index: usize, value: &Located) -> Result<Test, Fault> {
    let mut fields = Fields::of(value, "a test")?;
    let source = match (fields.text("src")?, fields.text("user")?) {
        (Some((source, _)), _) | (None, Some((source, _))) => source.trim().to_owned(),
        (None, None) => String::new(),
    };
    let protocol = fields.text("proto")?.map_or(String::new(), |(word, _)| word.to_owned());
    let mut accept = words(fields.texts("accept")?);
    accept.extend(words(fields.texts("allow")?));
    let deny = words(fields.texts("deny")?);
    if let Some(value) = fields.take("srcPostureAttrs")? {
        return Err(Fault::new(value.at, "srcPostureAttrs: device postures are not supported"));
    }
    fields.finish()?;
    Ok(Test { at: value.at, index, source, protocol, accept, deny })
}

fn ssh_test(names: &Names, index: usize, value: &Located) -> Result<SshTest, Fault> {
    let mut fields = Fields::of(value, "an SSH test")?;
    let source = fields.text("src")?.map_or(String::new(), |(word, _)| word.trim().to_owned());
    let mut targets = Vec::new();
    for (word, at) in fields.texts("dst")? {
        let wrong = |what: String| Fault::new(at, format!("SSH tests dst contains {what}"));
        match names.alias(word) {
            Ok((alias @ (Alias::User(_) | Alias::Tag(_)), _)) => targets.push(alias),
            Ok((Alias::Nets(nets), _)) if nets.nets.iter().all(|net| net.prefix_len() == net.max_prefix_len()) => {
                targets.push(Alias::Nets(nets));
            }
            Err(_) if word.starts_with("tag:") => return Err(wrong(format!("unknown tag {word:?}"))),
            Err(_) if word.starts_with("group:") => return Err(wrong(format!("unknown group {word:?}"))),
            Err(_) if !word.starts_with("autogroup:") => return Err(wrong(format!("unknown element {word:?}"))),
            _ => return Err(wrong(format!("disallowed element {word:?}")).hint("name users, tags or hosts")),
        }
    }
    let (accept, deny) = (words(fields.texts("accept")?), words(fields.texts("deny")?));
    let check = words(fields.texts("check")?);
    fields.finish()?;
    Ok(SshTest { at: value.at, index, source, targets, accept, deny, check })
}

impl Section {
    pub fn name(self) -> &'static str {
        match self {
            Section::Grants => "grants",
            Section::Acls => "acls",
        }
    }
}
