//! `debug bundle`: what somebody who helps wants to see, in one file, with secrets taken out.
//!
//! The API never tells secrets; files of the operator do. Everything goes through [`masked`] all the same.

use std::path::{Path, PathBuf};

use serde_json::Value;
use state_machine::codes;

use super::{desk::Desk, problem::Problem};
use crate::files;

/// What is asked of the member; what it does not answer is told as that.
const ASKED: &[&str] = &[
    "/version",
    "/api/v1/health",
    "/api/v1/cluster/status",
    "/api/v1/cluster/members",
    "/api/v1/cluster/upgrade",
    "/api/v1/cluster/audit?limit=200",
    "/api/v1/cluster/tokens",
    "/api/v1/cluster/ssh-checks",
    "/api/v1/user",
    "/api/v1/node",
    "/api/v1/preauthkey",
    "/api/v1/apikey",
    "/api/v1/policy",
];

/// Writes the file.
pub async fn write(file: &Path, with: &[PathBuf], desk: &Desk) -> Result<(), Problem> {
    let text = collect(with, desk).await?;
    files::write(file, &text)
        .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("cannot write {}: {error}", file.display())))?;
    desk.output.done(&format!("{} is written; look through it before you send it", file.display()))
}

async fn collect(with: &[PathBuf], desk: &Desk) -> Result<String, Problem> {
    let mut text = format!("hsraft {} at {}\n", env!("CARGO_PKG_VERSION"), desk.now);
    for path in ASKED {
        let told = match desk.client.get::<Value>(path).await {
            Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
            Err(problem) => format!("not answered: {problem}"),
        };
        text += &format!("\n=== GET {path}\n{told}\n");
    }
    for file in with {
        let cannot =
            |why: String| Problem::of(&codes::FILE_UNREADABLE, format!("cannot read {}: {why}", file.display()));
        let told = files::read(file).map_err(|error| cannot(error.to_string()))?;
        let told = told.ok_or_else(|| cannot("there is no such file".into()))?;
        text += &format!("\n=== {}\n{told}\n", file.display());
    }
    Ok(masked(&text))
}

/// Names of fields whose values are nobody's business.
const SECRET_NAMES: [&str; 8] =
    ["secret", "password", "passwd", "passphrase", "api_key", "apikey", "private_key", "pass"];

/// What secrets of ours begin with; the public part behind it stays.
const KEYS: [&str; 3] = ["hskey-api-", "hskey-auth-", "hskey-client-"];

/// A text without secrets: values under telling names, keys of ours and of Noise, join tokens, PEM keys, credentials in
/// URLs and headers.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.lines() {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            in_pem = true;
            out.push_str("(a private key was taken out)\n");
        }
        if in_pem {
            in_pem = !line.contains("-----END");
            continue;
        }
        out += &masked_words(&masked_value(line));
        out.push('\n');
    }
    out
}

/// `client_secret: x` and `"client_secret": "x"`. Paths to secrets are told: they help and open nothing.
fn masked_value(line: &str) -> String {
    let Some((head, value)) = line.split_once(':') else { return line.to_owned() };
    let name = head.trim().trim_start_matches("- ").trim_matches(['"', '\'']).to_ascii_lowercase();
    let telling = SECRET_NAMES.iter().any(|secret| name == *secret || name.ends_with(&format!("_{secret}")));
    let empty = matches!(value.trim().trim_end_matches(','), "" | "null" | "\"\"" | "''");
    match telling && !empty {
        true => format!("{head}: (taken out)"),
        false => line.to_owned(),
    }
}

