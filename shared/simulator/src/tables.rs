//! The tables: those in memory, with latency, throttling, and answers that are lost.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nostr::{event::EventId, key::PublicKey};
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    device::{Device, DeviceId, DeviceState, Registration, Roster},
    index_key::IndexKey,
    message::{RetiredDevice, encode},
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        Apps, Blocklist, Budgets, ClaimResult, Claims, Devices, FailureCause, IndexPage,
        IndexReader, IndexWriter, MuteLists, OwnerSettings, PortResult, Presences, Profiles,
        RateAdmission, Rates, Standing, Standings, Subscriptions, Unavailable, Usages,
    },
    presence::Presence,
    profile::{Profile, ProfileKey},
    settings::Settings,
    subscription::{IndexRow, Subscription},
};

use crate::{faults::Fault, planted::Planted, world::World};

/// By how much the end of a row is moved if it is to be ignored.
const FAR: Seconds = Seconds::from_days(100);

/// The ports of one instance of a stage.
#[derive(Clone)]
pub struct Tables {
    /// The world.
    pub world: Arc<World>,
    /// The faults that the current invocation has met.
    pub scope: Arc<Scope>,
}

/// What an invocation has met.
#[derive(Debug, Default)]
pub struct Scope {
    faults: AtomicU64,
}

impl Scope {
    /// Records that the invocation has met a fault.
    pub fn meet_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of faults so far. The next invocation starts with none.
    pub fn take_faults(&self) -> u64 {
        self.faults.swap(0, Ordering::Relaxed)
    }
}

impl Tables {
    /// Makes one request to a table.
    async fn call<T>(
        &self,
        name: &'static str,
        request: impl Future<Output = PortResult<T>>,
    ) -> PortResult<T> {
        let world = &self.world;
        world.pause(1, 20).await;
        if world.faults.happens(Fault::TableThrottled) {
            self.scope.meet_fault();
            world.tell(|| format!("DynamoDB throttles {name}"));
            let why = "throttled";
            return Err(Unavailable::caused(FailureCause::Throttled, name, why));
        }
        world.memory.state().clock = world.now();
        let answer = request.await;
        if world.faults.happens(Fault::TableAnswerLost) {
            self.scope.meet_fault();
            world.tell(|| format!("DynamoDB applies {name}, and its answer is lost"));
            world.pause(200, 2_000).await;
            return Err(Unavailable::new(name, "no answer"));
        }
        world.pause(1, 20).await;
        answer
    }

    fn has(&self, planted: Planted) -> bool {
        self.world.has(planted)
    }

    /// Tells of a write of a device's row.
    fn tell_device(&self, device: Option<&Device>, written: bool) {
        let Some(device) = device else { return };
        let (world, name) = (&self.world, |text: &str| self.world.trace.name_of(text));
        world.tell(|| {
            let token = name(&device.id.token_hash);
            let state = device.registration.as_ref().map_or_else(
                || "no registration".to_owned(),
                |r| format!("{:?} for {}", r.state, name(&r.owner.pubkey.to_hex())),
            );
            let result = if written { "" } else { ", but it has changed" };
            format!("    row of {token}: {state}{result}")
        });
    }

    /// Tells of a write of a filter's row.
    fn tell_filter(&self, row: &Subscription, written: &PortResult<bool>) {
        let world = &self.world;
        world.tell(|| {
            let owner = world.trace.name_of(&row.owner.pubkey.to_hex());
            let kind = row.identity.split(':').next().filter(|_| row.is_derived());
            let filter = row.filter.to_json();
            let filter = filter.get(..60).unwrap_or(&filter);
            let is_written = written.as_ref().is_ok_and(|written| *written);
            let result = if is_written {
                ""
            } else {
                ", but another is stored"
            };
            let kind = kind.unwrap_or("own");
            format!(
                "    {kind} filter of {owner} {filter}: {:?}{result}",
                row.state
            )
        });
    }

