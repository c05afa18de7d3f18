//! What a stage asks of the world, one small trait per capability. `nostr-push-aws` has the real
//! ones and `nostr-push-testkit` the ones in memory.

use std::{future::Future, time::Duration};

use nostr::{event::EventId, key::PublicKey};

use crate::{
    Millis, Seconds,
    app::App,
    device::{Device, DeviceId, Roster},
    index_key::IndexKey,
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    presence::Presence,
    settings::Settings,
    subscription::{IndexRow, Subscription},
};

/// A dependency failed. Always worth a retry; never the fault of the message at hand.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{dependency}: {why}")]
pub struct Unavailable {
    /// What was asked, for example `dynamodb.subscriptions.put`.
    pub dependency: &'static str,
    /// What it answered.
    pub why: String,
}

/// The answer of a port.
pub type Answer<T> = Result<T, Unavailable>;

/// Apps, as configured.
pub trait Apps: Send + Sync {
    /// The app, or `None` when nobody configured it. May be up to 60 s old.
    fn app(&self, app: &str) -> impl Future<Output = Answer<Option<App>>> + Send;
}

/// Device rows and rosters. Reads are consistent.
pub trait Devices: Send + Sync {
    /// The rows that exist among these.
    fn devices(&self, ids: &[DeviceId]) -> impl Future<Output = Answer<Vec<Device>>> + Send;
    /// The owner's roster.
    fn roster(&self, owner: &Owner) -> impl Future<Output = Answer<Option<Roster>>> + Send;
    /// The device whose endpoint this is, if its row says so. May be a second old.
    fn device_of_endpoint(
        &self,
        endpoint_arn: &str,
    ) -> impl Future<Output = Answer<Option<DeviceId>>> + Send;
    /// Writes both rows or neither, each only if its stored version is the one it carries (0: no
    /// row); the stored version is then one higher. Answers whether it wrote.
    fn commit(
        &self,
        device: Option<&Device>,
        roster: Option<&Roster>,
    ) -> impl Future<Output = Answer<bool>> + Send;
}

/// Subscriptions. Reads are consistent.
pub trait Subscriptions: Send + Sync {
    /// Those of the pairs (owner, identity) that exist, removals included.
    fn get(
        &self,
        ids: &[(Owner, String)],
    ) -> impl Future<Output = Answer<Vec<Subscription>>> + Send;
    /// All of an owner's, removals included.
    fn of_owner(&self, owner: &Owner) -> impl Future<Output = Answer<Vec<Subscription>>> + Send;
    /// Writes the row unless one is stored that it does not supersede. Answers whether it wrote.
    fn put(&self, row: &Subscription) -> impl Future<Output = Answer<bool>> + Send;
}

/// When owners' apps were last open. Reads are consistent.
pub trait Presences: Send + Sync {
    /// The last sign of life, if it is stored.
    fn presence(&self, owner: &Owner) -> impl Future<Output = Answer<Option<Presence>>> + Send;
    /// Notes that a delivery waits for the next sign of life, if the stored one is still this
    /// event's. Answers whether it is.
    fn await_presence(
        &self,
        owner: &Owner,
        order: &Order,
    ) -> impl Future<Output = Answer<bool>> + Send;
    /// Writes it unless one is stored that it does not supersede. Answers whether it wrote.
    fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        expires_at: Seconds,
    ) -> impl Future<Output = Answer<bool>> + Send;
}

/// Settings of dialect H. Reads are consistent.
pub trait OwnerSettings: Send + Sync {
    /// The owner's settings.
    fn settings(&self, owner: &Owner) -> impl Future<Output = Answer<Option<Settings>>> + Send;
    /// Writes the row unless one is stored that it does not supersede. Answers whether it wrote.
    fn put_settings(&self, settings: &Settings) -> impl Future<Output = Answer<bool>> + Send;
}

/// Mute lists.
pub trait MuteLists: Send + Sync {
    /// The pubkey's list, if it is known. May be a second old.
    fn mute_list(
        &self,
        pubkey: &PublicKey,
    ) -> impl Future<Output = Answer<Option<MuteList>>> + Send;
    /// Writes it unless one is stored that it does not supersede. Answers whether it wrote.
    fn put_mute_list(&self, list: &MuteList) -> impl Future<Output = Answer<bool>> + Send;
}

/// How many pushes a recipient had in a minute, which begins at `window`.
pub trait Rates: Send + Sync {
    /// Counts the event among the minute's pushes, unless there are `max` of others. Counting it
    /// again changes nothing.
    fn admit(
        &self,
        owner: &Owner,
        window: Seconds,
        event: &EventId,
        max: u32,
    ) -> impl Future<Output = Answer<Admission>> + Send;
    /// Counts one that was not admitted.
    fn overflow(&self, owner: &Owner, window: Seconds) -> impl Future<Output = Answer<()>> + Send;
    /// How many were not admitted. Consistent.
    fn overflowed(
        &self,
        owner: &Owner,
        window: Seconds,
    ) -> impl Future<Output = Answer<u64>> + Send;
}

/// The answer to [`Rates::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is one of the minute's pushes.
    Admitted,
    /// The minute has had enough.
    Full {
        /// Whether none has been counted as too many yet.
        first: bool,
    },
}

