//! The language of the stories: one line in, one command, a few lines out.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

use sha2::{Digest, Sha256};
use state_machine::*;

pub struct Story {
    pub state: State,
    now: Timestamp,
    next_revision: u64,
}

impl Default for Story {
    fn default() -> Story {
        Story { state: State::default(), now: Timestamp::parse("2026-01-01T00:00:00Z").unwrap(), next_revision: 1 }
    }
}

type Told = Result<String, String>;

impl Story {
    pub fn tell(&mut self, line: &str) -> Told {
        let words = Words::read(line)?;
        let told = match words.verb.as_str() {
            "wait" => {
                self.now = self.now.after(duration(words.first()?)?);
                String::new()
            }
            "clock-back" => {
                self.now = Timestamp(self.now.0 - duration(words.first()?)?.as_millis() as u64);
                String::new()
            }
            "show" => self.show(words.first()?)?,
            _ => {
                let command = self.command(&words)?;
                self.apply(&words, command)
            }
        };
        words.all_used()?;
        Ok(told)
    }

    fn apply(&mut self, words: &Words, command: Command) -> String {
        let before = self.state.clone();
        let revision = Revision(self.next_revision);
        self.next_revision += 1;
        let request = words.get("request").map(|id| RequestId(id.parse().unwrap()));
        let entry = Entry { request, at: self.now, by: "story".into(), command };
        let entry = codec::decode_entry(&codec::encode_entry(&entry)).unwrap();
        let answer = self.state.apply_entry(revision, &entry);
        assert_eq!(codec::decode_answer(&codec::encode_answer(&answer)).unwrap(), answer);
        self.state.check();
        assert_eq!(State::from_snapshot(&self.state.to_snapshot()).unwrap().hash(), self.state.hash());
        if answer.is_err() {
            assert_nothing_happened(&before, &self.state);
        }
        match answer {
            Ok(outcome) => format!("ok {}\n", outcome_text(&outcome)),
            Err(refusal) => format!("refused: {refusal}\n"),
        }
    }