    /// Changes rows before they are written, if a fault is planted.
    fn plant(&self, device: Option<&mut Device>, roster: Option<&mut Roster>) {
        let state = self.world.memory.state();
        let ignores_version = self.has(Planted::DeviceVersionIgnored);
        if let Some(roster) = roster {
            if ignores_version {
                let stored = state.rosters.get(&roster.owner);
                roster.version = stored.map_or(0, |row| row.version);
            }
            if self.has(Planted::RemovalOfAllForgotten) {
                roster.removed_all = None;
            }
            if self.has(Planted::DeletedFiltersForgotten) {
                roster.deleted_filters.clear();
            }
        }
        let Some(device) = device else { return };
        if ignores_version {
            device.version = state.devices.get(&device.id).map_or(0, |row| row.version);
        }
        if self.has(Planted::TombstoneForgotten) {
            device.removals.clear();
        }
        if self.has(Planted::RegistrationNeverEnds)
            && let Some(registration) = &mut device.registration
        {
            registration.valid_until += FAR;
        }
    }

    /// The row to write: without its end, if that fault is planted.
    fn without_end(&self, row: &Subscription) -> Subscription {
        let mut row = row.clone();
        if self.has(Planted::SubscriptionNeverEnds) {
            row.valid_until += FAR;
        }
        row
    }

    /// Forgets a row that was removed, if that fault is planted.
    fn forget_tombstone(&self, device: &Device) {
        let is_removed = |r: &Registration| r.state == DeviceState::Removed;
        if self.has(Planted::TombstoneForgotten)
            && device.registration.as_ref().is_none_or(is_removed)
        {
            self.world.memory.state().devices.remove(&device.id);
        }
    }

    /// What the stream of `devices` sends to feedback: rows whose token the platform has rejected.
    fn stream(&self, device: &Device) {
        let gone = device.registration.clone();
        let gone = gone.filter(|r| r.endpoint_arn.is_some() && r.state == DeviceState::Gone);
        if let Some(registration) = gone {
            retire(&self.world, &device.id, registration);
        }
    }
}

/// Sends a retired device to the feedback queue, as the stream of `devices` does. The stream is
/// read some time later, and again until the queue accepts the message.
pub fn retire(world: &Arc<World>, id: &DeviceId, registration: Registration) {
    let retired = RetiredDevice {
        app: id.app.clone(),
        token_hash: id.token_hash.clone(),
        registration,
    };
    let Ok(body) = encode(&retired) else { return };
    if world.has(Planted::RetiredDevicesLost) {
        return;
    }
    let world = Arc::clone(world);
    world.oracle().begin_transfer();
    tokio::spawn(async move {
        world.pause(200, 60_000).await;
        let feedback = &world.feedback;
        feedback
            .send_until_accepted(&world, body, 1_000..=60_000)
            .await;
        world.oracle().end_transfer();
    });
}

impl Apps for Tables {
    async fn app(&self, app: &str) -> PortResult<Option<App>> {
        self.call("apps.get", self.world.memory.app(app)).await
    }
}

impl Blocklist for Tables {
    async fn is_blocked(&self, pubkey: &PublicKey) -> PortResult<bool> {
        self.call("apps.blocked", self.world.memory.is_blocked(pubkey))
            .await
    }
}

impl Usages for Tables {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        self.call("relays.usage", self.world.memory.usage()).await
    }

    async fn record_usage(&self, usage: &Usage) -> PortResult<()> {
        self.call("relays.put_usage", self.world.memory.record_usage(usage))
            .await
    }
}

impl Budgets for Tables {
    async fn take(&self, budget: &str, window: Seconds, units: u64, max: u64) -> PortResult<bool> {
        let request = self.world.memory.take(budget, window, units, max);
        self.call("rates.take", request).await
    }
}

impl Standings for Tables {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        let request = self.world.memory.standings(owners);
        let standings = self.call("devices.standings", request).await?;
        if self.has(Planted::StandingNotFound) {
            let is_odd = self.world.random.happens(500_000);
            return Ok(if is_odd { standings } else { BTreeMap::new() });
        }
        Ok(standings)
    }
}

impl Devices for Tables {
    async fn devices(&self, ids: &[DeviceId]) -> PortResult<Vec<Device>> {
        self.call("devices.get", self.world.memory.devices(ids))
            .await
    }