/// Writing the filter index.
pub trait IndexWriter: Send + Sync {
    /// Writes each row unless one is stored that it does not supersede.
    fn put_index(&self, rows: Vec<IndexRow>) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes each row unless one written by a later order is stored.
    fn delete_index(
        &self,
        rows: Vec<IndexRow>,
        order: Order,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// Reading the filter index.
pub trait IndexReader: Send + Sync {
    /// One page of rows under an index key, after the given sort key.
    fn page(
        &self,
        key: &IndexKey,
        after: Option<&str>,
    ) -> impl Future<Output = Answer<Page>> + Send;
}

/// One page of index rows.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The rows; those whose filter is `None` have it in `subscriptions`.
    pub rows: Vec<IndexRow>,
    /// The sort key after which to go on; `None` at the end.
    pub next: Option<String>,
}

/// SNS platform endpoints.
pub trait Endpoints: Send + Sync {
    /// The endpoint of this token: made, or found, enabled and set to this very token.
    fn ensure(
        &self,
        platform_application: &str,
        token: &str,
    ) -> impl Future<Output = Answer<Ensured>> + Send;
    /// Deletes an endpoint. One that does not exist is deleted already.
    fn delete(&self, endpoint_arn: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Whether it exists and is enabled.
    fn is_enabled(&self, endpoint_arn: &str) -> impl Future<Output = Answer<bool>> + Send;
}

/// What came of asking for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    /// Its ARN.
    Endpoint(String),
    /// The platform takes no such token.
    BadToken,
}

/// What one device shall receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The message, as SNS takes it: a JSON object with one string of JSON per platform.
    pub message: String,
    /// SNS message attributes (all of type String).
    pub attributes: Vec<(&'static str, String)>,
}

/// What came of one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// SNS accepted it.
    Delivered,
    /// It may work later.
    Retry {
        /// Not before this time is over; by default as [`backoff`] says.
        after: Option<Duration>,
        /// Why it did not work now.
        reason: &'static str,
    },
    /// The endpoint is disabled or does not exist.
    Gone,
    /// It will never work, and the device is not to blame.
    Rejected {
        /// Why, as it is counted.
        reason: &'static str,
        /// Why, in the words of SNS.
        why: String,
    },
}

/// Publishing to endpoints.
pub trait Publisher: Send + Sync {
    /// Publishes one message to one endpoint.
    fn publish(&self, endpoint_arn: &str, push: &Push) -> impl Future<Output = Outcome> + Send;
}

/// Claims: the records that (recipient, app, event) is being, or has been, delivered.
pub trait Claims: Send + Sync {
    /// Takes the claim for `holder` until `until`, unless it is held by another or completed.
    fn acquire(
        &self,
        claim: &str,
        holder: &str,
        now: Millis,
        until: Millis,
    ) -> impl Future<Output = Answer<Claim>> + Send;
    /// Notes the device as done. Answers whether the claim is still the holder's.
    fn done(
        &self,
        claim: &str,
        holder: &str,
        token_hash: &str,
    ) -> impl Future<Output = Answer<bool>> + Send;
    /// Ends the holder's lease: for good when `completed`, otherwise so that a retry may take it at
    /// once.
    fn release(
        &self,
        claim: &str,
        holder: &str,
        completed: bool,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// The answer to [`Claims::acquire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is the holder's now; these devices (token hashes) are done.
    Acquired(Vec<String>),
    /// Another holds it until then.
    Held(Millis),
    /// It has been completed.
    Completed,
}

/// A queue of the next stage.
pub trait Queue<T>: Send + Sync {
    /// Sends all, in as few requests as possible, and answers once all are accepted. On an error
    /// some may have been.
    fn send(&self, messages: &[T]) -> impl Future<Output = Answer<()>> + Send;
}

/// A queue that can hold a message back.
pub trait DelayQueue<T>: Send + Sync {
    /// Sends a message that nobody receives before `delay` is over (at most [`MAX_DELAY`]), and
    /// answers once it is accepted.
    fn send_after(&self, message: &T, delay: Duration) -> impl Future<Output = Answer<()>> + Send;
}

/// The longest that a queue holds a message back (an SQS limit).
pub const MAX_DELAY: Duration = Duration::from_secs(900);

/// The change feed of subscriptions, for the listener.
pub trait ChangeFeed: Send + Sync {
    /// Gives `each` every row changed at or after `since`, in no order, some more than once; since
    /// 0: all rows.
    fn changes(
        &self,
        since: Millis,
        each: impl FnMut(Subscription) + Send,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// What the listener keeps of each relay.
pub trait Relays: Send + Sync {
    /// Up to when everything the relay sent has been accepted by the queues, if it was ever
    /// watched.
    fn cursor(&self, relay: &str) -> impl Future<Output = Answer<Option<Seconds>>> + Send;
    /// Writes the cursor, unless a later one is stored, and what the relay last complained of.
    fn checkpoint(
        &self,
        relay: &str,
        cursor: Seconds,
        status: &str,
        now: Seconds,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// The listener's tasks, among which the relays are shared out.
pub trait Members: Send + Sync {
    /// Keeps this task a member until `until`, and answers with all whose time is not over at
    /// `now`, this one included.
    fn join(
        &self,
        member: &str,
        now: Seconds,
        until: Seconds,
    ) -> impl Future<Output = Answer<Vec<String>>> + Send;
    /// Ends this task's membership.
    fn leave(&self, member: &str) -> impl Future<Output = Answer<()>> + Send;
}

/// How long a retry waits, by how often the message was received: 5 s, doubling, at most 5 min,
/// minus up to half by `jitter` (0 to 1).
pub fn backoff(receive_count: u32, jitter: f64) -> Duration {
    let whole = Duration::from_secs(5 << receive_count.saturating_sub(1).min(6))
        .min(Duration::from_secs(300));
    whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// Seconds of a time in milliseconds.
pub fn seconds(at: Millis) -> Seconds {
    at / 1000
}