    fn command(&self, words: &Words) -> Result<Command, String> {
        Ok(match words.verb.as_str() {
            "found" => Command::Found {
                cluster_id: "story".into(),
                member: self.member(words, MemberId(1))?,
                settings: self.settings(words, Settings::default())?,
                secrets: vec![],
            },
            "refound" => Command::Refound {
                cluster_id: words.text("cluster"),
                member: self.member(words, words.id("member").map(MemberId)?)?,
                secrets: vec![],
            },
            "settings" => Command::ApplySettings { settings: self.settings(words, (**self.state.settings()).clone())? },
            // As if all had been as usual when the author looked.
            "settings-over-usual" => Command::ReplaceSettings {
                seen: Box::default(),
                settings: Box::new(self.settings(words, Settings::default())?),
            },
            "token" => Command::CreateJoinToken {
                token: JoinToken {
                    id: words.first()?.into(),
                    secret_sha256: hash(words.first()?),
                    name: words.text("name"),
                    role: JoinRole::Voter,
                    created_at: Timestamp::default(),
                    expires_at: self.moment(words, "expires")?.unwrap_or(self.now.after(Duration::from_secs(3600))),
                    uses: words.number("uses")?.unwrap_or(0) as u32,
                    from: words.list("from")?,
                    used_by: None,
                    ..JoinToken::default()
                },
            },
            "revoke-token" => Command::RevokeJoinToken { id: words.first()?.into() },
            "admit" => Command::AdmitMember {
                token: words.text("token"),
                member: self.member(words, MemberId(0))?,
                replaces: words.text("replaces"),
            },
            "announce" => Command::AnnounceMember { member: self.member(words, words.id("member").map(MemberId)?)? },
            "raise-level" => {
                Command::RaiseFeatureLevel { level: words.number("to")?.unwrap_or(0) as u32, at_once: false }
            }
            "remove-member" => Command::RemoveMember { id: words.id("member").map(MemberId)? },
            "vote" => {
                Command::SetMemberRole { id: words.id("member").map(MemberId)?, role: JoinRole::Voter, insist: false }
            }
            "insist" => {
                Command::SetMemberRole { id: words.id("member").map(MemberId)?, role: JoinRole::Voter, insist: true }
            }
            "listen" => {
                Command::SetMemberRole { id: words.id("member").map(MemberId)?, role: JoinRole::Learner, insist: false }
            }
            "drain" => Command::SetMemberDraining { id: words.id("member").map(MemberId)?, draining: true },
            "reached" => {
                Command::SetMemberAddresses { id: words.id("member").map(MemberId)?, addresses: words.list("at")? }
            }
            "undrain" => Command::SetMemberDraining { id: words.id("member").map(MemberId)?, draining: false },
            "secret" => Command::PutSecret {
                name: words.first()?.into(),
                secret: SealedSecret {
                    key_id: words.number("key")?.unwrap_or(1) as u32,
                    nonce: vec![1],
                    ciphertext: words.text("value").into_bytes(),
                },
            },
            "reseal" => Command::ResealSecrets {
                seen: if words.flag("stale") { [0; 32] } else { self.state.secrets_fingerprint() },
                secrets: words.list::<String>("names")?.into_iter().map(|name| (name, sealed(2, "new"))).collect(),
                dropped: words.list("drop")?,
            },
            "confirm-recovery" => Command::ConfirmRecoveryKey {
                key: if words.flag("stale") { [0; 32] } else { self.state.recovery_fingerprint().unwrap_or_default() },
            },
            "rotate-authority" => Command::RotateAuthority {
                before: der(&words.text("before")),
                certificate: der(&words.text("to")),
                cross: der("cross"),
                key: sealed(1, "key"),
            },
            "moved" => Command::MoveCertificate {
                member: words.id("member").map(MemberId)?,
                generation: words.number("generation")?.unwrap_or(1),
            },
            "want" => Command::WantCertificate {
                member: words.id("member").map(MemberId)?,
                wish: words.get("name").map(|name| CertificateWish {
                    name,
                    directory: words.get("at").unwrap_or("https://ca.example/dir".into()),
                    ..CertificateWish::default()
                }),
            },
            "order" => Command::OrderCertificate {
                name: words.first()?.into(),
                order: CertificateOrder { url: words.text("url"), ..CertificateOrder::default() },
                key: sealed(1, "next"),
            },
            "issue" => Command::IssueCertificate {
                name: words.first()?.into(),
                chain: words.text("chain"),
                not_before: self.now,
                not_after: self.moment(words, "until")?.unwrap_or(self.now),
                key: sealed(1, "issued"),
            },
            "fail" => Command::FailCertificate {
                name: words.first()?.into(),
                error: words.text("why"),
                retry_at: self.moment(words, "retry")?.unwrap_or(self.now),
            },
            "regions" => {
                let ids = words.list::<u32>("ids")?;
                let region = |id: u32| DerpRegion {
                    id,
                    code: format!("r{id}"),
                    nodes: vec![DerpNode { name: format!("{id}a"), ..DerpNode::default() }],
                    ..DerpRegion::default()
                };
                Command::SetDerpRegions { regions: ids.into_iter().map(region).collect() }
            }

            "user" => Command::CreateUser {
                name: words.first()?.into(),
                display_name: words.text("display"),
                email: words.text("email"),
                profile_pic_url: words.text("picture"),
            },
            "ranges" => {
                Command::SetUserRanges { user: self.user(words)?, ranges: words.list("are")?.into_iter().collect() }
            }
            "rename-user" => Command::RenameUser { user: self.user(words)?, name: words.text("to") },
            "delete-user" => Command::DeleteUser { user: self.user(words)? },

            "key" => Command::CreatePreAuthKey {
                key: PreAuthKey {
                    prefix: words.first()?.into(),
                    secret_sha256: hash(words.first()?),
                    user: if words.has("user") { Some(self.user(words)?) } else { None },
                    reusable: words.flag("reusable"),
                    ephemeral: words.flag("ephemeral"),
                    tags: words.list("tags")?.into_iter().collect(),
                    expiration: self.moment(words, "expires")?,
                    ..PreAuthKey::default()
                },
            },
            "expire-key" => Command::ExpirePreAuthKey { id: words.id("id").map(PreAuthKeyId)? },
            "delete-key" => Command::DeletePreAuthKey { id: words.id("id").map(PreAuthKeyId)? },
            "api-key" => Command::CreateApiKey {
                key: ApiKey {
                    prefix: words.first()?.into(),
                    secret_sha256: hash(words.first()?),
                    expiration: self.moment(words, "expires")?,
                    scopes: words.list("scopes")?.into_iter().collect(),
                    tags: words.list("tags")?.into_iter().collect(),
                    description: words.text("called"),
                    ..ApiKey::default()
                },
            },
            "expire-api-key" => Command::ExpireApiKey { prefix: words.first()?.into() },
            "delete-api-key" => Command::DeleteApiKey { prefix: words.first()?.into() },
            "touch-api-key" => Command::TouchApiKey { prefix: words.first()?.into() },

            "register" => Command::RegisterWithKey {
                client: self.client(words)?,
                prefix: words.text("key"),
                secret_sha256: hash(&words.get("secret").unwrap_or(words.text("key"))),
            },
            "begin" => Command::BeginLogin { client: self.client(words)?, id: LoginId(words.text("id")) },
            "finish" => Command::FinishLogin {
                id: LoginId(words.text("id")),
                user: self.user(words)?,
                method: RegisterMethod::Cli,
                expiry: self.moment(words, "expires")?,
                seed: 0,
            },
            "reject" => Command::RejectLogin { id: LoginId(words.text("id")), reason: words.text("reason") },
            "logout" => Command::Logout { machine_key: words.machine(), node_key: words.node_key("node") },
            "expire-sooner" => Command::ExpireSooner {
                machine_key: words.machine(),
                node_key: words.node_key("node"),
                expiry: self.moment(words, "expires")?.ok_or("expires= is missing")?,
            },
            "report" => Command::Report { reports: vec![self.report(words)?] },
            "here" | "gone" => Command::Presence {
                member: MemberId(words.number("member")?.unwrap_or(1)),
                changes: words
                    .list::<u64>("node")?
                    .into_iter()
                    .map(|node| PresenceChange {
                        node: NodeId(node),
                        session: SessionId(words.id("session").unwrap()),
                        here: words.verb == "here",
                    })
                    .collect(),
            },
            "forget" => Command::ForgetSessions { member: words.id("member").map(MemberId)? },
            "silent" => Command::MemberSilence { member: words.id("member").map(MemberId)?, silent: true },
            "heard" => Command::MemberSilence { member: words.id("member").map(MemberId)?, silent: false },

            "rename" => Command::RenameNode { node: words.node()?, name: words.text("to") },
            "expire" => Command::SetNodeExpiry {
                node: words.node()?,
                expiry: if words.flag("never") { None } else { self.moment(words, "expires")?.or(Some(self.now)) },
            },
            "delete" => Command::DeleteNode { node: words.node()? },
            "tag" => Command::SetNodeTags { node: words.node()?, tags: words.list("tags")?.into_iter().collect() },
            "approve" => {
                Command::ApproveRoutes { node: words.node()?, routes: words.list("routes")?.into_iter().collect() }
            }
            "move" => Command::MoveNode { node: words.node()?, user: self.user(words)? },
            "address" => Command::SetNodeAddresses {
                node: words.node()?,
                ipv4: words.get("v4").map(|text| text.parse().unwrap()),
                ipv6: words.get("v6").map(|text| text.parse().unwrap()),
            },
            "admit-node" => Command::SetNodeApproval { node: words.node()?, approved: true },
            "hold-node" => Command::SetNodeApproval { node: words.node()?, approved: false },
            "webhook" => Command::CreateWebhook {
                webhook: Webhook {
                    id: words.first()?.into(),
                    url: words.text("url"),
                    events: words.list("events")?.into_iter().collect(),
                    ..Webhook::default()
                },
                secret: sealed(words.number("key")?.unwrap_or(1) as u32, "hook"),
            },
            "delete-webhook" => Command::DeleteWebhook { id: words.first()?.into() },
            "told" => Command::WebhookTold { id: words.first()?.into(), through: words.id("through")? },
            "backfill" => Command::BackfillAddresses { seed: words.number("seed")?.unwrap_or(0) },
            "policy" => {
                let (text, author) = (words.rest.clone().into(), "cli".to_owned());
                match words.number("over")? {
                    Some(over) => Command::ReplacePolicy { over, text, author },
                    None => Command::SetPolicy { text, author },
                }
            }
            "txt" => Command::SetTextRecord {
                machine_key: words.machine(),
                node_key: words.node_key("node"),
                name: words.text("name"),
                value: words.get("value").unwrap_or_else(|| words.text("of").repeat(43)),
            },
            "txt-known" => {
                Command::AcknowledgeTextRecord { name: words.text("name"), value: words.text("of").repeat(43) }
            }
            "txt-forgotten" => {
                Command::ForgetTextRecord { name: words.text("name"), value: words.text("of").repeat(43) }
            }
            "ssh-begin" => Command::BeginSshCheck {
                id: words.text("id"),
                source: words.id("from").map(NodeId)?,
                target: words.id("to").map(NodeId)?,
                local_user: words.text("as"),
            },
            "ssh-approve" => Command::ApproveSshCheck { id: words.text("id"), by: "cli".into() },
            "ssh-reject" => Command::RejectSshCheck { id: words.text("id"), by: "cli".into() },
            "sign-in" => Command::BeginSignIn {
                id: hash_text(words.first()?),
                subject: match words.get("ssh") {
                    Some(check) => SignInSubject::SshCheck(check),
                    None => SignInSubject::Login(LoginId(words.text("login"))),
                },
                provider: "https://idp.example.com hsraft".into(),
            },
            "prove" => Command::ProveSignIn {
                id: hash_text(words.first()?),
                identity: Identity {
                    provider_id: words
                        .get("sub")
                        .map(|sub| format!("https://idp.example.com/{sub}"))
                        .unwrap_or_default(),
                    name: words.text("name"),
                    display_name: words.text("display"),
                    email: words.text("email"),
                    profile_pic_url: words.text("picture"),
                    groups: words.list("groups")?.into_iter().collect(),
                    expiry: self.moment(words, "expires")?,
                },
                confirm_sha256: hash(&words.text("word")),
            },
            "yes" | "no" => Command::FinishSignIn {
                id: hash_text(words.first()?),
                confirm_sha256: hash(&words.text("word")),
                accept: words.verb == "yes",
                seed: 0,
            },
            "elapse" => Command::Elapse,
            verb => return Err(format!("unknown verb {verb:?}")),
        })
    }

