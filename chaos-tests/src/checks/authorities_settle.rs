//! Where the cluster's authority is replaced, every member follows, and the old one is trusted no longer.

use super::{Law, Sight};

/// Looks at the end: until then a member may be away.
pub struct AuthoritiesSettle;

impl Law for AuthoritiesSettle {
    fn name(&self) -> &'static str {
        "authorities settle"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let waiting = state.members_to_move();
            if !waiting.is_empty() {
                let generation = state.authority_generation();
                return Err(format!("hs{member}: authority {generation} still waits for {waiting:?}"));
            }
            let rows = state.authorities().len();
            if rows > 1 {
                return Err(format!("hs{member}: {rows} authorities are trusted, though nobody is waited for"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use state_machine::{Command, Der, MemberId, SealedSecret};

    use super::*;
    use crate::checks::staged::{Stage, apply, founded};

    #[test]
    fn an_authority_somebody_does_not_follow_is_noticed() {
        let mut stage = Stage::default();
        let mut state = founded();
        stage.show(1, &state);
        AuthoritiesSettle.end(&stage.sight()).unwrap();
        let der = |byte: u8| Der(vec![byte; 8]);
        let key = SealedSecret { nonce: vec![1; 24], ciphertext: vec![2; 64], key_id: 0 };
        apply(&mut state, Command::RotateAuthority { before: der(1), certificate: der(2), cross: der(3), key });
        stage.show(1, &state);
        assert!(AuthoritiesSettle.end(&stage.sight()).unwrap_err().contains("still waits for"));
        apply(&mut state, Command::MoveCertificate { member: MemberId(1), generation: 1 });
        stage.show(1, &state);
        AuthoritiesSettle.end(&stage.sight()).unwrap();
    }
}
