//! What a word works with: the member it speaks to, and where results go.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_yaml_ng::Value;
use state_machine::{Timestamp, codes};
use url::Url;

use super::{
    Global,
    output::{Output, Shape},
    problem::Problem,
    spans,
};
use crate::{
    client::{Client, Remote, Target, Trust},
    files,
};

/// Where a member listens for us when nobody said otherwise; then where Headscale does.
const SOCKETS: [&str; 2] = ["/var/lib/hsraft/hsraft.sock", "/var/run/headscale/headscale.sock"];

/// How long a call may take. A proposal waits up to 10 s for a leader, and its answer is worth hearing.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What a word works with.
pub struct Desk {
    pub client: Client,
    pub output: Output,
    /// Questions are answered with yes.
    pub force: bool,
    /// When the word was said.
    pub now: Timestamp,
}

impl Desk {
    /// Finds the member: flags first, then the environment, then the configuration file.
    pub fn open(global: &Global, output: Output) -> Result<Desk, Problem> {
        let (file, folder) = config(global.config.as_deref())?;
        let timeout = match global.timeout {
            Some(timeout) => timeout,
            None => setting("TIMEOUT", &file, "timeout")
                .map_or(Ok(TIMEOUT), |text| spans::parse(&text))
                .map_err(|why| Problem::of(&codes::SPAN_WRONG, why))?,
        };
        let address = match (&global.address, &global.socket) {
            (Some(address), _) => Some(address.clone()),
            (None, Some(_)) => None,
            (None, None) => setting("ADDRESS", &file, "address"),
        };
        let target = match address {
            Some(address) => Target::Remote(remote(&address, global, &file)?),
            None => Target::Socket(socket(global, &file, &folder)),
        };
        Ok(Desk { client: Client::new(target, timeout), output, force: global.force, now: files::now() })
    }

    /// Whether a person, or `--force`, says yes.
    pub fn agreed(&self, question: &str) -> bool {
        self.force || self.output.ask(question)
    }

    /// The moment a span from now ends.
    pub fn after(&self, span: Duration) -> Timestamp {
        self.now.after(span)
    }

    /// A desk for tests.
    #[cfg(test)]
    pub fn fixed(client: Client, output: Output, force: bool, now: Timestamp) -> Desk {
        Desk { client, output, force, now }
    }
}

/// Whose shape programs get: today's scripts expect Headscale 0.29's.
pub fn shape() -> Shape {
    match env::var("HSRAFT_CLI_SHAPE").as_deref() {
        Ok("0.30" | "rest") => Shape::Rest,
        _ => Shape::Structs,
    }
}

/// Flag, variable, the file's `unix_socket`, the member's data folder, the usual places.
fn socket(global: &Global, file: &Value, folder: &Path) -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let usual = || SOCKETS.iter().map(PathBuf::from).find(|socket| socket.exists());
    global
        .socket
        .clone()
        .or_else(|| variable("HSRAFT_SOCKET"))
        .or_else(|| variable("HSRAFT_UNIX_SOCKET"))
        .or_else(|| variable("HEADSCALE_UNIX_SOCKET"))
        .or_else(|| Some(folder.join(file.get("unix_socket")?.as_str()?)))
        .or_else(|| Some(folder.join(file.get("cluster")?.get("data_dir")?.as_str()?).join("hsraft.sock")))
        .or_else(usual)
        .unwrap_or_else(|| PathBuf::from(SOCKETS[0]))
}

fn remote(address: &str, global: &Global, file: &Value) -> Result<Remote, Problem> {
    let Some(api_key) = setting("API_KEY", file, "api_key") else {
        return Err(Problem::of(
            &codes::API_KEY_MISSING,
            "HEADSCALE_CLI_API_KEY environment variable needs to be set (or HSRAFT_CLI_API_KEY); \
             make a key on a member with: hsraft apikeys create",
        ));
    };
    let said = setting("INSECURE", file, "insecure");
    let trust = match &global.ca_file {
        _ if global.insecure || matches!(said.as_deref(), Some("true" | "1")) => Trust::Anybody,
        Some(file) => Trust::File(file.clone()),
        None => Trust::System,
    };
    Ok(Remote { url: parse_address(address)?, api_key, trust })
}

/// Reads `https://host`, `http://host:port`, or the bare `host:port` of Headscale up to 0.29.
fn parse_address(address: &str) -> Result<Url, Problem> {
    let text = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| {
        Problem::of(
            &codes::ADDRESS_WRONG,
            format!("{address:?} is not an address; write for example https://hs.example.com"),
        )
    })
}

/// A setting of the command line: our variable, Headscale's, or `cli.<key>` of the file.
fn setting(variable: &str, file: &Value, key: &str) -> Option<String> {
    let said = |prefix: &str| env::var(format!("{prefix}_CLI_{variable}")).ok().filter(|text| !text.is_empty());
    said("HSRAFT").or_else(|| said("HEADSCALE")).or_else(|| match file.get("cli")?.get(key)? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    })
}

/// The configuration file and its folder, or nothing when none is found. One that was named must be there.
pub fn config(named: Option<&Path>) -> Result<(Value, PathBuf), Problem> {
    let variable = || env::var_os("HSRAFT_CONFIG").or_else(|| env::var_os("HEADSCALE_CONFIG")).map(PathBuf::from);
    let named = named.map(Path::to_path_buf).or_else(variable);
    let places = match &named {
        Some(file) => vec![file.clone()],
        None => usual_places(),
    };
    for file in places {
        let read = files::read(&file);
        // A file that only the server may read is no obstacle to its users.
        if named.is_none() && read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            continue;
        }
        let text = read.map_err(|error| {
            Problem::of(&codes::FILE_UNREADABLE, format!("cannot read {}: {error}", file.display()))
        })?;
        if let Some(text) = text {
            let value = serde_yaml_ng::from_str(&text).map_err(|error| {
                Problem::of(&codes::CONFIG_NOT_YAML, format!("{} is not YAML: {error}", file.display()))
            })?;
            return Ok((value, file.parent().unwrap_or(Path::new("")).to_path_buf()));
        }
    }
    match named {
        Some(file) => {
            Err(Problem::of(&codes::FILE_MISSING, format!("there is no configuration file {}", file.display())))
        }
        None => Ok((Value::Null, PathBuf::new())),
    }
}

fn usual_places() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".headscale"));
    let folders = [Some("/etc/hsraft".into()), Some("/etc/headscale".into()), home, Some(PathBuf::from("."))];
    let names = ["config.yaml", "config.json"];
    folders.into_iter().flatten().flat_map(|folder| names.map(|name| folder.join(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, url) in [
            ("hs.example.com:50443", "https://hs.example.com:50443/"),
            ("https://hs.example.com", "https://hs.example.com/"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(parse_address(text).unwrap().as_str(), url);
        }
        for text in ["", "ftp://x", "https://"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
