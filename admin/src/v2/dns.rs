//! Name servers and search domains: settings all members share.
//!
//! A configuration file that says otherwise is taken over at the next SIGHUP; who runs DNS from here leaves the section
//! `dns` of the files as it is in force (`hsraft configtest` and the log tell the difference).

use std::{collections::BTreeMap, net::IpAddr};

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use state_machine::{BEYOND, Command, Refusal, Settings};

use crate::{
    Api,
    auth::Caller,
    request::{Given, Json, Query},
    status::ApiError,
};

type Split = BTreeMap<String, Vec<String>>;

/// How often a change is made anew because somebody else changed the settings at the same moment.
const ATTEMPTS: usize = 4;

/// Changes the settings as they are now, whoever else does.
pub(super) async fn change(
    api: &Api,
    caller: &Caller,
    edit: impl Fn(&mut Settings) -> Result<(), ApiError>,
) -> Result<Settings, ApiError> {
    for attempt in 1.. {
        let state = api.current().await?;
        let seen = (**state.settings()).clone();
        let mut settings = seen.clone();
        edit(&mut settings)?;
        // Local names win over the servers' only while there are servers.
        settings.override_local_dns &= !settings.nameservers.is_empty();
        let command = match state.feature_level() >= BEYOND {
            true => Command::ReplaceSettings { seen: Box::new(seen), settings: Box::new(settings) },
            false => Command::ApplySettings { settings },
        };
        match api.backend.propose(&caller.by, command).await? {
            Err(Refusal::Changed { .. }) if attempt < ATTEMPTS => {}
            answer => {
                answer?;
                break;
            }
        }
    }
    Ok((**api.backend.latest().settings()).clone())
}

fn server(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    match text.parse::<IpAddr>().is_ok() || text.starts_with("https://") {
        true => Ok(text.to_owned()),
        false => Err(ApiError::invalid(format!("{text:?} is not a name server: write an address or an https:// URL"))),
    }
}

fn servers(texts: &[String]) -> Result<Vec<String>, ApiError> {
    texts.iter().map(|text| server(text)).collect()
}

fn domain(text: &str) -> Result<String, ApiError> {
    let name = text.trim().trim_matches('.').to_ascii_lowercase();
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match name.len() <= 253 && name.split('.').all(fits) {
        true => Ok(name),
        false => Err(ApiError::invalid(format!("{text:?} is not a domain, such as corp.example.com"))),
    }
}

fn split_of(wish: &BTreeMap<String, Option<Vec<String>>>) -> Result<Split, ApiError> {
    let mut split = Split::new();
    for (name, servers_of) in wish {
        if let Some(list) = servers_of.as_deref().filter(|list| !list.is_empty()) {
            split.insert(domain(name)?, servers(list)?);
        }
    }
    Ok(split)
}

/// Name servers.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nameservers {
    dns: Vec<String>,
    #[serde(rename = "magicDNS", skip_deserializing)]
    magic_dns: bool,
}

fn told(settings: &Settings) -> Reply<Nameservers> {
    Reply(Nameservers { dns: settings.nameservers.clone(), magic_dns: settings.magic_dns })
}

/// `GET dns/nameservers`.
pub async fn nameservers(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Nameservers>, ApiError> {
    Ok(told(api.read(&query).await?.settings()))
}

/// `POST dns/nameservers`.
pub async fn set_nameservers(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<Nameservers>,
) -> Result<Reply<Nameservers>, ApiError> {
    let list = servers(&wish.dns)?;
    Ok(told(
        &change(&api, &caller, |settings| {
            settings.nameservers = list.clone();
            Ok(())
        })
        .await?,
    ))
}

/// Search domains.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchPaths {
    search_paths: Vec<String>,
}

/// `GET dns/searchpaths`.
pub async fn search_paths(Shared(api): Shared<Api>, query: Query) -> Result<Reply<SearchPaths>, ApiError> {
    Ok(Reply(SearchPaths { search_paths: api.read(&query).await?.settings().search_domains.clone() }))
}

/// `POST dns/searchpaths`.
pub async fn set_search_paths(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<SearchPaths>,
) -> Result<Reply<SearchPaths>, ApiError> {
    let list = wish.search_paths.iter().map(|name| domain(name)).collect::<Result<Vec<_>, _>>()?;
    let settings = change(&api, &caller, |settings| {
        settings.search_domains = list.clone();
        Ok(())
    })
    .await?;
    Ok(Reply(SearchPaths { search_paths: settings.search_domains }))
}

