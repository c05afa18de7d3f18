//! Whether something was in force during a time.

use std::collections::BTreeSet;

use nostr::event::Event;
use nostr_push_core::Millis;

use super::record::{Action, Content, Oracle, What, Who};
use crate::filters::tag_values;

/// After an action is settled, the listener and the readers of the tables need this long to see it.
const MARGIN: Millis = Millis(5_000);

/// How long a filter waits for the first device of its owner, with some hours left out because the
/// day begins when control stores it.
const WAIT_FOR_DEVICE: Millis = Millis(20 * 3_600_000);

/// The longest time between two heartbeats, from the signature of one until control stores the
/// next, for which the app certainly looks open all the time: one heartbeat of up to 70 s may not
/// be stored, and the app counts as open for 210 s.
const SAFE_HEARTBEAT: Millis = Millis(130_000);

/// The kind of mute lists.
const MUTE_LIST: u16 = 10_000;

/// An answer that may be unknown. The least certain answer is in the middle, so that the smallest
/// of several conditions is what all of them together mean, and the largest what one of them means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Certainly not.
    No,
    /// Not known.
    Maybe,
    /// Certainly.
    Yes,
}

impl Answer {
    fn of(is_true: bool) -> Self {
        if is_true { Self::Yes } else { Self::No }
    }

    /// The opposite.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

/// A time from the first to the last moment.
pub type Span = (Millis, Millis);

impl Action {
    /// Returns `true` if it is not certain during the whole time whether the action is in force.
    fn is_unsettled(&self, (from, until): Span) -> bool {
        self.sent_at <= until && self.settled_at.is_none_or(|at| at + MARGIN >= from)
    }

    fn is_settled_before(&self, at: Millis) -> bool {
        self.settled_at.is_some_and(|settled| settled + MARGIN < at)
    }

    /// The token that it registers.
    pub fn registers(&self) -> Option<&str> {
        match &self.what {
            What::Register(token) | What::Settings(Some(token), _) => Some(token),
            _ => None,
        }
    }

    /// Returns `true` if it removes the owner's device with this token, if that was registered
    /// before.
    fn removes(&self, token: &str, registered: &Action) -> bool {
        match &self.what {
            What::Remove(removed) => removed == token,
            What::RemoveAll => true,
            What::Settings(named, _) => {
                matches!(registered.what, What::Settings(..)) && named.as_deref() != Some(token)
            }
            _ => false,
        }
    }

