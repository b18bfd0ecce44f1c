//! Webhooks: the leader tells others what changed.
//!
//! What there is to tell stands in the audit log, in order and on every member; a webhook's row says how far it was
//! told. So another leader goes on where the last one was, nothing is queued anywhere else, and what a receiver may hear
//! twice carries the log index that made it. Whoever does not answer is asked again, ever more seldom; what falls out of
//! the audit log meanwhile it does not hear.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use raft::Cluster;
use ring::hmac;
use serde_json::{Value, json};
use state_machine::{AuditRow, Command, NodeId, State, Timestamp, UserId, Webhook};
use tokio::{
    task::{self, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use world::World;

use super::{RETRY, now};
use crate::{fetch, observe::Metrics};

/// Events of one request.
const EVENTS_MAX: usize = 64;
/// What is read of an answer: only its status counts.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// After the first failure; doubled with every further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How often it is tried to write down how far a webhook was told. Given up, the next time writes it down as well, or
/// the next leader tells it once more.
const NOTES: usize = 3;

/// How it goes with one webhook, as long as this member leads.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Rows up to here were looked at; later than what the state says where nothing in between was wanted.
    seen: u64,
    failures: u32,
    not_before: Option<Instant>,
}

/// What one request tells.
#[derive(Debug, PartialEq)]
struct Parcel {
    events: Vec<Value>,
    /// The last row it speaks of, or passed over.
    through: u64,
}

/// A request that has ended, well or not.
struct Sent {
    id: String,
    through: u64,
    result: Result<(), String>,
}

/// What sending needs.
#[derive(Clone)]
pub struct Sender {
    pub cluster: Cluster,
    pub world: World,
    /// A PEM file to trust instead of the system's.
    pub authorities: Option<PathBuf>,
}

/// Runs as long as the member does; sends while it leads.
pub async fn run(sender: Sender, metrics: Metrics, by: String) {
    let cluster = &sender.cluster;
    let (mut states, mut status) = (cluster.watch(), cluster.watch_status());
    let mut progress: BTreeMap<String, Progress> = BTreeMap::new();
    let mut under_way: JoinSet<Sent> = JoinSet::new();
    // Which task sends for which webhook: what a task leaves behind that panics.
    let mut busy: Vec<(task::Id, String)> = Vec::new();
    loop {
        let state = states.borrow_and_update().clone();
        status.mark_unchanged();
        let mut next: Option<Instant> = None;
        if cluster.is_leader() {
            progress.retain(|id, _| state.webhooks().contains_key(id));
            for (id, webhook) in state.webhooks() {
                if busy.iter().any(|(_, busy)| busy == id) {
                    continue;
                }
                let known = progress.entry(id.clone()).or_default();
                if let Some(at) = known.not_before.filter(|at| *at > Instant::now()) {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    continue;
                }
                let from = known.seen.max(webhook.delivered);
                let parcel = parcel(&state, webhook, from);
                match parcel.events.is_empty() {
                    true => known.seen = parcel.through,
                    false => {
                        let task = under_way.spawn(send(sender.clone(), by.clone(), webhook.clone(), parcel));
                        busy.push((task.id(), id.clone()));
                    }
                }
            }
        } else {
            progress.clear();
        }
        metrics.webhooks_failing.set(progress.values().filter(|known| known.failures > 0).count() as i64);
        let wake = next.unwrap_or_else(Instant::now);
        tokio::select! { biased;
            ended = under_way.join_next_with_id(), if !under_way.is_empty() => {
                let Some(ended) = ended else { continue };
                let Some(sent) = whose(ended, &mut busy) else { continue };
                took_note(sent, &mut progress, &metrics);
            }
            moved = states.changed() => if moved.is_err() { return },
            moved = status.changed() => if moved.is_err() { return },
            () = sleep_until(wake), if next.is_some() => {}
        }
    }
}

/// How a task ended. One that panicked has said nothing, but for which webhook it sent is known.
fn whose(ended: Result<(task::Id, Sent), task::JoinError>, busy: &mut Vec<(task::Id, String)>) -> Option<Sent> {
    let task = ended.as_ref().map_or_else(task::JoinError::id, |(task, _)| *task);
    let id = busy.iter().position(|(busy, _)| *busy == task).map(|at| busy.swap_remove(at).1)?;
    Some(match ended {
        Ok((_, sent)) => sent,
        Err(error) => Sent { id, through: 0, result: Err(format!("sending broke off: {error}")) },
    })
}

/// Remembers how far the webhook was told, or when to try again.
fn took_note(sent: Sent, progress: &mut BTreeMap<String, Progress>, metrics: &Metrics) {
    let Sent { id, through, result } = sent;
    let known = progress.entry(id.clone()).or_default();
    metrics.webhook_requests.with_label_values(&[if result.is_ok() { "told" } else { "failed" }]).inc();
    if result.is_err() {
        metrics.webhook_failures.inc();
    }
    match result {
        Ok(()) => *known = Progress { seen: through, ..Progress::default() },
        Err(why) => {
            known.failures = known.failures.saturating_add(1);
            let wait = FIRST_WAIT.saturating_mul(1 << (known.failures - 1).min(16)).min(LONGEST_WAIT);
            known.not_before = Some(Instant::now() + wait);
            tracing::warn!(webhook = id, why, failures = known.failures, again_in = ?wait, "a webhook was not told");
        }
    }
}

/// The next events a webhook wants, from behind a row on.
fn parcel(state: &State, webhook: &Webhook, from: u64) -> Parcel {
    let (mut events, mut through) = (Vec::new(), from);
    let rows = state.audit_log().range(from + 1..);
    if let Some((oldest, _)) = state.audit_log().get_min()
        && *oldest > from + 1
    {
        tracing::warn!(webhook = webhook.id, rows = oldest - from - 1, "a webhook missed what left the audit log");
    }
    for (number, row) in rows {
        let found = events_of(state, row);
        let wanted = found.into_iter().filter(|event| webhook.wants(event["type"].as_str().unwrap_or_default()));
        let wanted: Vec<Value> = wanted.collect();
        // A row is told whole.
        if !events.is_empty() && events.len() + wanted.len() > EVENTS_MAX {
            break;
        }
        events.extend(wanted);
        through = *number;
    }
    Parcel { events, through }
}

/// What a row of the audit log is called outside.
fn events_of(state: &State, row: &AuditRow) -> Vec<Value> {
    let Ok(row) = serde_json::from_str::<Value>(&row.text) else { return Vec::new() };
    let changes = row["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut events = Vec::new();
    for change in changes {
        let (before, after) = (&change["before"], &change["after"]);
        let (came, went) = (before.is_null(), after.is_null());
        let waits = |facts: &Value| facts["waits_for_approval"] == true;
        let id = change["id"].as_str().unwrap_or_default();
        match change["object"].as_str().unwrap_or_default() {
            "node" => {
                let data = node_facts(state, id, if went { before } else { after });
                let mut say = |kind: &str, what: &str| {
                    let name = data["deviceName"].as_str().unwrap_or(id).to_owned();
                    events.push((kind.to_owned(), format!("Node {name} {what}"), data.clone()));
                };
                if came {
                    say("nodeCreated", "joined");
                }
                if went {
                    say("nodeDeleted", "was deleted");
                } else if waits(after) {
                    say("nodeNeedsApproval", "waits for an approval");
                } else if waits(before) {
                    say("nodeApproved", "was approved");
                }
            }
            "user" if came || went => {
                let name = if came { &after["name"] } else { &before["name"] };
                let (kind, what) = if came { ("userCreated", "was made") } else { ("userDeleted", "was deleted") };
                let message = format!("User {} {what}", name.as_str().unwrap_or(id));
                events.push((kind.to_owned(), message, json!({ "userID": id, "user": name })));
            }
            "policy" if came => {
                let data = json!({ "version": id, "sha256": after["sha256"] });
                events.push(("policyUpdate".to_owned(), format!("Policy {id} is in force"), data));
            }
            _ => {}
        }
    }
    let tailnet = state.settings().base_domain.clone();
    let whole = |(nth, (kind, message, mut data)): (usize, (String, String, Value))| {
        data["actor"] = row["by"].clone();
        json!({
            "timestamp": row["at"], "version": 1, "type": kind, "tailnet": tailnet, "message": message, "data": data,
            "index": row["index"], "id": format!("{}.{nth}", row["index"]),
        })
    };
    events.into_iter().enumerate().map(whole).collect()
}

fn node_facts(state: &State, id: &str, facts: &Value) -> Value {
    let row = id.parse().ok().and_then(|id| state.node(NodeId(id)));
    let name = facts["name"].as_str().map(str::to_owned).or_else(|| Some(row?.given_name.clone()));
    let owner = facts["user"].as_str().and_then(|user| user.parse().ok()).map(UserId).or_else(|| row?.user);
    let owner = owner.and_then(|user| state.user(user)).map(|user| user.name.clone());
    let addresses = row.map(|row| row.ipv4.iter().map(ToString::to_string).chain(row.ipv6.map(|ip| ip.to_string())));
    let addresses = addresses.map(Iterator::collect::<Vec<String>>);
    let addresses = addresses.map_or_else(|| facts["addresses"].clone(), Value::from);
    json!({ "nodeID": id, "deviceName": name, "managedBy": owner, "addresses": addresses })
}

async fn send(sender: Sender, by: String, webhook: Arc<Webhook>, parcel: Parcel) -> Sent {
    let through = parcel.through;
    let result = post(&sender, &webhook, parcel.events).await.map(drop);
    if result.is_ok() {
        write_down(&sender.cluster, &by, &webhook.id, through).await;
    }
    Sent { id: webhook.id.clone(), through, result }
}

/// So that whoever leads next goes on from there. Other webhooks do not wait for it.
async fn write_down(cluster: &Cluster, by: &str, id: &str, through: u64) {
    for _ in 0..NOTES {
        match cluster.propose(by, Command::WebhookTold { id: id.to_owned(), through }).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "a webhook was told, and nobody wrote it down"),
        }
        sleep(RETRY).await;
    }
}

