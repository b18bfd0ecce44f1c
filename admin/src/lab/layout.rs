//! Where each member of a laboratory lives: folders, ports, configuration. Pure.

use std::path::{Path, PathBuf};

use state_machine::codes;

use crate::cli::problem::Problem;

/// Members at most; ten ports each.
pub const MEMBERS_MAX: usize = 9;

/// The longest path a unix socket may have (`sun_path` holds 108 bytes with its end).
const SOCKET_PATH_MAX: usize = 107;

/// A laboratory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Absolute.
    pub dir: PathBuf,
    pub base_port: u16,
}

/// Where one member lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub folder: PathBuf,
    pub config: PathBuf,
    pub data: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    pub pid: PathBuf,
    /// What clients dial.
    pub url: String,
    pub client_port: u16,
    pub peer_port: u16,
    pub metrics_port: u16,
    pub derp_port: u16,
    pub stun_port: u16,
}

/// A folder as members in other working folders see it.
pub fn absolute(dir: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(dir)
        .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("{} is no folder: {error}", dir.display())))
}

impl Layout {
    /// The place of member number `index`, counted from 0.
    pub fn place(&self, index: usize) -> Place {
        let name = format!("hs{}", index + 1);
        let folder = self.dir.join(&name);
        let port = self.base_port + 10 * index as u16;
        Place {
            config: folder.join("config.yaml"),
            data: folder.join("data"),
            socket: folder.join("hsraft.sock"),
            log: folder.join("hsraft.log"),
            pid: folder.join("hsraft.pid"),
            url: format!("http://127.0.0.1:{port}"),
            client_port: port,
            peer_port: port + 1,
            metrics_port: port + 2,
            derp_port: port + 3,
            stun_port: port + 4,
            folder,
            name,
        }
    }

    /// Whether `members` members fit into this folder and these ports.
    pub fn check(&self, members: usize) -> Result<(), Problem> {
        if members == 0 || members > MEMBERS_MAX {
            return Err(Problem::of(&codes::LAB_SIZE, format!("a laboratory has between 1 and {MEMBERS_MAX} members")));
        }
        if usize::from(self.base_port) + 10 * members > usize::from(u16::MAX) || self.base_port < 1024 {
            return Err(Problem::of(
                &codes::LAB_PORTS,
                format!("ports {} and on do not fit; choose for example --base-port 8080", self.base_port),
            ));
        }
        let socket = self.place(members - 1).socket;
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Problem::of(
                &codes::LAB_PATH,
                format!(
                    "{} is too long for a unix socket ({SOCKET_PATH_MAX} bytes at most); choose a shorter --dir",
                    socket.display()
                ),
            ));
        }
        Ok(())
    }

    /// The configuration file of a member.
    pub fn config(&self, place: &Place) -> String {
        let server_url = self.place(0).url;
        let Place { name, url, client_port, peer_port, metrics_port, derp_port, stun_port, .. } = place;
        let socket = quoted(&place.socket);
        let data = quoted(&place.data);
        format!(
            "# Member {name} of a laboratory. Everything listens on this machine only.\n\
             server_url: {server_url}\n\
             listen_addr: 127.0.0.1:{client_port}\n\
             metrics_listen_addr: 127.0.0.1:{metrics_port}\n\
             unix_socket: {socket}\n\
             unix_socket_permission: \"0600\"\n\
             \n\
             prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n\
             \n\
             dns:\n  magic_dns: true\n  base_domain: lab.internal\n  override_local_dns: false\n\
             \n\
             derp:\n  server:\n    enabled: true\n    stun_listen_addr: 127.0.0.1:{stun_port}\n\
             \n\
             log:\n  level: info\n\
             \n\
             cluster:\n  name: {name}\n  data_dir: {data}\n  client_url: {url}\n  \
             peer_listen_addr: 127.0.0.1:{peer_port}\n  peer_advertise_addr: 127.0.0.1:{peer_port}\n  timing: lan\n  \
             # Drills may break a member here on purpose: hsraft drill list\n  drills: true\n  \
             # A laboratory runs on whatever machine there is.\n  timing_check: warn\n  \
             derp_listen_addr: 127.0.0.1:{derp_port}\n  derp_host_name: 127.0.0.1\n  derp_port: {derp_port}\n  \
             derp_stun_port: {stun_port}\n  \
             # The relay's certificate is made at its start; clients are told not to verify it.\n  \
             derp_insecure_for_tests: true\n"
        )
    }
}

/// A path as a YAML text.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { dir: "/tmp/a lab".into(), base_port: 8080 }
    }

    #[test]
    fn members_do_not_share_ports() {
        let places: Vec<Place> = (0..MEMBERS_MAX).map(|index| layout().place(index)).collect();
        let mut ports: Vec<u16> = places
            .iter()
            .flat_map(|place| {
                [place.client_port, place.peer_port, place.metrics_port, place.derp_port, place.stun_port]
            })
            .collect();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), MEMBERS_MAX * 5);
        assert_eq!(places[1].name, "hs2");
        assert_eq!(places[1].url, "http://127.0.0.1:8090");
        assert_eq!(places[1].stun_port, 8094);
    }

    #[test]
    fn the_configuration_is_yaml() {
        let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&layout().config(&layout().place(1))).unwrap();
        assert_eq!(value["server_url"], "http://127.0.0.1:8080");
        assert_eq!(value["listen_addr"], "127.0.0.1:8090");
        assert_eq!(value["unix_socket"], "/tmp/a lab/hs2/hsraft.sock");
        assert_eq!(value["derp"]["server"]["stun_listen_addr"], "127.0.0.1:8094");
        assert_eq!(value["cluster"]["name"], "hs2");
        assert_eq!(value["cluster"]["data_dir"], "/tmp/a lab/hs2/data");
        assert_eq!(value["cluster"]["derp_insecure_for_tests"], true);
        assert_eq!(value["cluster"]["derp_port"], 8093);
        assert_eq!(value["dns"]["base_domain"], "lab.internal");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(layout().check(3).is_ok());
        assert!(layout().check(0).is_err());
        assert!(layout().check(10).is_err());
        assert!(Layout { base_port: 65_530, ..layout() }.check(1).is_err());
        assert!(Layout { dir: format!("/{}", "x".repeat(100)).into(), ..layout() }.check(1).is_err());
    }
}
