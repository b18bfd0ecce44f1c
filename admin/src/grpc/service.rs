//! `headscale.v1.HeadscaleService`: each method hands over to the function that serves REST.

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use tonic::{Request, Response, Status};

use super::{
    proto::{self, headscale_service_server::HeadscaleService},
    wire::{moment, read_moment},
};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    v1::{api_keys, health, logins, nodes, policy, pre_auth_keys, types, users},
};

/// The service of one member.
pub struct Service(pub Api);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    fn api(&self) -> Shared<Api> {
        Shared(self.0.clone())
    }
}

/// Who calls and what for.
fn open<T>(request: Request<T>) -> Result<(Extension<Caller>, T), Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Status::internal("a call came in without its caller"))?;
    Ok((Extension(caller), request.into_inner()))
}

/// REST's paths hold texts.
fn path(id: u64) -> Path<String> {
    Path(id.to_string())
}

/// 0 is what protobuf says when nothing was said.
fn text(id: u64) -> String {
    if id == 0 { String::new() } else { id.to_string() }
}

fn user(reply: types::OneUser) -> Option<proto::User> {
    Some(reply.user.into())
}

fn node(reply: types::OneNode) -> Option<proto::Node> {
    Some(reply.node.into())
}

#[tonic::async_trait]
impl HeadscaleService for Service {
    async fn create_user(&self, request: Request<proto::CreateUserRequest>) -> Answer<proto::CreateUserResponse> {
        let (caller, said) = open(request)?;
        let wish = users::Create {
            name: said.name,
            display_name: said.display_name,
            email: said.email,
            picture_url: said.picture_url,
        };
        let Reply(reply) = users::create(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::CreateUserResponse { user: user(reply) }))
    }

    async fn rename_user(&self, request: Request<proto::RenameUserRequest>) -> Answer<proto::RenameUserResponse> {
        let (caller, said) = open(request)?;
        let Reply(reply) = users::rename(self.api(), caller, Path((said.old_id.to_string(), said.new_name))).await?;
        Ok(Response::new(proto::RenameUserResponse { user: user(reply) }))
    }

    async fn delete_user(&self, request: Request<proto::DeleteUserRequest>) -> Answer<proto::DeleteUserResponse> {
        let (caller, said) = open(request)?;
        let Reply(Empty {}) = users::delete(self.api(), caller, path(said.id)).await?;
        Ok(Response::new(proto::DeleteUserResponse {}))
    }

    async fn list_users(&self, request: Request<proto::ListUsersRequest>) -> Answer<proto::ListUsersResponse> {
        let (_, said) = open(request)?;
        let query = Query::of([("id", text(said.id).as_str()), ("name", &said.name), ("email", &said.email)]);
        let Reply(reply) = users::list(self.api(), query).await?;
        Ok(Response::new(proto::ListUsersResponse { users: reply.users.into_iter().map(Into::into).collect() }))
    }

    async fn create_pre_auth_key(
        &self,
        request: Request<proto::CreatePreAuthKeyRequest>,
    ) -> Answer<proto::CreatePreAuthKeyResponse> {
        let (caller, said) = open(request)?;
        let wish = pre_auth_keys::Create {
            user: text(said.user),
            reusable: said.reusable,
            ephemeral: said.ephemeral,
            expiration: read_moment(said.expiration),
            acl_tags: said.acl_tags,
        };
        let Reply(reply) = pre_auth_keys::create(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::CreatePreAuthKeyResponse { pre_auth_key: Some(reply.pre_auth_key.into()) }))
    }

    async fn expire_pre_auth_key(
        &self,
        request: Request<proto::ExpirePreAuthKeyRequest>,
    ) -> Answer<proto::ExpirePreAuthKeyResponse> {
        let (caller, said) = open(request)?;
        let which = pre_auth_keys::Which { id: said.id.to_string(), key: String::new() };
        let Reply(Empty {}) = pre_auth_keys::expire(self.api(), caller, Query::default(), Json(which)).await?;
        Ok(Response::new(proto::ExpirePreAuthKeyResponse {}))
    }

    async fn delete_pre_auth_key(
        &self,
        request: Request<proto::DeletePreAuthKeyRequest>,
    ) -> Answer<proto::DeletePreAuthKeyResponse> {
        let (caller, said) = open(request)?;
        let which = pre_auth_keys::Which { id: said.id.to_string(), key: String::new() };
        let Reply(Empty {}) = pre_auth_keys::delete(self.api(), caller, Query::default(), Json(which)).await?;
        Ok(Response::new(proto::DeletePreAuthKeyResponse {}))
    }

    async fn list_pre_auth_keys(
        &self,
        _: Request<proto::ListPreAuthKeysRequest>,
    ) -> Answer<proto::ListPreAuthKeysResponse> {
        let Reply(reply) = pre_auth_keys::list(self.api(), Query::default()).await?;
        let pre_auth_keys = reply.pre_auth_keys.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListPreAuthKeysResponse { pre_auth_keys }))
    }

    async fn debug_create_node(
        &self,
        request: Request<proto::DebugCreateNodeRequest>,
    ) -> Answer<proto::DebugCreateNodeResponse> {
        let (caller, said) = open(request)?;
        let wish = logins::Pretend { user: said.user, key: said.key, name: said.name, routes: said.routes };
        let Reply(reply) = logins::pretend(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::DebugCreateNodeResponse { node: node(reply) }))
    }

    async fn get_node(&self, request: Request<proto::GetNodeRequest>) -> Answer<proto::GetNodeResponse> {
        let (_, said) = open(request)?;
        let Reply(reply) = nodes::one(self.api(), path(said.node_id), Query::default()).await?;
        Ok(Response::new(proto::GetNodeResponse { node: node(reply) }))
    }

    async fn set_tags(&self, request: Request<proto::SetTagsRequest>) -> Answer<proto::SetTagsResponse> {
        let (caller, said) = open(request)?;
        let wish = nodes::Tags { tags: said.tags.into_iter().collect() };
        let Reply(reply) = nodes::set_tags(self.api(), caller, path(said.node_id), Json(wish)).await?;
        Ok(Response::new(proto::SetTagsResponse { node: node(reply) }))
    }

    async fn set_approved_routes(
        &self,
        request: Request<proto::SetApprovedRoutesRequest>,
    ) -> Answer<proto::SetApprovedRoutesResponse> {
        let (caller, said) = open(request)?;
        let wish = nodes::Routes { routes: said.routes };
        let Reply(reply) = nodes::approve_routes(self.api(), caller, path(said.node_id), Json(wish)).await?;
        Ok(Response::new(proto::SetApprovedRoutesResponse { node: node(reply) }))
    }

    async fn register_node(&self, request: Request<proto::RegisterNodeRequest>) -> Answer<proto::RegisterNodeResponse> {
        let (caller, said) = open(request)?;
        let wish = logins::Wish { user: said.user, key: said.key, ..logins::Wish::default() };
        let Reply(reply) = logins::register_by_key(self.api(), caller, Query::default(), Json(wish)).await?;
        Ok(Response::new(proto::RegisterNodeResponse { node: node(reply) }))
    }

    async fn delete_node(&self, request: Request<proto::DeleteNodeRequest>) -> Answer<proto::DeleteNodeResponse> {
        let (caller, said) = open(request)?;
        let Reply(Empty {}) = nodes::delete(self.api(), caller, path(said.node_id)).await?;
        Ok(Response::new(proto::DeleteNodeResponse {}))
    }

    async fn expire_node(&self, request: Request<proto::ExpireNodeRequest>) -> Answer<proto::ExpireNodeResponse> {
        let (caller, said) = open(request)?;
        let wish = nodes::Expire { expiry: read_moment(said.expiry), disable_expiry: said.disable_expiry };
        let reply = nodes::expire(self.api(), caller, path(said.node_id), Query::default(), Json(wish)).await?;
        Ok(Response::new(proto::ExpireNodeResponse { node: node(reply.0) }))
    }

    async fn rename_node(&self, request: Request<proto::RenameNodeRequest>) -> Answer<proto::RenameNodeResponse> {
        let (caller, said) = open(request)?;
        let Reply(reply) = nodes::rename(self.api(), caller, Path((said.node_id.to_string(), said.new_name))).await?;
        Ok(Response::new(proto::RenameNodeResponse { node: node(reply) }))
    }

    async fn list_nodes(&self, request: Request<proto::ListNodesRequest>) -> Answer<proto::ListNodesResponse> {
        let (_, said) = open(request)?;
        let Shared(api) = self.api();
        let nodes = nodes::gathered(&api, &Query::of([("user", &said.user)])).await?;
        Ok(Response::new(proto::ListNodesResponse { nodes: nodes.into_iter().map(Into::into).collect() }))
    }

    async fn backfill_node_i_ps(
        &self,
        request: Request<proto::BackfillNodeIPsRequest>,
    ) -> Answer<proto::BackfillNodeIPsResponse> {
        let (caller, said) = open(request)?;
        let confirmed = if said.confirmed { "true" } else { "false" };
        let Reply(reply) = nodes::backfill(self.api(), caller, Query::of([("confirmed", confirmed)])).await?;
        Ok(Response::new(proto::BackfillNodeIPsResponse { changes: reply.changes }))
    }

    async fn auth_register(&self, request: Request<proto::AuthRegisterRequest>) -> Answer<proto::AuthRegisterResponse> {
        let (caller, said) = open(request)?;
        let wish = logins::Wish { user: said.user, auth_id: said.auth_id, ..logins::Wish::default() };
        let Reply(reply) = logins::register(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::AuthRegisterResponse { node: node(reply) }))
    }

    async fn auth_approve(&self, request: Request<proto::AuthApproveRequest>) -> Answer<proto::AuthApproveResponse> {
        let (caller, said) = open(request)?;
        let wish = logins::Wish { auth_id: said.auth_id, ..logins::Wish::default() };
        let Reply(Empty {}) = logins::approve(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::AuthApproveResponse {}))
    }

    async fn auth_reject(&self, request: Request<proto::AuthRejectRequest>) -> Answer<proto::AuthRejectResponse> {
        let (caller, said) = open(request)?;
        let wish = logins::Wish { auth_id: said.auth_id, ..logins::Wish::default() };
        let Reply(Empty {}) = logins::reject(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::AuthRejectResponse {}))
    }

    async fn create_api_key(
        &self,
        request: Request<proto::CreateApiKeyRequest>,
    ) -> Answer<proto::CreateApiKeyResponse> {
        let (caller, said) = open(request)?;
        let wish = api_keys::Create { expiration: read_moment(said.expiration), ..api_keys::Create::default() };
        let Reply(reply) = api_keys::create(self.api(), caller, Json(wish)).await?;
        Ok(Response::new(proto::CreateApiKeyResponse { api_key: reply.api_key }))
    }

    async fn expire_api_key(
        &self,
        request: Request<proto::ExpireApiKeyRequest>,
    ) -> Answer<proto::ExpireApiKeyResponse> {
        let (caller, said) = open(request)?;
        let which = api_keys::Which { prefix: said.prefix, id: text(said.id) };
        let Reply(Empty {}) = api_keys::expire(self.api(), caller, Json(which)).await?;
        Ok(Response::new(proto::ExpireApiKeyResponse {}))
    }

    async fn list_api_keys(&self, _: Request<proto::ListApiKeysRequest>) -> Answer<proto::ListApiKeysResponse> {
        let Reply(reply) = api_keys::list(self.api(), Query::default()).await?;
        Ok(Response::new(proto::ListApiKeysResponse { api_keys: reply.api_keys.into_iter().map(Into::into).collect() }))
    }

    async fn delete_api_key(
        &self,
        request: Request<proto::DeleteApiKeyRequest>,
    ) -> Answer<proto::DeleteApiKeyResponse> {
        let (Extension(caller), said) = open(request)?;
        let which = api_keys::Which { prefix: said.prefix, id: text(said.id) };
        let Reply(Empty {}) = api_keys::remove(&self.0, &caller, &which).await?;
        Ok(Response::new(proto::DeleteApiKeyResponse {}))
    }

    async fn get_policy(&self, _: Request<proto::GetPolicyRequest>) -> Answer<proto::GetPolicyResponse> {
        let Reply(reply) = policy::latest(self.api(), Query::default()).await?;
        Ok(Response::new(proto::GetPolicyResponse { policy: reply.policy, updated_at: moment(reply.updated_at) }))
    }

    async fn set_policy(&self, request: Request<proto::SetPolicyRequest>) -> Answer<proto::SetPolicyResponse> {
        let (caller, said) = open(request)?;
        let Reply(reply) = policy::set(self.api(), caller, Json(policy::Set { policy: said.policy })).await?;
        Ok(Response::new(proto::SetPolicyResponse { policy: reply.policy, updated_at: moment(reply.updated_at) }))
    }

    async fn check_policy(&self, request: Request<proto::CheckPolicyRequest>) -> Answer<proto::CheckPolicyResponse> {
        let (_, said) = open(request)?;
        let Reply(Empty {}) = policy::check(self.api(), Json(policy::Set { policy: said.policy })).await?;
        Ok(Response::new(proto::CheckPolicyResponse {}))
    }

    async fn health(&self, _: Request<proto::HealthRequest>) -> Answer<proto::HealthResponse> {
        let Reply(reply) = health::database(self.api()).await;
        Ok(Response::new(proto::HealthResponse { database_connectivity: reply.database_connectivity }))
    }
}