/// Sends an event `test`, whatever the webhook wants otherwise, from this member and now: the receiver's status, or why
/// there was none.
pub async fn test(sender: &Sender, webhook: &Webhook, by: &str) -> Result<StatusCode, String> {
    let at = now(&*sender.world.clock);
    let event = json!({
        "timestamp": at.to_string(), "version": 1, "type": "test", "message": "This is a test event",
        "tailnet": sender.cluster.latest().settings().base_domain.clone(), "data": { "actor": by },
    });
    post(sender, webhook, vec![event]).await
}

async fn post(sender: &Sender, webhook: &Webhook, events: Vec<Value>) -> Result<StatusCode, String> {
    let Sender { cluster, world, authorities } = sender;
    let secret = cluster.secret(&Webhook::secret(&webhook.id)).ok_or("its secret does not open here")?;
    let body = Value::from(events).to_string();
    let request = Request::post(&webhook.url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("Tailscale-Webhook-Signature", signature(&secret, now(&*world.clock), &body))
        .body(Bytes::from(body))
        .map_err(|_| "its URL cannot be asked")?;
    let answer = fetch::exchange(request, ANSWER_BYTES_MAX, authorities.as_deref(), world).await;
    let status = answer.map_err(|error| error.to_string())?.status();
    if status.is_success() { Ok(status) } else { Err(format!("it answers {status}")) }
}

/// `t=<Unix seconds>,v1=<HMAC-SHA256 of "seconds.body" in hexadecimal digits>`, as receivers of Tailscale's webhooks
/// check it.
fn signature(secret: &[u8], at: Timestamp, body: &str) -> String {
    let seconds = at.0 / 1000;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex::encode(tag))
}