    async fn roster(&self, owner: &Owner) -> PortResult<Option<Roster>> {
        self.call("devices.roster", self.world.memory.roster(owner))
            .await
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> PortResult<Option<DeviceId>> {
        let request = self.world.memory.device_of_endpoint(endpoint_arn);
        self.call("devices.by_endpoint", request).await
    }

    async fn commit(&self, device: Option<&Device>, roster: Option<&Roster>) -> PortResult<bool> {
        let request = async {
            let (mut device, mut roster) = (device.cloned(), roster.cloned());
            self.plant(device.as_mut(), roster.as_mut());
            if self.has(Planted::RosterNotWritten) && device.is_some() {
                roster = None;
            }
            if self.has(Planted::DeviceRowLost) && self.world.random.happens(50_000) {
                return Ok(true);
            }
            let memory = &self.world.memory;
            let written = memory.commit(device.as_ref(), roster.as_ref()).await?;
            self.tell_device(device.as_ref(), written);
            if let Some(device) = device.as_ref().filter(|_| written) {
                self.stream(device);
                self.forget_tombstone(device);
            }
            Ok(written)
        };
        self.call("devices.commit", request).await
    }
}

impl Subscriptions for Tables {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        self.call("subscriptions.get", self.world.memory.get(ids))
            .await
    }

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
        let request = self.world.memory.of_owner(owner);
        self.call("subscriptions.of_owner", request).await
    }

    async fn put(&self, row: &Subscription) -> PortResult<bool> {
        let request = async {
            if self.has(Planted::SubscriptionOrderIgnored) {
                let id = (row.owner.clone(), row.identity.clone());
                self.world.memory.state().subscriptions.remove(&id);
            }
            let written = self.world.memory.put(&self.without_end(row)).await;
            self.tell_filter(row, &written);
            self.world.feed.notify_one();
            written
        };
        self.call("subscriptions.put", request).await
    }

    async fn replace(&self, row: &Subscription, read: Millis) -> PortResult<bool> {
        let request = async {
            let row = &self.without_end(row);
            let written = self.world.memory.replace(row, read).await;
            self.tell_filter(row, &written);
            self.world.feed.notify_one();
            written
        };
        self.call("subscriptions.replace", request).await
    }
}

impl Presences for Tables {
    async fn presence(&self, owner: &Owner) -> PortResult<Option<Presence>> {
        self.call("presence.get", self.world.memory.presence(owner))
            .await
    }

    async fn mark_awaited(&self, owner: &Owner, order: &Order) -> PortResult<bool> {
        let request = self.world.memory.mark_awaited(owner, order);
        self.call("presence.mark", request).await
    }

    async fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        expires_at: Seconds,
    ) -> PortResult<bool> {
        let request = async {
            let mut presence = *presence;
            if self.has(Planted::HeartbeatAhead) {
                presence.last_seen += Seconds::from_hours(1);
            }
            let is_stored = self.world.memory.state().presences.contains_key(owner);
            if self.has(Planted::HeartbeatLost) && is_stored {
                return Ok(true);
            }
            let memory = &self.world.memory;
            memory.put_presence(owner, &presence, expires_at).await
        };
        self.call("presence.put", request).await
    }
}

impl OwnerSettings for Tables {
    async fn settings(&self, owner: &Owner) -> PortResult<Option<Settings>> {
        self.call("settings.get", self.world.memory.settings(owner))
            .await
    }

    async fn put_settings(&self, settings: &Settings) -> PortResult<bool> {
        let request = async {
            if self.has(Planted::SettingsOrderIgnored) {
                let mut state = self.world.memory.state();
                state.settings.remove(&settings.owner);
            }
            if self.has(Planted::SettingsLost) && self.world.random.happens(50_000) {
                return Ok(true);
            }
            self.world.memory.put_settings(settings).await
        };
        self.call("settings.put", request).await
    }
}

impl MuteLists for Tables {
    async fn mute_list(&self, pubkey: &PublicKey) -> PortResult<Option<MuteList>> {
        self.call("mute_lists.get", self.world.memory.mute_list(pubkey))
            .await
    }

