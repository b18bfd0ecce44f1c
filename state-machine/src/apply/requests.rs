//! A retry is applied once: answers are kept with their request ids for as long as a proposer may ask again.

use std::time::Duration;

use crate::{
    model::*,
    outcome::Answer,
    state::{Remembered, State},
};

/// How long an answer is kept, in log time. Proposers give up much earlier.
const KEPT: Duration = Duration::from_secs(600);

/// How many answers are kept at most.
const KEPT_MAX: usize = 16_384;

impl State {
    /// What this request was answered, while that is remembered.
    pub fn answer_to(&self, id: RequestId) -> Option<&Answer> {
        self.tables.requests.get(&id).map(|remembered| &remembered.answer)
    }

    pub(super) fn remember(&mut self, id: RequestId, answer: &Answer) {
        let (revision, at) = (self.revision(), self.now());
        self.put_request(id, Remembered { revision, at, answer: answer.clone() });
        while let Some((revision, id)) = self.indexes.requests_by_revision.get_min().copied() {
            let old = self.tables.requests.get(&id).is_none_or(|oldest| at.since(oldest.at) > KEPT);
            if !old && self.tables.requests.len() <= KEPT_MAX {
                break;
            }
            self.drop_request(revision, id);
        }
    }
}
