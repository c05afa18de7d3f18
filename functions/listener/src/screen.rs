//! The hot path: what becomes of each event a relay sends. The cheap questions come first; a
//! signature costs 25 times as much as asking whether anybody is interested.

use std::sync::{Arc, PoisonError, RwLock};

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::{
    Millis,
    interest::Interest,
    message::{Content, Control, MAX_EVENT, MAX_TAGS},
};
use serde_json::value::RawValue;

use crate::{
    rate::Rate,
    seen::{Forwarded, Seen},
};

/// The kinds of control events. Relays store those of dialect N; 22456 (dialect H) is ephemeral,
/// and the next one says again what a lost one said.
pub const CONTROL_KINDS: [u16; 5] = [3079, 3080, 3081, 3082, 22456];

/// What to do with an event.
#[derive(Debug)]
pub enum Verdict {
    /// To the control queue.
    Control(Control),
    /// To the event queue.
    Content(Box<Content>),
    /// Nothing, for this reason.
    Drop(&'static str),
}

/// Reads an event, within the limits that all events have.
///
/// # Errors
/// Why it is dropped.
pub fn parse(json: &RawValue) -> Result<Event, &'static str> {
    if json.get().len() > MAX_EVENT {
        return Err("too_large");
    }
    let event: Event = serde_json::from_str(json.get()).map_err(|_| "malformed")?;
    if event.tags.len() > MAX_TAGS {
        Err("too_large")
    } else {
        Ok(event)
    }
}

/// What the hot path asks. Shared by all relays.
pub struct Screen {
    service: String,
    interest: Arc<RwLock<Interest>>,
    seen: Seen,
    rate: Rate,
}

impl Screen {
    /// For the service with this pubkey. Of each registrant so many control events are taken a
    /// minute.
    pub fn new(service: PublicKey, interest: Arc<RwLock<Interest>>, control_events: u32) -> Self {
        Self {
            service: service.to_hex(),
            interest,
            seen: Seen::default(),
            rate: Rate::new(control_events),
        }
    }

    /// Decides on one event, given as the JSON the relay sent and as [`parse`] read it.
    pub fn judge(
        &self,
        relay: &str,
        json: &RawValue,
        event: Event,
        backfill: bool,
        now: Millis,
    ) -> Verdict {
        if CONTROL_KINDS.contains(&event.kind.as_u16()) && self.is_for_us(&event) {
            let verified = self.verified(
                &event,
                Forwarded {
                    hits: 0,
                    live: true,
                },
            );
            // What relays have stored came at its own time, and comes in one go.
            let admitted = verified.and_then(|()| {
                if backfill || self.rate.admits(event.pubkey.as_bytes(), now) {
                    Ok(())
                } else {
                    Err("rate_limited")
                }
            });
            return admitted.map_or_else(Verdict::Drop, |()| {
                Verdict::Control(Control {
                    relay: relay.to_owned(),
                    received_at: now,
                    event: json.to_owned(),
                })
            });
        }
        let hits = self
            .interest
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .hits(&event);
        if hits.is_empty() {
            return Verdict::Drop("no_interest");
        }
        self.verified(
            &event,
            Forwarded {
                hits: hits.len(),
                live: !backfill,
            },
        )
        .map_or_else(Verdict::Drop, |()| {
            Verdict::Content(Box::new(Content {
                relay: relay.to_owned(),
                received_at: now,
                backfill,
                hits,
                position: None,
                event,
            }))
        })
    }

