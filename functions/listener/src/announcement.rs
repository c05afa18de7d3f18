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

/// How often an announcement may change: twice at once, and then once a minute.
const RATE: Rate = Rate {
    burst: 2,
    per_day: 1_440,
};

/// Decides when a new announcement is made.
#[derive(Debug, Default)]
pub struct Announcer {
    /// The apps of the last announcement. `None` before the first one: relays may have an
    /// announcement of an earlier task.
    announced: Option<Vec<AnnouncedApp>>,
    bucket: TokenBucket,
}

impl Announcer {
    /// The event that announces these apps, if it is new and may be published now. The first
    /// announcement is always new, even without apps: it replaces that of an earlier task.
    pub fn announce(&mut self, apps: &[AnnouncedApp], keys: &Keys, now: Millis) -> Option<Event> {
        let is_new = self.announced.as_deref() != Some(apps);
        if !is_new || !self.bucket.has(1, RATE, now) {
            return None;
        }
        let event = announcement(ADMISSION, "", &CONTROL_KINDS, apps)
            .custom_created_at(Timestamp::from_secs(now.to_seconds().0))
            .finalize(keys)
            .ok()?;
        self.bucket.take(1, RATE, now);
        self.announced = Some(apps.to_vec());
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
    fn announces_each_change_but_not_more_often_than_every_minute() {
        let (keys, mut announcer) = (Keys::generate(), Announcer::default());
        let mut announce = |difficulty, now| {
            let event = announcer.announce(&apps(difficulty), &keys, Millis(now));
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
        assert_eq!(announce(None, 59_000), None);
        assert_eq!(announce(None, 61_000), Some(false));
    }

    #[test]
    fn announces_once_after_the_start_without_apps_that_may_ask_for_work() {
        let (keys, mut announcer) = (Keys::generate(), Announcer::default());
        let event = announcer.announce(&[], &keys, Millis(0)).unwrap();
        assert!(
            event
                .tags
                .iter()
                .all(|tag| ["d", "k"].contains(&tag.kind()))
        );
        assert_eq!(announcer.announce(&[], &keys, Millis(600_000)), None);
    }
}
