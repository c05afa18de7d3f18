//! Handles one control message.

use nostr::key::Keys;
use nostr_push_core::{
    Millis,
    device::RegistrationRequest,
    message::ControlMessage,
    ports::{Apps, Devices, Endpoints, IndexWriter, OwnerSettings, Presences, Subscriptions},
    token_hasher::TokenHasher,
};

use crate::{
    check::{self, ControlKind, DecryptedEvent},
    context::EventContext,
    derived, devices,
    outcome::{Applied, Failure},
    payload::{self, DialectHRequest},
    presence,
    refusal::Refusal,
    settings, subscriptions,
};

/// The control stage: the service key, the configuration and the ports.
pub struct ControlStage<S, E> {
    /// The service key.
    pub keys: Keys,
    /// The app of dialect H events without an `app` tag.
    pub heartbeat_app: Option<String>,
    /// Hashes tokens.
    pub hasher: TokenHasher,
    /// The tables.
    pub store: S,
    /// SNS.
    pub sns: E,
}

impl<S, E> ControlStage<S, E>
where
    S: Apps + Devices + Subscriptions + IndexWriter + OwnerSettings + Presences,
    E: Endpoints,
{
    /// The stage of the service with this key.
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
    /// [`Failure::Refused`]: drop the message. [`Failure::Unavailable`]: receive it again.
    pub async fn handle(&self, message: &ControlMessage, now: Millis) -> Result<Applied, Failure> {
        let addressed = check::check_envelope(
            message.event.get(),
            &self.keys.public_key(),
            self.heartbeat_app.as_deref(),
            message.received_at.min(now).to_seconds(),
        )?;
        let app = self.store.app(&addressed.owner.app).await?;
        let event = check::check_content(addressed, app, &self.keys, now.to_seconds())?;
        match event.kind {
            ControlKind::Register => self.register(&event, now).await,
            ControlKind::Deregister => self.deregister(&event, now).await,
            ControlKind::UpsertFilters => {
                let filters = payload::filters(&event.plaintext, &event.app, event.owner.pubkey)?;
                subscriptions::upsert(&self.store, &event, filters, now).await
            }
            ControlKind::DeleteFilters => {
                let filters =
                    payload::filters_to_delete(&event.plaintext, &event.app, event.owner.pubkey)?;
                subscriptions::delete(&self.store, &event, filters.by_identity, now).await
            }
            ControlKind::DialectH => self.dialect_h(&event, message.received_at, now).await,
        }
    }

    async fn register(&self, event: &DecryptedEvent, now: Millis) -> Result<Applied, Failure> {
        let owner = &event.owner;
        let (token, platform) = payload::registration(&event.plaintext, &event.app)?;
        let request = RegistrationRequest {
            device: self.hasher.device(&owner.app, &token),
            owner: owner.clone(),
            order: event.order,
            platform,
            by_settings: false,
            max_mentions: None,
            valid_until: event.valid_until,
        };
        let context = self.context(event, now);
        let registered = devices::register(&context, &request, &token).await?;
        let previous_owner = registered.previous_owner.as_ref();
        derived::reconcile_transfer(&context, owner, previous_owner).await?;
        Ok(registered.applied)
    }

    async fn deregister(&self, event: &DecryptedEvent, now: Millis) -> Result<Applied, Failure> {
        let DecryptedEvent { owner, order, .. } = event;
        let context = self.context(event, now);
        let applied = match payload::deregistration(&event.plaintext)? {
            Some(token) => {
                let device = self.hasher.device(&owner.app, &token);
                devices::remove(&context, owner, *order, &device).await?
            }
            None => devices::remove_all(&context, owner, *order).await?,
        };
        derived::reconcile(&context, owner).await?;
        Ok(applied)
    }

    /// Applies the settings first. If the settings are refused, the whole event is refused,
    /// including its heartbeat.
    async fn dialect_h(
        &self,
        event: &DecryptedEvent,
        received_at: Millis,
        now: Millis,
    ) -> Result<Applied, Failure> {
        let DialectHRequest { online, settings } =
            payload::settings(&event.plaintext, &event.app, &event.owner, event.order)?;
        let mut applied = None;
        if let Some(update) = settings {
            let context = self.context(event, now);
            applied = Some(settings::replace(&context, &self.hasher, update).await?);
        }
        if let Some(online) = online {
            let recorded = presence::record(&self.store, event, online, received_at).await?;
            applied = applied.or(Some(recorded));
        }
        applied.ok_or_else(|| Refusal::BadPayload.into())
    }

    fn context<'a>(&'a self, event: &'a DecryptedEvent, now: Millis) -> EventContext<'a, S, E> {
        EventContext {
            store: &self.store,
            sns: &self.sns,
            app: &event.app,
            now,
        }
    }
}
