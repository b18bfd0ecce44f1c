//! A wish is granted once, however often it had to be repeated on its way.
//!
//! Operators use every name once. A refusal "that name is taken" then says that the same wish was applied twice.

use super::{Law, Sight};
use crate::history::Breach;

/// Reads the book.
pub struct AppliedOnce;

impl Law for AppliedOnce {
    fn name(&self) -> &'static str {
        "wishes are applied once"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        sight.history.breach(Breach::AppliedTwice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn a_name_of_ones_own_that_is_taken_is_noticed() {
        let mut stage = Stage::default();
        AppliedOnce.watch(&stage.sight()).unwrap();
        stage.history.refuse_what_is_unique("user-1-1-7");
        assert!(AppliedOnce.watch(&stage.sight()).unwrap_err().contains("user-1-1-7"));
    }
}
