//! One control message in, one outcome out.

use nostr::key::Keys;
use nostr_push_core::{
    Millis,
    device::{DeviceId, Register, TokenHasher},
    message,
    owner::Owner,
    ports::{
        Apps, Devices, Endpoints, IndexWriter, OwnerSettings, Presences, Subscriptions,
        Unavailable, seconds,
    },
};

use crate::{
    check::{self, Kind, Opened},
    derived, devices,
    payload::{self, Asked},
    presence,
    refusal::Refusal,
    settings, subscriptions,
};

/// What came of a control event that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// A device was registered.
    Registered,
    /// A device was removed, or its removal recorded.
    Removed,
    /// All the owner's devices were removed.
    RemovedAll,
    /// Filters were stored.
    Subscribed,
    /// Filters were deleted.
    Unsubscribed,
    /// Settings (dialect H) replaced the owner's.
    Configured,
    /// The owner logged out (dialect H).
    LoggedOut,
    /// A heartbeat was stored.
    Heartbeat,
    /// A heartbeat came too soon after the stored one to be worth a write.
    HeartbeatUnwritten,
    /// The app said that it is going away.
    Offline,
    /// This very event had been applied.
    Repeated,
    /// A newer event had been applied.
    Superseded,
}

impl Applied {
    /// The reason under which it is counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Removed => "removed",
            Self::RemovedAll => "removed_all",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Configured => "configured",
            Self::LoggedOut => "logged_out",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatUnwritten => "heartbeat_unwritten",
            Self::Offline => "offline",
            Self::Repeated => "repeated",
            Self::Superseded => "superseded",
        }
    }

    /// `self` if it changed something, else `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Superseded {
            other
        } else {
            self
        }
    }
}

/// Why a control event was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// For good: to the queue this is success.
    #[error("refused: {}", .0.reason())]
    Refused(Refusal),
    /// For now: the queue brings it again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The stage: the service's key and its ports.
pub struct Control<S, E> {
    /// The service's key.
    pub keys: Keys,
    /// The app of heartbeats and settings (dialect H) that name none.
    pub heartbeat_app: Option<String>,
    /// Hashes tokens.
    pub hasher: TokenHasher,
    /// The tables.
    pub store: S,
    /// SNS.
    pub sns: E,
}

impl<S: Apps + Devices + Subscriptions + IndexWriter + OwnerSettings + Presences, E: Endpoints>
    Control<S, E>
{
    /// A stage for the service with this key.
    pub fn new(keys: Keys, heartbeat_app: Option<String>, store: S, sns: E) -> Self {
        let hasher = TokenHasher::new(keys.secret_key().as_secret_bytes());
        Self {
            keys,
            heartbeat_app,
            hasher,
            store,
            sns,
        }
    }

    /// Checks and applies one control event. Applying it again changes nothing.
    ///
    /// # Errors
    /// [`Failure::Refused`]: drop it. [`Failure::Unavailable`]: it must come again.
    pub async fn handle(
        &self,
        message: &message::Control,
        now: Millis,
    ) -> Result<Applied, Failure> {
        let received_at = seconds(message.received_at.min(now));
        let addressed = check::address(
            message.event.get(),
            &self.keys,
            self.heartbeat_app.as_deref(),
            received_at,
        )?;
        let app = self.store.app(&addressed.owner.app).await?;
        let opened = check::open(addressed, app, &self.keys, seconds(now))?;
        match opened.kind {
            Kind::Register => self.register(opened, now).await,
            Kind::Deregister => self.deregister(opened, now).await,
            Kind::UpsertFilters => {
                let filters =
                    payload::filters(&opened.plaintext, &opened.app, opened.owner.pubkey)?;
                subscriptions::upsert(
                    &self.store,
                    &opened.owner,
                    opened.order,
                    opened.valid_until,
                    filters,
                    now,
                )
                .await
            }
            Kind::DeleteFilters => {
                let filters =
                    payload::filters(&opened.plaintext, &opened.app, opened.owner.pubkey)?;
                subscriptions::delete(
                    &self.store,
                    &opened.owner,
                    opened.order,
                    filters.by_identity,
                    now,
                )
                .await
            }
            Kind::DialectH => self.dialect_h(opened, message.received_at, now).await,
        }
    }

    async fn register(&self, opened: Opened, now: Millis) -> Result<Applied, Failure> {
        let Opened {
            owner,
            order,
            valid_until,
            app,
            plaintext,
            ..
        } = opened;
        let (token, platform) = payload::registration(&plaintext, &app)?;
        let id = self.hasher.device(&owner.app, &token);
        let event = Register {
            owner,
            order,
            platform,
            by_settings: false,
            max_mentions: None,
            valid_until,
        };
        let outcome = devices::register(
            &self.store,
            &self.sns,
            &app,
            &event,
            &id,
            &token,
            seconds(now),
        )
        .await?;
        derived::reconcile(&self.store, &app, &event.owner, now).await?;
        if let Some(earlier) = &outcome.taken_from {
            derived::reconcile(&self.store, &app, earlier, now).await?;
        }
        Ok(outcome.applied)
    }

    async fn deregister(&self, opened: Opened, now: Millis) -> Result<Applied, Failure> {
        let Opened {
            owner,
            order,
            app,
            plaintext,
            ..
        } = opened;
        let applied = match payload::deregistration(&plaintext)? {
            Some(token) => {
                devices::remove(
                    &self.store,
                    &self.sns,
                    &owner,
                    order,
                    &self.device(&owner, &token),
                    seconds(now),
                )
                .await?
            }
            None => {
                devices::remove_all(&self.store, &self.sns, &owner, order, seconds(now)).await?
            }
        };
        derived::reconcile(&self.store, &app, &owner, now).await?;
        Ok(applied)
    }

    /// Settings first: if they are refused, the event is, and so is its heartbeat.
    async fn dialect_h(
        &self,
        opened: Opened,
        received_at: Millis,
        now: Millis,
    ) -> Result<Applied, Failure> {
        let Opened {
            owner,
            order,
            app,
            plaintext,
            ..
        } = opened;
        let Asked { online, settings } = payload::settings(&plaintext, &app, &owner, order)?;
        let mut applied = None;
        if let Some(replacement) = settings {
            let device = replacement
                .token
                .as_ref()
                .map(|(token, _)| self.device(&owner, token));
            applied = Some(
                settings::replace(&self.store, &self.sns, &app, replacement, device, now).await?,
            );
        }
        if let Some(online) = online {
            let noted = presence::note(
                &self.store,
                &owner,
                order,
                online,
                received_at,
                app.presence_timeout(),
            )
            .await?;
            applied = applied.or(Some(noted));
        }
        applied.ok_or_else(|| Refusal::BadPayload.into())
    }

    fn device(&self, owner: &Owner, token: &str) -> DeviceId {
        self.hasher.device(&owner.app, token)
    }
}