/// `GET dns/split-dns`.
pub async fn split(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Split>, ApiError> {
    Ok(Reply(api.read(&query).await?.settings().split_dns.clone()))
}

/// `PUT dns/split-dns`: all of it.
pub async fn set_split(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<BTreeMap<String, Option<Vec<String>>>>,
) -> Result<Reply<Split>, ApiError> {
    let all = split_of(&wish)?;
    Ok(Reply(
        change(&api, &caller, |settings| {
            settings.split_dns = all.clone();
            Ok(())
        })
        .await?
        .split_dns,
    ))
}

/// `PATCH dns/split-dns`: these domains; one without servers goes.
pub async fn change_split(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<BTreeMap<String, Option<Vec<String>>>>,
) -> Result<Reply<Split>, ApiError> {
    let some = split_of(&wish)?;
    let named = wish.keys().map(|name| domain(name)).collect::<Result<Vec<_>, _>>()?;
    let edit = |settings: &mut Settings| {
        settings.split_dns.retain(|name, _| !named.contains(name));
        settings.split_dns.extend(some.clone());
        Ok(())
    };
    Ok(Reply(change(&api, &caller, edit).await?.split_dns))
}

/// Whether machines have names.
#[derive(Default, Deserialize, Serialize)]
pub struct Preferences {
    #[serde(rename = "magicDNS")]
    magic_dns: bool,
}

/// `GET dns/preferences`.
pub async fn preferences(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Preferences>, ApiError> {
    Ok(Reply(Preferences { magic_dns: api.read(&query).await?.settings().magic_dns }))
}

/// `POST dns/preferences`.
pub async fn set_preferences(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<Preferences>,
) -> Result<Reply<Preferences>, ApiError> {
    let settings = change(&api, &caller, |settings| {
        settings.magic_dns = wish.magic_dns;
        Ok(())
    })
    .await?;
    Ok(Reply(Preferences { magic_dns: settings.magic_dns }))
}

/// A name server in [`Configuration`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Resolver {
    address: String,
}

/// All of it in one.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Configuration {
    nameservers: Option<Vec<Resolver>>,
    #[serde(rename = "splitDNS")]
    split_dns: Option<BTreeMap<String, Option<Vec<Resolver>>>>,
    search_paths: Option<Vec<String>>,
    preferences: Option<Wanted>,
}

/// Below `preferences`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    #[serde(rename = "overrideLocalDNS")]
    override_local_dns: bool,
    #[serde(rename = "magicDNS")]
    magic_dns: bool,
}

fn whole(settings: &Settings) -> Reply<Value> {
    let resolvers = |list: &[String]| list.iter().map(|address| json!({ "address": address })).collect::<Vec<_>>();
    let split: BTreeMap<_, _> = settings.split_dns.iter().map(|(name, list)| (name, resolvers(list))).collect();
    Reply(json!({
        "nameservers": resolvers(&settings.nameservers),
        "splitDNS": split,
        "searchPaths": settings.search_domains,
        "preferences": { "overrideLocalDNS": settings.override_local_dns, "magicDNS": settings.magic_dns },
    }))
}

/// `GET dns/configuration`.
pub async fn configuration(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Value>, ApiError> {
    Ok(whole(api.read(&query).await?.settings()))
}

/// `POST dns/configuration`: all of it; what is left out becomes empty.
pub async fn set_configuration(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<Configuration>,
) -> Result<Reply<Value>, ApiError> {
    let addresses = |list: Vec<Resolver>| list.into_iter().map(|one| one.address).collect::<Vec<_>>();
    let list = servers(&addresses(wish.nameservers.unwrap_or_default()))?;
    let split = wish.split_dns.unwrap_or_default().into_iter();
    let split = split_of(&split.map(|(name, list)| (name, list.map(addresses))).collect())?;
    let search = wish.search_paths.unwrap_or_default();
    let search = search.iter().map(|name| domain(name)).collect::<Result<Vec<_>, _>>()?;
    let Wanted { override_local_dns, magic_dns } = wish.preferences.unwrap_or_default();
    if override_local_dns && list.is_empty() {
        return Err(ApiError::invalid("overrideLocalDNS needs at least one name server"));
    }
    let edit = |settings: &mut Settings| {
        settings.nameservers = list.clone();
        settings.split_dns = split.clone();
        settings.search_domains = search.clone();
        settings.override_local_dns = override_local_dns;
        settings.magic_dns = magic_dns;
        Ok(())
    };
    Ok(whole(&change(&api, &caller, edit).await?))
}
