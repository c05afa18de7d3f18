//! The budgets of control events, in bytes, and the room in which events wait for theirs. It is
//! pure: it reads no clock and takes no lock.
//!
//! An event is paid from the bucket of its pubkey, and from those that its class shares:
//!
//! | Class | Shared buckets |
//! |---|---|
//! | a proven owner | none |
//! | another known owner | that of all such owners |
//! | a stranger | that of all strangers, and that of the strangers of the relay |
//!
//! So nobody waits behind a class below their own. An event that finds a bucket empty waits behind
//! the earlier events of its pubkey. The bytes of a shared bucket go to the pubkey whose turn it
//! is: the one whose own bucket was full first. A pubkey that has used less goes before one that
//! has used more, and each gets one event per turn.
//!
//! The room is bounded. When it is full, the pubkey with the most bytes in it loses its last event.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use nostr_push_core::{Millis, owner::OwnerClass};

use super::bucket::{Rate, TokenBucket};

/// The most bytes of one pubkey that wait.
const MAX_PUBKEY_BYTES: u64 = 512 * 1024;

/// The most bytes of strangers that wait.
const MAX_STRANGERS_BYTES: u64 = 8 * 1024 * 1024;

/// The most bytes of known owners that wait.
const MAX_KNOWN_BYTES: u64 = 16 * 1024 * 1024;

/// The bytes that an event takes in memory beside those that it costs.
const OVERHEAD_BYTES: u64 = 512;

/// The most strangers whose buckets are remembered. The one that was silent longest is forgotten
/// first. More strangers are bounded by the bucket that they share.
const MAX_STRANGERS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// The most owners whose buckets are remembered: more than the stack admits by default.
const MAX_OWNERS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The most relays whose buckets are remembered.
const MAX_RELAYS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// The bytes per second of all strangers, by default.
pub const DEFAULT_STRANGER_BYTES_PER_SECOND: u64 = 1_024;

/// The bytes per second of all known owners who are not proven, by default.
pub const DEFAULT_NEWCOMER_BYTES_PER_SECOND: u64 = 2_048;

/// Bytes of control events.
#[derive(Debug, Clone, Copy)]
pub struct ControlRates {
    /// Of one proven owner.
    pub proven: Rate,
    /// Of one other known owner.
    pub known: Rate,
    /// Of one stranger.
    pub stranger: Rate,
    /// Of all known owners who are not proven.
    pub all_known: Rate,
    /// Of all strangers.
    pub all_strangers: Rate,
    /// Of all strangers who use one relay.
    pub strangers_of_relay: Rate,
}

impl Default for ControlRates {
    fn default() -> Self {
        Self::new(
            DEFAULT_STRANGER_BYTES_PER_SECOND,
            DEFAULT_NEWCOMER_BYTES_PER_SECOND,
        )
    }
}

impl ControlRates {
    /// The rates that follow from the bytes per second of all strangers, and of all known owners
    /// who are not proven. Each burst is a multiple of its rate. Only a rate of 0 grants nothing.
    pub fn new(strangers: u64, newcomers: u64) -> Self {
        let seconds =
            |rate: u64, seconds: u64| Rate::per_second(rate.saturating_mul(seconds), rate);
        Self {
            proven: seconds(8_192, 512),
            known: seconds(newcomers, 512),
            stranger: seconds(strangers.div_ceil(4), 1_024),
            all_known: seconds(newcomers, 8_192),
            all_strangers: seconds(strangers, 16_384),
            strangers_of_relay: seconds(strangers.div_ceil(2), 16_384),
        }
    }

    /// Rates that are never used up.
    pub fn unlimited() -> Self {
        Self {
            proven: Rate::UNLIMITED,
            known: Rate::UNLIMITED,
            stranger: Rate::UNLIMITED,
            all_known: Rate::UNLIMITED,
            all_strangers: Rate::UNLIMITED,
            strangers_of_relay: Rate::UNLIMITED,
        }
    }