    fn member(&self, words: &Words, id: MemberId) -> Result<Member, String> {
        Ok(Member {
            id,
            name: words.get("name").unwrap_or("hs1".into()),
            peer_address: words.text("address"),
            feature_level: words.number("level")?.unwrap_or(1) as u32,
            // `starts=0`: admitted, and never came up.
            incarnation: words.number("starts")?.unwrap_or(1),
            ..Member::default()
        })
    }

    fn settings(&self, words: &Words, mut settings: Settings) -> Result<Settings, String> {
        fn net<T: FromStr>(text: String) -> Option<T> {
            (text != "none").then(|| text.parse().ok().expect("a prefix or none"))
        }
        if let Some(prefix) = words.get("v4") {
            settings.prefix_v4 = net(prefix);
        }
        if let Some(prefix) = words.get("v6") {
            settings.prefix_v6 = net(prefix);
        }
        if words.flag("random") {
            settings.allocation = Allocation::Random;
        }
        if let Some(on) = words.get("approval") {
            settings.node_approval = on == "on";
        }
        if let Some(how) = words.get("certificates") {
            settings.node_certificates = match how.as_str() {
                "answered" => NodeCertificates::Answered,
                "updated" => NodeCertificates::Updated,
                _ => NodeCertificates::Off,
            };
        }
        if let Some(domain) = words.get("domain") {
            settings.base_domain = domain;
        }
        for (name, field) in [
            ("node-expiry", &mut settings.node_expiry_secs),
            ("ephemeral-after", &mut settings.ephemeral_inactivity_secs),
            ("grace", &mut settings.presence_grace_secs),
        ] {
            if let Some(text) = words.get(name) {
                *field = duration(&text)?.as_secs();
            }
        }
        Ok(settings)
    }

