//! A policy's own tests, and what else depends on the tailnet it is set in.
//!
//! Tests ask what the rules say of users, tags and addresses. A user or tag needs no node for that: a policy may be
//! written before the first machine joins.

use crate::{
    Policy,
    compile::ssh::{lets_in, local_part, shared_users},
    language::{
        alias::{Alias, Nets},
        document::{Document, SshRule, SshTest, SshUser, Test},
        ports,
    },
    parties::{Connection, Party, fit},
    rejection::{Fault, Rejection},
    tailnet::Tailnet,
};

/// More failures are not of use to anybody.
const SHOWN_MAX: usize = 20;

/// Whether all mail domains the policy names are the tailnet's.
pub(crate) fn domains(policy: &Policy, tailnet: &Tailnet) -> Result<(), Rejection> {
    let Some(own) = tailnet.domain() else { return Ok(()) };
    let document = &policy.document;
    let refuse = |at: u32, section: &str, domain: &str| {
        let message = format!(
            "{section}{domain} is not associated with this Tailnet and cannot be used in user:*@<domain> expressions"
        );
        Err(Fault::new(at, message).hint(format!("the tailnet's users are of {own}")).in_text(&policy.text))
    };
    for rule in &document.rules {
        let targets = rule.targets.iter().map(|target| &target.alias);
        if let Some(domain) = stranger(rule.sources.iter().chain(targets), &own) {
            return refuse(rule.at, "", domain);
        }
    }
    for rule in &document.ssh {
        let users = rule.users.iter().filter_map(|user| match user {
            SshUser::LocalPart(domain) => Some(domain.as_str()),
            _ => None,
        });
        let strangers = stranger(rule.sources.iter().chain(&rule.targets), &own);
        if let Some(domain) = strangers.or_else(|| users.into_iter().find(|domain| *domain != own)) {
            return refuse(rule.at, "[ssh] ", domain);
        }
    }
    Ok(())
}

fn stranger<'a>(aliases: impl IntoIterator<Item = &'a Alias>, own: &str) -> Option<&'a str> {
    aliases.into_iter().find_map(|alias| match alias {
        Alias::Domain(domain) if domain != own => Some(domain.as_str()),
        _ => None,
    })
}

/// Runs all tests; the complaint names those that failed.
pub(crate) fn run(policy: &Policy, tailnet: &Tailnet) -> Result<(), Rejection> {
    let document = &*policy.document;
    let mut failed: Vec<(u32, String)> = Vec::new();
    for test in &document.tests {
        failures(document, tailnet, test, &mut failed);
    }
    for test in &document.ssh_tests {
        ssh_failures(document, tailnet, test, &mut failed);
    }
    let Some((at, _)) = failed.first() else { return Ok(()) };
    let (at, count) = (*at, failed.len());
    let mut shown: Vec<String> = failed.into_iter().take(SHOWN_MAX).map(|(_, what)| what).collect();
    if count > SHOWN_MAX {
        shown.push(format!("and {} more", count - SHOWN_MAX));
    }
    Err(Fault::new(at, format!("test(s) failed: {}", shown.join("; "))).in_text(&policy.text))
}

fn failures(document: &Document, tailnet: &Tailnet, test: &Test, failed: &mut Vec<(u32, String)>) {
    let mut fail = |what: String| failed.push((test.at, format!("tests[{}]: {what}", test.index)));
    if test.accept.is_empty() && test.deny.is_empty() {
        return fail("has neither accept nor deny".into());
    }
    let sources = match source(document, tailnet, &test.source) {
        Ok(sources) => sources,
        Err(what) => return fail(what),
    };
    let protocols = match ports::parse_protocol(&test.protocol) {
        // Either will do.
        Ok(None) => vec![6, 17],
        Ok(Some(protocol)) if ports::WITH_PORTS.contains(&protocol) => vec![protocol],
        Ok(Some(_)) => return fail(format!("proto {:?} has no ports to test", test.protocol)),
        Err(what) => return fail(what),
    };
    for (targets, expected) in [(&test.accept, true), (&test.deny, false)] {
        for word in targets {
            let (parties, port) = match target(document, tailnet, word) {
                Ok(target) => target,
                Err(what) => {
                    fail(what);
                    continue;
                }
            };
            let wrong = sources.iter().any(|source| {
                let own = || vec![source.clone()];
                let targets = parties.clone().unwrap_or_else(own);
                targets.iter().any(|target| {
                    let connection = Connection { source, target, port: Some(port), protocols: &protocols };
                    allows(document, tailnet, &connection) != expected
                })
            });
            if wrong {
                let verdict = if expected { "is not allowed" } else { "is allowed" };
                let wish = if expected { "accept" } else { "deny" };
                fail(format!("{} to {word} {verdict}, wanted {wish}", test.source));
            }
        }
    }
}

