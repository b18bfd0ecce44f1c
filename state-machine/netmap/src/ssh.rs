//! Who may open a shell on the viewer (`tailcfg.SSHPolicy`).

use ::policy::SshRule;
use tailcfg::{SshAction, SshPolicy, SshPrincipal, SshRecordingFailure};

use crate::wire::{Bytes, to_bytes};

/// Where a node asks whether a checked connection may be accepted. The host stands for "over the control connection";
/// clients fill in the names with `$`.
const CHECK: &str = "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER";

/// The rules; the first that matches decides. Without rules nobody may.
pub(crate) fn page(rules: &[SshRule]) -> Bytes {
    to_bytes(&SshPolicy { rules: rules.iter().map(rule).collect() })
}

/// What happens once a person has approved a connection that the rule wants to be checked: as if it needed no check.
pub fn accepted(rule: &SshRule) -> SshAction {
    action(&SshRule { check: false, ..rule.clone() })
}

fn rule(rule: &SshRule) -> tailcfg::SshRule {
    let principal =
        |address: &std::net::IpAddr| SshPrincipal { node_ip: address.to_string(), ..SshPrincipal::default() };
    tailcfg::SshRule {
        rule_expires: None,
        principals: rule.principals.iter().map(principal).collect(),
        ssh_users: rule.users.clone(),
        action: action(rule),
        accept_env: rule.accept_env.clone(),
    }
}

fn action(rule: &SshRule) -> SshAction {
    let mut action = match rule.check {
        true => SshAction { hold_and_delegate: CHECK.to_owned(), ..SshAction::default() },
        false => SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            ..SshAction::default()
        },
    };
    action.recorders = rule.recorders.clone();
    action.on_recording_failure = (rule.enforce_recorder && !rule.recorders.is_empty()).then(|| SshRecordingFailure {
        reject_session_with_message: "# no session recorder can be reached, and the policy demands one".to_owned(),
        terminate_session_with_message: "# the session recorder was lost, and the policy demands one".to_owned(),
    });
    action
}
