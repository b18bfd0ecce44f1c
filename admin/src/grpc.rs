//! gRPC: the operations of `v1/` in the dialect Headscale's own command line speaks up to 0.29.
//!
//! Each method hands its request to the very function that serves REST and wraps the answer, so that the two dialects
//! cannot disagree. HTTP decides by path: callers that speak HTTP/2 with prior knowledge reach both on one socket.
//!
//! | file | holds |
//! |---|---|
//! | `service.rs` | `headscale.v1.HeadscaleService`, a method a few lines |
//! | `wire.rs` | REST's objects as protobuf messages |
//! | `wellness.rs` | `grpc.health.v1.Health` |

mod service;
#[cfg(test)]
mod tests;
mod wellness;
mod wire;

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State as Shared},
    http::header,
    middleware::{self, Next},
    response::Response,
};
use state_machine::codes;
use tonic::{Code, Status};

use crate::{
    Api,
    access::{self, Need},
    auth::{self, Caller, Denied},
    request::BODY_BYTES_MAX,
};

/// Generated from `proto/headscale/v1/headscale.proto`.
#[allow(clippy::all, missing_docs)]
pub(crate) mod proto {
    tonic::include_proto!("headscale.v1");
}

/// The compiled proto file, for callers that ask what there is.
const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/headscale.bin"));

/// Every gRPC path. Reflection is offered where no key is asked for: on the unix socket.
pub(crate) fn routes(api: &Api) -> Router<Api> {
    let service = proto::headscale_service_server::HeadscaleServiceServer::new(service::Service(api.clone()))
        .max_decoding_message_size(BODY_BYTES_MAX);
    let routes = Router::new()
        .route_service("/headscale.v1.HeadscaleService/{method}", service)
        .layer(middleware::from_fn_with_state(api.clone(), check))
        // Probes have no key; they learn no more than from /health.
        .route_service("/grpc.health.v1.Health/{method}", wellness::service(api.clone()));
    if !api.options.trusted {
        return routes;
    }
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTION);
    let fits = "the description was compiled with this program";
    routes
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", reflection().build_v1().expect(fits))
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", reflection().build_v1alpha().expect(fits))
}

/// Whether somebody speaks gRPC.
pub(crate) fn is_meant(headers: &axum::http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// What gRPC callers hear when a path leads nowhere.
pub(crate) fn unknown_method(path: &str) -> Response {
    Status::unimplemented(format!("no such method: {path}")).into_http()
}

/// Lets a call through when its key is good, and names its caller.
async fn check(Shared(api): Shared<Api>, mut request: Request, next: Next) -> Response {
    let caller = match api.options.trusted {
        true => Ok(Caller::local()),
        false => admit(&api, &Said::of(&request)).await,
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(status) => status.into_http(),
    }
}

/// What a request says of its caller.
struct Said {
    authorization: Option<String>,
    path: String,
    from: Option<IpAddr>,
}

impl Said {
    fn of(request: &Request) -> Said {
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        Said {
            authorization: authorization.map(str::to_owned),
            path: request.uri().path().to_owned(),
            from: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()),
        }
    }
}

async fn admit(api: &Api, said: &Said) -> Result<Caller, Status> {
    let Some(authorization) = &said.authorization else {
        return Err(coded(Status::unauthenticated("authorization token not supplied"), &codes::UNAUTHORIZED));
    };
    let Some(key) = authorization.strip_prefix("Bearer ") else {
        let status = Status::unauthenticated("missing \"Bearer \" prefix in the authorization metadata");
        return Err(coded(status, &codes::UNAUTHORIZED));
    };
    let method = said.path.rsplit('/').next().unwrap_or_default();
    let need = access::of_method(method);
    let caller = auth::admit(api, key.trim(), said.from, &said.path, need).await.map_err(|denied| match denied {
        Denied::Unknown => coded(Status::unauthenticated("invalid token"), &codes::UNAUTHORIZED),
        Denied::TooOften(wait) => coded(
            Status::resource_exhausted(format!("too many failed attempts; try again in {} s", wait.as_secs() + 1)),
            &codes::TOO_OFTEN,
        ),
        Denied::Role(why) => coded(Status::permission_denied(why), &codes::FORBIDDEN),
    })?;
    // What a user's key may see is cut out of REST's requests; here it may only ask how the member is.
    match caller.own.is_some() && need != Need::Key {
        true => {
            let why = "a user's API key works over REST only: https://…/api/v1";
            Err(coded(Status::permission_denied(why), &codes::FORBIDDEN))
        }
        false => Ok(caller),
    }
}

/// The same table as for REST: its codes are gRPC's; ours travels beside them.
impl From<crate::status::ApiError> for Status {
    fn from(error: crate::status::ApiError) -> Status {
        coded(Status::new(Code::from(error.code() as i32), error.message()), error.hsr())
    }
}

/// The code of the table as metadata, where Headscale's clients do not look.
fn coded(mut status: Status, code: &state_machine::codes::Code) -> Status {
    if let Ok(value) = code.to_string().parse() {
        status.metadata_mut().insert("hsr", value);
    }
    status
}