    /// The rate of one pubkey of this class.
    fn of_pubkey(&self, class: OwnerClass) -> Rate {
        match class {
            OwnerClass::Proven => self.proven,
            OwnerClass::Known => self.known,
            OwnerClass::Stranger => self.stranger,
        }
    }
}

/// A verified control event.
#[derive(Debug)]
pub struct Arrival<T> {
    /// The event.
    pub event: T,
    /// Its author.
    pub pubkey: [u8; 32],
    /// The author's class.
    pub class: OwnerClass,
    /// The URL of the relay that sent it.
    pub relay: Arc<str>,
    /// The bytes that it costs: those of its JSON, and some for the event itself.
    pub bytes: u64,
    /// When it was received.
    pub received_at: Millis,
}

/// What happens to an arrival.
#[derive(Debug)]
pub enum Offer<T> {
    /// It is forwarded.
    Forward(T),
    /// It waits. Other events are dropped in its place.
    Waits {
        /// These events no longer wait.
        dropped: Vec<T>,
    },
    /// It is dropped, and perhaps others with it.
    Dropped {
        /// These events no longer wait. The last one is the event that came.
        dropped: Vec<T>,
    },
}

/// The budgets of control events, and the events that wait.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    rates: ControlRates,
    owners: LruCache<[u8; 32], TokenBucket>,
    strangers: LruCache<[u8; 32], TokenBucket>,
    relays: LruCache<Arc<str>, TokenBucket>,
    all_known: TokenBucket,
    all_strangers: TokenBucket,
    backlogs: HashMap<[u8; 32], Backlog<T>>,
    /// The pubkeys whose own bucket allows their next event, in the order of their turns.
    turns: BTreeMap<Line, BTreeSet<(Turn, [u8; 32])>>,
    /// The pubkeys whose own bucket does not, by when it will.
    resting: BTreeSet<(Millis, [u8; 32])>,
    pools: [Pool; 2],
    arrivals: u64,
    /// The event that has left the room and has not entered the buffer.
    leaving: Option<(Arc<str>, Millis)>,
    is_scarce: bool,
}

/// Those who share buckets wait in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Proven,
    Known,
    /// The strangers whose next event came from this relay.
    Strangers(Arc<str>),
}

/// When it is a pubkey's turn: the time at which its own bucket will be full, or at which its next
/// event came if that is later, and the number of that arrival.
type Turn = (Millis, u64);

/// The events of one pubkey.
#[derive(Debug)]
struct Backlog<T> {
    class: OwnerClass,
    place: Place,
    bytes: u64,
    events: VecDeque<(u64, Arrival<T>)>,
}

/// Where a pubkey waits.
#[derive(Debug, Clone)]
enum Place {
    Line(Line, Turn),
    Resting(Millis),
}

/// The bytes that wait, of strangers or of known owners.
#[derive(Debug, Default)]
struct Pool {
    bytes: u64,
    /// The backlogs by size.
    largest: BTreeSet<(u64, [u8; 32])>,
}

/// The number of a class's pool, and the most bytes in it.
fn pool_of(class: OwnerClass) -> (usize, u64) {
    match class {
        OwnerClass::Stranger => (0, MAX_STRANGERS_BYTES),
        OwnerClass::Known | OwnerClass::Proven => (1, MAX_KNOWN_BYTES),
    }
}

impl<T> Arrival<T> {
    /// The tokens that the event costs. No event costs more than a whole burst.
    fn cost(&self, rate: Rate) -> u64 {
        self.bytes.min(rate.burst).max(1)
    }

    fn size(&self) -> u64 {
        self.bytes + OVERHEAD_BYTES
    }
}

