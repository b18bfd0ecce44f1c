//! A folder that was put back to an earlier day does not take part.

use super::{Law, Sight};
use crate::history::Breach;

/// Reads the book.
pub struct RollbackIsNoticed;

impl Law for RollbackIsNoticed {
    fn name(&self) -> &'static str {
        "a rollback is noticed"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        sight.history.breach(Breach::Rollback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn an_old_copy_that_starts_is_noticed() {
        let mut stage = Stage::default();
        RollbackIsNoticed.watch(&stage.sight()).unwrap();
        stage.history.rolled_back(2);
        assert!(RollbackIsNoticed.watch(&stage.sight()).unwrap_err().contains("hs2"));
    }
}
