//! Announces the work that open apps ask of new owners while strangers use up their budget.

use std::sync::Arc;

use nostr::{
    event::{Event, FinalizeEvent},
    key::Keys,
    types::Timestamp,
};
use nostr_push_core::{
    Millis,
    announcement::{ADMISSION, AnnouncedApp, announcement},
};
use tokio::sync::watch;

use crate::{
    budget::bucket::{Rate, TokenBucket},
    gate::CONTROL_KINDS,
};

/// The last announcement. The sessions of the operator's relays publish it.
pub type Announcements = watch::Sender<Option<Arc<Event>>>;

/// How often an announcement may change: twice at once, and then once in ten minutes.
const RATE: Rate = Rate {
    burst: 2,
    per_day: 144,
};

/// Decides when a new announcement is made.
#[derive(Debug, Default)]
pub struct Announcer {
    announced: Vec<AnnouncedApp>,
    /// `true` once something was announced. Before, relays may have an announcement of an earlier
    /// task.
    has_announced: bool,
    bucket: TokenBucket,
}

impl Announcer {
    /// The event that announces these apps, if it is new and may be published now. Without apps
    /// that may ask for work, nothing is announced.
    pub fn announce(&mut self, apps: Vec<AnnouncedApp>, keys: &Keys, now: Millis) -> Option<Event> {
        let is_new = if self.has_announced {
            apps != self.announced
        } else {
            !apps.is_empty()
        };
        if !is_new || !self.bucket.has(1, RATE, now) {
            return None;
        }
        let event = announcement(ADMISSION, "", &CONTROL_KINDS, &apps)
            .custom_created_at(Timestamp::from_secs(now.to_seconds().0))
            .finalize(keys)
            .ok()?;
        self.bucket.take(1, RATE, now);
        (self.announced, self.has_announced) = (apps, true);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(difficulty: Option<u8>) -> Vec<AnnouncedApp> {
        vec![AnnouncedApp {
            app: "demo".to_owned(),
            admission: "open".to_owned(),
            difficulty,
        }]
    }

    #[test]
    fn announces_each_change_but_not_more_often_than_every_ten_minutes() {
        let (keys, mut announcer) = (Keys::generate(), Announcer::default());
        let mut announce = |difficulty, now| {
            let event = announcer.announce(apps(difficulty), &keys, Millis(now));
            event.map(|event| event.tags.iter().any(|tag| tag.kind() == "pow"))
        };
        assert_eq!(
            announce(None, 0),
            Some(false),
            "an earlier task may have asked for work"
        );
        assert_eq!(announce(None, 1), None);
        assert_eq!(announce(Some(20), 2), Some(true));
        assert_eq!(announce(Some(20), 3), None);
        assert_eq!(announce(None, 4), None);
        assert_eq!(announce(None, 599_000), None);
        assert_eq!(announce(None, 601_000), Some(false));
    }

    #[test]
    fn announces_nothing_without_apps_that_may_ask_for_work() {
        let mut announcer = Announcer::default();
        assert_eq!(
            announcer.announce(Vec::new(), &Keys::generate(), Millis(0)),
            None
        );
    }
}
