//! A gRPC client against a cluster of one State.

use std::sync::{Arc, atomic::Ordering};

use futures::StreamExt;
use tonic::{Code, Request, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::proto::{self, headscale_service_client::HeadscaleServiceClient};
use crate::lone::Lone;

type Client = HeadscaleServiceClient<Keyed>;

/// The router, called with a key.
#[derive(Clone)]
struct Keyed {
    router: axum::Router,
    key: String,
}

impl tower::Service<axum::http::Request<tonic::body::Body>> for Keyed {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = axum::routing::future::RouteFuture<std::convert::Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: axum::http::Request<tonic::body::Body>) -> Self::Future {
        if !self.key.is_empty() {
            request.headers_mut().insert("authorization", self.key.parse().unwrap());
        }
        tower::Service::call(&mut self.router, request)
    }
}

fn client(lone: &Arc<Lone>, trusted: bool, key: &str) -> Client {
    HeadscaleServiceClient::new(Keyed { router: lone.router(trusted), key: key.to_owned() })
}

#[tokio::test]
async fn the_two_dialects_tell_the_same() {
    let lone = Lone::new();
    let mut grpc = client(&lone, true, "");
    let wish = proto::CreateUserRequest { name: "alice".into(), email: "a@x.org".into(), ..Default::default() };
    let user = grpc.create_user(wish).await.unwrap().into_inner().user.unwrap();
    assert_eq!((user.id, user.name.as_str(), user.email.as_str()), (1, "alice", "a@x.org"));
    assert_eq!(user.created_at.unwrap().seconds, 1_767_225_600);

    let wish = proto::CreatePreAuthKeyRequest {
        user: 1,
        reusable: true,
        expiration: Some(prost_types::Timestamp { seconds: 1_767_229_200, nanos: 0 }),
        acl_tags: vec![],
        ephemeral: false,
    };
    let key = grpc.create_pre_auth_key(wish).await.unwrap().into_inner().pre_auth_key.unwrap();
    assert!(key.key.starts_with("hskey-auth-") && !key.key.ends_with('*'), "{}", key.key);
    assert_eq!(key.expiration.unwrap().seconds, 1_767_229_200);

    let wish = proto::DebugCreateNodeRequest {
        user: "alice".into(),
        key: format!("hskey-authreq-{}", "a".repeat(24)),
        name: "Desk".into(),
        routes: vec!["10.0.0.0/24".into()],
    };
    let shown = grpc.debug_create_node(wish.clone()).await.unwrap().into_inner().node.unwrap();
    let wish = proto::AuthRegisterRequest { user: "alice".into(), auth_id: wish.key };
    let node = grpc.auth_register(wish).await.unwrap().into_inner().node.unwrap();
    assert_eq!((node.machine_key, node.node_key), (shown.machine_key, shown.node_key));
    assert_eq!((node.given_name.as_str(), node.register_method), ("desk", 2));
    let wish = proto::SetApprovedRoutesRequest { node_id: node.id, routes: vec!["10.0.0.0/24".into()] };
    let node = grpc.set_approved_routes(wish).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.approved_routes, node.available_routes);

    let nodes = grpc.list_nodes(proto::ListNodesRequest { user: "alice".into() }).await.unwrap().into_inner().nodes;
    assert_eq!(nodes, [node]);
    let expired = proto::ExpireNodeRequest { node_id: 1, disable_expiry: true, ..Default::default() };
    let node = grpc.expire_node(expired).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.expiry, None);
}

#[tokio::test]
async fn refusals_keep_their_code() {
    let lone = Lone::new();
    let mut grpc = client(&lone, true, "");
    let missing = grpc.get_node(proto::GetNodeRequest { node_id: 7 }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let wish = proto::CreateUserRequest { name: "alice".into(), ..Default::default() };
    grpc.create_user(wish.clone()).await.unwrap();
    assert_eq!(grpc.create_user(wish.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    let both = proto::DeleteApiKeyRequest { prefix: "abc".into(), id: 3 };
    assert_eq!(grpc.delete_api_key(both).await.unwrap_err().code(), Code::InvalidArgument);
    lone.quorum.store(false, Ordering::Relaxed);
    let refused = grpc.delete_user(proto::DeleteUserRequest { id: 1 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // Looking still works.
    assert_eq!(grpc.list_users(proto::ListUsersRequest::default()).await.unwrap().into_inner().users.len(), 1);
}

#[tokio::test]
async fn strangers_need_a_key() {
    let lone = Lone::new();
    let key = client(&lone, true, "").create_api_key(proto::CreateApiKeyRequest::default()).await.unwrap();
    let key = key.into_inner().api_key;
    let ask = || proto::ListUsersRequest::default();
    assert!(client(&lone, false, &format!("Bearer {key}")).list_users(ask()).await.is_ok());
    for (said, why) in [
        ("", "authorization token not supplied"),
        (key.as_str(), "missing \"Bearer \" prefix"),
        ("Bearer hskey-api-wrong", "invalid token"),
    ] {
        let denied = client(&lone, false, said).list_users(ask()).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{said}");
        assert!(denied.message().starts_with(why), "{}", denied.message());
    }
}

#[tokio::test]
async fn a_probe_needs_no_key() {
    let lone = Lone::new();
    let mut probe = HealthClient::new(Keyed { router: lone.router(false), key: String::new() });
    let ask = || HealthCheckRequest { service: String::new() };
    assert_eq!(probe.check(ask()).await.unwrap().into_inner().status(), ServingStatus::Serving);
    let mut watch = probe.watch(ask()).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    lone.quorum.store(false, Ordering::Relaxed);
    assert_eq!(probe.check(ask()).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    let other = probe.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(other.code(), Code::NotFound);
}

#[tokio::test]
async fn unknown_methods_are_refused_in_their_dialect() {
    let lone = Lone::new();
    let mut channel = tonic::client::Grpc::new(Keyed { router: lone.router(true), key: String::new() });
    channel.ready().await.unwrap();
    let path = "/headscale.v1.NoSuchService/Dance".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<proto::HealthRequest, proto::HealthResponse>::default();
    let mut request = Request::new(proto::HealthRequest {});
    request.metadata_mut().insert("x-anything", MetadataValue::from_static("1"));
    let refused = channel.unary(request, path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
