//! Which program this is, in the form Headscale's consoles parse.

use axum::Json as Reply;
use serde::{Deserialize, Serialize};

/// The release of Headscale whose interfaces we offer. Consoles choose paths by it.
const COMPATIBLE_WITH: &str = "v0.29.2";

/// What `GET /version` and `hsraft version` say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// `v0.29.2+hsraft.0.1.0`: consoles read the part before the plus.
    pub version: String,
    pub commit: String,
    pub build_time: String,
    pub go: Toolchain,
    pub dirty: bool,
    /// Our own version.
    pub hsraft: String,
}

/// Headscale names its compiler here; readers of the field want it to exist.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Toolchain {
    pub version: String,
    pub os: String,
    pub arch: String,
}

/// This program.
pub fn this() -> Version {
    let hsraft = env!("CARGO_PKG_VERSION");
    Version {
        version: format!("{COMPATIBLE_WITH}+hsraft.{hsraft}"),
        commit: option_env!("HSRAFT_COMMIT").unwrap_or("unknown").into(),
        build_time: option_env!("HSRAFT_BUILD_TIME").unwrap_or("unknown").into(),
        go: Toolchain {
            version: "none (Rust)".into(),
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
        },
        dirty: false,
        hsraft: hsraft.into(),
    }
}

/// `GET /version`, open to everybody.
pub(crate) async fn reply() -> Reply<Version> {
    Reply(this())
}