impl<T> WaitingRoom<T> {
    /// An empty room with full budgets.
    pub fn new(rates: ControlRates) -> Self {
        Self {
            rates,
            owners: LruCache::new(MAX_OWNERS),
            strangers: LruCache::new(MAX_STRANGERS),
            relays: LruCache::new(MAX_RELAYS),
            all_known: TokenBucket::default(),
            all_strangers: TokenBucket::default(),
            backlogs: HashMap::new(),
            turns: BTreeMap::new(),
            resting: BTreeSet::new(),
            pools: Default::default(),
            arrivals: 0,
            leaving: None,
            is_scarce: false,
        }
    }

    /// Decides what happens to an event that has just come.
    pub fn offer(&mut self, arrival: Arrival<T>, now: Millis) -> Offer<T> {
        self.wake_up(now);
        self.arrivals += 1;
        let number = self.arrivals;
        self.change_class(&arrival.pubkey, arrival.class, now);
        if !self.backlogs.contains_key(&arrival.pubkey) {
            let place = self.place_of(&arrival, number, now);
            if self.may_go(&arrival, &place, now) {
                self.pay(&arrival, now);
                return Offer::Forward(arrival.event);
            }
        }
        let (pubkey, class, size) = (arrival.pubkey, arrival.class, arrival.size());
        let waiting = self.backlogs.get(&pubkey).map_or(0, |b| b.bytes);
        let mut dropped = Vec::new();
        if waiting + size > MAX_PUBKEY_BYTES || self.rates.of_pubkey(class).burst == 0 {
            dropped.push(arrival.event);
            return Offer::Dropped { dropped };
        }
        let (pool, max) = pool_of(class);
        while self.pools[pool].bytes + size > max {
            let largest = self.pools[pool].largest.last().copied();
            let Some((_, victim)) = largest.filter(|(bytes, _)| *bytes > waiting + size) else {
                dropped.push(arrival.event);
                return Offer::Dropped { dropped };
            };
            dropped.extend(self.drop_last(&victim, now));
        }
        self.enqueue(number, arrival, now);
        Offer::Waits { dropped }
    }

    /// A copy of an event that may wait has come through another relay. If the bucket of that relay
    /// allows the event, and fewer pubkeys wait in its line, the event waits there.
    pub fn offer_copy(
        &mut self,
        pubkey: &[u8; 32],
        is_same: impl Fn(&T) -> bool,
        relay: &Arc<str>,
        now: Millis,
    ) {
        let Some(backlog) = self.backlogs.get(pubkey) else {
            return;
        };
        let position = backlog.events.iter().position(|(_, e)| is_same(&e.event));
        let Some((position, (_, event))) = position.and_then(|n| Some((n, backlog.events.get(n)?)))
        else {
            return;
        };
        let waiting = |relay: &Arc<str>| {
            let line = Line::Strangers(Arc::clone(relay));
            self.turns.get(&line).map_or(0, BTreeSet::len)
        };
        if waiting(relay) >= waiting(&event.relay) || !self.relay_has(relay, event, now) {
            return;
        }
        self.leave_place(pubkey);
        if let Some(backlog) = self.backlogs.get_mut(pubkey) {
            backlog.events[position].1.relay = Arc::clone(relay);
        }
        self.take_place(pubkey, now);
    }

    /// The next event whose turn it is. Call [`WaitingRoom::has_left`] once it has entered the
    /// buffer.
    pub fn release(&mut self, now: Millis) -> Option<T> {
        self.wake_up(now);
        let line = self.next_line(now)?;
        let (_, pubkey) = *self.turns.get(&line)?.first()?;
        let arrival = self.dequeue(&pubkey, now)?;
        self.leaving = Some((Arc::clone(&arrival.relay), arrival.received_at));
        Some(arrival.event)
    }

    /// The event that was released last has entered the buffer.
    pub fn has_left(&mut self) {
        self.leaving = None;
    }

    /// Returns `true` if no event waits.
    pub fn is_empty(&self) -> bool {
        self.backlogs.is_empty()
    }

