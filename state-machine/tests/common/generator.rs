//! Logs from seeds: commands that mostly make sense in the state they meet.

use std::collections::BTreeSet;

use state_machine::*;
use tailcfg::{DiscoKey, MachineKey, NodeKey};

/// xorshift64*: small, and ours, so that seeds mean the same for ever.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.roll() >> 33) % bound.max(1)
    }

    fn often(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub struct Generator {
    dice: Dice,
    revision: u64,
    now: u64,
    asked: Vec<Entry>,
}

/// A log of this length, as one leader could have written it.
pub fn log(seed: u64, length: usize) -> Vec<(Revision, Entry)> {
    let (mut state, mut generator) = (State::default(), Generator::new(seed));
    let mut entries = Vec::new();
    for _ in 0..length {
        let (revision, entry) = generator.next(&state);
        _ = state.apply_entry(revision, &entry);
        entries.push((revision, entry));
    }
    entries
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { dice: Dice::new(seed), revision: 0, now: 1_767_225_600_000, asked: vec![] }
    }

    pub fn next(&mut self, state: &State) -> (Revision, Entry) {
        // Leaders leave entries of their own in the log.
        self.revision += 1 + u64::from(self.dice.often(5));
        let step = self.dice.pick(&[0, 1, 40, 900, 8_000, 15_000, 61_000]);
        self.now += step;
        if self.dice.often(3) {
            self.now = self.now.saturating_sub(20_000);
        }
        if self.dice.often(1) {
            self.now += 40 * 60_000;
        }
        let recent = self.asked.len().saturating_sub(3);
        let entry = if self.dice.often(4) && !self.asked[recent..].is_empty() {
            let index = recent + self.dice.below((self.asked.len() - recent) as u64) as usize;
            self.asked[index].clone()
        } else {
            let command = self.command(state);
            let request = self.dice.often(60).then(|| RequestId(u128::from(self.revision) << 64 | 7));
            Entry { request, at: Timestamp(self.now), by: "law".into(), command }
        };
        self.asked.extend(entry.request.map(|_| entry.clone()));
        (Revision(self.revision), entry)
    }

    fn command(&mut self, state: &State) -> Command {
        if !state.is_founded() {
            return self.found();
        }
        let dice = &mut self.dice;
        match dice.below(100) {
            0..=5 => Command::CreateUser {
                name: format!("user{}", dice.below(8)),
                display_name: String::new(),
                email: String::new(),
                profile_pic_url: String::new(),
            },
            6 => Command::RenameUser { user: self.user(state), name: format!("user{}", self.dice.below(8)) },
            7 => Command::DeleteUser { user: self.user(state) },
            8..=14 => self.create_key(state),
            15 => Command::ExpirePreAuthKey { id: PreAuthKeyId(dice.below(40)) },
            16 => Command::DeletePreAuthKey { id: PreAuthKeyId(dice.below(40)) },
            17 => {
                Command::CreateApiKey { key: ApiKey { prefix: format!("api{}", dice.below(5)), ..ApiKey::default() } }
            }
            18 => match dice.below(3) {
                0 => Command::TouchApiKey { prefix: format!("api{}", dice.below(5)) },
                1 => Command::ExpireApiKey { prefix: format!("api{}", dice.below(5)) },
                _ => Command::DeleteApiKey { prefix: format!("api{}", dice.below(5)) },
            },
            19..=36 => {
                let index = dice.below(state.pre_auth_keys().len() as u64 + 1) as usize;
                let key = state.pre_auth_keys().values().nth(index).map(|key| key.prefix.clone());
                let key = key.unwrap_or_else(|| "nobody's".into());
                let secret_sha256 = [if dice.often(5) { 1 } else { 0 }; 32];
                Command::RegisterWithKey { client: self.client(), prefix: key, secret_sha256 }
            }
            37..=42 => {
                let id = LoginId(format!("login{}", dice.below(200)));
                Command::BeginLogin { client: self.client(), id }
            }
            43..=47 => {
                let id = self.login(state);
                let expiry = self.dice.often(30).then(|| Timestamp(self.now + 600_000));
                let seed = self.dice.roll();
                Command::FinishLogin { id, user: self.user(state), method: RegisterMethod::Oidc, expiry, seed }
            }
            48 => Command::RejectLogin { id: self.login(state), reason: "no".into() },
            49..=50 => {
                let (machine_key, node_key) = self.keys_of_a_node(state);
                Command::Logout { machine_key, node_key }
            }
            51 => {
                let (machine_key, node_key) = self.keys_of_a_node(state);
                let expiry = Timestamp(self.now + self.dice.below(100_000));
                Command::ExpireSooner { machine_key, node_key, expiry }
            }
            52..=60 => {
                let count = self.dice.below(5);
                Command::Report { reports: (0..count).map(|_| self.report(state)).collect() }
            }
            61..=72 => {
                let member = self.member(state);
                let count = 1 + self.dice.below(4);
                Command::Presence { member, changes: (0..count).map(|_| self.presence_change(state)).collect() }
            }
            73 if dice.often(50) => Command::ForgetSessions { member: self.member(state) },
            73 => {
                let silent = self.dice.often(70);
                Command::MemberSilence { member: self.member(state), silent }
            }
            74 => Command::RenameNode { node: self.node(state), name: format!("desk{}", self.dice.below(4)) },
            75 => {
                let expiry = self.dice.often(60).then(|| Timestamp(self.now + self.dice.below(400_000)));
                Command::SetNodeExpiry { node: self.node(state), expiry }
            }
            76 => Command::DeleteNode { node: self.node(state) },
            77..=78 => Command::SetNodeTags { node: self.node(state), tags: self.tags() },
            79..=82 => Command::ApproveRoutes { node: self.node(state), routes: self.routes() },
            83 => Command::MoveNode { node: self.node(state), user: self.user(state) },
            84 if dice.often(50) => self.beyond(state),
            84 => Command::BackfillAddresses { seed: self.dice.roll() },
            85 => Command::SetPolicy {
                text: dice.pick(&["{}", "{\"acls\": [],} // x", "{", "{\"a\":1}"]).into(),
                author: "law".into(),
            },
            86 => self.settings(),
            87..=91 => self.membership(state),
            92 => Command::SetDerpRegions {
                regions: (0..dice.below(3))
                    .map(|i| DerpRegion { id: 1 + i as u32 * 450, ..DerpRegion::default() })
                    .collect(),
            },
            93 => Command::PutSecret {
                name: "noise".into(),
                secret: SealedSecret { key_id: 1, nonce: vec![0; 24], ciphertext: vec![dice.below(3) as u8; 40] },
            },
            94..=95 => self.certificates(state),
            96 => self.beyond(state),
            97..=98 => self.sign_in(state),
            _ => Command::Elapse,
        }
    }

    /// What came with levels 4 and 5.
    fn beyond(&mut self, state: &State) -> Command {
        let id = format!("{:08x}", self.dice.below(3));
        match self.dice.below(12) {
            8..=11 => self.text_record(state),
            0..=1 => {
                let ranges = ["100.64.0.8/29", "100.64.0.16/28", "10.0.0.0/8", "fd7a:115c:a1e0::10/124"];
                let ranges =
                    ranges.into_iter().filter(|_| self.dice.often(30)).map(|net| net.parse().unwrap()).collect();
                Command::SetUserRanges { user: self.user(state), ranges }
            }
            2..=3 => {
                let last = self.dice.below(40) as u8;
                let ipv4 = self.dice.often(80).then(|| [100, 64, 0, last].into());
                let ipv6 = self.dice.often(30).then(|| [0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, u16::from(last)].into());
                Command::SetNodeAddresses { node: self.node(state), ipv4, ipv6 }
            }
            4..=5 => {
                let approved = self.dice.often(70);
                Command::SetNodeApproval { node: self.node(state), approved }
            }
            6 => {
                let webhook =
                    Webhook { id, url: self.dice.pick(&["https://x.example", "x"]).to_owned(), ..Webhook::default() };
                let secret = SealedSecret { key_id: 1, nonce: vec![0; 12], ciphertext: vec![1; 40] };
                Command::CreateWebhook { webhook, secret }
            }
            _ if self.dice.often(30) => Command::DeleteWebhook { id },
            _ => Command::WebhookTold { id, through: self.dice.below(60) },
        }
    }

    /// A node proves its name, or one that is not its own; a DNS server says yes, or has forgotten.
    fn text_record(&mut self, state: &State) -> Command {
        let index = self.dice.below(state.text_records().len() as u64 + 1) as usize;
        let known = state.text_records().values().nth(index).map(|row| (row.name.clone(), row.value.clone()));
        match (known, self.dice.below(3)) {
            (Some((name, value)), 0) => Command::AcknowledgeTextRecord { name, value },
            (Some((name, value)), 1) => Command::ForgetTextRecord { name, value },
            _ => {
                let (machine_key, node_key) = self.keys_of_a_node(state);
                let own = state.node_by_key(&node_key).map(|node| node.given_name.clone()).unwrap_or_default();
                let label = if self.dice.often(90) { own } else { "laptop".to_owned() };
                let name = format!("_acme-challenge.{label}.law.example");
                let value = self.dice.pick(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "."]).repeat(43);
                Command::SetTextRecord { machine_key, node_key, name, value }
            }
        }
    }

    /// Everything about certificates and secrets that are replaced.
    fn certificates(&mut self, state: &State) -> Command {
        let sealed = |key_id| SealedSecret { key_id, nonce: vec![0; 12], ciphertext: vec![1; 40] };
        let name = self.dice.pick(&["a.example.com", "b.example.com", "not ours"]).to_owned();
        let der = |number: u64| Der(vec![number as u8; 4]);
        let generation = state.authority_generation();
        let member = self.member(state);
        match self.dice.below(9) {
            0 => Command::RotateAuthority {
                before: der(generation + 1),
                certificate: der(generation + 2),
                cross: der(9),
                key: sealed(1),
            },
            1..=3 => Command::MoveCertificate { member, generation },
            4 => Command::WantCertificate {
                member,
                wish: self.dice.often(80).then(|| CertificateWish {
                    name,
                    directory: self.dice.pick(&["https://one", "https://two"]).to_owned(),
                    ..CertificateWish::default()
                }),
            },
            5 => Command::OrderCertificate { name, order: CertificateOrder::default(), key: sealed(1) },
            6 => {
                let (not_before, not_after) = (Timestamp(self.now), Timestamp(self.now + 86_400_000));
                Command::IssueCertificate { name, chain: "pem".into(), not_before, not_after, key: sealed(1) }
            }
            7 => Command::FailCertificate { name, error: "no\n".into(), retry_at: Timestamp(self.now) },
            _ => Command::ResealSecrets {
                seen: if self.dice.often(80) { state.secrets_fingerprint() } else { [0; 32] },
                secrets: state.secrets().keys().map(|name| (name.clone(), sealed(3))).collect(),
                dropped: vec![],
            },
        }
    }

    /// The next step of somebody on the way through a login provider, or a step out of turn.
    fn sign_in(&mut self, state: &State) -> Command {
        let index = self.dice.below(state.sign_ins().len() as u64 + 1) as usize;
        let open = state.sign_ins().keys().nth(index).cloned();
        let word = [self.dice.below(2) as u8; 32];
        match (open, self.dice.below(3)) {
            (None, _) | (_, 0) => Command::BeginSignIn {
                id: format!("{:064x}", self.dice.roll()),
                subject: SignInSubject::Login(self.login(state)),
                provider: "law".into(),
            },
            (Some(id), 1) => {
                let person = self.dice.below(5);
                let identity = Identity {
                    provider_id: format!("law/{person}"),
                    name: format!("user{}", self.dice.below(8)),
                    groups: (0..self.dice.below(3)).map(|group| format!("group{group}")).collect(),
                    expiry: self.dice.often(30).then(|| Timestamp(self.now + 600_000)),
                    ..Identity::default()
                };
                Command::ProveSignIn { id, identity, confirm_sha256: word }
            }
            (Some(id), _) => {
                let accept = self.dice.often(80);
                Command::FinishSignIn { id, confirm_sha256: word, accept, seed: self.dice.roll() }
            }
        }
    }

    fn found(&mut self) -> Command {
        let settings = Settings {
            prefix_v4: Some(self.dice.pick(&["100.64.0.0/10", "100.64.0.0/27", "100.100.100.64/26"]).parse().unwrap()),
            allocation: self.dice.pick(&[Allocation::Sequential, Allocation::Random]),
            node_expiry_secs: self.dice.pick(&[0, 300]),
            ephemeral_inactivity_secs: 120,
            base_domain: "law.example".into(),
            ..Settings::default()
        };
        let level = self.dice.pick(&[1, 3, 4, 5, 5]);
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: level, ..Member::default() };
        Command::Found { cluster_id: "law".into(), member, settings, secrets: vec![] }
    }

    fn settings(&mut self) -> Command {
        let dice = &mut self.dice;
        Command::ApplySettings {
            settings: Settings {
                prefix_v4: dice.pick(&[None, Some("100.64.0.0/27"), Some("100.64.0.0/10")]).map(|p| p.parse().unwrap()),
                prefix_v6: dice
                    .pick(&[None, Some("fd7a:115c:a1e0::/120"), Some("fd7a:115c:a1e0::/48")])
                    .map(|p| p.parse().unwrap()),
                allocation: dice.pick(&[Allocation::Sequential, Allocation::Random]),
                ephemeral_inactivity_secs: dice.pick(&[30, 120, 600]),
                presence_grace_secs: dice.pick(&[0, 10]),
                node_approval: dice.often(30),
                base_domain: "law.example".into(),
                node_certificates: dice.pick(&[
                    NodeCertificates::Off,
                    NodeCertificates::Answered,
                    NodeCertificates::Updated,
                ]),
                ..Settings::default()
            },
        }
    }

    fn membership(&mut self, state: &State) -> Command {
        let token = format!("token{}", self.dice.below(3));
        let name = format!("hs{}", self.dice.below(9));
        let incarnation = self.dice.below(3);
        let member = Member { name: name.clone(), feature_level: 1, incarnation, ..Member::default() };
        match self.dice.below(11) {
            0..=1 => Command::CreateJoinToken {
                token: JoinToken {
                    id: token,
                    secret_sha256: [0; 32],
                    name: if self.dice.often(10) { name } else { String::new() },
                    role: JoinRole::Voter,
                    created_at: Timestamp::default(),
                    expires_at: Timestamp(self.now + 900_000),
                    used_by: None,
                    ..JoinToken::default()
                },
            },
            2 => Command::RevokeJoinToken { id: token },
            3..=5 => {
                let index = self.dice.below(state.join_tokens().len() as u64 + 1) as usize;
                let token = state.join_tokens().keys().nth(index).cloned().unwrap_or(token);
                let replaces = if self.dice.often(20) { member.name.clone() } else { String::new() };
                Command::AdmitMember { token, member, replaces }
            }
            6 => {
                let level = 1 + self.dice.below(2) as u32;
                Command::AnnounceMember { member: Member { id: self.member(state), feature_level: level, ..member } }
            }
            7 => {
                let role = if self.dice.often(50) { JoinRole::Learner } else { JoinRole::Voter };
                Command::SetMemberRole { id: self.member(state), role, insist: false }
            }
            8 => Command::SetMemberDraining { id: self.member(state), draining: self.dice.often(50) },
            9 => {
                let addresses = (0..self.dice.below(4) as u8).map(|last| [192, 0, 2, last].into()).collect();
                Command::SetMemberAddresses { id: self.member(state), addresses }
            }
            _ => Command::RemoveMember { id: self.member(state) },
        }
    }

    fn create_key(&mut self, state: &State) -> Command {
        let user = self.user(state);
        let dice = &mut self.dice;
        let expiration = dice.often(30).then(|| Timestamp(self.now + dice.below(900_000)));
        let (reusable, ephemeral, prefix) = (dice.often(60), dice.often(30), format!("key{}", dice.below(40)));
        let user = dice.often(85).then_some(user);
        let tags = if dice.often(25) { self.tags() } else { BTreeSet::new() };
        Command::CreatePreAuthKey {
            key: PreAuthKey { prefix, user, reusable, ephemeral, tags, expiration, ..PreAuthKey::default() },
        }
    }

    fn client(&mut self) -> Registration {
        let dice = &mut self.dice;
        // Few machines with few keys each, so that they meet again; a node key is nearly always one machine's.
        let (machine, key) = (dice.below(12) as u8, dice.below(3) as u8);
        let thief = dice.often(3);
        let node_key = if thief { NodeKey([1; 32]) } else { NodeKey([machine * 4 + key + 1; 32]) };
        let hostname = dice.pick(&["laptop", "Laptop.local", "db_1", "", "phone"]).to_owned();
        let request_tags = if dice.often(3) { BTreeSet::from(["tag:web".to_owned()]) } else { BTreeSet::new() };
        Registration {
            machine_key: MachineKey([machine + 1; 32]),
            node_key,
            old_node_key: if dice.often(40) { NodeKey([machine * 4 + 1; 32]) } else { NodeKey::default() },
            hostname,
            hostinfo: Hostinfo { raw: "{}".into(), routable_ips: self.routes(), request_tags, ..Hostinfo::default() },
            capability_version: 113,
            ephemeral: self.dice.often(10),
            expiry: self.dice.often(10).then(|| Timestamp(self.now + 50_000)),
            seed: self.dice.roll(),
            ..Registration::default()
        }
    }

    fn report(&mut self, state: &State) -> Report {
        let node = self.node(state);
        let dice = &mut self.dice;
        let known = state.node(node).map(|node| node.node_key).unwrap_or_default();
        let endpoint = Endpoint { addr: ([192, 0, 2, dice.below(9) as u8], 41641).into(), kind: 2 };
        Report {
            node,
            node_key: if dice.often(95) { known } else { NodeKey([250; 32]) },
            disco_key: dice.often(30).then(|| DiscoKey([dice.below(4) as u8; 32])),
            endpoints: dice.often(50).then(|| vec![endpoint]),
            home_derp: dice.often(50).then(|| 900 + dice.below(3) as u32),
            hostname: dice.often(20).then(|| "moved".to_owned()),
            hostinfo: self.dice.often(40).then(|| Hostinfo {
                raw: "{\"OS\":\"linux\"}".into(),
                routable_ips: self.routes(),
                ..Hostinfo::default()
            }),
            capability_version: None,
        }
    }

    fn presence_change(&mut self, state: &State) -> PresenceChange {
        let node = self.node(state);
        PresenceChange { node, session: SessionId(self.dice.below(3)), here: self.dice.often(60) }
    }

    fn routes(&mut self) -> BTreeSet<ipnet::IpNet> {
        let all = ["10.0.0.0/8", "192.168.1.0/24", "fd00::/64", "0.0.0.0/0"];
        all.into_iter().filter(|_| self.dice.often(40)).map(|route| route.parse().unwrap()).collect()
    }

    fn tags(&mut self) -> BTreeSet<String> {
        ["tag:web", "tag:db"].into_iter().filter(|_| self.dice.often(50)).map(str::to_owned).collect()
    }

    /// Mostly somebody who is there.
    fn user(&mut self, state: &State) -> UserId {
        let index = self.dice.below(state.users().len() as u64 + 1) as usize;
        state.users().keys().nth(index).copied().unwrap_or(UserId(self.dice.below(60)))
    }

    /// Mostly one that is there.
    fn node(&mut self, state: &State) -> NodeId {
        let index = self.dice.below(state.nodes().len() as u64 + 1) as usize;
        state.nodes().keys().nth(index).copied().unwrap_or(NodeId(self.dice.below(60)))
    }

    fn member(&mut self, state: &State) -> MemberId {
        let index = self.dice.below(state.members().len() as u64) as usize;
        state.members().keys().nth(index).copied().unwrap_or(MemberId(77))
    }

    fn login(&mut self, state: &State) -> LoginId {
        let index = self.dice.below(state.logins().len() as u64 + 1) as usize;
        state.logins().keys().nth(index).cloned().unwrap_or(LoginId("nobody's".into()))
    }

    fn keys_of_a_node(&mut self, state: &State) -> (MachineKey, NodeKey) {
        let node = self.node(state);
        let node = state.nodes().get_next(&node).map(|(_, node)| node.clone()).unwrap_or_default();
        let machine = if self.dice.often(90) { node.machine_key } else { MachineKey([200; 32]) };
        (machine, node.node_key)
    }
}

/// A tailnet with this many nodes, all of one name.
pub fn large(nodes: u64) -> (State, u64) {
    let mut state = State::default();
    let mut revision = 0;
    let mut apply = |state: &mut State, command: Command| {
        revision += 1;
        state.apply(Stamp { at: Timestamp(1_767_225_600_000), revision: Revision(revision) }, command).unwrap();
    };
    let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 1, ..Member::default() };
    let found = Command::Found { cluster_id: "large".into(), member, settings: Settings::default(), secrets: vec![] };
    apply(&mut state, found);
    let key = PreAuthKey { prefix: "aaaa".into(), reusable: true, tags: ["tag:a".into()].into(), ..Default::default() };
    apply(&mut state, Command::CreatePreAuthKey { key });
    for n in 1..=nodes {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        let client = Registration {
            machine_key: MachineKey(bytes),
            node_key: NodeKey(bytes),
            hostname: "job".into(),
            ..Registration::default()
        };
        apply(&mut state, Command::RegisterWithKey { client, prefix: "aaaa".into(), secret_sha256: [0; 32] });
    }
    (state, revision)
}
