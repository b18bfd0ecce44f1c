//! A confirmed read shows everything that was answered before it began, and a member that answers a write stands at it.

use super::{Law, Sight};
use crate::history::Breach;

/// Reads the book.
pub struct ReadsAreCurrent;

impl Law for ReadsAreCurrent {
    fn name(&self) -> &'static str {
        "reads are current"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        sight.history.breach(Breach::StaleRead)
    }
}

#[cfg(test)]
mod tests {
    use state_machine::Revision;

    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn stale_reads_and_answers_ahead_of_the_state_are_noticed() {
        let mut stage = Stage::default();
        stage.history.acknowledge(1, Revision(7), Revision(9));
        stage.history.read(2, Revision(7), Revision(7));
        ReadsAreCurrent.watch(&stage.sight()).unwrap();
        stage.history.read(2, Revision(7), Revision(6));
        assert!(ReadsAreCurrent.watch(&stage.sight()).unwrap_err().contains("read revision 6"));

        let mut stage = Stage::default();
        stage.history.acknowledge(1, Revision(7), Revision(6));
        assert!(ReadsAreCurrent.watch(&stage.sight()).is_err());
    }
}
