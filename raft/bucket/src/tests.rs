//! Against a server that speaks S3's protocol, written here; it can be down, slow, full, and lie.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use world::BoxStream;

use super::*;

/// What the far end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fine,
    Down,
    Full,
    Lying,
    Forbidding,
}

#[derive(Clone)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    mood: Arc<Mutex<Mood>>,
    endpoint: String,
}

impl Server {
    async fn start() -> Server {
        let world = world::real::world();
        let mut listener = world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { objects: Arc::default(), mood: Arc::new(Mutex::new(Mood::Fine)), endpoint };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        server
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn serve(self, stream: BoxStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                if line == "\r\n" {
                    break;
                }
                head.push(line.trim_end().to_owned());
            }
            let length =
                head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            assert!(
                head.iter().any(|line| line
                    .to_ascii_lowercase()
                    .starts_with("authorization: aws4-hmac-sha256 credential=ann/"))
            );
            let mut words = head[0].split(' ');
            let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let (status, headers, mut answer) = self.answer(&method, &target, body);
            let mut text =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", answer.len()).into_bytes();
            if method != "HEAD" {
                text.append(&mut answer);
            }
            if stream.write_all(&text).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, method: &str, target: &str, body: Vec<u8>) -> (&'static str, String, Vec<u8>) {
        let mood = *self.mood.lock().unwrap();
        let error = |code: &str| {
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>").into_bytes()
        };
        match mood {
            Mood::Down => return ("503 Service Unavailable", String::new(), error("SlowDown")),
            Mood::Forbidding => return ("403 Forbidden", String::new(), error("AccessDenied")),
            Mood::Full if method == "PUT" => {
                return ("507 Insufficient Storage", String::new(), error("QuotaExceeded"));
            }
            _ => {}
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = path.trim_start_matches("/shelf").trim_start_matches('/').to_owned();
        let dates = "last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\netag: \"1\"\r\n".to_owned();
        let mut objects = self.objects.lock().unwrap();
        match (method, objects.get(&key)) {
            ("PUT", _) => {
                objects.insert(key, body);
                ("200 OK", dates, Vec::new())
            }
            ("GET", _) if query.contains("list-type=2") => {
                let prefix = query
                    .split('&')
                    .find_map(|part| part.strip_prefix("prefix="))
                    .unwrap_or_default()
                    .replace("%2F", "/");
                let items: String = objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .map(|(key, bytes)| format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"1\"</ETag><Size>{}</Size></Contents>",
                        bytes.len()
                    ))
                    .collect();
                let xml = format!(
                    "<?xml version=\"1.0\"?><ListBucketResult><Name>shelf</Name><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
                );
                ("200 OK", String::new(), xml.into_bytes())
            }
            ("GET" | "HEAD", Some(bytes)) => {
                let mut bytes = bytes.clone();
                if mood == Mood::Lying && !bytes.is_empty() {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                ("200 OK", dates, bytes)
            }
            ("GET" | "HEAD", None) => ("404 Not Found", String::new(), error("NoSuchKey")),
            ("DELETE", _) => {
                objects.remove(&key);
                ("204 No Content", String::new(), Vec::new())
            }
            _ => ("405 Method Not Allowed", String::new(), error("MethodNotAllowed")),
        }
    }

    fn way(&self) -> Way {
        Way {
            url: "s3://shelf/backups/of-ours".into(),
            endpoint: self.endpoint.clone(),
            access_key_id: "ann".into(),
            secret_access_key: Zeroizing::new("secret-of-ann".into()),
            allow_http: true,
            ..Way::default()
        }
    }
}

#[tokio::test]
async fn objects_are_put_listed_got_and_removed() {
    let server = Server::start().await;
    let bucket = open(&server.way()).unwrap();
    assert_eq!(bucket.name(), "s3://shelf/backups/of-ours");
    assert_eq!(bucket.get("c1/full-1").await.unwrap(), None);
    bucket.put("c1/full-1", b"one".to_vec()).await.unwrap();
    bucket.put("c2/full-2", vec![7; 3 << 20]).await.unwrap();
    assert_eq!(bucket.list("").await.unwrap(), ["c1/full-1", "c2/full-2"]);
    assert_eq!(bucket.list("c1").await.unwrap(), ["c1/full-1"]);
    assert_eq!(bucket.get("c1/full-1").await.unwrap().unwrap(), b"one");
    assert_eq!(bucket.get("c2/full-2").await.unwrap().unwrap().len(), 3 << 20);
    assert_eq!(server.objects.lock().unwrap().keys().next().unwrap(), "backups/of-ours/c1/full-1");
    bucket.remove("c1/full-1").await.unwrap();
    bucket.remove("c1/full-1").await.unwrap();
    assert_eq!(bucket.list("").await.unwrap(), ["c2/full-2"]);
}

#[tokio::test]
async fn whatever_the_far_end_does_is_an_error_in_time() {
    let server = Server::start().await;
    let bucket = open(&server.way()).unwrap();
    bucket.put("a", b"before".to_vec()).await.unwrap();
    server.set(Mood::Down);
    let late = tokio::time::timeout(RETRY_WITHIN + CONNECT_WITHIN, bucket.get("a")).await.expect("bounded");
    assert!(late.is_err());
    server.set(Mood::Full);
    let full = tokio::time::timeout(RETRY_WITHIN + CONNECT_WITHIN, bucket.put("b", vec![1])).await.expect("bounded");
    assert!(full.unwrap_err().to_string().contains("507"));
    server.set(Mood::Forbidding);
    let denied = bucket.get("a").await.unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    assert!(!denied.to_string().contains("secret-of-ann"));
    server.set(Mood::Lying);
    assert_ne!(bucket.get("a").await.unwrap().unwrap(), b"before", "only reading back notices that");
    server.set(Mood::Fine);
    assert_eq!(bucket.get("a").await.unwrap().unwrap(), b"before");
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time() {
    let way = Way { endpoint: "http://127.0.0.1:9".into(), ..Server::start().await.way() };
    let bucket = open(&way).unwrap();
    let found = tokio::time::timeout(Duration::from_secs(40), bucket.list("")).await.expect("bounded");
    assert!(found.is_err());
}

#[test]
fn what_cannot_be_a_bucket_is_refused_and_secrets_stay_in() {
    let good = Way { url: "s3://shelf".into(), access_key_id: "ann".into(), ..Way::default() };
    assert!(matches!(open(&good), Err(BucketError::NoCredentials(_))));
    let good = Way { secret_access_key: Zeroizing::new("secret-of-ann".into()), ..good };
    assert!(open(&good).is_ok());
    for url in ["", "shelf", "s3://", "https://shelf/x", "/backup"] {
        assert!(matches!(open(&Way { url: url.into(), ..good.clone() }), Err(BucketError::Url(_))), "{url}");
    }
    let plain = Way { endpoint: "http://10.0.0.1".into(), ..good.clone() };
    assert!(matches!(open(&plain), Err(BucketError::PlainHttp { .. })));
    assert!(!format!("{good:?}").contains("secret-of-ann"));
    let env: BTreeMap<String, String> =
        [("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_ENDPOINT_URL", "https://e"), ("AWS_REGION", "r")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let read = Way::from_env("s3://b", &env);
    assert_eq!(
        (read.endpoint.as_str(), read.region.as_str(), read.secret_access_key.as_str()),
        ("https://e", "r", "x")
    );
}
