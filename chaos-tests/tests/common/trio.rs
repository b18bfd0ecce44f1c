//! Three members in this process on three loopback addresses, with the same ports on each, as three machines have them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use node::{
    Options, Server,
    options::{Relay, Start, TlsFiles, Token},
};
use sha2::{Digest, Sha256};
use state_machine::{Command, JoinRole, MemberId, Outcome, PreAuthKey, State};
use world::World;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// Three members; stopped ones leave a gap.
pub struct Trio {
    pub world: World,
    pub members: [Option<Server>; 3],
    pub ids: [MemberId; 3],
    pub client_port: u16,
    pub metrics_port: u16,
    pub auth_key: String,
    _folder: tempfile::TempDir,
}

/// `127.0.0.1` to `127.0.0.3`.
pub fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, number as u8 + 1).into()
}

impl Trio {
    /// Starts them, one cluster, all three voting.
    pub async fn up(tls: Option<TlsFiles>) -> Trio {
        let world = world::real::world();
        let folder = tempfile::Builder::new().prefix("trio-").tempdir().unwrap();
        let (client_port, metrics_port) = (free_port(&world).await, free_port(&world).await);
        let options = |number: usize, start: Start| {
            let name = format!("hs{}", number + 1);
            let mut options = Options::new(&name, folder.path().join(&name));
            let ip = address(number);
            options.start = start;
            options.timing = raft::Timing::cautious();
            options.client_listen = SocketAddr::new(ip, client_port);
            options.client_tls.clone_from(&tls);
            options.metrics_listen = Some(SocketAddr::new(ip, metrics_port));
            options.peer_listen = SocketAddr::new(ip, 0);
            options.peer_advertise = format!("{ip}:0");
            options.client_url = format!("http://{ip}:{client_port}");
            options.settings.server_url = format!("http://127.0.0.1:{client_port}");
            options.relay = Some(relay(ip, folder.path().join(format!("{name}.key"))));
            options
        };
        let first = start(options(0, Start::Found), &world).await;
        let cluster = first.cluster().clone();
        let peers = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
        let mut servers = vec![first];
        for number in 1..3 {
            let token = cluster.create_join_token(Duration::from_secs(600), "", JoinRole::Voter, "test").await.unwrap();
            let join = Start::Join { addresses: vec![peers.clone()], token: Token(token), replaces: String::new() };
            servers.push(start(options(number, join), &world).await);
        }
        let mut statuses = cluster.watch_status();
        let all_vote = statuses.wait_for(|status| status.voters.len() == 3 && !status.joint);
        tokio::time::timeout(PATIENCE, all_vote).await.expect("all three vote").unwrap();
        let auth_key = auth_key(&cluster).await;
        let ids = [0, 1, 2].map(|number| servers[number].cluster().me());
        let mut servers = servers.into_iter().map(Some);
        let members = [(); 3].map(|()| servers.next().unwrap());
        Trio { world, members, ids, client_port, metrics_port, auth_key, _folder: folder }
    }

    /// Any member that runs.
    pub fn anybody(&self) -> &Server {
        self.members.iter().flatten().next().expect("somebody runs")
    }

    pub async fn done(&self, command: Command) -> Outcome {
        self.anybody().cluster().propose("test", command).await.unwrap().answer.unwrap()
    }

    /// Which member holds the stream of the node with this name.
    pub async fn serving(&self, hostname: &str, but: Option<usize>) -> usize {
        let mut states = self.anybody().cluster().watch();
        let found = states.wait_for(|state| self.holder(state, hostname).is_some_and(|at| Some(at) != but));
        let state = tokio::time::timeout(PATIENCE, found).await.expect("somebody serves it").unwrap().clone();
        self.holder(&state, hostname).unwrap()
    }

    fn holder(&self, state: &State, hostname: &str) -> Option<usize> {
        let node = state.nodes().values().find(|node| node.hostname == hostname)?;
        let session = state.presence(node.id)?.session?;
        self.ids.iter().position(|id| *id == session.member)
    }

    /// Map streams open at a member.
    pub fn sessions(&self, number: usize) -> f64 {
        let server = self.members[number].as_ref().expect("it runs");
        let text = node::observe::render(server.registry());
        let line = text.lines().find_map(|line| line.strip_prefix("hsraft_map_sessions_open "));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    }

    /// SIGTERM, as far as a member in this process can be told.
    pub async fn stop(&mut self, number: usize) {
        let server = self.members[number].take().expect("it runs");
        tokio::time::timeout(PATIENCE, server.drain()).await.expect("it stops");
    }

    /// All of them: databases must be closed before the process ends.
    pub async fn end(mut self) {
        for server in self.members.iter_mut().filter_map(Option::take) {
            tokio::time::timeout(PATIENCE, server.drain()).await.expect("it stops");
        }
    }
}

async fn start(options: Options, world: &World) -> Server {
    tokio::time::timeout(PATIENCE, Server::start(options, world.clone())).await.expect("it starts in time").unwrap()
}

fn relay(ip: IpAddr, key_path: std::path::PathBuf) -> Relay {
    Relay {
        listen: Some(SocketAddr::new(ip, 0)),
        stun_listen: Some(SocketAddr::new(ip, 0)),
        tls: None,
        key_path,
        verify_clients: false,
        advertise: true,
        region_code: String::new(),
        region_name: String::new(),
        host_name: ip.to_string(),
        ipv4: ip.to_string(),
        ipv6: "none".to_owned(),
        port: None,
        stun_port: None,
        insecure_for_tests: true,
    }
}

/// A port that is free on all three addresses; somebody may take it before we do, which is rare, and loud.
async fn free_port(world: &World) -> u16 {
    for _ in 0..100 {
        let port = 10_000 + world.entropy.below(20_000) as u16;
        let mut held = Vec::new();
        for number in 0..3 {
            held.extend(world.net.listen(SocketAddr::new(address(number), port)).await.ok());
        }
        if held.len() == 3 {
            return port;
        }
    }
    panic!("no port is free on 127.0.0.1 to 127.0.0.3");
}

async fn auth_key(cluster: &raft::Cluster) -> String {
    let secret = "s".repeat(64);
    let user = Command::CreateUser {
        name: "ann".to_owned(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    };
    let user = cluster.propose("test", user).await.unwrap().answer.unwrap();
    let Outcome::User(user) = user else { panic!("{user:?}") };
    let key = PreAuthKey {
        prefix: "p".repeat(12),
        secret_sha256: Sha256::digest(&secret).into(),
        user: Some(user),
        reusable: true,
        ..PreAuthKey::default()
    };
    let text = format!("hskey-auth-{}-{secret}", key.prefix);
    cluster.propose("test", Command::CreatePreAuthKey { key }).await.unwrap().answer.unwrap();
    text
}
