//! How a laboratory is: processes, and the cluster as the first member that answers sees it.

use serde::Serialize;

use super::{client, layout::Layout, memory::Memory, process};
use crate::{
    cluster::view::{Status, Verdict},
    lab::layout::Place,
};

/// A laboratory, for people and programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub dir: String,
    pub members: Vec<Member>,
    pub login_servers: Vec<String>,
    pub user: String,
    pub auth_key: String,
    /// The whole line that brings a device in.
    pub tailscale_up: String,
    /// Absent when no member answers.
    pub cluster: Option<Status>,
}

/// One member's process.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub name: String,
    pub running: bool,
    pub pid: Option<i32>,
    pub url: String,
    pub socket: String,
    pub config: String,
    pub data: String,
    pub log: String,
    pub peer_address: String,
    pub metrics_url: String,
    pub derp_port: u16,
    pub stun_port: u16,
}

/// Looks.
pub async fn report(layout: &Layout, memory: &Memory) -> Report {
    let places: Vec<Place> = (0..memory.members.len()).map(|index| layout.place(index)).collect();
    let mut cluster: Option<Status> = None;
    for place in places.iter().filter(|place| process::running(place).is_some()) {
        let Ok(status) = client(place).get::<Status>("/api/v1/cluster/status").await else { continue };
        // The leader knows most; anybody with a quorum knows more than one without.
        let leads = status.leader.as_deref() == Some(status.me.as_str());
        let better = cluster.as_ref().is_none_or(|known| known.verdict == Verdict::NoQuorum);
        if better || (leads && status.verdict != Verdict::NoQuorum) {
            cluster = Some(status);
        }
    }
    let login_servers: Vec<String> = places.iter().map(|place| place.url.clone()).collect();
    let first = login_servers.first().map_or("", String::as_str);
    Report {
        dir: layout.dir.display().to_string(),
        tailscale_up: format!("tailscale up --login-server {first} --auth-key {}", memory.auth_key),
        login_servers,
        user: memory.user.clone(),
        auth_key: memory.auth_key.clone(),
        members: places.iter().map(member).collect(),
        cluster,
    }
}

fn member(place: &Place) -> Member {
    let pid = process::running(place);
    Member {
        name: place.name.clone(),
        running: pid.is_some(),
        pid: pid.map(|pid| pid.as_raw_nonzero().get()),
        url: place.url.clone(),
        socket: place.socket.display().to_string(),
        config: place.config.display().to_string(),
        data: place.data.display().to_string(),
        log: place.log.display().to_string(),
        peer_address: format!("127.0.0.1:{}", place.peer_port),
        metrics_url: format!("http://127.0.0.1:{}/metrics", place.metrics_port),
        derp_port: place.derp_port,
        stun_port: place.stun_port,
    }
}