    fn client(&self, words: &Words) -> Result<Registration, String> {
        let hostinfo = Hostinfo {
            raw: format!("{{\"Hostname\":\"{}\"}}", words.text("host")).into(),
            routable_ips: words.list("routes")?.into_iter().collect(),
            request_tags: words.list("request-tags")?.into_iter().collect(),
            ..Hostinfo::default()
        };
        Ok(Registration {
            machine_key: words.machine(),
            node_key: words.node_key("node"),
            old_node_key: if words.has("old") { words.node_key("old") } else { Default::default() },
            hostname: words.text("host"),
            hostinfo,
            capability_version: 113,
            ephemeral: words.flag("ephemeral"),
            expiry: self.moment(words, "expires")?,
            seed: words.number("seed")?.unwrap_or(0),
            ..Registration::default()
        })
    }

    fn report(&self, words: &Words) -> Result<Report, String> {
        let node = words.node()?;
        let known = self.state.node(node).map(|node| (node.node_key, node.hostinfo.clone())).unwrap_or_default();
        let hostinfo = match words.has("routes") {
            true => Some(Hostinfo { routable_ips: words.list("routes")?.into_iter().collect(), ..known.1 }),
            false => None,
        };
        let endpoint = |addr| Endpoint { addr, kind: 1 };
        Ok(Report {
            node,
            node_key: if words.has("key") { words.node_key("key") } else { known.0 },
            disco_key: words.get("disco").map(|name| tailcfg::DiscoKey(hash(&name))),
            hostinfo,
            hostname: words.get("host"),
            endpoints: words
                .has("endpoints")
                .then(|| words.list("endpoints").map(|list| list.into_iter().map(endpoint).collect()))
                .transpose()?,
            home_derp: words.number("derp")?.map(|id| id as u32),
            capability_version: None,
        })
    }