    /// The pubkeys of strangers who wait.
    pub fn waiting_strangers(&self) -> Vec<[u8; 32]> {
        let backlogs = self.backlogs.iter();
        backlogs
            .filter(|(_, backlog)| backlog.class == OwnerClass::Stranger)
            .map(|(pubkey, _)| *pubkey)
            .collect()
    }

    /// Moves the events of a pubkey that wait to the class that it has now.
    pub fn change_class(&mut self, pubkey: &[u8; 32], class: OwnerClass, now: Millis) {
        let is_other = |backlog: &&mut Backlog<T>| backlog.class != class;
        let Some(backlog) = self.backlogs.get_mut(pubkey).filter(is_other) else {
            return;
        };
        let (from, to) = (pool_of(backlog.class).0, pool_of(class).0);
        backlog.class = class;
        for (_, event) in &mut backlog.events {
            event.class = class;
        }
        let bytes = backlog.bytes;
        self.pools[from].bytes -= bytes;
        self.pools[from].largest.remove(&(bytes, *pubkey));
        self.pools[to].bytes += bytes;
        self.pools[to].largest.insert((bytes, *pubkey));
        self.leave_place(pubkey);
        self.take_place(pubkey, now);
    }

    /// For each relay, when the earliest of its events was received that is not in the buffer.
    pub fn waiting_since(&self) -> HashMap<Arc<str>, Millis> {
        let mut since: HashMap<Arc<str>, Millis> = HashMap::new();
        let waiting = self.backlogs.values().flat_map(|backlog| &backlog.events);
        let waiting = waiting.map(|(_, event)| (&event.relay, event.received_at));
        let leaving = self.leaving.iter().map(|(relay, at)| (relay, *at));
        for (relay, received_at) in waiting.chain(leaving) {
            let earliest = since.entry(Arc::clone(relay)).or_insert(received_at);
            *earliest = received_at.min(*earliest);
        }
        since
    }

    /// Returns `true` while strangers use up their budget, or that of one relay: from when it is
    /// below a tenth of its burst until it is above a half.
    pub fn is_scarce(&mut self, now: Millis) -> bool {
        let part = if self.is_scarce { 2 } else { 10 };
        let is_low = |bucket: &TokenBucket, rate: Rate| bucket.level(rate, now) < rate.burst / part;
        let of_relay = self.rates.strangers_of_relay;
        let mut relays = self.relays.iter();
        self.is_scarce = is_low(&self.all_strangers, self.rates.all_strangers)
            || relays.any(|(_, bucket)| is_low(bucket, of_relay));
        self.is_scarce
    }

    /// Where a pubkey waits whose next event this is.
    fn place_of(&mut self, next: &Arrival<T>, number: u64, now: Millis) -> Place {
        let rate = self.rates.of_pubkey(next.class);
        let bucket = self.own_bucket(next.class, &next.pubkey);
        let ready_at = bucket.ready_at(next.cost(rate), rate, now);
        if ready_at > now {
            return Place::Resting(ready_at);
        }
        let line = match next.class {
            OwnerClass::Proven => Line::Proven,
            OwnerClass::Known => Line::Known,
            OwnerClass::Stranger => Line::Strangers(Arc::clone(&next.relay)),
        };
        Place::Line(
            line,
            (bucket.full_at(rate, now).max(next.received_at), number),
        )
    }

    /// Returns `true` if an event that is not in the room may go before all that are.
    fn may_go(&mut self, arrival: &Arrival<T>, place: &Place, now: Millis) -> bool {
        let Place::Line(line, turn) = place else {
            return false;
        };
        // Otherwise small events would use up the bytes for which a larger one waits.
        let is_first = |(first, _): (Turn, [u8; 32])| *turn < first;
        let is_next = match line {
            Line::Proven => true,
            Line::Known => self.first_turn(line).is_none_or(is_first),
            Line::Strangers(_) => {
                let next = self.next_strangers(now);
                self.first_turn(line).is_none_or(is_first)
                    && next.is_none_or(|(first, _)| *turn < first)
            }
        };
        is_next && self.shared_buckets_have(line, arrival, now)
    }

