//! What a stage needs from outside, one small trait per capability. `nostr-push-aws` implements
//! them with AWS, `nostr-push-testkit` in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use nostr::{event::EventId, key::PublicKey};

pub use crate::retry::{FailureCause, Unavailable, backoff};

use crate::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    device::{Device, DeviceId, Roster},
    index_key::IndexKey,
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    presence::Presence,
    profile::{Profile, ProfileKey, ProfileUpdate},
    settings::Settings,
    subscription::{IndexRow, Subscription},
};

/// The result of a port.
pub type PortResult<T> = Result<T, Unavailable>;

/// Apps, as configured.
pub trait Apps: Send + Sync {
    /// The app, or `None` if it is not configured. The result may be up to 60 s old.
    fn app(&self, app: &str) -> impl Future<Output = PortResult<Option<App>>> + Send;
}

/// All apps and all blocked pubkeys. The listener keeps them in memory.
pub trait AllApps: Send + Sync {
    /// All apps.
    fn all_apps(&self) -> impl Future<Output = PortResult<Vec<App>>> + Send;
    /// The pubkeys that the operator has blocked.
    fn all_blocked(&self) -> impl Future<Output = PortResult<BTreeSet<PublicKey>>> + Send;
}

/// The pubkeys that the operator has blocked.
pub trait Blocklist: Send + Sync {
    /// Returns `true` if the pubkey is blocked. The result may be up to 60 s old.
    fn is_blocked(&self, pubkey: &PublicKey) -> impl Future<Output = PortResult<bool>> + Send;
}

/// How much the stack holds, as the listener counts it.
pub trait Usages: Send + Sync {
    /// The last recorded usage. The result may be up to 60 s old. `None` if no listener has
    /// recorded one.
    fn usage(&self) -> impl Future<Output = PortResult<Option<Usage>>> + Send;
    /// Records the usage.
    fn record_usage(&self, usage: &Usage) -> impl Future<Output = PortResult<()>> + Send;
}

/// Budgets that all instances of a stage share.
pub trait Budgets: Send + Sync {
    /// Takes `units` from the budget named `budget` in the window that begins at `window`. Takes
    /// nothing and returns `false` if less than that is left of `max`.
    fn take(
        &self,
        budget: &str,
        window: Seconds,
        units: u64,
        max: u64,
    ) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Whether owners have a device. Reads are consistent.
pub trait Standings: Send + Sync {
    /// The standing of each of these owners. Those without a roster are left out.
    fn standings(
        &self,
        owners: &[Owner],
    ) -> impl Future<Output = PortResult<BTreeMap<Owner, Standing>>> + Send;
}

/// What the matcher must know about a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// See [`Roster::active_until`].
    pub active_until: Seconds,
    /// See [`Roster::proven`].
    pub proven: bool,
}

