//! Handles one control message.

use nostr_push_core::{
    Millis,
    app::App,
    device::RegistrationRequest,
    message::{ControlInput, ControlMessage},
    owner::Owner,
    ports::{
        Apps, Blocklist, Budgets, Devices, Endpoints, IndexWriter, OwnerSettings, Presences,
        Subscriptions, Usages,
    },
    service_keys::ServiceKeys,
    token_hasher::TokenHasher,
};

use crate::{
    admission,
    budget::{self, SpentBudgets},
    check::{self, ControlKind, DecryptedEvent},
    context::{EventContext, Limits, Receipt},
    deletions, devices,
    outcome::{Applied, Failure},
    payload::{self, DialectHRequest, TokenRegistration},
    presence, reconcile,
    refusal::Refusal,
    settings, upserts,
};

/// The control stage: the service's keys, the configuration and the ports.
pub struct ControlStage<S, E> {
    /// The keys of the service.
    pub keys: ServiceKeys,
    /// The app of dialect H events without an `app` tag.
    pub heartbeat_app: Option<String>,
    /// Hashes tokens.
    pub hasher: TokenHasher,
    /// What the operator allows.
    pub limits: Limits,
    /// The shared budgets that have nothing left today.
    pub spent: SpentBudgets,
    /// The tables.
    pub store: S,
    /// SNS.
    pub sns: E,
}

impl<S, E> ControlStage<S, E>
where
    S: Apps
        + Blocklist
        + Budgets
        + Devices
        + IndexWriter
        + OwnerSettings
        + Presences
        + Subscriptions
        + Usages,
    E: Endpoints,
{
    /// The stage of the service with these keys.
    pub fn new(
        keys: impl Into<ServiceKeys>,
        heartbeat_app: Option<String>,
        limits: Limits,
        store: S,
        sns: E,
    ) -> Self {
        let keys = keys.into();
        Self {
            hasher: keys.token_hasher(),
            keys,
            heartbeat_app,
            limits,
            spent: SpentBudgets::default(),
            store,
            sns,
        }
    }

    /// Handles one message. Handling it again changes nothing.
    ///
    /// # Errors
    /// [`Failure::Refused`]: drop the message. Any other: receive it again.
    pub async fn handle(&self, input: &ControlInput, receipt: Receipt) -> Result<Applied, Failure> {
        match input {
            // The future is large, and there are up to ten at once.
            ControlInput::Event(message) => Box::pin(self.event(message, receipt)).await,
            ControlInput::Reconcile(message) => self.reconcile(&message.reconcile, receipt).await,
        }
    }

    /// Checks and applies one control event.
    async fn event(&self, message: &ControlMessage, receipt: Receipt) -> Result<Applied, Failure> {
        let now = receipt.now;
        let addressed = check::check_envelope(
            message.event.get(),
            &self.keys,
            self.heartbeat_app.as_deref(),
            message.received_at.min(now).to_seconds(),
        )?;
        let app = self.store.app(&addressed.owner.app).await?;
        let app = app.ok_or(Refusal::UnknownApp)?;
        let (store, limits) = (&self.store, &self.limits);
        admission::check(store, limits, &addressed, &app, now.to_seconds()).await?;
        let event = check::check_content(addressed, app, now.to_seconds())?;
        let context = self.context(&event.app, receipt);
        let enter = async |removes| budget::enter(&context, &event.owner, removes).await;
        match event.kind {
            ControlKind::Register => {
                enter(false).await?;
                self.register(&context, &event).await
            }
            ControlKind::Deregister => {
                enter(true).await?;
                self.deregister(&context, &event).await
            }
            ControlKind::UpsertFilters => {
                enter(false).await?;
                let filters = payload::filters(&event.plaintext, &event.app, event.owner.pubkey)?;
                upserts::upsert(&context, &event, filters).await
            }
            ControlKind::DeleteFilters => {
                let roster = enter(true).await?;
                let filters =
                    payload::filters_to_delete(&event.plaintext, &event.app, event.owner.pubkey)?;
                deletions::delete(&context, &event, filters.by_identity, roster).await
            }
            ControlKind::DialectH => self.dialect_h(&context, &event, message.received_at).await,
        }
    }

    /// Makes an owner's subscriptions follow the owner's devices, as another stage asks.
    async fn reconcile(&self, owner: &Owner, receipt: Receipt) -> Result<Applied, Failure> {
        if let Some(app) = self.store.app(&owner.app).await? {
            reconcile::reconcile(&self.context(&app, receipt), owner).await?;
        }
        Ok(Applied::Reconciled)
    }

    async fn register(
        &self,
        context: &EventContext<'_, S, E>,
        event: &DecryptedEvent,
    ) -> Result<Applied, Failure> {
        let owner = &event.owner;
        let TokenRegistration {
            token,
            platform,
            payload,
        } = payload::registration(&event.plaintext, &event.app)?;
        let request = RegistrationRequest {
            device: self.hasher.device(&owner.app, &token),
            owner: owner.clone(),
            order: event.order,
            platform,
            by_settings: false,
            max_mentions: None,
            payload,
            valid_until: event.valid_until,
            is_superseded: false,
        };
        let registered = devices::register(context, &request, &token, false).await?;
        reconcile::reconcile_transfer(context, owner, Some(&registered)).await?;
        Ok(registered.applied)
    }

    async fn deregister(
        &self,
        context: &EventContext<'_, S, E>,
        event: &DecryptedEvent,
    ) -> Result<Applied, Failure> {
        let DecryptedEvent { owner, order, .. } = event;
        let applied = match payload::deregistration(&event.plaintext)? {
            Some(token) => {
                let device = self.hasher.device(&owner.app, &token);
                devices::remove(context, owner, *order, &device, false).await?
            }
            None => devices::remove_all(context, owner, *order).await?,
        };
        reconcile::reconcile(context, owner).await?;
        Ok(applied)
    }

    /// Applies the settings first. If the settings are refused, the whole event is refused,
    /// including its heartbeat.
    async fn dialect_h(
        &self,
        context: &EventContext<'_, S, E>,
        event: &DecryptedEvent,
        received_at: Millis,
    ) -> Result<Applied, Failure> {
        let DialectHRequest { online, settings } =
            payload::settings(&event.plaintext, &event.app, &event.owner, event.order)?;
        let mut applied = None;
        if let Some(update) = settings {
            let roster = budget::enter(context, &event.owner, update.is_logout()).await?;
            applied = Some(settings::replace(context, &self.hasher, update, &roster).await?);
        }
        if let Some(online) = online {
            let recorded = presence::record(&self.store, event, online, received_at).await?;
            applied = applied.or(Some(recorded));
        }
        applied.ok_or_else(|| Refusal::BadPayload.into())
    }

    fn context<'a>(&'a self, app: &'a App, receipt: Receipt) -> EventContext<'a, S, E> {
        EventContext {
            store: &self.store,
            sns: &self.sns,
            app,
            limits: &self.limits,
            spent: &self.spent,
            now: receipt.now,
            is_repeated: receipt.is_repeated(),
        }
    }
}