    /// The line whose first pubkey may go. Each class has its own budget.
    fn next_line(&mut self, now: Millis) -> Option<Line> {
        let strangers = self.next_strangers(now).map(|(_, line)| line);
        let lines = [Some(Line::Proven), Some(Line::Known), strangers];
        lines.into_iter().flatten().find(|line| {
            let Some((_, pubkey)) = self.first_turn(line) else {
                return false;
            };
            let backlog = self.backlogs.get(&pubkey);
            let next = backlog.and_then(|backlog| backlog.events.front());
            next.is_some_and(|(_, next)| self.shared_buckets_have(line, next, now))
        })
    }

    fn first_turn(&self, line: &Line) -> Option<(Turn, [u8; 32])> {
        self.turns.get(line)?.first().copied()
    }

    /// Among the lines of strangers whose relay's bucket allows the next event: the one whose turn
    /// comes first.
    fn next_strangers(&self, now: Millis) -> Option<(Turn, Line)> {
        let allowed = self.turns.iter().filter_map(|(line, turns)| {
            let Line::Strangers(relay) = line else {
                return None;
            };
            let (turn, pubkey) = turns.first()?;
            let (_, next) = self.backlogs.get(pubkey)?.events.front()?;
            self.relay_has(relay, next, now)
                .then(|| (*turn, line.clone()))
        });
        allowed.min_by_key(|(turn, _)| *turn)
    }

    fn relay_has(&self, relay: &Arc<str>, event: &Arrival<T>, now: Millis) -> bool {
        let rate = self.rates.strangers_of_relay;
        let bucket = self.relays.peek(relay).copied().unwrap_or_default();
        bucket.has(event.cost(rate), rate, now)
    }

    fn shared_buckets_have(&self, line: &Line, event: &Arrival<T>, now: Millis) -> bool {
        let has = |bucket: &TokenBucket, rate| bucket.has(event.cost(rate), rate, now);
        match line {
            Line::Proven => true,
            Line::Known => has(&self.all_known, self.rates.all_known),
            Line::Strangers(relay) => {
                has(&self.all_strangers, self.rates.all_strangers)
                    && self.relay_has(relay, event, now)
            }
        }
    }

    /// Takes the cost of an event from all its buckets.
    fn pay(&mut self, event: &Arrival<T>, now: Millis) {
        let rates = self.rates;
        let rate = rates.of_pubkey(event.class);
        let own = match event.class {
            OwnerClass::Stranger => &mut self.strangers,
            OwnerClass::Known | OwnerClass::Proven => &mut self.owners,
        };
        own.get_or_insert_mut(event.pubkey, TokenBucket::default)
            .take(event.cost(rate), rate, now);
        let take = |bucket: &mut TokenBucket, rate| bucket.take(event.cost(rate), rate, now);
        match event.class {
            OwnerClass::Proven => {}
            OwnerClass::Known => take(&mut self.all_known, rates.all_known),
            OwnerClass::Stranger => {
                take(&mut self.all_strangers, rates.all_strangers);
                let relay = Arc::clone(&event.relay);
                let relay = self.relays.get_or_insert_mut(relay, TokenBucket::default);
                take(relay, rates.strangers_of_relay);
            }
        }
    }

    fn own_bucket(&self, class: OwnerClass, pubkey: &[u8; 32]) -> TokenBucket {
        let buckets = match class {
            OwnerClass::Stranger => &self.strangers,
            OwnerClass::Known | OwnerClass::Proven => &self.owners,
        };
        buckets.peek(pubkey).copied().unwrap_or_default()
    }

    /// Moves the pubkeys to their lines whose own bucket allows their next event by now.
    fn wake_up(&mut self, now: Millis) {
        while let Some((ready_at, pubkey)) = self.resting.first().copied()
            && ready_at <= now
        {
            self.leave_place(&pubkey);
            self.take_place(&pubkey, now);
        }
    }

