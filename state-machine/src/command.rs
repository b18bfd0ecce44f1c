//! Everything that can be asked, in one enum.
//!
//! Commands are entries of the log: they carry facts (keys, hashes, seeds), never secrets and never the wish to look
//! something up elsewhere. Variants and fields are only ever added; `codec` writes names, so that order does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tailcfg::{DiscoKey, MachineKey, NlKey, NodeKey};

use crate::model::*;

/// One entry of the log as the leader wrote it: who asked for what, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absent for commands that may be applied twice without harm.
    pub request: Option<RequestId>,
    /// The leader's clock.
    pub at: Timestamp,
    /// For people: `cli`, `api key ab12…`, `node 7`, `hs2`.
    #[serde(default)]
    pub by: String,
    pub command: Command,
}

/// One change somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "commands are moved once, into the log")]
pub enum Command {
    // the cluster
    /// The first command of a cluster's life; refused ever after.
    Found {
        cluster_id: String,
        member: Member,
        settings: Settings,
        secrets: Vec<(String, SealedSecret)>,
    },
    /// The same tailnet goes on as another cluster of one. Never in a log: applied to a backup, or to what is left of a
    /// member, before a new log begins after it.
    Refound {
        cluster_id: String,
        member: Member,
        secrets: Vec<(String, SealedSecret)>,
    },
    /// The cluster begins to behave as this feature level says; no member can go back to an older program afterwards.
    RaiseFeatureLevel {
        level: u32,
        /// Without waiting until all programs have been able for five minutes; the leader looks at it, not apply.
        #[serde(default)]
        at_once: bool,
    },
    ApplySettings {
        settings: Settings,
    },
    CreateJoinToken {
        token: JoinToken,
    },
    RevokeJoinToken {
        id: String,
    },
    /// Uses a token up. The member's id is the log index of this entry.
    AdmitMember {
        token: String,
        member: Member,
        /// The name of a member that is gone and is removed by this very entry; empty: none. Token and newcomer must
        /// carry the same name.
        #[serde(default)]
        replaces: String,
    },
    /// A member tells what others should know of it (address, relay, version).
    AnnounceMember {
        member: Member,
    },
    /// Fences a member for ever.
    RemoveMember {
        id: MemberId,
    },
    /// Whether a member shall vote.
    SetMemberRole {
        id: MemberId,
        role: JoinRole,
        /// Also when the number of voters becomes even.
        #[serde(default, skip_serializing_if = "is_false")]
        insist: bool,
    },
    /// A member shall be left alone, or be used again.
    SetMemberDraining {
        id: MemberId,
        draining: bool,
    },
    /// Where clients reach a member besides asking DNS; the whole list. Level 3.
    SetMemberAddresses {
        id: MemberId,
        addresses: Vec<IpAddr>,
    },
    PutSecret {
        name: String,
        secret: SealedSecret,
    },
    /// All secrets under a new data key. Refused when they are not those that were read.
    ResealSecrets {
        /// [`State::secrets_fingerprint`](crate::State::secrets_fingerprint) of what was read.
        seen: [u8; 32],
        secrets: Vec<(String, SealedSecret)>,
        /// Data keys nothing is sealed with any more.
        dropped: Vec<String>,
    },
    /// Somebody showed the recovery key of this fingerprint.
    ConfirmRecoveryKey {
        key: [u8; 32],
    },

    // certificates
    /// Another authority signs the members' certificates from now on.
    RotateAuthority {
        /// The one of now.
        before: Der,
        certificate: Der,
        /// The new one's key, signed by the one of now.
        cross: Der,
        key: SealedSecret,
    },
    /// A member trusts the authority of this generation and shows a certificate of it.
    MoveCertificate {
        member: MemberId,
        generation: u64,
    },
    /// What a member's file asks of the public's authorities: this certificate, or none.
    WantCertificate {
        member: MemberId,
        wish: Option<CertificateWish>,
    },
    /// An order began; the private key is for the certificate it shall bring.
    OrderCertificate {
        name: String,
        order: CertificateOrder,
        key: SealedSecret,
    },
    /// It came.
    IssueCertificate {
        name: String,
        /// PEM.
        chain: String,
        not_before: Timestamp,
        not_after: Timestamp,
        key: SealedSecret,
    },
    /// It did not come.
    FailCertificate {
        name: String,
        error: String,
        retry_at: Timestamp,
    },
    /// Regions of relays that are not ours; the whole list.
    SetDerpRegions {
        regions: Vec<DerpRegion>,
    },