fn allows(document: &Document, tailnet: &Tailnet, connection: &Connection) -> bool {
    !document.restricts || document.rules.iter().any(|rule| fit(document, tailnet, rule, connection).all())
}

fn source(document: &Document, tailnet: &Tailnet, word: &str) -> Result<Vec<Party>, String> {
    if word.is_empty() {
        return Err("src must be specified".into());
    }
    let (alias, _) = document.names.alias(word).map_err(|error| format!("src={}", error.message))?;
    match &alias {
        Alias::Everything | Alias::Danger | Alias::Internet | Alias::Own => {
            return Err(format!("src={word:?} is nobody in particular"));
        }
        Alias::Nets(nets) if !is_single(nets) => return Err(format!("src={word:?} must be a single address")),
        _ => {}
    }
    let parties = Party::meant(&document.names, tailnet, &alias);
    if parties.is_empty() { Err(format!("src={word:?} is nobody")) } else { Ok(parties) }
}

/// `None` for `autogroup:self`: the source's own user.
type Targets = Option<Vec<Party>>;

fn target(document: &Document, tailnet: &Tailnet, word: &str) -> Result<(Targets, u16), String> {
    let (host, port) = word.rsplit_once(':').ok_or_else(|| format!("dst={word:?}: a port must be specified"))?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("dst={word:?}: the port must be one number from 1 to 65535"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let (alias, _) = document.names.alias(host).map_err(|error| format!("dst={word:?}: {}", error.message))?;
    match &alias {
        Alias::Own => return Ok((None, port)),
        Alias::Everything | Alias::Danger | Alias::Internet => {
            return Err(format!("dst={word:?} is nobody in particular"));
        }
        Alias::Nets(nets) if !is_single(nets) => return Err(format!("dst={word:?} must be a single address")),
        _ => {}
    }
    let parties = Party::meant(&document.names, tailnet, &alias);
    if parties.is_empty() { Err(format!("dst={word:?} is nobody")) } else { Ok((Some(parties), port)) }
}

fn is_single(nets: &Nets) -> bool {
    nets.nets.len() == 1 && nets.nets.iter().all(|net| net.prefix_len() == net.max_prefix_len())
}

/// What happens to somebody who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Denied,
    Checked,
    Accepted,
}

fn ssh_failures(document: &Document, tailnet: &Tailnet, test: &SshTest, failed: &mut Vec<(u32, String)>) {
    let mut fail = |what: String| failed.push((test.at, format!("sshTests[{}]: {what}", test.index)));
    if test.accept.is_empty() && test.deny.is_empty() && test.check.is_empty() {
        return fail("has neither accept, deny nor check".into());
    }
    if test.targets.is_empty() {
        return fail("dst must be specified".into());
    }
    let sources = match source(document, tailnet, &test.source) {
        Ok(sources) => sources,
        Err(what) => return fail(what),
    };
    for target in &test.targets {
        let parties = Party::meant(&document.names, tailnet, target);
        if parties.is_empty() {
            fail(format!("dst={:?} is nobody", target.to_string()));
            continue;
        }
        let wishes = [(&test.accept, Entry::Accepted), (&test.check, Entry::Checked), (&test.deny, Entry::Denied)];
        for (users, expected) in wishes {
            for user in users {
                let pairs = sources.iter().flat_map(|source| parties.iter().map(move |target| (source, target)));
                let mut entries = pairs.map(|(source, target)| entry(document, source, target, user));
                if let Some(entry) = entries.find(|entry| *entry != expected) {
                    let word = |entry| match entry {
                        Entry::Denied => "denied",
                        Entry::Checked => "checked",
                        Entry::Accepted => "accepted",
                    };
                    fail(format!("{} to {target} as {user} is {}, not {}", test.source, word(entry), word(expected)));
                }
            }
        }
    }
}

fn entry(document: &Document, source: &Party, target: &Party, user: &str) -> Entry {
    let admits = |rule: &&SshRule| {
        let names = &document.names;
        let from = rule.sources.iter().any(|alias| source.is(names, alias));
        let to = rule.targets.iter().any(|alias| match alias {
            Alias::Own => source.shares_user(target),
            alias => target.is(names, alias),
        });
        let own_name = source.user.as_ref().and_then(|own| local_part(rule, &own.email));
        from && to && (own_name.as_deref() == Some(user) || lets_in(&shared_users(rule), user))
    };
    let rules = || document.ssh.iter().filter(admits);
    match (rules().any(|rule| rule.check), rules().next().is_some()) {
        (true, _) => Entry::Checked,
        (false, true) => Entry::Accepted,
        (false, false) => Entry::Denied,
    }
}