    fn user(&self, words: &Words) -> Result<UserId, String> {
        let name = words.get("user").ok_or("user= is missing")?;
        match self.state.user_by_name(&name) {
            Some(user) => Ok(user.id),
            None => name.parse().map(UserId).map_err(|_| format!("no user {name:?}")),
        }
    }

    fn moment(&self, words: &Words, name: &str) -> Result<Option<Timestamp>, String> {
        words.get(name).map(|text| Ok(self.now.after(duration(&text)?))).transpose()
    }

    fn show(&self, table: &str) -> Told {
        let state = &self.state;
        let mut lines = Vec::new();
        match table {
            "nodes" => lines.extend(state.nodes().values().map(|node| self.node_line(node))),
            "people" => lines.extend(state.users().values().map(|user| {
                let groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
                format!("{} {} <{}> {} {}", user.id, user.name, user.email, user.provider_id, groups.join(","))
            })),
            "sign-ins" => lines.extend(state.sign_ins().values().map(|row| {
                let progress = match &row.progress {
                    SignInProgress::Away => "away".to_owned(),
                    SignInProgress::Proved { identity, .. } => format!("proved {}", identity.provider_id),
                    SignInProgress::Over => "over".to_owned(),
                };
                format!("{} {:?} {progress}, ends {}", &row.id[..8], row.subject, self.ago(row.expires_at))
            })),
            "audit" => lines.extend(state.audit_log().values().map(|row| row.text.to_string())),
            "users" => lines.extend(state.users().values().map(|user| format!("{} {}", user.id, user.name))),
            "keys" => lines.extend(state.pre_auth_keys().values().map(|key| {
                let used = if key.used { "used" } else { "unused" };
                format!("{} {} {used}{}", key.id, key.prefix, if key.reusable { " reusable" } else { "" })
            })),
            "api-keys" => lines.extend(state.api_keys().values().map(|key| {
                let seen = key.last_seen.map_or("never".into(), |at| self.ago(at));
                format!("{} {} seen {seen}", key.id, key.prefix)
            })),
            "presence" => lines.extend(state.presences().iter().map(|(id, presence)| {
                let session = presence.session.map(|s| format!("session {} at {}", s.id, s.member));
                let offline = presence.offline_at.map(|at| format!(" until {}", self.ago(at)));
                let online = if presence.online { "online" } else { "offline" };
                format!("{id} {online}{} {}", offline.unwrap_or_default(), session.unwrap_or("no session".into()))
            })),
            "webhooks" => lines.extend(state.webhooks().values().map(|row| {
                let events: Vec<&str> = row.events.iter().map(String::as_str).collect();
                format!("{} {} [{}] told {}", row.id, row.url, events.join(","), row.delivered)
            })),
            "txt" => {
                lines.extend(state.text_records().values().map(|row| {
                    let elsewhere = if row.elsewhere { " elsewhere" } else { "" };
                    let known = if row.acknowledged { " known" } else { "" };
                    let TextRecord { name, value, node, ends_at, .. } = &**row;
                    format!("{name} {} of {node}{elsewhere}{known}, ends {}", &value[..1], self.ago(*ends_at))
                }));
                for name in state.text_records().values().map(|row| row.name.clone()).collect::<BTreeSet<_>>() {
                    let values: Vec<&str> = state.text_values(&name).map(|value| &value[..1]).collect();
                    lines.push(format!("the world is told {name} [{}]", values.join(" ")));
                }
            }
            "secrets" => lines.extend(self.state.secrets().iter().map(|(name, secret)| {
                let what = String::from_utf8_lossy(&secret.ciphertext).into_owned();
                format!("{name} key {} {what}", secret.key_id)
            })),
            "authorities" => lines.extend(self.state.authorities().values().map(|row| {
                let moved: Vec<String> = row.moved.iter().map(ToString::to_string).collect();
                let settled = if row.settled_at.is_some() { "settled" } else { "moving" };
                let name = String::from_utf8_lossy(&row.certificate.0).into_owned();
                format!("{} {name} {settled} moved [{}]", row.generation, moved.join(" "))
            })),
            "certificates" => lines.extend(self.state.certificates().values().map(|row| {
                let by: Vec<String> = row.wanted_by.iter().map(ToString::to_string).collect();
                let order = row.order.as_ref().map_or("no order".into(), |order| format!("order {}", order.url));
                let chain = if row.chain.is_empty() { "nothing yet" } else { &row.chain };
                format!(
                    "{} for [{}] {chain} {order} failures {} {:?} renew {}",
                    row.wish.name,
                    by.join(" "),
                    row.failures,
                    row.error,
                    self.ago(row.renew_at().max(self.now))
                )
            })),
            "primaries" => {
                lines.extend(state.primaries().iter().map(|(route, node)| format!("{route} by node {node}")))
            }
            "members" => lines.extend(state.members().values().map(|member| {
                let Member { id, name, region_id, state, .. } = &**member;
                let listens = if member.role == JoinRole::Learner { " listens" } else { "" };
                let drains = if member.draining { " drains" } else { "" };
                let silent = if member.silent { " silent" } else { "" };
                let level = member.feature_level;
                let insists = if member.insist { " insists" } else { "" };
                format!("{id} {name} region {region_id} {state:?} level {level}{listens}{drains}{silent}{insists}")
            })),
            "tokens" => lines.extend(state.join_tokens().values().map(|token| {
                let used = token.used_by.map_or("unused".into(), |member| format!("used by {member}"));
                let several =
                    if token.uses > 1 { format!(", {} of {}", token.used, token.uses) } else { String::new() };
                let from: String = token.from.iter().map(|network| format!(" from {network}")).collect();
                format!("{} {used}{several}{from}", token.id)
            })),
            "logins" => lines.extend(state.logins().values().map(|login| format!("{} {:?}", login.id, login.result))),
            "ssh" => lines.extend(state.ssh_checks().values().map(|check| {
                let SshCheck { id, source, target, local_user, .. } = &**check;
                let result = match &check.result {
                    SshCheckResult::Waiting => "waiting".to_owned(),
                    SshCheckResult::Approved { at, by } => format!("approved {} by {by}", self.ago(*at)),
                    SshCheckResult::Rejected { at, by } => format!("rejected {} by {by}", self.ago(*at)),
                };
                format!("{id} {source}>{target} as {local_user} {result}, ends {}", self.ago(check.expires_at))
            })),
            "policy" => lines.extend(state.policy_history().values().map(|p| format!("{} {:?}", p.number, p.text))),
            "settings" => {
                let Settings { prefix_v4, prefix_v6, base_domain, .. } = &**state.settings();
                let text = |prefix: Option<String>| prefix.unwrap_or("none".into());
                let (v4, v6) = (prefix_v4.map(|p| p.to_string()), prefix_v6.map(|p| p.to_string()));
                lines.push(format!("{} {} domain {base_domain:?}", text(v4), text(v6)));
            }
            "deadline" => lines.push(match state.next_deadline() {
                Some((at, why)) => format!("{} {why}", self.ago(at)),
                None => "none".into(),
            }),
            "cluster" => lines.push(format!(
                "{:?} revision {} feature level {}",
                state.cluster_id(),
                state.revision(),
                state.feature_level()
            )),
            table => return Err(format!("unknown table {table:?}")),
        }
        match lines.is_empty() {
            true => Ok("(nothing)\n".into()),
            false => Ok(lines.join("\n") + "\n"),
        }
    }