    /// Whether the event is new and genuine; from here on it is a duplicate.
    fn verified(&self, event: &Event, forwarded: Forwarded) -> Result<(), &'static str> {
        let id = event.id.as_bytes();
        if self.seen.contains(id, forwarded) {
            return Err("duplicate");
        }
        event.verify().map_err(|_| "bad_signature")?;
        // Another relay's copy may have been verified meanwhile.
        if self.seen.insert(*id, forwarded) {
            Ok(())
        } else {
            Err("duplicate")
        }
    }

    fn is_for_us(&self, event: &Event) -> bool {
        event.tags.iter().any(|tag| matches!(tag.as_slice(), [name, value, ..] if name == "p" && *value == self.service))
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::owner::Owner;
    use nostr_push_testkit::{event, subscription};
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn screen(service: &Keys, filter: &serde_json::Value) -> Screen {
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: service.public_key(),
        };
        let row = subscription(&owner, filter);
        let mut interest = Interest::default();
        assert!(interest.apply(&row, 1));
        Screen::new(service.public_key(), Arc::new(RwLock::new(interest)), 60)
    }

    fn judge(screen: &Screen, json: &RawValue, backfill: bool, now: Millis) -> Verdict {
        parse(json).map_or_else(Verdict::Drop, |event| {
            screen.judge("ws://r", json, event, backfill, now)
        })
    }

    fn reason(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Control(_) => "control",
            Verdict::Content(_) => "content",
            Verdict::Drop(reason) => reason,
        }
    }

    #[test]
    fn each_event_meets_its_verdict() {
        let (service, author) = (Keys::generate(), Keys::generate());
        let p = author.public_key().to_hex();
        let screen = screen(&service, &json!({"kinds": [1], "#p": [p]}));
        let judged = |event: &Event| {
            reason(&judge(&screen, &to_raw_value(event).unwrap(), false, 5)).to_owned()
        };

        let wanted = event(&author, 1, 1, &[&["p", &p]], "x");
        let mut forged = wanted.clone();
        forged.content = "y".to_owned();
        assert_eq!(judged(&forged), "bad_signature");
        // The forgery did not keep the real one out.
        assert_eq!(judged(&wanted), "content");
        assert_eq!(judged(&wanted), "duplicate");
        assert_eq!(
            judged(&event(&author, 7, 1, &[&["p", &p]], "+")),
            "no_interest"
        );
        assert_eq!(
            judged(&event(&author, 1, 1, &[&["t", &p]], "x")),
            "no_interest"
        );
        assert_eq!(
            judged(&event(
                &author,
                3081,
                1,
                &[&["p", &service.public_key().to_hex()]],
                "x"
            )),
            "control"
        );
        let beat = event(
            &author,
            22456,
            1,
            &[&["p", &service.public_key().to_hex()]],
            "x",
        );
        assert_eq!(judged(&beat), "control");
        assert_eq!(
            judged(&beat),
            "duplicate",
            "a heartbeat goes to many relays"
        );
        assert_eq!(
            judged(&event(&author, 3081, 1, &[&["p", &p]], "x")),
            "no_interest"
        );
        assert_eq!(
            judged(&event(&author, 1, 1, &[&["p", &p]], &"x".repeat(MAX_EVENT))),
            "too_large"
        );
        assert_eq!(
            judged(&event(
                &author,
                1,
                1,
                &vec![["p", p.as_str()].as_slice(); MAX_TAGS + 1],
                ""
            )),
            "too_large"
        );
        assert_eq!(
            reason(&judge(
                &screen,
                &to_raw_value(&json!({"id": 1})).unwrap(),
                false,
                5
            )),
            "malformed"
        );
    }

    #[test]
    fn a_registrant_has_so_many_control_events_a_minute_and_relays_stores_are_not_counted() {
        let (service, author) = (Keys::generate(), Keys::generate());
        let screen = screen(&service, &json!({"#t": ["a"]}));
        let p = service.public_key().to_hex();
        let told = |n: u64, backfill, now| {
            reason(&judge(
                &screen,
                &to_raw_value(&event(&author, 3079, n, &[&["p", &p]], "x")).unwrap(),
                backfill,
                now,
            ))
            .to_owned()
        };
        assert!((0..100).all(|n| told(n, true, 5) == "control"));
        assert!((100..160).all(|n| told(n, false, 5) == "control"));
        assert_eq!(told(160, false, 5), "rate_limited");
        assert_eq!(
            told(160, false, 60_005),
            "duplicate",
            "what was refused stays refused"
        );
        assert_eq!(told(161, false, 60_005), "control");
        assert_eq!(told(162, true, 5), "control");
    }

    #[test]
    fn an_event_that_somebody_subscribed_to_meanwhile_is_no_duplicate() {
        let (service, author) = (Keys::generate(), Keys::generate());
        let p = author.public_key().to_hex();
        let screen = screen(&service, &json!({"#p": [p]}));
        let note = to_raw_value(&event(&author, 1, 1, &[&["p", &p], &["t", "a"]], "x")).unwrap();
        assert_eq!(reason(&judge(&screen, &note, false, 5)), "content");
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: author.public_key(),
        };
        let row = subscription(&owner, &json!({"#t": ["a"]}));
        screen.interest.write().unwrap().apply(&row, 1);
        assert_eq!(reason(&judge(&screen, &note, true, 6)), "content");
        assert_eq!(reason(&judge(&screen, &note, true, 7)), "duplicate");
    }

    #[test]
    fn an_event_that_comes_live_after_it_came_as_stored_is_no_duplicate() {
        let (service, author) = (Keys::generate(), Keys::generate());
        let p = author.public_key().to_hex();
        let screen = screen(&service, &json!({"#p": [p]}));
        let wrap = to_raw_value(&event(&author, 1059, 1, &[&["p", &p]], "x")).unwrap();
        assert_eq!(reason(&judge(&screen, &wrap, true, 5)), "content");
        assert_eq!(reason(&judge(&screen, &wrap, true, 6)), "duplicate");
        assert_eq!(reason(&judge(&screen, &wrap, false, 7)), "content");
        assert_eq!(reason(&judge(&screen, &wrap, false, 8)), "duplicate");
        assert_eq!(reason(&judge(&screen, &wrap, true, 9)), "duplicate");
    }

    #[test]
    fn the_hits_are_those_in_use_each_once() {
        let (service, author) = (Keys::generate(), Keys::generate());
        let p = author.public_key().to_hex();
        let screen = screen(&service, &json!({"#p": [p]}));
        let note = event(
            &author,
            1,
            1,
            &[&["p", &p], &["p", &p], &["e", &"ab".repeat(32)]],
            "x",
        );
        let Verdict::Content(content) = judge(&screen, &to_raw_value(&note).unwrap(), true, 5)
        else {
            panic!("not forwarded")
        };
        assert_eq!(
            content
                .hits
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            [format!("#p:{p}")]
        );
        assert!(content.backfill);
        assert_eq!(content.event, note);
    }
}