/// Device rows and rosters. Reads are consistent.
pub trait Devices: Send + Sync {
    /// The stored rows of these devices. Those without a row are left out.
    fn devices(&self, ids: &[DeviceId]) -> impl Future<Output = PortResult<Vec<Device>>> + Send;
    /// The owner's roster.
    fn roster(&self, owner: &Owner) -> impl Future<Output = PortResult<Option<Roster>>> + Send;
    /// The device that has this endpoint in its row. The result may be a second old.
    fn device_of_endpoint(
        &self,
        endpoint_arn: &str,
    ) -> impl Future<Output = PortResult<Option<DeviceId>>> + Send;
    /// Writes both rows or neither. A row is written only if its `version` is the stored one (0: no
    /// row); the stored version is then one higher. Returns `true` if the rows were written.
    fn commit(
        &self,
        device: Option<&Device>,
        roster: Option<&Roster>,
    ) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Subscriptions. Reads are consistent.
pub trait Subscriptions: Send + Sync {
    /// The stored rows of these (owner, identity) pairs, removals included. Pairs without a row are
    /// left out.
    fn get(
        &self,
        ids: &[(Owner, String)],
    ) -> impl Future<Output = PortResult<Vec<Subscription>>> + Send;
    /// All rows of an owner, removals included.
    fn of_owner(&self, owner: &Owner)
    -> impl Future<Output = PortResult<Vec<Subscription>>> + Send;
    /// Writes the row, unless the stored one is as new or newer. Returns `true` if it was written.
    ///
    /// Stamps the row for the [`ChangeFeed`] with the time of the write. `changed_at` is older: the
    /// writer takes it when it begins to process an event. A write that is retried for some seconds
    /// has the stamp of its first attempt, so readers of the feed must overlap their reads.
    fn put(&self, row: &Subscription) -> impl Future<Output = PortResult<bool>> + Send;
    /// Writes the row in place of the stored one, if that has the same order and still the
    /// `changed_at` that was read. Returns `true` if it was written. For what does not come from
    /// the owner's event, such as [`Subscription::proven`].
    fn replace(
        &self,
        row: &Subscription,
        read: Millis,
    ) -> impl Future<Output = PortResult<bool>> + Send;
}

/// The presence of owners. Reads are consistent.
pub trait Presences: Send + Sync {
    /// The owner's presence, if it is stored.
    fn presence(&self, owner: &Owner) -> impl Future<Output = PortResult<Option<Presence>>> + Send;
    /// Marks the stored presence as awaited by a delivery, if it still has this order.
    /// Returns `true` if it was marked.
    fn mark_awaited(
        &self,
        owner: &Owner,
        order: &Order,
    ) -> impl Future<Output = PortResult<bool>> + Send;
    /// Writes the row, unless the stored one is as new or newer. Returns `true` if it was written.
    fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        expires_at: Seconds,
    ) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Settings of dialect H. Reads are consistent.
pub trait OwnerSettings: Send + Sync {
    /// The owner's settings.
    fn settings(&self, owner: &Owner) -> impl Future<Output = PortResult<Option<Settings>>> + Send;
    /// Writes the row, unless the stored one is as new or newer. Returns `true` if it was written.
    fn put_settings(&self, settings: &Settings) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Mute lists.
pub trait MuteLists: Send + Sync {
    /// The pubkey's list, if it is stored. The result may be a second old.
    fn mute_list(
        &self,
        pubkey: &PublicKey,
    ) -> impl Future<Output = PortResult<Option<MuteList>>> + Send;
    /// Writes the row, unless the stored one is as new or newer. Returns `true` if it was written.
    fn put_mute_list(&self, list: &MuteList) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Reading profiles for pushes, and claiming requests for those that are due.
pub trait Profiles: Send + Sync {
    /// The stored profiles. `None`: there is no row. A key that could not be read is left out. The
    /// result may be as old as a profile may be before it is requested again.
    fn profiles(
        &self,
        keys: &[ProfileKey],
    ) -> impl Future<Output = PortResult<BTreeMap<ProfileKey, Option<Profile>>>> + Send;
    /// Records that the profile was requested at `now`, if it is due. Returns `true` to the one
    /// caller that must request it.
    fn claim_request(
        &self,
        key: &ProfileKey,
        now: Seconds,
    ) -> impl Future<Output = PortResult<bool>> + Send;
    /// Makes a profile due again that was claimed at `now` and not requested.
    fn release_request(
        &self,
        key: &ProfileKey,
        now: Seconds,
    ) -> impl Future<Output = PortResult<()>> + Send;
}

/// Writing the profiles that relays return.
pub trait ProfileWriter: Send + Sync {
    /// Writes the profile, unless the stored one is as new or newer. Returns `true` if it was
    /// written.
    fn put_profile(
        &self,
        update: &ProfileUpdate,
        now: Seconds,
    ) -> impl Future<Output = PortResult<bool>> + Send;
}

/// Counts a recipient's pushes per minute. `window` is the beginning of the minute.
pub trait Rates: Send + Sync {
    /// Counts the event as one of the minute's pushes, unless `max` other events have
    /// already been counted. Counting an
    /// event again changes nothing.
    fn admit(
        &self,
        owner: &Owner,
        window: Seconds,
        event: &EventId,
        max: u32,
    ) -> impl Future<Output = PortResult<RateAdmission>> + Send;
    /// Counts an event that was not admitted.
    fn overflow(
        &self,
        owner: &Owner,
        window: Seconds,
    ) -> impl Future<Output = PortResult<()>> + Send;
    /// The number of events that were not admitted. The read is consistent.
    fn overflowed(
        &self,
        owner: &Owner,
        window: Seconds,
    ) -> impl Future<Output = PortResult<u64>> + Send;
}

/// The result of [`Rates::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateAdmission {
    /// The event is one of the minute's pushes.
    Admitted,
    /// The minute has reached its limit.
    Full {
        /// `true` if no other event has been counted beyond the limit so far.
        first: bool,
    },
}

/// Writing the filter index.
pub trait IndexWriter: Send + Sync {
    /// Writes each row, unless the stored one has a later order, or the same order and the same or
    /// a later start (`since`).
    fn put_index(&self, rows: Vec<IndexRow>) -> impl Future<Output = PortResult<()>> + Send;
    /// Deletes each row, unless the stored one has a later order than `order`, or the same and a
    /// later start than the row: it has been brought into force again.
    fn delete_index(
        &self,
        rows: Vec<IndexRow>,
        order: Order,
    ) -> impl Future<Output = PortResult<()>> + Send;
}

/// Reading the filter index.
pub trait IndexReader: Send + Sync {
    /// One page of rows under an index key, after the sort key `after`.
    fn page(
        &self,
        key: &IndexKey,
        after: Option<&str>,
    ) -> impl Future<Output = PortResult<IndexPage>> + Send;
}

/// One page of index rows.
#[derive(Debug, Clone, Default)]
pub struct IndexPage {
    /// The rows. If a filter is `None`, it is in `subscriptions`.
    pub rows: Vec<IndexRow>,
    /// The sort key after which the next page starts; `None` at the end.
    pub next: Option<String>,
}

/// SNS platform endpoints.
pub trait Endpoints: Send + Sync {
    /// Creates or reuses the endpoint of this token. The endpoint is enabled and has this token.
    fn ensure(
        &self,
        platform_application: &str,
        token: &str,
    ) -> impl Future<Output = PortResult<EnsuredEndpoint>> + Send;
    /// Deletes an endpoint. Deleting one that does not exist succeeds.
    fn delete(&self, endpoint_arn: &str) -> impl Future<Output = PortResult<()>> + Send;
    /// Returns `true` if the endpoint exists and is enabled.
    fn is_enabled(&self, endpoint_arn: &str) -> impl Future<Output = PortResult<bool>> + Send;
}

/// The result of [`Endpoints::ensure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnsuredEndpoint {
    /// The endpoint's ARN.
    Ready(String),
    /// The platform refuses the token.
    BadToken,
}

/// A message for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The message in the form of SNS: a JSON object with one string of JSON per platform.
    pub message: String,
    /// SNS message attributes (all of type String).
    pub attributes: Vec<(String, String)>,
}

