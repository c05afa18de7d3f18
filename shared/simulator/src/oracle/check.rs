//! The verdict on a run, after all queues are empty.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use nostr::key::PublicKey;
use nostr_push_core::Millis;

use super::{
    record::{Action, Content, Oracle, What, Who},
    status::{Answer, Span},
};
use crate::{
    filters::{PRIVATE_KINDS, tag_values},
    sns::AcceptedPush,
    trace::{Trace, time},
    world::{APP_H, APP_N},
};

/// The events for one recipient within a minute beyond which some may be left out: the limit is 30.
const MANY_PER_MINUTE: usize = 25;

/// The events for one recipient within a day beyond which some may be left out: the limit of a
/// newcomer is 200 attempts.
const MANY_PER_DAY: usize = 100;

/// What the oracle says about a run.
#[derive(Debug, Default, Clone)]
pub struct Judgement {
    /// The pushes that had to come.
    pub required: u64,
    /// The pushes that came.
    pub pushed: u64,
    /// The pushes that came and that may or may not come.
    pub uncertain: u64,
    /// What went wrong.
    pub violations: Vec<String>,
}

/// The checks, with what they need often.
struct Checker<'a> {
    oracle: &'a Oracle,
    trace: &'a Trace,
    owners: BTreeSet<Who>,
    /// The times of all events that may be for each owner.
    times: BTreeMap<Who, Vec<Span>>,
}

impl Oracle {
    /// Judges a run by all pushes that SNS accepted.
    pub fn judge(&self, pushes: &[AcceptedPush], trace: &Trace) -> Judgement {
        let owners: BTreeSet<Who> = self.actions.iter().map(|action| action.who).collect();
        let mut checker = Checker {
            oracle: self,
            trace,
            times: BTreeMap::new(),
            owners,
        };
        for who in &checker.owners {
            let contents = self.contents.iter();
            let times = contents.filter(|content| checker.may_concern(*who, content));
            let times = times.map(span).collect();
            checker.times.insert(*who, times);
        }
        let mut judgement = Judgement {
            pushed: pushes.len() as u64,
            violations: self.violations.iter().cloned().collect(),
            ..Judgement::default()
        };
        checker.unsettled(&mut judgement);
        checker.over_budget(&mut judgement);
        checker.forbidden(pushes, &mut judgement);
        checker.repeated(pushes, &mut judgement);
        checker.missing(pushes, &mut judgement);
        judgement
    }
}

/// The time in which an event was under way.
fn span(content: &Content) -> Span {
    (content.at, content.done_at.unwrap_or(content.at))
}