    fn node_line(&self, node: &Node) -> String {
        let mut line = format!("{} {}", node.id, node.given_name);
        let addresses = [node.ipv4.map(|a| a.to_string()), node.ipv6.map(|a| a.to_string())];
        for address in addresses.into_iter().flatten() {
            line += &format!(" {address}");
        }
        match node.user.and_then(|user| self.state.user(user)) {
            Some(user) => line += &format!(" {}", user.name),
            None => line += " nobody",
        }
        for tag in &node.tags {
            line += &format!(" {tag}");
        }
        if node.unapproved {
            line += " waits";
        }
        if node.ephemeral {
            line += " ephemeral";
        }
        if let Some(expiry) = node.expiry {
            let expired = if self.state.is_expired(node.id) { "expired" } else { "expires" };
            line += &format!(" {expired} {}", self.ago(expiry));
        }
        if node.home_derp != 0 {
            line += &format!(" derp {}", node.home_derp);
        }
        for endpoint in &node.endpoints {
            line += &format!(" at {}", endpoint.addr);
        }
        let approved: Vec<_> = node.approved_routes.iter().map(|route| route.to_string()).collect();
        if !approved.is_empty() && self.state.feature_level() >= 2 {
            line += &format!(" approved {}", approved.join(","));
        }
        let routes: Vec<_> = node.enabled_routes().map(|route| route.to_string()).collect();
        if !routes.is_empty() {
            line += &format!(" routes {}", routes.join(","));
        }
        line
    }