/// The outcome of one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// SNS accepted it.
    Delivered,
    /// The publish may succeed later.
    Retry {
        /// The shortest time until then. `None` means the usual [`backoff`].
        after: Option<Duration>,
        /// Why the publish failed.
        reason: RetryReason,
    },
    /// The endpoint is disabled or does not exist.
    Gone,
    /// The publish can never succeed, and the device is not the cause.
    Rejected {
        /// Why SNS rejected the message.
        reason: RejectReason,
        /// The error message of SNS.
        why: String,
    },
}

/// Why a publish failed temporarily.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum RetryReason {
    /// SNS throttled the request.
    Throttled,
    /// SNS failed.
    Unavailable,
    /// SNS did not answer in time, so the message may have been accepted.
    NoResponse,
    /// SNS has disabled the platform application, or the platform refuses its credentials.
    BadCredentials,
    /// The function lacks a permission.
    NotAllowed,
    /// SNS returned an undocumented error.
    UnknownError,
}

impl RetryReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::NoResponse => "no_answer",
            Self::BadCredentials => "bad_credentials",
            Self::NotAllowed => "not_allowed",
            Self::UnknownError => "unknown_error",
        }
    }
}

/// Why SNS will never accept a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum RejectReason {
    /// SNS refuses the message.
    InvalidMessage,
    /// SNS refuses another part of the request.
    InvalidRequest,
}

impl RejectReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidMessage => "invalid_message",
            Self::InvalidRequest => "invalid_request",
        }
    }
}

/// Publishing to endpoints.
pub trait Publisher: Send + Sync {
    /// Publishes one message to one endpoint.
    fn publish(
        &self,
        endpoint_arn: &str,
        push: &Push,
    ) -> impl Future<Output = PublishOutcome> + Send;
}

/// Claims: the records that an event is being, or has been, delivered to a recipient under an app.
pub trait Claims: Send + Sync {
    /// Takes the claim for `holder` until `until`, unless another holder has it or it is completed.
    fn acquire(
        &self,
        claim: &str,
        holder: &str,
        now: Millis,
        until: Millis,
    ) -> impl Future<Output = PortResult<ClaimResult>> + Send;
    /// Records that the device is done. Returns `true` if the holder still has the claim.
    fn done(
        &self,
        claim: &str,
        holder: &str,
        token_hash: &str,
    ) -> impl Future<Output = PortResult<bool>> + Send;
    /// Ends the holder's lease. If `completed`, no attempt can acquire the claim again.
    /// Otherwise a retry can acquire it immediately.
    fn release(
        &self,
        claim: &str,
        holder: &str,
        completed: bool,
    ) -> impl Future<Output = PortResult<()>> + Send;
}

