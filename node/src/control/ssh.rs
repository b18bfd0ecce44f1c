//! `/machine/ssh/action/<src>/to/<dst>`: may this connection by SSH come in? (SSH check mode.)
//!
//! The node that is connected to holds the connection and asks here; a person says yes or no at any member. The
//! question is a row of the state, so the node may ask again anywhere, and gets the answer from whoever it reaches.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use netmap::Atlas;
use policy::{CheckPeriod, SshRule};
use state_machine::{Command, Node, NodeId, Outcome, SshCheck, SshCheckResult, State, Timestamp, codes};
use tailcfg::SshAction;

use super::{
    Control, Peer,
    body::{Answer, json, no},
};
use crate::{atlas, keys};

/// The first feature level whose members know of checks.
const LEVEL: u32 = 2;
/// As many letters as a login's id has.
const ID_LETTERS: usize = 24;
/// For a rule that asks for every connection, an approval holds for the connection it was given for: as long as the
/// node waits for it (`ssh/tailssh`: 30 minutes).
const ONE_CONNECTION: std::time::Duration = std::time::Duration::from_secs(30 * 60);

/// What a node asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    source: NodeId,
    target: NodeId,
    local_user: String,
    /// The check the node was told to wait for.
    check: Option<String>,
}

/// Answers, perhaps after a while; an error makes the node ask again in ten seconds.
pub async fn answer(control: &Arc<Control>, peer: Peer, request: Request<Incoming>) -> Answer {
    let Some(asked) = read(request.uri().path(), request.uri().query().unwrap_or_default()) else {
        return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "not a question about a connection");
    };
    let known = |state: &State| state.node(asked.target).is_some_and(|node| node.machine_key == peer.machine_key);
    let state = control.state_with(known).await;
    // Only the node that is connected to may ask: others would learn what was approved.
    if !known(&state) {
        return no(StatusCode::NOT_FOUND, &codes::NOT_FOUND, "no such connection");
    }
    peer.seat.proved();
    let mut atlases = control.atlas.clone();
    let patience = tokio::time::sleep(control.limits.followup_hold);
    let mut patience = std::pin::pin!(patience);
    // What was set, approved or made void at another member a moment ago counts.
    match control.cluster.confirm().await {
        Ok(state) => _ = atlas::reached(&mut atlases, state.revision()).await,
        Err(error) => tracing::warn!(%error, "an SSH check is judged by what this member has"),
    }
    loop {
        let atlas = atlases.borrow_and_update().clone();
        match judge(&atlas, control.now().max(atlas.state().now()), &asked) {
            Verdict::Action(action) => return json(&action),
            Verdict::Begin => return begin(control, atlas.state(), &asked).await,
            Verdict::Wait => {}
        }
        tokio::select! { biased;
            () = peer.leaving.cancelled() => {
                return no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member is leaving; another one will answer");
            }
            moved = atlases.changed() => if moved.is_err() {
                return no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member has stopped");
            },
            // The same question again: the node asks once more.
            () = patience.as_mut() => {
                let id = asked.check.clone().unwrap_or_default();
                return json(&delegate(&asked, &id, String::new()));
            }
        }
    }
}

fn read(path: &str, query: &str) -> Option<Asked> {
    let (source, target) = path.strip_prefix("/machine/ssh/action/")?.split_once("/to/")?;
    let (source, target) = (NodeId(source.parse().ok()?), NodeId(target.parse().ok()?));
    let mut asked = Asked { source, target, local_user: String::new(), check: None };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "local_user" => asked.local_user = value.into_owned(),
            "auth_id" => asked.check = Some(value.into_owned()),
            _ => {}
        }
    }
    let plain = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
    (plain(&asked.local_user, 255) && asked.check.as_ref().is_none_or(|id| plain(id, 64))).then_some(asked)
}

enum Verdict {
    Action(SshAction),
    /// Nobody was asked yet, or the question is forgotten.
    Begin,
    Wait,
}

fn judge(atlas: &Atlas, now: Timestamp, asked: &Asked) -> Verdict {
    let state = atlas.state();
    let Some((period, rule)) = rule(atlas, asked) else {
        return Verdict::Action(reject("# the policy does not let this connection in any more\r\n"));
    };
    if state.feature_level() < LEVEL {
        return Verdict::Action(reject("# SSH checks wait until all members of the cluster run a newer program\r\n"));
    }
    let check = asked.check.as_ref().and_then(|id| state.ssh_check(id)).filter(|check| is_of(check, asked));
    match check.map(|check| &check.result) {
        Some(SshCheckResult::Rejected { .. }) => {
            return Verdict::Action(reject("# the connection was turned away\r\n"));
        }
        // The very connection that was asked about.
        Some(SshCheckResult::Approved { at, .. }) if now.since(*at) < ONE_CONNECTION => {
            return Verdict::Action(netmap::ssh_accepted(&rule));
        }
        _ => {}
    }
    if let CheckPeriod::Secs(secs) = period
        && let Some(at) = state.ssh_approved_at(asked.source, asked.target)
        && now.since(at).as_secs() < secs
    {
        return Verdict::Action(netmap::ssh_accepted(&rule));
    }
    match check.map(|check| (&check.result, check.expires_at > now)) {
        Some((SshCheckResult::Waiting, true)) => Verdict::Wait,
        _ => Verdict::Begin,
    }
}