    // users
    CreateUser {
        name: String,
        display_name: String,
        email: String,
        profile_pic_url: String,
    },
    RenameUser {
        user: UserId,
        name: String,
    },
    /// Refused while the user has nodes.
    DeleteUser {
        user: UserId,
    },
    /// Where the addresses of the user's new nodes come from; the whole list. Level 4.
    SetUserRanges {
        user: UserId,
        ranges: BTreeSet<IpNet>,
    },

    // keys
    /// `key.id`, `used` and `created_at` are decided by apply.
    CreatePreAuthKey {
        key: PreAuthKey,
    },
    ExpirePreAuthKey {
        id: PreAuthKeyId,
    },
    DeletePreAuthKey {
        id: PreAuthKeyId,
    },
    /// `key.id` and `created_at` are decided by apply.
    CreateApiKey {
        key: ApiKey,
    },
    ExpireApiKey {
        prefix: String,
    },
    DeleteApiKey {
        prefix: String,
    },
    /// Coarse: the edge sends it at most once an hour and key.
    TouchApiKey {
        prefix: String,
    },

    /// A key with a bcrypt hash was proved by its bearer: from now on the quick way.
    LearnApiKey {
        prefix: String,
        secret_sha256: [u8; 32],
    },
    /// The same for a pre-auth key.
    LearnPreAuthKey {
        prefix: String,
        secret_sha256: [u8; 32],
    },
    /// Rows of another server's database.
    Import {
        batch: Import,
    },

    // nodes coming and going
    /// A client with a pre-auth key. Succeeds without using the key when the node is already in.
    RegisterWithKey {
        client: Registration,
        prefix: String,
        secret_sha256: [u8; 32],
    },
    /// A client without a key: a login begins.
    BeginLogin {
        client: Registration,
        id: LoginId,
    },
    /// A person (or a provider) said yes.
    FinishLogin {
        id: LoginId,
        user: UserId,
        method: RegisterMethod,
        expiry: Option<Timestamp>,
        seed: u64,
    },
    RejectLogin {
        id: LoginId,
        reason: String,
    },
    /// `tailscale logout`: ephemeral nodes go, others expire.
    Logout {
        machine_key: MachineKey,
        node_key: NodeKey,
    },
    /// A client asks for an earlier end of its key; never a later one.
    ExpireSooner {
        machine_key: MachineKey,
        node_key: NodeKey,
        expiry: Timestamp,
    },
    /// What clients report in map requests, batched.
    Report {
        reports: Vec<Report>,
    },
    /// Streams that opened and closed at one member, in order, batched.
    Presence {
        member: MemberId,
        changes: Vec<PresenceChange>,
    },
    /// A member starts a new life: its streams are gone, its nodes get the long grace.
    ForgetSessions {
        member: MemberId,
    },
    /// A member was silent too long: its streams are gone as well, and its relay is left out of the DERP map. Or it is
    /// heard again.
    MemberSilence {
        member: MemberId,
        silent: bool,
    },

    // nodes in the hands of people
    RenameNode {
        node: NodeId,
        name: String,
    },
    /// `None`: never expires.
    SetNodeExpiry {
        node: NodeId,
        expiry: Option<Timestamp>,
    },
    DeleteNode {
        node: NodeId,
    },
    SetNodeTags {
        node: NodeId,
        tags: BTreeSet<String>,
    },
    ApproveRoutes {
        node: NodeId,
        routes: BTreeSet<IpNet>,
    },
    MoveNode {
        node: NodeId,
        user: UserId,
    },
    /// An address somebody chose; `None` leaves that family as it is. Level 4.
    SetNodeAddresses {
        node: NodeId,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    },
    /// Whether the node may be a peer of others. Level 4.
    SetNodeApproval {
        node: NodeId,
        approved: bool,
    },
    /// Gives addresses to nodes that lack one of a prefix that exists.
    BackfillAddresses {
        seed: u64,
    },