    async fn put_mute_list(&self, list: &MuteList) -> PortResult<bool> {
        let request = async {
            if self.has(Planted::MuteListLost) {
                return Ok(true);
            }
            if self.has(Planted::MuteListOrderIgnored) {
                self.world.memory.state().mute_lists.remove(&list.pubkey);
            }
            self.world.memory.put_mute_list(list).await
        };
        self.call("mute_lists.put", request).await
    }
}

impl Profiles for Tables {
    async fn profiles(
        &self,
        keys: &[ProfileKey],
    ) -> PortResult<BTreeMap<ProfileKey, Option<Profile>>> {
        self.call("profiles.get", self.world.memory.profiles(keys))
            .await
    }

    async fn claim_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<bool> {
        let request = self.world.memory.claim_request(key, now);
        self.call("profiles.claim", request).await
    }

    async fn release_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<()> {
        let request = self.world.memory.release_request(key, now);
        self.call("profiles.release", request).await
    }
}

impl Rates for Tables {
    async fn admit(
        &self,
        owner: &Owner,
        window: Seconds,
        event: &EventId,
        max: u32,
    ) -> PortResult<RateAdmission> {
        let request = self.world.memory.admit(owner, window, event, max);
        self.call("rates.admit", request).await
    }

    async fn overflow(&self, owner: &Owner, window: Seconds) -> PortResult<()> {
        self.call("rates.overflow", self.world.memory.overflow(owner, window))
            .await
    }

    async fn overflowed(&self, owner: &Owner, window: Seconds) -> PortResult<u64> {
        let request = self.world.memory.overflowed(owner, window);
        self.call("rates.overflowed", request).await
    }
}

impl IndexWriter for Tables {
    async fn put_index(&self, mut rows: Vec<IndexRow>) -> PortResult<()> {
        if self.has(Planted::IndexRowLost) {
            rows.pop();
        }
        // Each row is a request of its own, so a failure can leave a part written.
        for mut row in rows {
            if self.has(Planted::IndexFilterWithoutKinds)
                && let Some(filter) = &mut row.filter
            {
                filter.kinds = None;
            }
            if self.has(Planted::SubscriptionNeverEnds) {
                row.valid_until += FAR;
            }
            let request = self.world.memory.put_index(vec![row]);
            self.call("filter_index.put", request).await?;
        }
        Ok(())
    }

    async fn delete_index(&self, rows: Vec<IndexRow>, order: Order) -> PortResult<()> {
        if self.has(Planted::IndexRowKept) {
            return Ok(());
        }
        for row in rows {
            let request = self.world.memory.delete_index(vec![row], order);
            self.call("filter_index.delete", request).await?;
        }
        Ok(())
    }
}

impl IndexReader for Tables {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> PortResult<IndexPage> {
        let request = IndexReader::page(&self.world.memory, key, after);
        self.call("filter_index.page", request).await
    }
}

impl Claims for Tables {
    async fn acquire(
        &self,
        claim: &str,
        holder: &str,
        now: Millis,
        mut until: Millis,
    ) -> PortResult<ClaimResult> {
        let memory = &self.world.memory;
        if self.has(Planted::ClaimAlwaysAcquired) {
            memory.state().claims.remove(claim);
        }
        if self.has(Planted::ClaimWithoutLease) {
            until = now;
        }
        let request = memory.acquire(claim, holder, now, until);
        self.call("claims.acquire", request).await
    }

    async fn done(&self, claim: &str, holder: &str, token_hash: &str) -> PortResult<bool> {
        if self.has(Planted::ClaimNeverCompleted) {
            return Ok(true);
        }
        let request = self.world.memory.done(claim, holder, token_hash);
        self.call("claims.done", request).await
    }

    async fn release(&self, claim: &str, holder: &str, completed: bool) -> PortResult<()> {
        let completed = completed && !self.has(Planted::ClaimNeverCompleted);
        let request = self.world.memory.release(claim, holder, completed);
        self.call("claims.release", request).await
    }
}
