//! The REST API as a program uses it: one member, one key, one connection kept alive.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::task::JoinSet;
use world::World;

/// The largest reply we read.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A way to one member's API.
pub struct Api {
    world: World,
    address: String,
    api_key: String,
    connection: Option<(SendRequest<Full<Bytes>>, JoinSet<()>)>,
}

impl Api {
    /// Nothing is dialled before the first call.
    pub fn new(world: &World, address: &str, api_key: &str) -> Api {
        Api { world: world.clone(), address: address.into(), api_key: api_key.into(), connection: None }
    }

    /// `GET`.
    pub async fn get(&mut self, path: &str, within: Duration) -> Result<Value> {
        self.call(Method::GET, path, None, within).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&mut self, path: &str, body: &Value, within: Duration) -> Result<Value> {
        self.call(Method::POST, path, Some(body), within).await
    }

    /// Dials if there is no connection. An error means that nobody was asked anything.
    pub async fn dial(&mut self, within: Duration) -> Result<()> {
        let dialled = tokio::time::timeout(within, self.connected()).await;
        dialled.unwrap_or_else(|_| bail!("no connection within {within:?}"))
    }

    async fn connected(&mut self) -> Result<()> {
        if self.connection.as_ref().is_none_or(|(requests, _)| requests.is_closed()) {
            let stream = self.world.net.connect(&self.address).await?;
            let (requests, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let _ = driver.await;
            });
            self.connection = Some((requests, tasks));
        }
        Ok(())
    }

    /// One call; after an error the next one dials anew.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>, within: Duration) -> Result<Value> {
        let called = tokio::time::timeout(within, self.try_call(method, path, body)).await;
        let called = called.unwrap_or_else(|_| bail!("no answer within {within:?}"));
        if called.is_err() {
            self.connection = None;
        }
        called.with_context(|| format!("{path} at {}", self.address))
    }

    async fn try_call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.connected().await?;
        let (requests, _) = self.connection.as_mut().expect("made above");
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", &self.address)
            .header("Authorization", format!("Bearer {}", self.api_key))
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        requests.ready().await?;
        let response = requests.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the reply broke off: {error}"))?.to_bytes();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body).trim());
        }
        serde_json::from_slice(&body).context("the reply is not JSON")
    }
}
