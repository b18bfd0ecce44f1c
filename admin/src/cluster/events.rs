//! `/api/v1/cluster/events`: what changes, while it changes, as server-sent events with the log index as id.
//!
//! | event | id | data |
//! |---|---|---|
//! | `change` | the index of the entry that made it | the record of the audit log: who, what, before, after |
//! | `online` | the index of the state it was read from | ids of all nodes that are online; once, at the beginning |
//! | `presence` | the same | one node that came or went since |
//! | `reset` | the same | something between `Last-Event-ID` and now is not known here any more: read everything anew |
//!
//! Ids are the same at all members, so whoever lost one goes on at another with `Last-Event-ID` (or `?after=`) and misses
//! no change. Nothing is kept for a follower: each is led along the states this member comes to, as fast as it reads.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State as Shared,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};
use state_machine::{AuditRow, NodeId, State};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Api,
    request::{Query, number},
    status::ApiError,
};

/// So that proxies do not take the stream for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// `GET /events`: from now on, or after `Last-Event-ID`.
pub(crate) async fn follow(Shared(api): Shared<Api>, headers: HeaderMap, query: Query) -> Result<Response, ApiError> {
    let told = headers.get("last-event-id").and_then(|value| value.to_str().ok()).or_else(|| query.get("after"));
    let after = told.filter(|text| !text.is_empty()).map(|text| number("event", text)).transpose()?;
    let mut states = api.backend.watch();
    // What another member told of a moment ago is there too.
    api.read(&query).await?;
    let state = states.borrow_and_update().clone();
    let follower = Follower::begin(states, state, after, api.options.leaving.clone());
    let events = futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let mut answer = Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response();
    // nginx would gather answers before it passes them on.
    let name = HeaderName::from_static("x-accel-buffering");
    answer.headers_mut().insert(name, HeaderValue::from_static("no"));
    Ok(answer)
}

/// Somebody who is told what changes.
struct Follower {
    states: watch::Receiver<Arc<State>>,
    /// What they know.
    seen: Arc<State>,
    /// The number of the last record they were told.
    record: u64,
    waiting: VecDeque<Event>,
    leaving: CancellationToken,
}

impl Follower {
    fn begin(
        states: watch::Receiver<Arc<State>>,
        state: Arc<State>,
        after: Option<u64>,
        leaving: CancellationToken,
    ) -> Follower {
        let log = state.audit_log();
        let last = log.get_max().map_or(0, |(number, _)| *number);
        let id = state.revision().0;
        let mut waiting = VecDeque::new();
        if let Some(after) = after {
            let later: Vec<&AuditRow> =
                log.iter().rev().map(|(_, row)| &**row).take_while(|row| index(row) > after).collect();
            // All that is kept is later: what was before it may be, too. And an id from the future is another cluster's.
            let oldest = later.len() == log.len() && later.last().is_some_and(|row| row.number > 1);
            match oldest || after > id {
                true => waiting.push_back(event("reset", id, &json!({ "after": after }))),
                false => waiting.extend(later.into_iter().rev().map(change)),
            }
        }
        let online = state.presences().iter().filter(|(_, presence)| presence.online);
        let online: Vec<String> = online.map(|(node, _)| node.to_string()).collect();
        waiting.push_back(event("online", id, &json!({ "nodes": online })));
        Follower { states, seen: state, record: last, waiting, leaving }
    }

    /// The next event; `None` when there will be no more here.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            tokio::select! { biased;
                () = self.leaving.cancelled() => return None,
                changed = self.states.changed() => changed.ok()?,
            }
            let state = self.states.borrow_and_update().clone();
            self.compare(state);
        }
    }

    fn compare(&mut self, state: Arc<State>) {
        for (number, row) in state.audit_log().range(self.record + 1..) {
            self.record = *number;
            self.waiting.push_back(change(row));
        }
        for item in self.seen.presences().diff(state.presences()) {
            let (node, before, after) = match item {
                DiffItem::Add(node, presence) => (node, false, presence.online),
                DiffItem::Update { old, new } => (new.0, old.1.online, new.1.online),
                DiffItem::Remove(node, presence) => (node, presence.online, false),
            };
            if before != after {
                self.waiting.push_back(event("presence", state.revision().0, &presence(&state, *node, after)));
            }
        }
        self.seen = state;
    }
}

