//! One SSH rule.

use super::{
    alias::{Alias, Names},
    document::{CheckPeriod, SshRule, SshUser},
    duration,
    fields::Fields,
    read::Reader,
    tree::Located,
};
use crate::rejection::Fault;

/// The longest time a check may hold: a week, as the hosted control plane has it.
const CHECK_PERIOD_MAX_NANOS: i64 = 168 * 3600 * 1_000_000_000;

/// `{"action": "check", "src": […], "dst": […], "users": […], "checkPeriod": "12h", "acceptEnv": […]}`.
pub(crate) fn rule(reader: &mut Reader, names: &Names, value: &Located) -> Result<SshRule, Fault> {
    let mut fields = Fields::of(value, "an SSH rule")?;
    let check = match fields.text("action")? {
        Some(("accept", _)) => false,
        Some(("check", _)) => true,
        None | Some(("", _)) => {
            return Err(Fault::new(value.at, "action must be specified").hint("write \"accept\" or \"check\""));
        }
        Some((action, at)) => {
            return Err(
                Fault::new(at, format!("{action:?} is not a valid action")).hint("write \"accept\" or \"check\"")
            );
        }
    };
    let users = users(&mut fields)?;
    let sources = sources(reader, names, &mut fields)?;
    let targets = targets(reader, names, &mut fields)?;
    whose_nodes(&sources, &targets, value.at)?;
    let check_period = check_period(&mut fields)?;
    if check_period.is_some() && !check {
        reader.warn(value.at, "checkPeriod does nothing with the action \"accept\": write \"check\"".into());
    }
    let mut accept_env = Vec::new();
    for (word, at) in fields.texts("acceptEnv")? {
        if word.trim().is_empty() {
            return Err(Fault::new(at, "acceptEnv values cannot be empty"));
        }
        accept_env.push(word.to_owned());
    }
    let mut recorders = Vec::new();
    for (word, at) in fields.texts("recorder")? {
        match names.alias(word) {
            Ok((Alias::Tag(tag), _)) => recorders.push(tag),
            _ => return Err(Fault::new(at, format!("recorder {word:?} must be a tag that tagOwners defines"))),
        }
    }
    let enforce_recorder = fields.flag("enforceRecorder")?;
    fields.finish()?;
    Ok(SshRule {
        at: value.at,
        check,
        check_period: check_period.unwrap_or_default(),
        sources,
        targets,
        users,
        accept_env,
        recorders,
        enforce_recorder,
    })
}

fn users(fields: &mut Fields) -> Result<Vec<SshUser>, Fault> {
    let given = fields.texts("users")?;
    if given.is_empty() {
        return Err(Fault::new(fields.at, "users must be specified").hint("write \"users\": [\"autogroup:nonroot\"]"));
    }
    let mut users = Vec::new();
    for (word, at) in given {
        let name = word.trim();
        if name.is_empty() || name == "*" {
            let hint = "write autogroup:nonroot for every user but root";
            return Err(Fault::new(at, format!("user {word:?} is not valid")).hint(hint));
        }
        users.push(match name.strip_prefix("localpart:*@") {
            Some(domain) => SshUser::LocalPart(domain.to_ascii_lowercase()),
            None if name == "autogroup:nonroot" => SshUser::NonRoot,
            None => SshUser::Name(name.to_owned()),
        });
    }
    Ok(users)
}

fn sources(reader: &mut Reader, names: &Names, fields: &mut Fields) -> Result<Vec<Alias>, Fault> {
    let mut sources = Vec::new();
    for (word, at) in fields.texts("src")? {
        match names.alias(word) {
            Ok((
                alias @ (Alias::User(_)
                | Alias::Domain(_)
                | Alias::Group(_)
                | Alias::Tag(_)
                | Alias::Member
                | Alias::Tagged
                | Alias::Role(_)),
                old,
            )) => {
                old.into_iter().for_each(|warning| reader.warn(at, warning));
                sources.push(alias);
            }
            Ok(_) => {
                return Err(Fault::new(at, format!("invalid src {word:?}"))
                    .hint("name users, groups, tags, autogroup:member or autogroup:tagged"));
            }
            Err(error) => {
                return Err(Fault {
                    hint: error.hint,
                    ..Fault::new(at, format!("invalid src {word:?}: src={}", error.message))
                });
            }
        }
    }
    Ok(sources)
}

fn targets(reader: &mut Reader, names: &Names, fields: &mut Fields) -> Result<Vec<Alias>, Fault> {
    let mut targets = Vec::new();
    for (word, at) in fields.texts("dst")? {
        match names.alias(word) {
            Ok((
                alias @ (Alias::User(_)
                | Alias::Domain(_)
                | Alias::Tag(_)
                | Alias::Member
                | Alias::Tagged
                | Alias::Own
                | Alias::Role(_)),
                old,
            )) => {
                old.into_iter().for_each(|warning| reader.warn(at, warning));
                targets.push(alias);
            }
            Ok(_) => {
                return Err(Fault::new(at, format!("invalid dst {word:?}")).hint(
                    "name users, tags, autogroup:self or autogroup:tagged; hosts and * cannot be told apart by SSH",
                ));
            }
            Err(error) => {
                return Err(Fault {
                    hint: error.hint,
                    ..Fault::new(at, format!("invalid dst {word:?}: {}", error.message))
                });
            }
        }
    }
    Ok(targets)
}

/// Tags may not enter people's nodes, and a person's nodes are entered by that person only.
fn whose_nodes(sources: &[Alias], targets: &[Alias], at: u32) -> Result<(), Fault> {
    let tags = sources.iter().any(|alias| matches!(alias, Alias::Tag(_) | Alias::Tagged));
    for target in targets {
        match target {
            Alias::Own if tags => {
                let message = "autogroup:self can only be used with users, groups, or supported autogroups";
                return Err(Fault::new(at, message).hint("write \"src\": [\"autogroup:member\"]"));
            }
            Alias::User(_) | Alias::Domain(_) | Alias::Member | Alias::Role(_) if tags => {
                return Err(Fault::new(at, "tags in SSH source cannot access user-owned devices")
                    .hint("name tags as dst, or users as src"));
            }
            Alias::User(_) if sources.iter().any(|source| source != target) => {
                let message =
                    format!("user destination requires source to contain only that same user {:?}", target.to_string());
                return Err(Fault::new(at, message).hint("write \"dst\": [\"autogroup:self\"]"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_period(fields: &mut Fields) -> Result<Option<CheckPeriod>, Fault> {
    let Some((word, at)) = fields.text("checkPeriod")? else { return Ok(None) };
    if word == "always" {
        return Ok(Some(CheckPeriod::Always));
    }
    let hint = "write \"always\", or a time such as \"12h\" or \"30m\", up to \"168h\"";
    let wrong = |message: String| Fault::new(at, message).hint(hint);
    let nanos = duration::parse(word).map_err(wrong)?;
    match nanos {
        i64::MIN..=0 => Err(wrong(format!("checkPeriod {} must be a positive duration", duration::show(nanos)))),
        1..=CHECK_PERIOD_MAX_NANOS => Ok(Some(CheckPeriod::Secs((nanos as u64).div_ceil(1_000_000_000)))),
        _ => Err(wrong(format!("checkPeriod {} is above the max (168h)", duration::show(nanos)))),
    }
}