    /// A moment as seen from the story's clock.
    fn ago(&self, at: Timestamp) -> String {
        match at >= self.now {
            true => format!("in {}s", at.since(self.now).as_secs()),
            false => format!("{}s ago", self.now.since(at).as_secs()),
        }
    }
}

/// Only where the state stands and what it remembers of requests may differ; and what time alone does.
pub fn assert_nothing_happened(before: &State, after: &State) {
    let mut passed = before.clone();
    let stamp = Stamp { at: after.now(), revision: after.revision() };
    // A command that is refused whatever the state: time passes, nothing else can happen.
    assert!(passed.apply(stamp, Command::RenameUser { user: UserId(u64::MAX), name: String::new() }).is_err());
    let changed = after.changed_rows(&passed);
    let remembered = |key: &[u8]| key[0] == 16;
    assert!(changed.iter().all(|(key, _)| remembered(key)), "a refusal changed rows: {changed:?}");
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".into(),
        Outcome::Unchanged => "unchanged".into(),
        Outcome::User(id) => format!("user={id}"),
        Outcome::Node(id) => format!("node={id}"),
        Outcome::PreAuthKey(id) => format!("key={id}"),
        Outcome::ApiKey(id) => format!("api-key={id}"),
        Outcome::Member(id) => format!("member={id}"),
        Outcome::Login(id) => format!("login={id}"),
        Outcome::Policy(number) => format!("policy={number}"),
        Outcome::SshCheck(id) => format!("ssh-check={id}"),
        Outcome::Registered(id) => format!("registered={id}"),
        Outcome::KeyExpired(id) => format!("key-expired={id}"),
        Outcome::LoggedOut { node, deleted: true } => format!("logged-out={node} deleted"),
        Outcome::LoggedOut { node, deleted: false } => format!("logged-out={node}"),
        Outcome::Changed(count) => format!("changed={count}"),
    }
}