    /// Whether what it asks for has not ended.
    fn lasts(&self, (from, until): Span) -> Answer {
        if self.valid_until <= from {
            Answer::No
        } else if self.valid_until <= until + MARGIN {
            Answer::Maybe
        } else {
            Answer::Yes
        }
    }
}

impl Oracle {
    fn latest<'a>(
        &'a self,
        at: Millis,
        condition: impl Fn(&Action) -> bool + 'a,
    ) -> Option<&'a Action> {
        let actions = self.actions.iter();
        let settled = actions.filter(|action| action.is_settled_before(at) && condition(action));
        settled.max_by(|a, b| a.order.cmp(&b.order))
    }

    /// Whether the device with this token belonged to `who`, was in force and could be reached.
    pub fn device(&self, who: Who, token: &str, span: Span) -> Answer {
        let registers =
            |action: &Action| action.who.0 == who.0 && action.registers() == Some(token);
        let may_be_registered = self.actions.iter().any(|action| {
            action.who == who
                && registers(action)
                && action.sent_at <= span.1
                && action.valid_until > span.0
        });
        if !may_be_registered {
            return Answer::No;
        }
        let concerns = |action: &Action| {
            registers(action)
                || (action.who == who
                    && matches!(&action.what, What::RemoveAll | What::Settings(..)))
                || (action.who == who && action.what == What::Remove(token.to_owned()))
        };
        let mut actions = self.actions.iter();
        if actions.any(|action| concerns(action) && action.is_unsettled(span)) {
            return Answer::Maybe;
        }
        let Some(registered) = self.latest(span.0, registers) else {
            return Answer::No;
        };
        if registered.who != who {
            return Answer::No;
        }
        let is_later = |action: &Action| action.who == who && action.order > registered.order;
        let removal = self.latest(span.0, |action| {
            is_later(action) && action.removes(token, registered)
        });
        if removal.is_some() {
            return Answer::No;
        }
        registered.lasts(span).min(self.reachable(who, token, span))
    }

    /// Whether SNS can reach the phone: the app is installed, and the endpoint has not been
    /// disabled since the last registration.
    fn reachable(&self, who: Who, token: &str, span: Span) -> Answer {
        let is_uninstalled = self.uninstalled.get(token).is_some_and(|at| *at <= span.1);
        let of_token = self
            .disabled
            .iter()
            .filter(|(disabled, _)| disabled == token);
        let disabled = of_token.map(|(_, at)| *at).filter(|at| *at <= span.1).max();
        let renewed = |at: Millis| {
            let renewal = self.latest(span.0, |action| {
                action.who == who && action.registers() == Some(token) && action.sent_at > at
            });
            renewal.is_some()
        };
        if is_uninstalled || disabled.is_some_and(|at| !renewed(at)) {
            Answer::Maybe
        } else {
            Answer::Yes
        }
    }

    /// Whether some device of `who` was in force at this time.
    fn has_device(&self, who: Who, at: Millis) -> bool {
        self.owns_device_during((at, at), who)
    }

    /// Whether a filter of `who` that was in force matches the event.
    pub fn matches(&self, who: Who, event: &Event, span: Span) -> Answer {
        let own = self.actions.iter().filter(|action| action.who == who);
        let matching: BTreeSet<_> = own
            .clone()
            .filter_map(|action| match &action.what {
                What::Subscribe(filter) if filter.matches(event, &who.1) => Some(filter),
                _ => None,
            })
            .collect();
        let filters = matching.into_iter().map(|filter| {
            let is_about = |action: &Action| {
                action.who == who
                    && (action.what == What::Subscribe(filter.clone())
                        || action.what == What::Unsubscribe(filter.clone()))
            };
            self.filter(who, is_about, span)
        });
        let settings = self.settings(who, event, span);
        filters.chain([settings]).max().unwrap_or(Answer::No)
    }

    fn filter(&self, who: Who, is_about: impl Fn(&Action) -> bool, span: Span) -> Answer {
        let about = || self.actions.iter().filter(|action| is_about(action));
        let may_be_stored = about().any(|action| {
            action.sent_at <= span.1
                && action.valid_until > span.0
                && matches!(action.what, What::Subscribe(_))
        });
        if !may_be_stored {
            return Answer::No;
        }
        if about().any(|action| action.is_unsettled(span)) {
            return Answer::Maybe;
        }
        let stored = self.latest(span.0, &is_about);
        let Some(stored) = stored.filter(|action| matches!(action.what, What::Subscribe(_))) else {
            return Answer::No;
        };
        let since = stored.settled_at.unwrap_or_default() + MARGIN + Millis(1);
        let mut registrations = self.actions.iter().filter_map(|action| {
            let at = action.settled_at.filter(|_| action.who == who)? + MARGIN + Millis(1);
            action.registers().map(|_| at)
        });
        let came_into_force = self.has_device(who, since)
            || registrations
                .any(|at| at > since && at < since + WAIT_FOR_DEVICE && self.has_device(who, at));
        let in_force = if came_into_force {
            Answer::Yes
        } else {
            Answer::Maybe
        };
        stored.lasts(span).min(in_force)
    }

    /// Whether the settings of `who` match the event.
    fn settings(&self, who: Who, event: &Event, span: Span) -> Answer {
        let is_settings =
            |action: &Action| action.who == who && matches!(action.what, What::Settings(..));
        let kind = event.kind.as_u16();
        let mentions = tag_values(event, "p").any(|p| p == who.1.to_hex());
        let names_kind = |action: &Action| match &action.what {
            What::Settings(_, kinds) => kinds.contains(&kind),
            _ => false,
        };
        let mut all = self.actions.iter().filter(|action| is_settings(action));
        if !mentions
            || !all
                .clone()
                .any(|action| action.sent_at <= span.1 && names_kind(action))
        {
            return Answer::No;
        }
        if all.any(|action| action.is_unsettled(span)) {
            return Answer::Maybe;
        }
        let stored = self.latest(span.0, is_settings);
        Answer::of(stored.is_some_and(names_kind))
    }

    /// Whether `who` had muted the event's author.
    pub fn is_muted(&self, who: Who, event: &Event, span: Span) -> Answer {
        let is_list = |content: &&Content| {
            content.event.kind.as_u16() == MUTE_LIST && content.event.pubkey == who.1
        };
        let lists: Vec<&Content> = self.contents.iter().filter(is_list).collect();
        let before = lists.iter().filter(|list| list.at <= span.1);
        let author = event.pubkey.to_hex();
        let mutes = |list: &Content| tag_values(&list.event, "p").any(|p| p == author);
        if !before.clone().any(|list| mutes(list)) {
            return Answer::No;
        }
        let is_stored = |list: &Content| {
            let done = list.done_at.filter(|done| *done + MARGIN < span.0);
            done.is_some_and(|done| self.owns_device_during((list.at, done), who))
        };
        let order = |list: &Content| {
            let event = &list.event;
            (
                event.created_at.as_secs(),
                std::cmp::Reverse(event.id.to_hex()),
            )
        };
        let stored = before
            .clone()
            .copied()
            .filter(|list| is_stored(list))
            .max_by_key(|list| order(list));
        let Some(stored) = stored else {
            return Answer::Maybe;
        };
        // A list that may not be stored yet can replace the stored one.
        let mut open = before.filter(|list| !is_stored(list) && order(list) > order(stored));
        if open.any(|list| mutes(list) != mutes(stored)) {
            Answer::Maybe
        } else {
            Answer::of(mutes(stored))
        }
    }

    /// Returns `true` if the person had a device under some app during the whole time.
    fn owns_device_during(&self, span: Span, who: Who) -> bool {
        if let Some(known) = self.had_device.borrow().get(&(who, span)) {
            return *known;
        }
        let of_person = self.actions.iter().filter(|action| action.who.1 == who.1);
        let devices: BTreeSet<_> = of_person
            .filter_map(|action| Some((action.who, action.registers()?)))
            .collect();
        let mut devices = devices.into_iter();
        let has = devices.any(|(who, token)| self.device(who, token, span) == Answer::Yes);
        self.had_device.borrow_mut().insert((who, span), has);
        has
    }

    /// Whether the app of `who` was open after the event came, so that it needs no push.
    pub fn has_seen(&self, who: Who, span: Span) -> Answer {
        let signs: Vec<&Action> = self
            .actions
            .iter()
            .filter(|action| action.who == who && action.is_presence())
            .collect();
        if !signs.iter().any(|action| action.is_unsettled(span)) {
            return Answer::No;
        }
        let early = Millis(span.0.0.saturating_sub(300_000));
        let relevant = |at: &Millis| (early..=span.1 + Millis(300_000)).contains(at);
        let mut beats: Vec<(Millis, Millis)> = Vec::new();
        for sign in &signs {
            let Some(accepted) = sign.accepted_at else {
                return Answer::Maybe;
            };
            if !relevant(&accepted) && !relevant(&sign.sent_at) {
                continue;
            }
            if sign.what != What::Presence(true) {
                return Answer::Maybe;
            }
            beats.push((accepted, sign.sent_at.min(Millis(sign.order.0 * 1000))));
        }
        beats.sort_unstable();
        let covers = beats
            .first()
            .is_some_and(|(accepted, _)| *accepted < early + Millis(150_000))
            && beats
                .last()
                .is_some_and(|(accepted, _)| *accepted > span.1 + Millis(1_000))
            && beats.is_sorted_by(|(_, a), (_, b)| a <= b);
        let is_dense = beats
            .windows(2)
            .all(|pair| pair[1].0 - pair[0].1 < SAFE_HEARTBEAT);
        let is_known = self.owns_device_during((early, span.1), who);
        if covers && is_dense && is_known {
            Answer::Yes
        } else {
            Answer::Maybe
        }
    }
}
