//! REST's objects as protobuf messages.

use state_machine::Timestamp;

use super::proto;
use crate::v1::types;

impl From<types::User> for proto::User {
    fn from(user: types::User) -> proto::User {
        proto::User {
            id: user.id,
            name: user.name,
            created_at: moment(user.created_at),
            display_name: user.display_name,
            email: user.email,
            provider_id: user.provider_id,
            provider: user.provider,
            profile_pic_url: user.profile_pic_url,
        }
    }
}

impl From<types::PreAuthKey> for proto::PreAuthKey {
    fn from(key: types::PreAuthKey) -> proto::PreAuthKey {
        proto::PreAuthKey {
            user: key.user.map(Into::into),
            id: key.id,
            key: key.key,
            reusable: key.reusable,
            ephemeral: key.ephemeral,
            used: key.used,
            expiration: moment(key.expiration),
            created_at: moment(key.created_at),
            acl_tags: key.acl_tags,
        }
    }
}

impl From<types::ApiKey> for proto::ApiKey {
    fn from(key: types::ApiKey) -> proto::ApiKey {
        proto::ApiKey {
            id: key.id,
            prefix: format!("{}-***", key.prefix),
            expiration: moment(key.expiration),
            created_at: moment(key.created_at),
            last_seen: moment(key.last_seen),
        }
    }
}

impl From<types::Node> for proto::Node {
    fn from(node: types::Node) -> proto::Node {
        proto::Node {
            id: node.id,
            machine_key: node.machine_key,
            node_key: node.node_key,
            disco_key: node.disco_key,
            ip_addresses: node.ip_addresses,
            name: node.name,
            user: node.user.map(Into::into),
            last_seen: moment(node.last_seen),
            expiry: moment(node.expiry),
            pre_auth_key: node.pre_auth_key.map(Into::into),
            created_at: moment(node.created_at),
            register_method: node.register_method.number() as i32,
            given_name: node.given_name,
            online: node.online,
            approved_routes: node.approved_routes,
            available_routes: node.available_routes,
            subnet_routes: node.subnet_routes,
            tags: node.tags,
        }
    }
}

/// A moment as the wire has it.
pub fn moment(moment: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    let Timestamp(ms) = moment?;
    Some(prost_types::Timestamp { seconds: (ms / 1000) as i64, nanos: (ms % 1000 * 1_000_000) as i32 })
}

/// A moment somebody wrote; Go writes the year 1 for "none", so what lies before 1970 is none.
pub fn read_moment(moment: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let moment = moment?;
    let seconds = u64::try_from(moment.seconds).ok().filter(|seconds| *seconds > 0)?;
    let millis = u64::try_from(moment.nanos / 1_000_000).unwrap_or(0);
    // Reading through `after` keeps it within the years RFC 3339 can write.
    Some(Timestamp(0).after(std::time::Duration::from_secs(seconds)).after(std::time::Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let at = Some(Timestamp(1_700_000_000_250));
        assert_eq!(read_moment(moment(at)), at);
        let of = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(read_moment(of(-62_135_596_800, 0)), None);
        assert_eq!(read_moment(None), None);
        assert!(read_moment(of(i64::MAX, -5)).unwrap().to_string().starts_with("9999-"));
    }
}