fn hash_text(text: &str) -> String {
    hash(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// `10s`, `5m`, `2h`, `1d`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| format!("not a duration: {text:?}"))?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(format!("not a duration: {text:?}")),
    };
    Ok(Duration::from_secs(number * unit))
}

/// A verb, an optional first argument, `name=value` pairs and flags. Whatever nobody asked for is an error.
struct Words {
    verb: String,
    bare: Vec<String>,
    pairs: BTreeMap<String, String>,
    /// The lines below the first.
    rest: String,
    used: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Words {
    fn read(line: &str) -> Result<Words, String> {
        let (line, rest) = line.split_once('\n').unwrap_or((line, ""));
        let mut words = line.split_whitespace();
        let verb = words.next().ok_or("an empty command")?.to_owned();
        let (mut bare, mut pairs) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => _ = pairs.insert(name.to_owned(), value.to_owned()),
                None => bare.push(word.to_owned()),
            }
        }
        Ok(Words { verb, bare, pairs, rest: rest.to_owned(), used: Default::default() })
    }

    fn all_used(&self) -> Result<(), String> {
        let used = self.used.borrow();
        let given = self.bare.iter().skip(usize::from(used.contains("#first"))).chain(self.pairs.keys());
        match given.into_iter().find(|word| !used.contains(*word)) {
            Some(word) => Err(format!("{word:?} means nothing to {:?}", self.verb)),
            None => Ok(()),
        }
    }

    fn first(&self) -> Result<&str, String> {
        self.used.borrow_mut().insert("#first".into());
        self.bare.first().map(String::as_str).ok_or(format!("{:?} needs an argument", self.verb))
    }

    fn flag(&self, name: &str) -> bool {
        self.used.borrow_mut().insert(name.into());
        self.bare.iter().any(|word| word == name)
    }

    fn get(&self, name: &str) -> Option<String> {
        self.used.borrow_mut().insert(name.into());
        self.pairs.get(name).cloned()
    }

    fn has(&self, name: &str) -> bool {
        self.pairs.contains_key(name)
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        self.get(name).map(|text| text.parse().map_err(|_| format!("{name}={text} is not a number"))).transpose()
    }

    fn id(&self, name: &str) -> Result<u64, String> {
        self.number(name)?.ok_or(format!("{name}= is missing"))
    }

    fn list<T: FromStr>(&self, name: &str) -> Result<Vec<T>, String> {
        let text = self.text(name);
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|_| format!("{name}: {part:?} does not fit"))).collect()
    }

    fn node(&self) -> Result<NodeId, String> {
        self.id("node").map(NodeId)
    }

    fn machine(&self) -> tailcfg::MachineKey {
        tailcfg::MachineKey(hash(&format!("machine {}", self.text("machine"))))
    }

    fn node_key(&self, name: &str) -> tailcfg::NodeKey {
        tailcfg::NodeKey(hash(&format!("node {}", self.text(name))))
    }
}

fn der(name: &str) -> Der {
    Der(name.as_bytes().to_vec())
}

fn sealed(key_id: u32, value: &str) -> SealedSecret {
    SealedSecret { key_id, nonce: vec![1], ciphertext: value.as_bytes().to_vec() }
}
