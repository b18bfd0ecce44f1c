//! Lists of nodes: written while they are read, page after page for whoever wants pages.
//!
//! Ten thousand nodes are ten megabytes of JSON. They are written a few at a time, as fast as the caller takes them, so
//! the first bytes leave at once, nobody holds all of it, and other requests get their turn in between.

use std::{collections::BTreeMap, convert::Infallible, ops::Bound, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use ipnet::IpNet;
use state_machine::{NodeId, State, UserId};

use crate::{
    request::{Query, number},
    status::ApiError,
    v1::{nodes, types::Node, users},
};

/// Nodes that are written at a time: some sixty kilobytes.
const AT_A_TIME: usize = 64;

/// The nodes of one state that somebody asked for, in the order of their ids.
pub struct Pages {
    state: Arc<State>,
    owner: Option<UserId>,
    /// The last one that was read, or behind which reading begins.
    after: NodeId,
    /// How many may still come; none: all.
    left: Option<u64>,
    /// Which routes each node is primary for.
    primary: BTreeMap<NodeId, Vec<IpNet>>,
}

/// What a query asks for: `user`, `limit`, `after`.
pub fn asked(state: Arc<State>, query: &Query) -> Result<Pages, ApiError> {
    let owner = query.get("user").map(|text| users::find(&state, text)).transpose()?.map(|user| user.id);
    let left = query.get("limit").map(|text| number("limit", text)).transpose()?;
    if left == Some(0) {
        return Err(ApiError::invalid("limit is 0; write how many nodes a page shall hold, or leave it out for all"));
    }
    let after = query.get("after").map(|text| number("node", text)).transpose()?.unwrap_or_default();
    let mut primary = BTreeMap::<NodeId, Vec<IpNet>>::new();
    for (route, node) in state.primaries() {
        primary.entry(*node).or_default().push(*route);
    }
    Ok(Pages { state, owner, after: NodeId(after), left, primary })
}

impl Pages {
    /// The next one there is, whether it may be told or not.
    fn peek(&self) -> Option<&Arc<state_machine::Node>> {
        let behind = (Bound::Excluded(self.after), Bound::Unbounded);
        let mine =
            |node: &&Arc<state_machine::Node>| self.owner.is_none() || (!node.is_tagged() && node.user == self.owner);
        self.state.nodes().range(behind).map(|(_, node)| node).find(mine)
    }

    /// `{"nodes": […]}`; with `next`, the id to go on after, when a page ends before the list does.
    pub fn written(mut self, name: &str) -> Response {
        let mut first = format!("{{\"{name}\":[").into_bytes();
        let whole = self.write_some(&mut first, true);
        // A short list has a length, as every other answer.
        let body = match whole {
            true => Body::from(first),
            false => {
                let begun = futures::stream::once(async { Ok::<_, Infallible>(Bytes::from(first)) });
                let rest = futures::stream::unfold(Some(self), |pages| async move {
                    let mut pages = pages?;
                    let mut piece = Vec::new();
                    let whole = pages.write_some(&mut piece, false);
                    Some((Ok(Bytes::from(piece)), (!whole).then_some(pages)))
                });
                Body::from_stream(begun.chain(rest))
            }
        };
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }

    /// Writes some nodes, and the end of the list when there are no more: then the answer is true.
    fn write_some(&mut self, piece: &mut Vec<u8>, mut first: bool) -> bool {
        for node in self.by_ref().take(AT_A_TIME) {
            if !std::mem::take(&mut first) {
                piece.push(b',');
            }
            serde_json::to_writer(&mut *piece, &node).expect("nodes can be written as JSON");
        }
        let more = self.peek().is_some();
        if more && self.left != Some(0) {
            return false;
        }
        piece.push(b']');
        if more {
            piece.extend_from_slice(format!(",\"next\":\"{}\"", self.after).as_bytes());
        }
        piece.push(b'}');
        true
    }
}

impl Iterator for Pages {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        if self.left == Some(0) {
            return None;
        }
        let node = self.peek()?.clone();
        self.after = node.id;
        self.left = self.left.map(|left| left - 1);
        let primary = self.primary.get(&node.id).into_iter().flatten().copied();
        Some(nodes::view_with(&self.state, &node, primary))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use state_machine::{Command, PreAuthKey, Registration};

    use super::*;
    use crate::{lone::Lone, v1::types::Nodes};

    /// User ann with every third node, the rest of tags.
    fn tailnet(nodes: u16) -> Arc<State> {
        let lone = Lone::new();
        let [name, empty] = ["ann", ""].map(str::to_owned);
        let user =
            Command::CreateUser { name, display_name: empty.clone(), email: empty.clone(), profile_pic_url: empty };
        lone.apply(user).unwrap();
        for (prefix, tags) in [("a", vec![]), ("t", vec!["tag:x".to_owned()])] {
            let key = PreAuthKey {
                prefix: prefix.repeat(12),
                reusable: true,
                user: Some(UserId(1)),
                tags: tags.into_iter().collect(),
                ..PreAuthKey::default()
            };
            lone.apply(Command::CreatePreAuthKey { key }).unwrap();
        }
        for number in 1..=nodes {
            let mut key = [1; 32];
            key[..2].copy_from_slice(&number.to_be_bytes());
            let client = Registration {
                machine_key: tailcfg::MachineKey(key),
                node_key: tailcfg::NodeKey(key),
                hostname: format!("n{number}"),
                ..Registration::default()
            };
            let prefix = if number % 3 == 0 { "a" } else { "t" }.repeat(12);
            lone.apply(Command::RegisterWithKey { client, prefix, secret_sha256: [0; 32] }).unwrap();
        }
        crate::backend::Backend::latest(&*lone)
    }

    async fn read(state: &Arc<State>, query: Query) -> (Vec<u64>, Option<u64>) {
        let response = asked(state.clone(), &query).unwrap().written("nodes");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let nodes: Nodes = serde_json::from_slice(&body).unwrap();
        let next = serde_json::from_slice::<serde_json::Value>(&body).unwrap().get("next").cloned();
        assert_eq!(next.as_ref().map(|next| next.is_string()), next.as_ref().map(|_| true));
        (nodes.nodes.iter().map(|node| node.id).collect(), nodes.next)
    }

    #[tokio::test]
    async fn pages_make_the_whole() {
        for count in [0, 1, 63, 64, 65, 200] {
            let state = tailnet(count);
            let all: Vec<u64> = (1..=u64::from(count)).collect();
            assert_eq!(read(&state, Query::default()).await, (all.clone(), None), "{count}");
            for limit in ["1", "7", "64", "1000"] {
                let (mut seen, mut after) = (Vec::new(), 0);
                loop {
                    let (page, next) = read(&state, Query::of([("limit", limit), ("after", &after.to_string())])).await;
                    assert!(page.len() as u64 <= limit.parse().unwrap());
                    seen.extend(page);
                    match next {
                        Some(next) => after = next,
                        None => break,
                    }
                }
                assert_eq!(seen, all, "{count} by {limit}");
            }
            let own: Vec<u64> = all.iter().copied().filter(|id| id % 3 == 0).collect();
            assert_eq!(read(&state, Query::of([("user", "ann")])).await, (own.clone(), None));
            let (page, next) = read(&state, Query::of([("user", "ann"), ("limit", "2")])).await;
            assert_eq!(page, own[..own.len().min(2)]);
            assert_eq!(next.is_some(), own.len() > 2);
        }
    }

    #[test]
    fn a_page_of_nothing_is_not_asked_for() {
        for (name, value) in [("limit", "0"), ("limit", "-1"), ("limit", "many"), ("after", "x"), ("user", "nobody")] {
            assert!(asked(tailnet(1), &Query::of([(name, value)])).is_err(), "{name}={value}");
        }
    }
}