/// A node may only wait for what was asked about its own connection.
fn is_of(check: &SshCheck, asked: &Asked) -> bool {
    (check.source, check.target, &check.local_user) == (asked.source, asked.target, &asked.local_user)
}

/// The rule of the policy in force that wants this connection to be checked.
fn rule(atlas: &Atlas, asked: &Asked) -> Option<(CheckPeriod, SshRule)> {
    let source: &Arc<Node> = atlas.state().node(asked.source)?;
    let meaning = atlas.meaning();
    let period = meaning.ssh_check_period(asked.source.0, asked.target.0, &asked.local_user)?;
    let addresses = [source.ipv4.map(Into::into), source.ipv6.map(Into::into)];
    let comes_from = |rule: &&SshRule| addresses.iter().flatten().any(|address| rule.principals.contains(address));
    let rules = meaning.ssh(asked.target.0);
    rules.iter().find(|rule| rule.check && comes_from(rule)).map(|rule| (period, rule.clone()))
}

async fn begin(control: &Arc<Control>, state: &State, asked: &Asked) -> Answer {
    let command = Command::BeginSshCheck {
        id: keys::random_text(&control.entropy, ID_LETTERS),
        source: asked.source,
        target: asked.target,
        local_user: asked.local_user.clone(),
    };
    let id = match control.cluster.propose(&control.name, command).await {
        Ok(applied) => match applied.answer {
            Ok(Outcome::SshCheck(id)) => id,
            Ok(other) => {
                tracing::error!(?other, "an SSH check was answered beside the point");
                return no(StatusCode::INTERNAL_SERVER_ERROR, &codes::INTERNAL, "no check could be begun");
            }
            Err(refusal) => return json(&reject(&format!("# {refusal} [{}]\r\n", refusal.code()))),
        },
        Err(error) => {
            tracing::debug!(%error, "an SSH check was not begun");
            return no(
                StatusCode::SERVICE_UNAVAILABLE,
                &codes::NO_QUORUM,
                "the cluster takes no changes at the moment",
            );
        }
    };
    let url = format!("{}/auth/{id}", state.settings().server_url);
    let message = format!(
        "# This connection needs to be approved.\r\n# Open {url}\r\n# or run on a server: hsraft ssh approve {id}\r\n"
    );
    json(&delegate(asked, &id, message))
}

/// "Ask again, about this check." The host stands for "over the control connection".
fn delegate(asked: &Asked, id: &str, message: String) -> SshAction {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("local_user", &asked.local_user).append_pair("auth_id", id);
    let (source, target, query) = (asked.source, asked.target, query.finish());
    SshAction {
        message,
        hold_and_delegate: format!("https://unused/machine/ssh/action/{source}/to/{target}?{query}"),
        ..SshAction::default()
    }
}

fn reject(message: &str) -> SshAction {
    SshAction { reject: true, message: message.to_owned(), ..SshAction::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read() {
        let asked = read("/machine/ssh/action/7/to/9", "local_user=root&auth_id=abc").unwrap();
        assert_eq!((asked.source, asked.target, asked.local_user.as_str()), (NodeId(7), NodeId(9), "root"));
        assert_eq!(asked.check.as_deref(), Some("abc"));
        let again = delegate(&asked, "x y", String::new()).hold_and_delegate;
        let (path, query) = again.strip_prefix("https://unused").unwrap().split_once('?').unwrap();
        assert_eq!(read(path, query).unwrap(), Asked { check: Some("x y".to_owned()), ..asked });
        for (path, query) in [
            ("/machine/ssh/action/7", ""),
            ("/machine/ssh/action/a/to/9", ""),
            ("/machine/ssh/action/7/to/9/x", ""),
            ("/machine/ssh/action/7/to/9", "local_user=a%0Ab"),
        ] {
            assert_eq!(read(path, query), None, "{path}?{query}");
        }
        assert_eq!(read("/machine/ssh/action/7/to/9", &format!("auth_id={}", "x".repeat(65))), None);
    }
}