fn masked_words(line: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | ')' | ']' | '}' | '<');
    let mut out = line.to_owned();
    for start in KEYS.into_iter().chain(["privkey:", "hsr1.", "hsr1-", "Bearer ", "bearer ", "Basic "]) {
        let mut from = 0;
        while let Some(found) = out[from..].find(start).map(|at| from + at + start.len()) {
            let end = out[found..].find(is_end).map_or(out.len(), |at| found + at);
            // Twelve characters of a key are public; of a shorter one, none.
            let public = if KEYS.contains(&start) && out[found..end].is_char_boundary(12.min(end - found)) {
                out[found..end].char_indices().nth(12).filter(|(_, c)| *c == '-').map_or(0, |(at, _)| at)
            } else {
                0
            };
            if end > found + public {
                out.replace_range(found + public..end, "…");
            }
            from = found + public + if end > found + public { "…".len() } else { 0 };
        }
    }
    // https://user:word@host
    let mut from = 0;
    while let Some(at) = out[from..].find("://").map(|at| from + at + 3) {
        let end = out[at..].find(|c: char| is_end(c) || c == '/').map_or(out.len(), |end| at + end);
        from = end;
        if let Some(sign) = out[at..end].rfind('@') {
            out.replace_range(at..at + sign, "…");
            from = at;
            from += out[from..].find(is_end).unwrap_or(out.len() - from);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use state_machine::{ApiKey, Command, PreAuthKey, SealedSecret, Timestamp, UserId};

    use super::*;
    use crate::{
        cli::{Format, Output},
        client::{Client, Target},
        lone::Lone,
    };

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        let table = [
            ("  client_secret: canary", "  client_secret: (taken out)"),
            ("  client_secret_path: /run/oidc", "  client_secret_path: /run/oidc"),
            ("  \"apiKey\": \"canary\",", "  \"apiKey\": (taken out)"),
            ("pass: canary", "pass: (taken out)"),
            ("private_key: canary", "private_key: (taken out)"),
            ("bypass: yes", "bypass: yes"),
            ("secret:", "secret:"),
            ("x hskey-api-abcdefghijkl-canary y", "x hskey-api-abcdefghijkl… y"),
            ("hskey-auth-canary", "hskey-auth-…"),
            ("\"privkey:canary\"", "\"privkey:…\""),
            ("Authorization: Bearer canary", "Authorization: Bearer …"),
            ("--token hsr1.canary.canary", "--token hsr1.…"),
            ("dsn postgres://hs:canary@db:5432/x?y", "dsn postgres://…@db:5432/x?y"),
            ("https://idp.example.com/x@y", "https://idp.example.com/x@y"),
            ("plain: text", "plain: text"),
        ];
        for (text, expected) in table {
            assert_eq!(masked(text), format!("{expected}\n"));
        }
        let pem = "a\n-----BEGIN EC PRIVATE KEY-----\ncanary\n-----END EC PRIVATE KEY-----\nb";
        assert_eq!(masked(pem), "a\n(a private key was taken out)\nb\n");
    }

    /// Secrets planted wherever a cluster and its operator keep some: none of them is in the bundle.
    #[tokio::test]
    async fn planted_secrets_do_not_leave() {
        let lone = Lone::new();
        let user = Command::CreateUser {
            name: "ann".into(),
            display_name: String::new(),
            email: String::new(),
            profile_pic_url: String::new(),
        };
        lone.apply(user).unwrap();
        let canary = *b"canarycanarycanarycanarycanaryca";
        let bcrypt = Some("$2b$10$canary".to_owned());
        let key = ApiKey { prefix: "a".repeat(12), secret_sha256: canary, bcrypt: bcrypt.clone(), ..ApiKey::default() };
        lone.apply(Command::CreateApiKey { key }).unwrap();
        let user = Some(UserId(1));
        let key = PreAuthKey { prefix: "b".repeat(12), secret_sha256: canary, bcrypt, user, ..PreAuthKey::default() };
        lone.apply(Command::CreatePreAuthKey { key }).unwrap();
        let secret = SealedSecret { key_id: 1, nonce: canary.to_vec(), ciphertext: canary.repeat(2) };
        lone.apply(Command::PutSecret { name: "noise".into(), secret }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yaml");
        files::write(&config, "oidc:\n  client_secret: canary\ncli:\n  api_key: hskey-api-cccccccccccc-canary\n")
            .unwrap();

        let (output, _) = Output::captured(Format::Human);
        let client = Client::new(Target::Direct(lone.router(true)), Duration::from_secs(5));
        let desk = Desk::fixed(client, output, true, Timestamp(1_767_225_600_000));
        let text = collect(&[config], &desk).await.unwrap();
        let digits: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
        for planted in ["canary", &digits[..24], "99,97,110,97,114,121"] {
            assert!(!text.contains(planted), "{planted}: {text}");
        }
        for kept in ["\"ann\"", "aaaaaaaaaaaa", "client_secret: (taken out)", "=== GET /api/v1/cluster/status"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
