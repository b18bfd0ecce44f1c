//! What a member takes over from its files while it runs (SIGHUP), and what waits for a restart.

use std::fmt;

use state_machine::{Answer, Command, Outcome};

use crate::{Server, chores, listen, options::Options};

/// What became of a reload, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Differed, and is in force now.
    pub taken: Vec<String>,
    /// Differs and was not taken over, with the reason.
    pub refused: Vec<String>,
    /// Differs and needs a restart.
    pub restart: Vec<&'static str>,
}

impl Reloaded {
    /// One line for the log.
    pub fn tell(&self) {
        let list = |items: &[String]| if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
        let restart = if self.restart.is_empty() { "nothing".to_owned() } else { self.restart.join(", ") };
        match self.refused.is_empty() && self.restart.is_empty() {
            true => tracing::info!(taken = list(&self.taken), "reloaded"),
            false => tracing::warn!(
                taken = list(&self.taken),
                refused = list(&self.refused),
                needs_restart = restart,
                "reloaded in part"
            ),
        }
    }

    fn heard(&mut self, what: impl fmt::Display, answer: Result<Answer, raft::ProposeError>) {
        match answer {
            Ok(Ok(Outcome::Unchanged)) => {}
            Ok(Ok(_)) => self.taken.push(what.to_string()),
            Ok(Err(refusal)) => self.refused.push(format!("{what} ({refusal})")),
            Err(error) => self.refused.push(format!("{what} ({error})")),
        }
    }
}

impl Server {
    /// Takes over what a file says anew: settings all members share, the policy of `policy.path`, the regions of
    /// `derp.paths`, and certificates. For SIGHUP: somebody asked.
    pub async fn reload(&self, new: &Options) -> Reloaded {
        let mut told = Reloaded { restart: needs_restart(&self.options, new), ..Reloaded::default() };
        self.reload_certificates(new, &mut told);
        let (cluster, by) = (self.cluster(), &self.options.name);
        let propose = async |command| cluster.propose(by, command).await.map(|applied| applied.answer);

        let state = cluster.latest();
        let keys = chores::differing_keys(state.settings(), &new.settings);
        if !keys.is_empty() {
            let command = Command::ApplySettings { settings: new.settings.clone() };
            told.heard(format_args!("settings: {}", keys.join(", ")), propose(command).await);
        }
        if let Some(text) = &new.policy {
            self.policy_file.send_replace(Some(text.as_str().into()));
        }
        if let Some(text) = &new.policy
            && state.policy().is_none_or(|known| *known.text != **text)
        {
            let command = Command::SetPolicy { text: text.as_str().into(), author: format!("file of {by}") };
            told.heard("policy.path", propose(command).await);
        }
        // With URLs the chore merges; it has the lists it was started with.
        if new.derp.urls.is_empty() {
            let regions = new.derp.fixed_regions();
            if !state.derp_regions().values().map(|region| &**region).eq(&regions) {
                told.heard("derp.paths", propose(Command::SetDerpRegions { regions }).await);
            }
        }
        told
    }

    fn reload_certificates(&self, new: &Options, told: &mut Reloaded) {
        self.files.send_replace(chores::client_certificate::Files::of(new));
        let disk = &*self.world.disk;
        if let (Some(certificate), Some(files)) = (&self.certificate, &new.client_tls) {
            match certificate.reload(files, disk) {
                Ok(true) => told.taken.push("tls_cert_path".to_owned()),
                Ok(false) => {}
                Err(error) => told.refused.push(format!("tls_cert_path ({error})")),
            }
        }
        let relays = self.relay().zip(new.relay.as_ref().and_then(|relay| relay.tls.as_ref()));
        if let Some((relay, files)) = relays {
            let read = listen::tls::files(files, disk)
                .map_err(|error| error.to_string())
                .and_then(|(chain, key)| derp::Certificate::from_pem(&chain, &key).map_err(|error| error.to_string()));
            match read {
                Ok(certificate) if relay.certificate_leaf().as_ref() != Some(certificate.leaf()) => {
                    relay.replace_certificate(certificate);
                    told.taken.push("the relay's certificate".to_owned());
                }
                Ok(_) => {}
                Err(error) => told.refused.push(format!("the relay's certificate ({error})")),
            }
        }
    }
}

/// Keys of one member that were read at its start and cannot change under it.
fn needs_restart(old: &Options, new: &Options) -> Vec<&'static str> {
    let without_certificate = |options: &Options| {
        options.relay.clone().map(|relay| (relay.tls.is_some(), crate::options::Relay { tls: None, ..relay }))
    };
    let table = [
        ("cluster.name", old.name != new.name),
        ("cluster.data_dir", old.data_dir != new.data_dir),
        ("listen_addr", old.client_listen != new.client_listen),
        ("tls_cert_path (given or taken away)", old.client_tls.is_some() != new.client_tls.is_some()),
        ("tls_letsencrypt_… and acme_…", old.client_acme != new.client_acme),
        ("cluster.cert_dns (but for its mode)", old.cert_dns != new.cert_dns),
        ("cluster.client_url", old.client_url != new.client_url),
        ("cluster.client_addresses", old.client_addresses != new.client_addresses),
        ("metrics_listen_addr", old.metrics_listen != new.metrics_listen),
        ("unix_socket", old.unix_socket != new.unix_socket),
        ("unix_socket_permission", old.unix_socket_mode != new.unix_socket_mode),
        ("cluster.peer_listen_addr", old.peer_listen != new.peer_listen),
        ("cluster.peer_advertise_addr", old.peer_advertise != new.peer_advertise),
        ("cluster.timing", old.timing != new.timing),
        ("cluster.auto_remove_after", old.auto_remove_after != new.auto_remove_after),
        ("cluster.snapshot_every", old.snapshot_every != new.snapshot_every),
        ("policy.mode and policy.path (given or taken away)", old.policy.is_some() != new.policy.is_some()),
        ("oidc", old.oidc != new.oidc),
        ("derp.urls", old.derp.urls != new.derp.urls || old.derp.every != new.derp.every),
        ("derp.paths (beside derp.urls)", !new.derp.urls.is_empty() && old.derp.fixed != new.derp.fixed),
        ("derp.server and cluster.derp_…", without_certificate(old) != without_certificate(new)),
    ];
    table.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::options::TlsFiles;

    #[test]
    fn what_cannot_change_is_named() {
        let old = Options { policy: Some("// old\n{}".to_owned()), ..Options::new("hs1", "/data") };
        assert_eq!(needs_restart(&old, &old.clone()), Vec::<&str>::new());
        let mut new = old.clone();
        new.data_dir = "/elsewhere".into();
        new.timing = raft::Timing::wan();
        new.policy = Some("{}".to_owned());
        new.settings.base_domain = "other.net".to_owned();
        assert_eq!(needs_restart(&old, &new), ["cluster.data_dir", "cluster.timing"]);
        // Other files for the same certificate are no reason, a certificate where there was none is.
        let files = |name: &str| Some(TlsFiles { cert: PathBuf::from(name), key: "key".into() });
        let (mut one, mut other) = (old.clone(), old.clone());
        (one.client_tls, other.client_tls) = (files("a"), files("b"));
        assert_eq!(needs_restart(&one, &other), Vec::<&str>::new());
        assert_eq!(needs_restart(&old, &one), ["tls_cert_path (given or taken away)"]);
    }
}