    fn enqueue(&mut self, number: u64, arrival: Arrival<T>, now: Millis) {
        let (pubkey, class, size) = (arrival.pubkey, arrival.class, arrival.size());
        let is_first = !self.backlogs.contains_key(&pubkey);
        let place = Place::Resting(now);
        let backlog = self.backlogs.entry(pubkey).or_insert_with(|| Backlog {
            class,
            place,
            bytes: 0,
            events: VecDeque::new(),
        });
        backlog.events.push_back((number, arrival));
        let before = backlog.bytes;
        backlog.bytes += size;
        self.resize(&pubkey, class, before, before + size);
        if is_first {
            self.take_place(&pubkey, now);
        }
    }

    /// Removes and pays the next event of a pubkey.
    fn dequeue(&mut self, pubkey: &[u8; 32], now: Millis) -> Option<Arrival<T>> {
        self.leave_place(pubkey);
        let event = self.remove(pubkey, VecDeque::pop_front)?;
        self.pay(&event, now);
        self.take_place(pubkey, now);
        Some(event)
    }

    /// Removes the last event of a pubkey.
    fn drop_last(&mut self, pubkey: &[u8; 32], now: Millis) -> Option<T> {
        self.leave_place(pubkey);
        let event = self.remove(pubkey, VecDeque::pop_back)?;
        self.take_place(pubkey, now);
        Some(event.event)
    }

    /// Removes one event of a pubkey that has no place.
    fn remove(
        &mut self,
        pubkey: &[u8; 32],
        pop: impl Fn(&mut VecDeque<(u64, Arrival<T>)>) -> Option<(u64, Arrival<T>)>,
    ) -> Option<Arrival<T>> {
        let backlog = self.backlogs.get_mut(pubkey)?;
        let (_, event) = pop(&mut backlog.events)?;
        let (class, before) = (backlog.class, backlog.bytes);
        backlog.bytes -= event.size();
        let after = backlog.bytes;
        if backlog.events.is_empty() {
            self.backlogs.remove(pubkey);
        }
        self.resize(pubkey, class, before, after);
        Some(event)
    }

    fn resize(&mut self, pubkey: &[u8; 32], class: OwnerClass, before: u64, after: u64) {
        let pool = &mut self.pools[pool_of(class).0];
        pool.bytes = pool.bytes + after - before;
        pool.largest.remove(&(before, *pubkey));
        if after > 0 {
            pool.largest.insert((after, *pubkey));
        }
    }

    /// Removes the pubkey from where it waits.
    fn leave_place(&mut self, pubkey: &[u8; 32]) {
        let Some(backlog) = self.backlogs.get(pubkey) else {
            return;
        };
        match &backlog.place {
            Place::Resting(ready_at) => {
                self.resting.remove(&(*ready_at, *pubkey));
            }
            Place::Line(line, turn) => {
                if let Some(turns) = self.turns.get_mut(line) {
                    turns.remove(&(*turn, *pubkey));
                    if turns.is_empty() {
                        self.turns.remove(line);
                    }
                }
            }
        }
    }

    /// Puts a pubkey that has no place where its next event must wait.
    fn take_place(&mut self, pubkey: &[u8; 32], now: Millis) {
        // Taken out for the moment, because the place depends on the buckets.
        let Some(mut backlog) = self.backlogs.remove(pubkey) else {
            return;
        };
        if let Some((number, next)) = backlog.events.front() {
            backlog.place = self.place_of(next, *number, now);
        }
        match &backlog.place {
            Place::Resting(ready_at) => {
                self.resting.insert((*ready_at, *pubkey));
            }
            Place::Line(line, turn) => {
                let turns = self.turns.entry(line.clone()).or_default();
                turns.insert((*turn, *pubkey));
            }
        }
        self.backlogs.insert(*pubkey, backlog);
    }
}

#[cfg(test)]
mod tests;
