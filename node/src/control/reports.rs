//! What clients report, many of them in one command.
//!
//! A client's update is answered with 200 once it is committed, so that it never needs to be told twice. While one
//! command is under way the next batch gathers.

use std::time::Duration;

use raft::Cluster;
use state_machine::{Command, Node, Report};
use tailcfg::MapRequest;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::observe::Metrics;

/// Reports in one command.
const BATCH_MAX: usize = 512;
/// Bytes in one command, about: a client may fill 64 KiB, and the log takes no command of any size.
const BYTES_MAX: usize = 1 << 20;
/// Reports that may wait. Whoever comes later waits outside: the bound is back-pressure.
const QUEUE_MAX: usize = 4096;
/// Between two commands, so that a thousand clients with one report each make ten commands and not a thousand.
const GAP: Duration = Duration::from_millis(5);

/// The report was not committed; the client will try again.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the cluster cannot take reports now; try again")]
pub struct NotTaken;

/// Where reports are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    report: Report,
    done: oneshot::Sender<Result<(), NotTaken>>,
}

impl Reports {
    /// Starts the batcher; it ends when the last handle is dropped.
    pub fn start(cluster: Cluster, by: String, metrics: Metrics) -> (Reports, impl Future<Output = ()>) {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        (Reports { queue }, batch(cluster, by, metrics, waiting))
    }

    /// Returns once the report is committed and this member has applied it.
    pub async fn submit(&self, report: Report) -> Result<(), NotTaken> {
        let (done, answer) = oneshot::channel();
        self.queue.send(Waiting { report, done }).await.map_err(|_| NotTaken)?;
        answer.await.unwrap_or(Err(NotTaken))
    }
}

async fn batch(cluster: Cluster, by: String, metrics: Metrics, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // A client that hung up will send a newer report: the old one must not come after it.
        let mut rest = batch.drain(..).filter(|one| !one.done.is_closed()).peekable();
        while rest.peek().is_some() {
            let mut bytes = 0;
            let (mut reports, mut done) = (Vec::new(), Vec::new());
            while let Some(one) = rest.next_if(|one| reports.is_empty() || bytes + weight(&one.report) <= BYTES_MAX) {
                bytes += weight(&one.report);
                reports.push(one.report);
                done.push(one.done);
            }
            metrics.report_batch.observe(reports.len() as f64);
            let result = match cluster.propose(&by, Command::Report { reports }).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, reports = done.len(), "reports were not taken");
                    Err(NotTaken)
                }
            };
            for one in done {
                // The client may have hung up meanwhile.
                let _ = one.send(result);
            }
        }
        tokio::time::sleep(GAP).await;
    }
}

/// About how many bytes a report takes in the log.
fn weight(report: &Report) -> usize {
    let hostinfo = report.hostinfo.as_ref().map_or(0, |hostinfo| hostinfo.raw.len() + 64 * hostinfo.routable_ips.len());
    256 + hostinfo + report.endpoints.as_ref().map_or(0, |endpoints| 32 * endpoints.len())
}

/// What a request says that the state does not know yet. `None`: nothing; then nothing is written.
///
/// Empty values are no news: a stream may start before the client knows its endpoints, and some clients never put
/// their home region into one.
pub fn news(node: &Node, request: &MapRequest) -> Option<Report> {
    let mut report = Report { node: node.id, node_key: node.node_key, ..Report::default() };
    if !request.disco_key.is_zero() && request.disco_key != node.disco_key {
        report.disco_key = Some(request.disco_key);
    }
    if request.version != node.capability_version {
        report.capability_version = Some(request.version);
    }
    let endpoints: Vec<_> = request.reported_endpoints().iter().map(endpoint_from_wire).collect();
    if !endpoints.is_empty() && endpoints != node.endpoints {
        report.endpoints = Some(endpoints);
    }
    if let Some(hostinfo) = &request.hostinfo {
        if *hostinfo.raw != *node.hostinfo.raw {
            report.hostinfo = Some(hostinfo_from_wire(hostinfo));
        }
        if !hostinfo.hostname.is_empty() && hostinfo.hostname != node.hostname {
            report.hostname = Some(hostinfo.hostname.clone());
        }
        report.home_derp = hostinfo.preferred_derp.filter(|region| *region != node.home_derp);
    }
    let nothing = Report { node: node.id, node_key: node.node_key, ..Report::default() };
    (report != nothing).then_some(report)
}

fn endpoint_from_wire(endpoint: &tailcfg::ReportedEndpoint) -> state_machine::Endpoint {
    state_machine::Endpoint { addr: endpoint.addr, kind: endpoint.kind }
}

/// The state's form of what a client says of its computer.
pub fn hostinfo_from_wire(hostinfo: &tailcfg::Hostinfo) -> state_machine::Hostinfo {
    state_machine::Hostinfo {
        raw: hostinfo.raw.as_str().into(),
        routable_ips: hostinfo.routable_ips.clone(),
        request_tags: hostinfo.request_tags.clone(),
        os: hostinfo.os.clone(),
        ipn_version: hostinfo.ipn_version.clone(),
        ssh_server: hostinfo.ssh_server,
    }
}

#[cfg(test)]
mod tests {
    use tailcfg::{DiscoKey, NodeKey, from_client_json};

    use super::*;

    fn request(more: &str) -> MapRequest {
        let text = format!(
            r#"{{"Version":130,"NodeKey":"{}","DiscoKey":"{}","Stream":true{more}}}"#,
            NodeKey([1; 32]),
            DiscoKey([2; 32])
        );
        from_client_json(text.as_bytes()).unwrap()
    }

    fn node() -> Node {
        Node {
            node_key: NodeKey([1; 32]),
            disco_key: DiscoKey([2; 32]),
            capability_version: 130,
            home_derp: 901,
            endpoints: vec![state_machine::Endpoint { addr: "192.0.2.1:41641".parse().unwrap(), kind: 2 }],
            ..Node::default()
        }
    }

    #[test]
    fn a_request_without_news_is_none() {
        assert_eq!(news(&node(), &request("")), None);
        let same = request(r#","Endpoints":["192.0.2.1:41641"],"EndpointTypes":[2]"#);
        assert_eq!(news(&node(), &same), None);
        let empty = request(r#","Endpoints":[]"#);
        assert_eq!(news(&node(), &empty), None);
    }

    #[test]
    fn news_hold_what_changed_and_nothing_else() {
        let moved = request(r#","Endpoints":["192.0.2.7:41641"],"EndpointTypes":[2]"#);
        let report = news(&node(), &moved).unwrap();
        assert_eq!(report.endpoints.as_ref().unwrap()[0].addr, "192.0.2.7:41641".parse().unwrap());
        assert_eq!((&report.disco_key, &report.hostinfo, report.home_derp), (&None, &None, None));

        let home = request(r#","HostInfo":{"Hostname":"a","NetInfo":{"PreferredDerp":902}}"#);
        let report = news(&node(), &home).unwrap();
        assert_eq!(report.home_derp, Some(902));
        assert_eq!(report.hostname.as_deref(), Some("a"));
        assert!(report.hostinfo.is_some());

        let mut known = node();
        known.hostinfo = report.hostinfo.clone().unwrap();
        known.hostname = "a".to_owned();
        known.home_derp = 902;
        assert_eq!(news(&known, &home), None);
        let without_net_info = request(r#","Hostinfo":{"Hostname":"a"}"#);
        assert_eq!(news(&known, &without_net_info), None, "a stream's silence about the home region is no news");
    }
}