#[cfg(test)]
mod tests {
    use state_machine::{Entry, Member, MemberId, Revision, SealedSecret, Settings};

    use super::*;

    /// A cluster of one in which these commands were applied, from index 2 on.
    fn after(commands: Vec<Command>) -> State {
        let mut state = State::default();
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 4, ..Member::default() };
        let settings = Settings { base_domain: "tail.example".into(), ..Settings::default() };
        let found = Command::Found { cluster_id: "c".into(), member, settings, secrets: vec![] };
        for (index, command) in std::iter::once(found).chain(commands).enumerate() {
            let entry = Entry { request: None, at: Timestamp(1_800_000_000_000), by: "cli".into(), command };
            state.apply_entry(Revision(index as u64 + 1), &entry).unwrap();
        }
        state
    }

    fn user(name: &str) -> Command {
        let (display_name, email, profile_pic_url) = Default::default();
        Command::CreateUser { name: name.into(), display_name, email, profile_pic_url }
    }

    fn hook(events: &[&str]) -> Command {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        let webhook =
            Webhook { id: "0a1b2c3d".into(), url: "https://hooks.example/x".into(), events, ..Webhook::default() };
        Command::CreateWebhook { webhook, secret: SealedSecret { key_id: 1, nonce: vec![], ciphertext: vec![] } }
    }

    fn kinds(parcel: &Parcel) -> Vec<&str> {
        parcel.events.iter().map(|event| event["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn what_a_webhook_wants_is_told_once_in_order_with_the_log_index() {
        let policy = Command::SetPolicy { text: "{}".into(), author: "cli".into() };
        let delete = Command::DeleteUser { user: UserId(1) };
        let state = after(vec![user("before"), hook(&["userCreated", "policyUpdate"]), user("ann"), policy, delete]);
        let webhook = &state.webhooks()["0a1b2c3d"];
        let all = parcel(&state, webhook, webhook.delivered);
        assert_eq!(kinds(&all), ["userCreated", "policyUpdate"]);
        assert_eq!(all.events[0]["index"], 4);
        assert_eq!(all.events[0]["id"], "4.0");
        assert_eq!(all.events[0]["data"], json!({ "userID": "2", "user": "ann", "actor": "cli" }));
        assert_eq!(all.through, 6, "the deletion was looked at and passed over");
        assert_eq!(parcel(&state, webhook, all.through), Parcel { events: vec![], through: 6 });
    }

    #[test]
    fn a_request_is_bounded() {
        let mut commands = vec![hook(&[])];
        commands.extend((0..100).map(|number| user(&format!("user{number}"))));
        let state = after(commands);
        let webhook = &state.webhooks()["0a1b2c3d"];
        let first = parcel(&state, webhook, webhook.delivered);
        assert_eq!(first.events.len(), EVENTS_MAX);
        let second = parcel(&state, webhook, first.through);
        assert_eq!(second.events.len(), 100 - EVENTS_MAX);
    }

    #[tokio::test]
    async fn a_sender_that_panics_leaves_its_webhook_free() {
        let mut under_way: JoinSet<Sent> = JoinSet::new();
        let sent = |id: &str, through| Sent { id: id.to_owned(), through, result: Ok(()) };
        let well = sent("b", 7);
        let mut busy = vec![
            (under_way.spawn(async { panic!("a fault of the program") }).id(), "a".to_owned()),
            (under_way.spawn(async { well }).id(), "b".to_owned()),
        ];
        let mut told = BTreeMap::new();
        while let Some(ended) = under_way.join_next_with_id().await {
            let sent = whose(ended, &mut busy).unwrap();
            told.insert(sent.id, (sent.through, sent.result.is_ok()));
        }
        assert!(busy.is_empty(), "nobody is held up");
        assert_eq!(told, BTreeMap::from([("a".to_owned(), (0, false)), ("b".to_owned(), (7, true))]));
    }

    /// The value was computed with another program: `printf '1800000000.[]' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn the_signature_is_what_receivers_compute() {
        let found = signature(b"secret", Timestamp(1_800_000_000_999), "[]");
        assert_eq!(found, "t=1800000000,v1=088824cbfb8e3ce035819126da8cb74ef932b6dc1e545cecb534ec071b4160ad");
    }
}
