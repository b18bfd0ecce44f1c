//! `POST /machine/map`: is there news? Then hand it in. Is a map wanted? Then open a session.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use state_machine::{Node, SessionId, codes};
use tailcfg::{MapRequest, MapRequestKind, from_client_json};
use tokio::sync::mpsc;

use super::{
    CAPABILITY_VERSION_MIN, Control, Peer,
    body::{Answer, Body, empty, no, with_type},
    reports,
    session::Session,
    too_old,
    wire::Coding,
};

/// Between two attempts to hand in what a stream reported while the cluster has no leader.
const REPORT_AGAIN: Duration = Duration::from_secs(1);

/// Answers a map request.
pub async fn answer(control: &Arc<Control>, peer: Peer, request: Request<Incoming>) -> Answer {
    let body = match control.read_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let request: MapRequest = match from_client_json(&body) {
        Ok(request) => request,
        Err(error) => {
            return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, format!("malformed map request: {error}"));
        }
    };
    if request.version < CAPABILITY_VERSION_MIN {
        return too_old(request.version);
    }
    let state = control.state_with(|state| state.node_by_key(&request.node_key).is_some()).await;
    let node = match state.node_by_key(&request.node_key) {
        // A stranger learns nothing about which node keys exist.
        Some(node) if node.machine_key == peer.machine_key => node.clone(),
        _ => return no(StatusCode::NOT_FOUND, &codes::NOT_FOUND, "node not found"),
    };
    peer.seat.proved();
    match request.kind() {
        MapRequestKind::Update => update(control, &node, &request).await,
        MapRequestKind::Stream => stream(control, peer, node, request),
        MapRequestKind::Once => once(control, &node, &request).await,
    }
}

/// Committed before it is answered: the client will not say it again.
async fn update(control: &Arc<Control>, node: &Node, request: &MapRequest) -> Answer {
    if control.drain.is_cancelled() {
        return leaving();
    }
    let Some(report) = reports::news(node, request) else { return empty(StatusCode::OK) };
    match control.reports.submit(report).await {
        Ok(()) => empty(StatusCode::OK),
        Err(error) => no(StatusCode::SERVICE_UNAVAILABLE, &codes::NO_QUORUM, error.to_string()),
    }
}

fn stream(control: &Arc<Control>, peer: Peer, node: Arc<Node>, request: MapRequest) -> Answer {
    if control.drain.is_cancelled() {
        return leaving();
    }
    // One frame in the channel, one in HTTP/2's hands: a client that does not read holds no more than that.
    let (frames, body) = mpsc::channel(1);
    let leaving = peer.leaving.child_token();
    let session = Session {
        control: control.clone(),
        node: node.id,
        id: SessionId(control.entropy.u64()),
        coding: coding(&request),
        frames,
        leaving: leaving.clone(),
    };
    if let Some(report) = reports::news(&node, &request) {
        // The stream does not wait: maps are served while the cluster has no leader.
        let control = control.clone();
        control.clone().tasks.spawn(async move {
            while control.reports.submit(report.clone()).await.is_err() {
                tokio::select! { biased;
                    () = leaving.cancelled() => return,
                    () = tokio::time::sleep(REPORT_AGAIN) => {}
                }
            }
        });
    }
    control.tasks.spawn(session.run());
    let mut answer = Response::new(Body::Frames(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

async fn once(control: &Arc<Control>, node: &Node, request: &MapRequest) -> Answer {
    if let Some(report) = reports::news(node, request)
        && let Err(error) = control.reports.submit(report).await
    {
        return no(StatusCode::SERVICE_UNAVAILABLE, &codes::NO_QUORUM, error.to_string());
    }
    let revision = control.cluster.latest().revision();
    let atlas = crate::atlas::reached(&mut control.atlas.clone(), revision).await;
    let map = atlas.and_then(|atlas| netmap::full(&atlas, node.id, &control.moment()));
    match map.map(|map| coding(request).frame(&map)) {
        Some(Ok(frame)) => with_type(StatusCode::OK, "application/json", frame),
        Some(Err(_)) => no(StatusCode::INTERNAL_SERVER_ERROR, &codes::INTERNAL, "the map could not be written"),
        None => no(StatusCode::NOT_FOUND, &codes::NOT_FOUND, "node not found"),
    }
}

fn coding(request: &MapRequest) -> Coding {
    if request.wants_zstd() { Coding::Zstd } else { Coding::Plain }
}

fn leaving() -> Answer {
    no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member is leaving; another one will answer")
}
