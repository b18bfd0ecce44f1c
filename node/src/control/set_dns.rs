//! `/machine/set-dns`: a node proves its name to a certificate authority (`tailscale cert`).

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use state_machine::{Command, NodeCertificates, Refusal, Revision, State, TextRecord, codes};
use tailcfg::{SetDnsRequest, from_client_json};

use super::{
    Control, Peer,
    body::{Answer, json as json_answer, no},
};

/// A record that is answered by members: so long the last of them may lag. The authority asks any of them.
const SPREAD: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A record that a DNS server has to take. Clients would wait longer; people would not.
const ELSEWHERE: Duration = Duration::from_secs(25);

/// Answers when the world can see the record.
pub async fn answer(control: &Arc<Control>, peer: Peer, request: Request<Incoming>) -> Answer {
    let body = match control.read_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let Ok(asked) = from_client_json::<SetDnsRequest>(&body) else {
        return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "malformed request for a TXT record");
    };
    let check =
        |state: &State| state.text_record(&peer.machine_key, &asked.node_key, &asked.name, &asked.value).map(|_| ());
    // What is refused is not written to the log. It may be this member that does not know of a renaming yet.
    let state = control.state_with(|state| check(state).is_ok()).await;
    if state.settings().node_certificates.is_off() {
        let told = "this server gives nodes no certificates; see cluster.cert_dns in its configuration";
        return no(StatusCode::NOT_IMPLEMENTED, &codes::NOT_SERVED, told);
    }
    if state.node_by_key(&asked.node_key).is_some_and(|node| node.machine_key == peer.machine_key) {
        peer.seat.proved();
    }
    if asked.kind != "TXT" {
        return no(StatusCode::BAD_REQUEST, &codes::INVALID, "only TXT records can be set");
    }
    if let Err(refusal) = check(&state) {
        return refused(&refusal);
    }
    let command = Command::SetTextRecord {
        machine_key: peer.machine_key,
        node_key: asked.node_key,
        name: asked.name.clone(),
        value: asked.value.clone(),
    };
    let revision = match control.cluster.propose(&control.name, command).await {
        Ok(applied) => match applied.answer {
            Ok(_) => applied.revision,
            Err(refusal) => return refused(&refusal),
        },
        Err(error) => {
            tracing::debug!(%error, "a TXT record was not set");
            let told = "the cluster takes no changes at the moment";
            return no(StatusCode::SERVICE_UNAVAILABLE, &codes::NO_QUORUM, told);
        }
    };
    let seen = async {
        match state.settings().node_certificates {
            NodeCertificates::Updated => acknowledged(control, &asked).await,
            NodeCertificates::Answered | NodeCertificates::Off => spread(control, revision).await,
        }
    };
    tokio::select! { biased;
        () = peer.leaving.cancelled() => {
            no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member is leaving; another one will answer")
        }
        seen = seen => match seen {
            true => json_answer(&json!({})),
            false => {
                let told = "the DNS server did not take the record in time; the log of the leading member says why";
                no(StatusCode::GATEWAY_TIMEOUT, &codes::CERT_DNS_SILENT, told)
            }
        },
    }
}

/// Until every member would answer with it; one that lags is not waited for longer.
async fn spread(control: &Control, revision: Revision) -> bool {
    let spread = async {
        while !control.cluster.all_have(revision) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(SPREAD, spread).await.is_err() {
        tracing::warn!("not every member has a node's TXT record yet; the node is told to go on all the same");
    }
    true
}

/// Until the DNS server has it; false: it does not take it.
async fn acknowledged(control: &Control, asked: &SetDnsRequest) -> bool {
    let key = TextRecord::key(&asked.name.trim_end_matches('.').to_ascii_lowercase(), &asked.value);
    let mut states = control.cluster.watch();
    let known = states.wait_for(|state| state.text_records().get(&key).is_none_or(|record| record.acknowledged));
    match tokio::time::timeout(ELSEWHERE, known).await {
        Ok(Ok(state)) => state.text_records().contains_key(&key),
        _ => false,
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal {
        Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
        Refusal::WrongMachine | Refusal::NameNotOwn { .. } => StatusCode::FORBIDDEN,
        Refusal::TooManyRecords { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::LevelTooLow { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    no(status, refusal.code(), refusal)
}
