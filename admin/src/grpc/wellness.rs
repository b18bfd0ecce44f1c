//! `grpc.health.v1.Health`: can this member read certainly current state?

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{Api, v1::health};

/// How often a watch looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The service.
pub fn service(api: Api) -> HealthServer<Wellness> {
    HealthServer::new(Wellness(api))
}

/// Answers probes.
pub struct Wellness(Api);

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Wellness {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_ours(&request.get_ref().service) {
            return Err(Status::not_found("the services here: headscale.v1.HeadscaleService"));
        }
        Ok(Response::new(answer(now(&self.0).await)))
    }

    type WatchStream = Statuses;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Statuses>, Status> {
        if !is_ours(&request.get_ref().service) {
            let unknown = stream::once(async { Ok(answer(ServingStatus::ServiceUnknown)) });
            return Ok(Response::new(unknown.boxed()));
        }
        let statuses = stream::unfold((self.0.clone(), None), |(api, last)| async move {
            loop {
                let status = now(&api).await;
                if last != Some(status) {
                    return Some((Ok(answer(status)), (api, Some(status))));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(Response::new(statuses.boxed()))
    }
}

fn is_ours(service: &str) -> bool {
    matches!(service, "" | "headscale.v1.HeadscaleService")
}

async fn now(api: &Api) -> ServingStatus {
    if health::is_current(api).await { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
