//! A bucket behind S3's protocol as a place for objects ([`world::Objects`]): backups go there.
//!
//! A closet of its own because the client brings sockets and clocks of its own: only the program that really runs
//! opens one ([`open`]) and hands it to the member; no simulation ever does. Whatever the far end does (down, slow,
//! full, wrong bytes) becomes an error in bounded time and bounded memory.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use futures::TryStreamExt;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use url::Url;
use world::{BoxFuture, Objects};
use zeroize::Zeroizing;

/// One request may take so long; a full of a gigabyte passes at 35 MB a second.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// All tries of one request. The archive tries again by itself every ten seconds.
const RETRY_WITHIN: Duration = Duration::from_secs(20);

/// Which bucket, and how to get in. Its Debug form keeps the secrets.
#[derive(Clone, Default)]
pub struct Way {
    /// `s3://bucket/prefix`.
    pub url: String,
    /// `https://s3.example.com`; empty: Amazon's for the region.
    pub endpoint: String,
    /// Empty: `us-east-1`.
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    pub session_token: Zeroizing<String>,
    /// Plain HTTP is no mistake.
    pub allow_http: bool,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { url, endpoint, region, allow_http, .. } = self;
        f.debug_struct("Way")
            .field("url", url)
            .field("endpoint", endpoint)
            .field("region", region)
            .field("allow_http", allow_http)
            .finish_non_exhaustive()
    }
}

impl Way {
    /// What the environment says, by Amazon's names: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`.
    pub fn from_env(url: &str, env: &BTreeMap<String, String>) -> Way {
        let read = |names: &[&str]| names.iter().find_map(|name| env.get(*name).cloned()).unwrap_or_default();
        Way {
            url: url.to_owned(),
            endpoint: read(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
            region: read(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            access_key_id: read(&["AWS_ACCESS_KEY_ID"]),
            secret_access_key: Zeroizing::new(read(&["AWS_SECRET_ACCESS_KEY"])),
            session_token: Zeroizing::new(read(&["AWS_SESSION_TOKEN"])),
            allow_http: read(&["AWS_ALLOW_HTTP"]) == "true",
        }
    }
}

/// Whether a text names a bucket.
pub fn is_bucket(text: &str) -> bool {
    text.starts_with("s3://")
}

/// The bucket cannot be used as described.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("{0:?} is not s3://bucket or s3://bucket/prefix")]
    Url(String),
    #[error("there are no credentials for {0}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoCredentials(String),
    #[error(
        "{endpoint} is plain HTTP: whoever is on the way reads and changes it; write https, or allow it on purpose"
    )]
    PlainHttp { endpoint: String },
    #[error("{0}")]
    Client(String),
}

struct Bucket {
    name: String,
    prefix: Path,
    store: AmazonS3,
}

/// Makes ready to speak to the bucket; nothing is asked yet.
pub fn open(way: &Way) -> Result<Arc<dyn Objects>, BucketError> {
    let wrong = || BucketError::Url(way.url.clone());
    let url = Url::parse(&way.url).map_err(|_| wrong())?;
    let bucket = url.host_str().filter(|host| !host.is_empty() && url.scheme() == "s3").ok_or_else(wrong)?;
    let prefix = Path::from_url_path(url.path()).map_err(|_| wrong())?;
    if way.access_key_id.is_empty() || way.secret_access_key.is_empty() {
        return Err(BucketError::NoCredentials(way.url.clone()));
    }
    if way.endpoint.starts_with("http://") && !way.allow_http {
        return Err(BucketError::PlainHttp { endpoint: way.endpoint.clone() });
    }
    let client = ClientOptions::new()
        .with_timeout(REQUEST_WITHIN)
        .with_connect_timeout(CONNECT_WITHIN)
        .with_allow_http(way.allow_http);
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(3),
        ..BackoffConfig::default()
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(if way.region.is_empty() { "us-east-1" } else { way.region.as_str() })
        .with_access_key_id(&way.access_key_id)
        .with_secret_access_key(way.secret_access_key.as_str())
        .with_client_options(client)
        .with_retry(RetryConfig { backoff, max_retries: 3, retry_timeout: RETRY_WITHIN });
    if !way.session_token.is_empty() {
        builder = builder.with_token(way.session_token.as_str());
    }
    if !way.endpoint.is_empty() {
        builder = builder.with_endpoint(&way.endpoint);
    }
    let store = builder.build().map_err(|error| BucketError::Client(error.to_string()))?;
    Ok(Arc::new(Bucket { name: way.url.trim_end_matches('/').to_owned(), prefix, store }))
}

impl Bucket {
    fn at(&self, name: &str) -> Path {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.child(part))
    }
}

fn failed(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    };
    // The answer of a server may be a page; its beginning says what is wrong.
    let text: String = error.to_string().chars().take(300).collect();
    io::Error::new(kind, text)
}

impl Objects for Bucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move {
            let prefix = self.at(under);
            let mut found = self.store.list(Some(&prefix));
            let mut names = Vec::new();
            while let Some(object) = found.try_next().await.map_err(failed)? {
                if let Some(parts) = object.location.prefix_match(&self.prefix) {
                    names.push(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
                }
            }
            names.sort();
            Ok(names)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let got = match self.store.get(&self.at(name)).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            Ok(Some(got.bytes().await.map_err(failed)?.into()))
        })
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.store.put(&self.at(name), bytes.into()).await.map(drop).map_err(failed) })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            match self.store.delete(&self.at(name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(failed(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