fn presence(state: &State, node: NodeId, online: bool) -> Value {
    json!({
        "node": node.to_string(),
        "name": state.node(node).map(|node| node.given_name.as_str()),
        "online": online,
        "lastSeen": state.presence(node).and_then(|presence| presence.last_seen).map(|at| at.to_string()),
    })
}

fn event(kind: &str, id: u64, data: &Value) -> Event {
    Event::default().event(kind).id(id.to_string()).data(data.to_string())
}

fn change(row: &AuditRow) -> Event {
    Event::default().event("change").id(index(row).to_string()).data(&*row.text)
}

/// The log index of a record.
fn index(row: &AuditRow) -> u64 {
    #[derive(serde::Deserialize)]
    struct Place {
        index: u64,
    }
    serde_json::from_str::<Place>(&row.text).map_or(0, |place| place.index)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, BodyDataStream},
        http::Request,
    };
    use futures::StreamExt;
    use state_machine::{Command, PreAuthKey, Registration, SessionId};
    use tower::ServiceExt;

    use super::*;
    use crate::lone::Lone;

    struct Reader {
        body: BodyDataStream,
        rest: String,
    }

    impl Reader {
        async fn open(lone: &Arc<Lone>, last: &str) -> Reader {
            let request = Request::get("/api/v1/cluster/events").header("last-event-id", last);
            let request = request.body(Body::empty()).unwrap();
            let answer = lone.router(true).oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            Reader { body: answer.into_body().into_data_stream(), rest: String::new() }
        }

        /// Kind, id and data of the next event.
        async fn next(&mut self) -> (String, u64, Value) {
            loop {
                if let Some((one, rest)) = self.rest.split_once("\n\n") {
                    let field = |name: &str| one.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
                    let data = serde_json::from_str(&field("data: ")).unwrap();
                    let told = (field("event: "), field("id: ").parse().unwrap(), data);
                    self.rest = rest.to_owned();
                    return told;
                }
                let piece = tokio::time::timeout(Duration::from_secs(5), self.body.next()).await.unwrap().unwrap();
                self.rest += std::str::from_utf8(&piece.unwrap()).unwrap();
            }
        }
    }

    fn user(name: &str) -> Command {
        Command::CreateUser {
            name: name.into(),
            display_name: String::new(),
            email: String::new(),
            profile_pic_url: String::new(),
        }
    }

    #[tokio::test]
    async fn whoever_comes_back_misses_nothing() {
        let lone = Lone::new();
        lone.apply(user("ann")).unwrap();
        let mut reader = Reader::open(&lone, "").await;
        let (kind, start, data) = reader.next().await;
        assert_eq!((kind.as_str(), &data), ("online", &json!({ "nodes": [] })));
        lone.apply(user("bob")).unwrap();
        let (kind, first, data) = reader.next().await;
        assert_eq!((kind.as_str(), &data["what"], first), ("change", &json!("create user"), start + 1));
        // Gone for a while.
        drop(reader);
        for name in ["carl", "dora"] {
            lone.apply(user(name)).unwrap();
        }
        let mut reader = Reader::open(&lone, &first.to_string()).await;
        for (offset, name) in [(1, "carl"), (2, "dora")] {
            let (kind, id, data) = reader.next().await;
            assert_eq!((kind.as_str(), id), ("change", first + offset));
            assert_eq!(data["changes"][0]["after"]["name"], name);
        }
        assert_eq!(reader.next().await.0, "online");
    }

    #[tokio::test]
    async fn nodes_come_and_go() {
        let lone = Lone::new();
        let tags = ["tag:x".to_owned()].into();
        let key = PreAuthKey { prefix: "k".repeat(12), tags, ..PreAuthKey::default() };
        lone.apply(Command::CreatePreAuthKey { key }).unwrap();
        let client = Registration {
            machine_key: tailcfg::MachineKey([1; 32]),
            node_key: tailcfg::NodeKey([1; 32]),
            hostname: "web".into(),
            ..Registration::default()
        };
        lone.apply(Command::RegisterWithKey { client, prefix: "k".repeat(12), secret_sha256: [0; 32] }).unwrap();
        let mut reader = Reader::open(&lone, "").await;
        reader.next().await;
        let change = state_machine::PresenceChange { node: NodeId(1), session: SessionId(1), here: true };
        lone.apply(Command::Presence { member: state_machine::MemberId(1), changes: vec![change] }).unwrap();
        let (kind, id, data) = reader.next().await;
        assert_eq!((kind.as_str(), id), ("presence", lone.latest().revision().0));
        assert_eq!((&data["node"], &data["name"], &data["online"]), (&json!("1"), &json!("web"), &json!(true)));
        let mut second = Reader::open(&lone, "").await;
        assert_eq!(second.next().await.2, json!({ "nodes": ["1"] }));
    }

    use crate::backend::Backend;

    #[tokio::test]
    async fn what_is_not_kept_is_not_passed_over() {
        let lone = Lone::new();
        let settings = state_machine::Settings { audit_rows: 3, ..(**lone.latest().settings()).clone() };
        lone.apply(Command::ApplySettings { settings }).unwrap();
        for number in 0..9 {
            lone.apply(user(&format!("user{number}"))).unwrap();
        }
        let now = lone.latest().revision().0;
        for (last, kind) in [(1, "reset"), (now + 5, "reset"), (now - 1, "change"), (now, "online")] {
            assert_eq!(Reader::open(&lone, &last.to_string()).await.next().await.0, kind, "{last}");
        }
        let request = Request::get("/api/v1/cluster/events?after=x").body(Body::empty()).unwrap();
        assert_eq!(lone.router(true).oneshot(request).await.unwrap().status(), 400);
    }

    #[tokio::test]
    async fn targets_are_told_as_prometheus_reads_them() {
        let lone = Lone::new();
        let ask = async |path: &str| {
            let request = Request::get(format!("/api/v1/cluster/prometheus/{path}")).body(Body::empty()).unwrap();
            let answer = lone.router(true).oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            (status, serde_json::from_slice::<Value>(&bytes).unwrap())
        };
        let (_, told) = ask("members").await;
        assert_eq!(told[0]["targets"], json!(["10.0.0.1:9090"]));
        assert_eq!(told[0]["labels"]["__meta_hsraft_member_name"], "hs1");
        let key = PreAuthKey {
            prefix: "k".repeat(12),
            tags: ["tag:web".to_owned(), "tag:x".to_owned()].into(),
            ..PreAuthKey::default()
        };
        lone.apply(Command::CreatePreAuthKey { key }).unwrap();
        let client = Registration {
            machine_key: tailcfg::MachineKey([1; 32]),
            node_key: tailcfg::NodeKey([1; 32]),
            hostname: "web".into(),
            ..Registration::default()
        };
        lone.apply(Command::RegisterWithKey { client, prefix: "k".repeat(12), secret_sha256: [0; 32] }).unwrap();
        let (_, told) = ask("nodes?port=9101&tag=tag:web&online=false").await;
        assert_eq!(told[0]["targets"], json!(["100.64.0.1:9101"]));
        assert_eq!(told[0]["labels"]["__meta_hsraft_node_tags"], ",tag:web,tag:x,");
        for empty in ["nodes?tag=tag:none", "nodes?online=true"] {
            assert_eq!(ask(empty).await, (200, json!([])), "{empty}");
        }
        for wrong in ["nodes?port=0", "nodes?port=70000", "nodes?online=maybe", "nodes?user=nobody", "members?port=x"] {
            assert!((400..500).contains(&ask(wrong).await.0), "{wrong}");
        }
    }
}