/// The result of [`Claims::acquire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimResult {
    /// The holder has the claim. These devices (token hashes) are done.
    Acquired(Vec<String>),
    /// Another holder has the claim until this time.
    Taken(Millis),
    /// The claim is completed.
    Completed,
}

/// A queue of the next stage.
pub trait Queue<T>: Send + Sync {
    /// Sends all messages in as few requests as possible, and returns once all are accepted. After
    /// an error some may have been accepted.
    fn send(&self, messages: &[T]) -> impl Future<Output = PortResult<()>> + Send;
}

/// A queue that can delay a message.
pub trait DelayQueue<T>: Send + Sync {
    /// Sends a message that is received after `delay` at the earliest (at most [`MAX_DELAY`]), and
    /// returns once it is accepted.
    fn send_after(
        &self,
        message: &T,
        delay: Duration,
    ) -> impl Future<Output = PortResult<()>> + Send;
}

/// A queue from which the listener receives.
pub trait Inbox<T>: Send + Sync {
    /// Waits for messages, and returns at most ten. None if there were none for some time. A
    /// message that is not deleted is received again after the queue's visibility timeout.
    fn receive(&self) -> impl Future<Output = PortResult<Vec<Received<T>>>> + Send;
    /// Deletes the messages with these receipts.
    fn delete(&self, receipts: &[String]) -> impl Future<Output = PortResult<()>> + Send;
}

/// A message that was received, and the receipt by which it is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// The receipt.
    pub receipt: String,
    /// How often the message has been received.
    pub receive_count: u32,
}

/// The longest delay of a message in SQS
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-timers.html>).
pub const MAX_DELAY: Duration = Duration::from_secs(900);

/// The change feed of subscriptions, for the listener. It has partitions, which are read
/// independently.
pub trait ChangeFeed: Send + Sync {
    /// The number of partitions.
    fn partitions(&self) -> u64;
    /// One page of the rows of a partition that [`Subscriptions::put`] stamped at or after `since`,
    /// from the position `after` on. A `since` of 0 means all rows.
    ///
    /// Rows come in the order of their stamps. A row that changes between two pages moves to the
    /// end, so it comes again. A write becomes visible a moment after its stamp.
    fn page(
        &self,
        partition: u64,
        since: Millis,
        after: Option<&FeedPosition>,
    ) -> impl Future<Output = PortResult<FeedPage>> + Send;
}

/// One page of a partition of the change feed.
#[derive(Debug, Clone, Default)]
pub struct FeedPage {
    /// The rows.
    pub rows: Vec<Subscription>,
    /// The position after which the next page starts; `None` at the end.
    pub next: Option<FeedPosition>,
}

/// A position in a partition of the change feed: the last row of a page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedPosition {
    /// The stamp of the row.
    pub stamp: Millis,
    /// The owner of the row, in text form.
    pub owner: String,
    /// The identity of the row.
    pub identity: String,
}

/// The listener's state per relay.
pub trait Relays: Send + Sync {
    /// The relay's cursor. `None` if the relay has never been watched.
    fn cursor(&self, relay: &str) -> impl Future<Output = PortResult<Option<RelayCursor>>> + Send;
    /// Writes the cursor, unless a later one is stored, and the relay's status.
    fn checkpoint(
        &self,
        relay: &str,
        cursor: RelayCursor,
        status: &str,
        now: Seconds,
    ) -> impl Future<Output = PortResult<()>> + Send;
}

/// How far a relay has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayCursor {
    /// The time up to which the queues have accepted everything that the relay sent. 0 if it has
    /// never been read.
    pub read_until: Seconds,
    /// When the control events of the last week were last requested. 0 if they never were.
    pub swept_at: Seconds,
}

/// The listener's tasks, which share the relays.
pub trait Members: Send + Sync {
    /// Makes this task a member until `until`, and returns all members at `now`, this task
    /// included.
    fn join(
        &self,
        member: &str,
        now: Seconds,
        until: Seconds,
    ) -> impl Future<Output = PortResult<Vec<String>>> + Send;
    /// Ends this task's membership.
    fn leave(&self, member: &str) -> impl Future<Output = PortResult<()>> + Send;
}