    // policy
    SetPolicy {
        text: Arc<str>,
        author: String,
    },

    /// The same over the version its author saw, by number; 0: none was in force. Whoever sets a policy without having seen
    /// the one in force would undo what another did meanwhile.
    ReplacePolicy {
        over: u64,
        text: Arc<str>,
        author: String,
    },
    /// The same for what all members share.
    ReplaceSettings {
        seen: Box<Settings>,
        settings: Box<Settings>,
    },

    // whoever outside is told
    /// `webhook.created_at` and `delivered` are decided by apply. Level 4.
    CreateWebhook {
        webhook: Webhook,
        secret: SealedSecret,
    },
    DeleteWebhook {
        id: String,
    },
    /// It was told everything up to this audit row.
    WebhookTold {
        id: String,
        through: u64,
    },

    // people who prove themselves at a login provider
    /// A browser is sent to the provider.
    BeginSignIn {
        /// SHA-256 of the `state` in its URL, as hexadecimal digits.
        id: String,
        subject: SignInSubject,
        /// Issuer and client id.
        provider: String,
    },
    /// The provider sent it back, and what it says was found good.
    ProveSignIn {
        id: String,
        identity: Identity,
        /// SHA-256 of the word the confirmation page carries.
        confirm_sha256: [u8; 32],
    },
    /// The person said yes or no.
    FinishSignIn {
        id: String,
        confirm_sha256: [u8; 32],
        accept: bool,
        seed: u64,
    },

    // SSH check mode
    /// A node asks whether a connection may come in; answers with the check that stands for it.
    BeginSshCheck {
        id: String,
        source: NodeId,
        target: NodeId,
        local_user: String,
    },
    ApproveSshCheck {
        id: String,
        by: String,
    },
    RejectSshCheck {
        id: String,
        by: String,
    },

    // names that nodes prove
    /// A node wants a TXT record at its own name's `_acme-challenge`. Level 5.
    SetTextRecord {
        machine_key: MachineKey,
        node_key: NodeKey,
        name: String,
        value: String,
    },
    /// A DNS server that is not ours says that it knows the record.
    AcknowledgeTextRecord {
        name: String,
        value: String,
    },
    /// It says that it knows the record no more.
    ForgetTextRecord {
        name: String,
        value: String,
    },

    // time
    /// Something is due ([`State::next_deadline`](crate::State::next_deadline)).
    Elapse,
}

/// A field of a later level is not written while it says nothing: an entry stays as it always was.
fn is_false(value: &bool) -> bool {
    !*value
}

/// Rows with their ids, as they shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Import {
    pub users: Vec<User>,
    pub pre_auth_keys: Vec<PreAuthKey>,
    pub api_keys: Vec<ApiKey>,
    pub nodes: Vec<Node>,
    /// When nodes of this batch were last seen.
    pub last_seen: BTreeMap<NodeId, Timestamp>,
}

/// What a client brings to a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Proved by Noise.
    pub machine_key: MachineKey,
    pub node_key: NodeKey,
    /// Zero when the client has none.
    pub old_node_key: NodeKey,
    pub nl_key: NlKey,
    pub hostname: String,
    pub hostinfo: Hostinfo,
    pub capability_version: u16,
    /// The client's own wish (`--state=mem:`).
    pub ephemeral: bool,
    /// What the client asked for; only ever shortens.
    pub expiry: Option<Timestamp>,
    /// For random address allocation.
    pub seed: u64,
}

/// News from one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub node: NodeId,
    /// The key the client spoke under; a report of a key that was replaced meanwhile is dropped.
    pub node_key: NodeKey,
    pub disco_key: Option<DiscoKey>,
    pub hostinfo: Option<Hostinfo>,
    /// `Hostinfo.Hostname`, where it came along.
    pub hostname: Option<String>,
    pub endpoints: Option<Vec<Endpoint>>,
    pub home_derp: Option<u32>,
    pub capability_version: Option<u16>,
}

/// One stream opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceChange {
    pub node: NodeId,
    pub session: SessionId,
    /// True: opened. False: closed.
    pub here: bool,
}