impl Checker<'_> {
    fn name(&self, thing: &str) -> String {
        self.trace.name_of(thing)
    }

    fn owner_name(&self, who: Who) -> String {
        self.name(&who.1.to_hex())
    }

    /// Returns `true` if some filter that the owner has ever sent matches the event.
    fn may_concern(&self, who: Who, content: &Content) -> bool {
        let event = &content.event;
        let kind = event.kind.as_u16();
        let mentions = || tag_values(event, "p").any(|p| p == who.1.to_hex());
        let matches = |action: &Action| match &action.what {
            What::Subscribe(filter) => filter.matches(event, &who.1),
            What::Settings(_, kinds) => kinds.contains(&kind) && mentions(),
            _ => false,
        };
        let mut actions = self.oracle.actions.iter();
        actions.any(|action| action.who == who && matches(action))
    }

    /// Control events that were never accepted, although all queues are empty.
    fn unsettled(&self, judgement: &mut Judgement) {
        for action in &self.oracle.actions {
            if action.settled_at.is_none() && !action.is_refused {
                let (who, at) = (self.owner_name(action.who), time(action.sent_at));
                let what = self.name(&action.event);
                let violation = format!("{what} of {who} at {at} was never applied");
                judgement.violations.push(violation);
            }
        }
    }

    /// Events that were left out because of the limits of newcomers, although nobody had many.
    fn over_budget(&self, judgement: &mut Judgement) {
        let day = Millis(86_400_000);
        for content in &self.oracle.contents {
            let id = content.event.id.to_hex();
            let (at, done) = span(content);
            let around = (Millis(at.0.saturating_sub(day.0)), done + day);
            let is_many = |who: &Who| self.events_during(*who, around) >= MANY_PER_DAY;
            if self.oracle.over_budget.contains(&id) && !self.owners.iter().any(is_many) {
                let violation = format!("{} was left out for lack of budget", self.name(&id));
                judgement.violations.push(violation);
            }
        }
    }

    /// Pushes that must not have come.
    fn forbidden(&self, pushes: &[AcceptedPush], judgement: &mut Judgement) {
        for push in pushes {
            match self.reason_against(push) {
                Ok(true) => {}
                Ok(false) => judgement.uncertain += 1,
                Err(reason) => {
                    let event = self.name(&push.field("event_id"));
                    let (who, token) =
                        (self.name(&push.field("recipient")), self.name(&push.token));
                    let at = time(push.at);
                    judgement.violations.push(format!(
                        "{event} must not be pushed to {who} on {token} at {at}: {reason}"
                    ));
                }
            }
        }
    }

    /// The reason why a push must not have come. Otherwise, returns `true` if it had to come.
    fn reason_against(&self, push: &AcceptedPush) -> Result<bool, String> {
        let app = push.field("app");
        let app = [APP_N, APP_H].into_iter().find(|name| *name == app);
        let recipient = PublicKey::from_hex(&push.field("recipient"));
        let (Some(app), Ok(recipient)) = (app, recipient) else {
            return Err("it names no recipient".to_owned());
        };
        let who = (app, recipient);
        if !push.field("summary").is_empty() {
            let nearby = (Millis(push.at.0.saturating_sub(3_600_000)), push.at);
            let crowded = self.events_during(who, nearby) >= MANY_PER_MINUTE;
            return crowded
                .then_some(false)
                .ok_or_else(|| "nothing was left out".to_owned());
        }
        let id = push.field("event_id");
        let contents = &self.oracle.contents;
        let content = contents
            .iter()
            .find(|content| content.event.id.to_hex() == id);
        let Some(content) = content else {
            return Err("nobody published it".to_owned());
        };
        let event = &content.event;
        let (at, done) = span(content);
        let span = (at, done.max(push.at));
        let is_named = tag_values(event, "p").any(|p| p == recipient.to_hex());
        let no = |answer: Answer, reason: &str| match answer {
            Answer::No => Err(reason.to_owned()),
            Answer::Maybe | Answer::Yes => Ok(()),
        };
        if PRIVATE_KINDS.contains(&event.kind.as_u16()) && !is_named {
            return Err("it is private and does not name the recipient".to_owned());
        }
        if event.pubkey == recipient {
            return Err("it is the recipient's own".to_owned());
        }
        let oracle = self.oracle;
        no(
            oracle.device(who, &push.token, span),
            "the recipient has no such device",
        )?;
        no(
            oracle.matches(who, event, span),
            "no filter of the recipient matches",
        )?;
        no(
            oracle.is_muted(who, event, span).opposite(),
            "its author is muted",
        )?;
        if push.at <= done {
            let seen = oracle.has_seen(who, (at, done));
            no(seen.opposite(), "the app was open")?;
        }
        Ok(self.is_required(who, &push.token, content))
    }

    /// Returns `true` if this event had to be pushed to this device.
    fn is_required(&self, who: Who, token: &str, content: &Content) -> bool {
        let (event, span) = (&content.event, span(content));
        let oracle = self.oracle;
        let is_in_time = content
            .done_at
            .is_some_and(|done| done < notifies_until(content));
        let id = event.id.to_hex();
        let nearby = (
            Millis(span.0.0.saturating_sub(60_000)),
            span.1 + Millis(60_000),
        );
        is_in_time
            && event.pubkey != who.1
            && !oracle.over_budget.contains(&id)
            && self.events_during(who, nearby) < MANY_PER_MINUTE
            && oracle.device(who, token, span) == Answer::Yes
            && oracle.matches(who, event, span) == Answer::Yes
            && oracle.is_muted(who, event, span) == Answer::No
            && oracle.has_seen(who, span) == Answer::No
    }

    /// The number of events that may be for this owner and were under way during this time.
    fn events_during(&self, who: Who, (from, until): Span) -> usize {
        let times = self.times.get(&who).into_iter().flatten();
        times
            .filter(|(at, done)| *at <= until && *done >= from)
            .count()
    }

    /// Pushes that came more often than faults explain, or under different ids.
    fn repeated(&self, pushes: &[AcceptedPush], judgement: &mut Judgement) {
        let mut by_device: BTreeMap<(String, String, &str), Vec<&AcceptedPush>> = BTreeMap::new();
        for push in pushes {
            let id = push.field("event_id");
            if !id.is_empty() {
                // If a phone changes hands, both people may get the event on it.
                let key = (id, push.field("recipient"), push.token.as_str());
                by_device.entry(key).or_default().push(push);
            }
        }
        for ((id, recipient, token), same) in by_device {
            let (event, token) = (self.name(&id), self.name(token));
            let recipient = self.name(&recipient);
            let text = |push: &AcceptedPush| {
                let collapse_id = push.collapse_id.clone();
                (collapse_id, push.field("title"), push.field("body"))
            };
            let different: BTreeSet<_> = same.iter().map(|push| text(push)).collect();
            if different.len() > 1 {
                judgement.violations.push(format!(
                    "{event} for {recipient} shows {} times on {token}",
                    different.len()
                ));
            }
            let faults = self.oracle.faults.get(&id).copied().unwrap_or(0);
            if same.len() as u64 > 1 + faults {
                judgement.violations.push(format!(
                    "{event} for {recipient} was published {} times to {token}, and {faults} \
                     faults \
                     explain it",
                    same.len()
                ));
            }
        }
    }

    /// Pushes that had to come and did not.
    fn missing(&self, pushes: &[AcceptedPush], judgement: &mut Judgement) {
        let came: BTreeSet<(String, String, &str)> = pushes
            .iter()
            .map(|push| {
                let (id, recipient) = (push.field("event_id"), push.field("recipient"));
                (id, recipient, push.token.as_str())
            })
            .collect();
        for (who, token, content) in self.required() {
            judgement.required += 1;
            let id = content.event.id.to_hex();
            if !came.contains(&(id.clone(), who.1.to_hex(), token)) {
                let (event, who) = (self.name(&id), self.owner_name(who));
                let (token, at) = (self.name(token), time(content.at));
                judgement.violations.push(format!(
                    "{event} of {at} must be pushed to {who} on {token} and was not"
                ));
            }
        }
    }

    /// The pushes that had to come.
    fn required(&self) -> Vec<(Who, &str, &Content)> {
        let mut required = Vec::new();
        for who in &self.owners {
            let actions = self.oracle.actions.iter();
            let own = actions.filter(|action| action.who == *who);
            let tokens: BTreeSet<&str> = own.filter_map(Action::registers).collect();
            let contents = self.oracle.contents.iter();
            for content in contents.filter(|content| self.may_concern(*who, content)) {
                let tokens = tokens.iter().copied();
                let needed = tokens.filter(|token| self.is_required(*who, token, content));
                required.extend(needed.map(|token| (*who, token, content)));
            }
        }
        required
    }
}

/// Until when an event certainly notifies.
fn notifies_until(content: &Content) -> Millis {
    let event = &content.event;
    let age = match event.kind.as_u16() {
        13 | 14 | 1059 | 21059 => 2 * 86_400 + 900,
        _ => 3_600,
    };
    let by_age = event.created_at.as_secs() + age;
    let expiration = tag_values(event, "expiration").next();
    let expiration = expiration.and_then(|value| value.parse::<u64>().ok());
    let until = expiration.map_or(by_age, |at| at.min(by_age));
    Millis(until.saturating_sub(5) * 1000)
}

/// The order of an event.
pub fn order_of(event: &nostr::event::Event) -> super::record::ActionOrder {
    (event.created_at.as_secs(), Reverse(event.id.to_hex()))
}
