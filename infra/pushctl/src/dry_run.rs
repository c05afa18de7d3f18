//! The ports of matcher and deliver for `pushctl explain`. They read the stored rows, and keep in
//! memory what the functions would write or send.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nostr::{event::EventId, key::PublicKey};
use nostr_push_aws::dynamodb::Store;
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    device::{Device, DeviceId, Roster},
    index_key::IndexKey,
    message::{ContentMessage, DeliveryMessage, ReconcileMessage},
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        Apps, Budgets, ClaimResult, Claims, DelayQueue, Devices, IndexPage, IndexReader, MuteLists,
        PortResult, Presences, Profiles, PublishOutcome, Publisher, Push, Queue, RateAdmission,
        Rates, Standing, Standings, Subscriptions,
    },
    presence::Presence,
    profile::{Profile, ProfileKey, ProfileRequest},
    subscription::Subscription,
};

/// The ports on top of the real tables.
pub(crate) struct DryRun<'a> {
    store: &'a Store,
    sent: Mutex<Sent>,
}

/// What the functions would have sent.
#[derive(Default)]
struct Sent {
    deliveries: Vec<DeliveryMessage>,
    /// The rest of a large fan-out.
    rest: Option<ContentMessage>,
    pushes: Vec<Push>,
}

impl<'a> DryRun<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            sent: Mutex::default(),
        }
    }

    /// The deliveries since the last call.
    pub(crate) fn take_deliveries(&self) -> Vec<DeliveryMessage> {
        mem::take(&mut self.sent().deliveries)
    }

    /// The rest of the event's fan-out, if the last call of the matcher left one.
    pub(crate) fn take_rest(&self) -> Option<ContentMessage> {
        self.sent().rest.take()
    }

    /// The pushes since the last call.
    pub(crate) fn take_pushes(&self) -> Vec<Push> {
        mem::take(&mut self.sent().pushes)
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Apps for DryRun<'_> {
    async fn app(&self, app: &str) -> PortResult<Option<App>> {
        self.store.app(app).await
    }
}

impl Devices for DryRun<'_> {
    async fn devices(&self, ids: &[DeviceId]) -> PortResult<Vec<Device>> {
        self.store.devices(ids).await
    }

    async fn roster(&self, owner: &Owner) -> PortResult<Option<Roster>> {
        self.store.roster(owner).await
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> PortResult<Option<DeviceId>> {
        self.store.device_of_endpoint(endpoint_arn).await
    }

    async fn commit(&self, _: Option<&Device>, _: Option<&Roster>) -> PortResult<bool> {
        Ok(true)
    }
}

impl Standings for DryRun<'_> {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        self.store.standings(owners).await
    }
}

/// No budget is spent: the explanation does not depend on the deliveries of this day.
impl Budgets for DryRun<'_> {
    async fn take(&self, _: &str, _: Seconds, _: u64, _: u64) -> PortResult<bool> {
        Ok(true)
    }
}

impl Subscriptions for DryRun<'_> {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        self.store.get(ids).await
    }

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
        self.store.of_owner(owner).await
    }

    async fn put(&self, _: &Subscription) -> PortResult<bool> {
        Ok(true)
    }

    async fn replace(&self, _: &Subscription, _: Millis) -> PortResult<bool> {
        Ok(true)
    }
}

impl IndexReader for DryRun<'_> {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> PortResult<IndexPage> {
        self.store.page(key, after).await
    }
}

impl MuteLists for DryRun<'_> {
    async fn mute_list(&self, pubkey: &PublicKey) -> PortResult<Option<MuteList>> {
        self.store.mute_list(pubkey).await
    }

    async fn put_mute_list(&self, _: &MuteList) -> PortResult<bool> {
        Ok(true)
    }
}

impl Profiles for DryRun<'_> {
    async fn profiles(
        &self,
        keys: &[ProfileKey],
    ) -> PortResult<BTreeMap<ProfileKey, Option<Profile>>> {
        self.store.profiles(keys).await
    }

    async fn claim_request(&self, _: &ProfileKey, _: Seconds) -> PortResult<bool> {
        Ok(false)
    }

    async fn release_request(&self, _: &ProfileKey, _: Seconds) -> PortResult<()> {
        Ok(())
    }
}

impl Presences for DryRun<'_> {
    async fn presence(&self, owner: &Owner) -> PortResult<Option<Presence>> {
        self.store.presence(owner).await
    }

    async fn mark_awaited(&self, _: &Owner, _: &Order) -> PortResult<bool> {
        Ok(true)
    }

    async fn put_presence(&self, _: &Owner, _: &Presence, _: Seconds) -> PortResult<bool> {
        Ok(true)
    }
}

/// Every claim is free: an event that has been pushed already is explained as if it were new.
impl Claims for DryRun<'_> {
    async fn acquire(&self, _: &str, _: &str, _: Millis, _: Millis) -> PortResult<ClaimResult> {
        Ok(ClaimResult::Acquired(Vec::new()))
    }

    async fn done(&self, _: &str, _: &str, _: &str) -> PortResult<bool> {
        Ok(true)
    }

    async fn release(&self, _: &str, _: &str, _: bool) -> PortResult<()> {
        Ok(())
    }
}

/// No minute has reached its limit: the explanation does not depend on the pushes of this minute.
impl Rates for DryRun<'_> {
    async fn admit(&self, _: &Owner, _: Seconds, _: &EventId, _: u32) -> PortResult<RateAdmission> {
        Ok(RateAdmission::Admitted)
    }

    async fn overflow(&self, _: &Owner, _: Seconds) -> PortResult<()> {
        Ok(())
    }

    async fn overflowed(&self, _: &Owner, _: Seconds) -> PortResult<u64> {
        Ok(0)
    }
}

impl Publisher for DryRun<'_> {
    async fn publish(&self, _: &str, push: &Push) -> PublishOutcome {
        self.sent().pushes.push(push.clone());
        PublishOutcome::Delivered
    }
}

impl DelayQueue<DeliveryMessage> for DryRun<'_> {
    async fn send_after(&self, _: &DeliveryMessage, _: Duration) -> PortResult<()> {
        Ok(())
    }
}

impl Queue<DeliveryMessage> for DryRun<'_> {
    async fn send(&self, messages: &[DeliveryMessage]) -> PortResult<()> {
        self.sent().deliveries.extend_from_slice(messages);
        Ok(())
    }
}

impl Queue<ContentMessage> for DryRun<'_> {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        self.sent().rest = messages.last().cloned();
        Ok(())
    }
}

impl Queue<ProfileRequest> for DryRun<'_> {
    async fn send(&self, _: &[ProfileRequest]) -> PortResult<()> {
        Ok(())
    }
}

impl Queue<ReconcileMessage> for DryRun<'_> {
    async fn send(&self, _: &[ReconcileMessage]) -> PortResult<()> {
        Ok(())
    }
}
