//! The nouns: what the tables of [`State`](crate::State) hold.

mod api_key;
mod audit;
mod certificate;
mod derp;
mod ids;
mod login;
mod member;
mod node;
mod policy;
mod pre_auth_key;
mod settings;
mod sign_in;
mod ssh_check;
mod text_record;
mod time;
mod user;
mod webhook;

pub use api_key::{ApiKey, Role};
pub use audit::AuditRow;
pub use certificate::{
    Authority, CertificateOrder, CertificateWish, Challenge, ChallengeKind, Der, ManagedCertificate, RecoveryConfirmed,
};
pub use derp::{DerpNode, DerpRegion};
pub use ids::{ApiKeyId, LoginId, MemberId, NodeId, PreAuthKeyId, RequestId, Revision, SessionId, UserId};
pub use login::{Login, LoginResult};
pub use member::{JoinRole, JoinToken, Member, MemberState, RelayFacts, SealedSecret};
pub use node::{Endpoint, Hostinfo, Node, Presence, RegisterMethod, Session};
pub use policy::PolicyVersion;
pub use pre_auth_key::PreAuthKey;
pub use settings::{AUDIT_ROWS, Allocation, DnsRecord, NodeCertificates, Settings};
pub use sign_in::{Identity, SignIn, SignInProgress, SignInSubject};
pub use ssh_check::{SshCheck, SshCheckResult};
pub use text_record::TextRecord;
pub use time::Timestamp;
pub use user::User;
pub use webhook::Webhook;
