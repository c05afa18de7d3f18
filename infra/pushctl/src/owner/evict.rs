//! `pushctl owner evict`: removes everything of an owner at once.
//!
//! The rows stay as records of the removal, as if the owner had removed everything. So an event
//! that a relay sends again does not bring anything back.

use anyhow::{Result, bail, ensure};
use nostr::{event::EventId, key::PublicKey};
use nostr_push_aws::clients;
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    device::{self, Device, DeviceId, DeviceState, Roster},
    device_store,
    order::Order,
    owner::Owner,
    ports::{Devices, Endpoints, IndexWriter, OwnerSettings, Presences, Subscriptions},
    presence::Presence,
    settings::Settings,
    subscription::{Subscription, SubscriptionState},
};
use serde_json::{Value, json};

use super::apps;
use crate::{
    context::{CommandContext, pubkey},
    key::npub,
};

/// The most attempts to write a row that control keeps changing.
const MAX_ATTEMPTS: u32 = 5;

/// How long after a removal its index rows are deleted again, because the process that removed the
/// filter may have stopped before.
const UNFINISHED_WINDOW: Millis = Seconds::from_hours(1).to_millis();

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The pubkey: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// Removes what the pubkey has under this app only.
    #[arg(long)]
    app: Option<String>,
    /// Confirms that everything is removed.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let Arguments { pubkey, app, yes } = arguments;
    ensure!(
        yes,
        "this removes the devices, filters, settings and presence of {}: confirm with --yes",
        npub(pubkey)
    );
    let mut evicted = Vec::new();
    for app in apps(context, app.as_deref()).await? {
        let eviction = Eviction {
            store: &context.store,
            sns: &context.sns,
            owner: Owner {
                app: app.app.clone(),
                pubkey: *pubkey,
            },
            now: clients::now(),
        };
        let Counts { devices, filters } = eviction.run(&app).await?;
        evicted.push(json!({"app": app.app, "devices": devices, "filters": filters}));
    }
    let line = |row: &Value| {
        let (devices, filters) = (&row["devices"], &row["filters"]);
        format!("{}: {devices} devices, {filters} filters", row["app"])
    };
    let lines: Vec<String> = evicted.iter().map(line).collect();
    context.print(
        &json!({"pubkey": pubkey, "removed": evicted}),
        lines.join("\n"),
    );
    Ok(())
}

/// The removal of one owner. If it fails, it can be repeated.
struct Eviction<'a, S, E> {
    store: &'a S,
    sns: &'a E,
    owner: Owner,
    now: Millis,
}

/// How much was removed.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    devices: usize,
    filters: usize,
}

impl<S, E> Eviction<'_, S, E>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Presences,
    E: Endpoints,
{
    async fn run(&self, app: &App) -> Result<Counts> {
        let (store, owner, now) = (self.store, &self.owner, self.now.to_seconds());
        let devices = device_store::owner_devices(store, owner).await?;
        let filters = store.of_owner(owner).await?;
        let settings = store.settings(owner).await?;
        let presence = store.presence(owner).await?;
        let own = || filters.iter().filter(|row| !row.is_derived());
        let in_force = own().filter(|row| row.is_active(now) || row.is_dormant(now));
        let counts = Counts {
            devices: devices.active(now).count(),
            filters: in_force.count(),
        };
        let registrations = devices.of_owner().map(|(_, registration)| registration);
        let orders = (own().map(|row| row.order))
            .chain(registrations.map(|registration| registration.order))
            .chain(devices.roster.removed_all)
            .chain(settings.as_ref().map(|settings| settings.order))
            .chain(presence.map(|presence| presence.order));
        let Some(order) = self.order_after(orders) else {
            return Ok(counts);
        };
        // The devices first: from then on nothing is pushed.
        for id in self.record_removal(order).await?.device_ids() {
            self.remove_device(order, &id).await?;
        }
        if settings.is_some() {
            let logged_out = Settings::logged_out(owner.clone(), order);
            store.put_settings(&logged_out).await?;
        }
        // Control may have written some in the meantime, for the devices that are removed now.
        for row in store.of_owner(owner).await? {
            self.remove_filter(order, row).await?;
        }
        if presence.is_some() {
            let offline = Presence::of(order, false, self.now);
            let expires_at = offline.expires_at(app.presence_timeout());
            store.put_presence(owner, &offline, expires_at).await?;
        }
        Ok(counts)
    }

    /// An order that wins over these, or `None` if there are none. Events can be dated up to 15
    /// minutes ahead.
    fn order_after(&self, orders: impl Iterator<Item = Order>) -> Option<Order> {
        let latest = orders.map(|order| order.created_at).max()?;
        Some(Order {
            created_at: latest.max(self.now.to_seconds()),
            // On a tie the smallest id wins.
            event_id: EventId::from_byte_array([0; 32]),
        })
    }

    /// Records in the roster that all devices are removed. After that, no older registration can
    /// come into force, and the matcher queues nothing for the owner.
    async fn record_removal(&self, order: Order) -> Result<Roster> {
        for _ in 0..MAX_ATTEMPTS {
            let roster = device_store::roster_or_new(self.store, &self.owner).await?;
            let removed = device::remove_all(order, &roster, self.now.to_seconds());
            let removed = Roster {
                active_until: Seconds(0),
                proven: false,
                ..removed.unwrap_or_else(|| roster.clone())
            };
            if removed == roster || self.store.commit(None, Some(&removed)).await? {
                return Ok(removed);
            }
        }
        bail!("{}", self.contention())
    }

    /// Removes a device and its endpoint.
    async fn remove_device(&self, order: Order, id: &DeviceId) -> Result<()> {
        let now = self.now.to_seconds();
        for _ in 0..MAX_ATTEMPTS {
            let rows = self.store.devices(std::slice::from_ref(id)).await?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let Some(device) = device::remove_in_roster(&self.owner, order, row, now) else {
                ensure!(
                    !self.is_being_removed(row),
                    "a device is being removed by another process: run the command again in two \
                     minutes"
                );
                return Ok(());
            };
            if device_store::remove_endpoint(self.store, self.sns, device).await? {
                return Ok(());
            }
        }
        bail!("{}", self.contention())
    }

    fn is_being_removed(&self, row: &Device) -> bool {
        row.registration.as_ref().is_some_and(|registration| {
            registration.owner == self.owner
                && matches!(registration.state, DeviceState::Removing { .. })
        })
    }

    /// Writes the row as removed, and then deletes its index rows, as control does.
    async fn remove_filter(&self, order: Order, row: Subscription) -> Result<()> {
        if row.state == SubscriptionState::Removed {
            if row.changed_at + UNFINISHED_WINDOW > self.now {
                let index = row.index_rows().collect();
                self.store.delete_index(index, row.order).await?;
            }
            return Ok(());
        }
        let removed = Subscription {
            order: if row.is_derived() {
                Order::counter(row.order.created_at.0 + 1)
            } else {
                order
            },
            state: SubscriptionState::Removed,
            changed_at: self.now,
            ..row
        };
        ensure!(self.store.put(&removed).await?, "{}", self.contention());
        let index = removed.index_rows().collect();
        self.store.delete_index(index, removed.order).await?;
        Ok(())
    }

    fn contention(&self) -> String {
        let Owner { app, pubkey } = &self.owner;
        format!(
            "control is changing the rows of {} under {app}: run the command again",
            npub(pubkey)
        )
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::{
        app::Platform,
        device::{RegistrationDecision, RegistrationRequest},
        shape::PayloadOptions,
        subscription::MUTE_LIST_PREFIX,
    };
    use nostr_push_testkit::{
        builders::{device, roster},
        memory::Memory,
        owner, registration, subscription,
    };

    use super::*;

    const NOW: Seconds = Seconds(1_800_000_000);

    fn order(created_at: Seconds) -> Order {
        Order {
            created_at,
            event_id: EventId::from_byte_array([1; 32]),
        }
    }

    async fn evict(store: &Memory, owner: &Owner) -> Result<Counts> {
        let eviction = Eviction {
            store,
            sns: store,
            owner: owner.clone(),
            now: NOW.to_millis(),
        };
        eviction.run(&App::named(&owner.app)).await
    }

    /// Stores a device, two filters (one of them derived), settings and a heartbeat. The settings
    /// are dated ahead.
    async fn register(store: &Memory, owner: &Owner) {
        let arn = format!("arn:{owner}");
        let device = device(&owner.to_string()[5..13], registration(owner, &arn));
        let roster = roster(owner, &[&device]);
        assert!(store.commit(Some(&device), Some(&roster)).await.unwrap());
        let endpoint = ("arn:demo".to_owned(), "token".to_owned());
        store.state().endpoints.insert(arn, endpoint);
        let hex = owner.pubkey.to_hex();
        let own = subscription(owner, &json!({"kinds": [1], "#p": [hex]}));
        let mut derived = subscription(owner, &json!({"kinds": [10_000], "authors": [hex]}));
        derived.identity = format!("{MUTE_LIST_PREFIX}{}", derived.identity);
        for row in [own, derived] {
            let index = row.index_rows().collect();
            store.put_index(index).await.unwrap();
            assert!(store.put(&row).await.unwrap());
        }
        let settings = settings(owner);
        store.put_settings(&settings).await.unwrap();
        let presence = Presence::of(order(NOW), true, NOW.to_millis());
        let written = store.put_presence(owner, &presence, NOW).await;
        assert!(written.unwrap());
    }

    /// Settings with kinds, dated ahead.
    fn settings(owner: &Owner) -> Settings {
        Settings {
            kinds: Some(vec![1]),
            ..Settings::logged_out(owner.clone(), order(NOW + Seconds(600)))
        }
    }

    /// What the owner has in force: devices, filters, kinds of settings, and whether the app is
    /// open.
    async fn in_force(store: &Memory, owner: &Owner) -> (usize, usize, usize, bool) {
        let devices = device_store::owner_devices(store, owner).await.unwrap();
        let filters = store.of_owner(owner).await.unwrap();
        let filters = filters.iter().filter(|row| row.is_active(NOW));
        let settings = store.settings(owner).await.unwrap().unwrap();
        let presence = store.presence(owner).await.unwrap().unwrap();
        (
            devices.active(NOW).count(),
            filters.count(),
            settings.kinds.unwrap().len(),
            presence.online,
        )
    }

    #[tokio::test]
    async fn evicted_owner_has_nothing_and_others_keep_everything() {
        let store = Memory::default();
        let [alice, bob] = [(); 2].map(|()| owner(Keys::generate().public_key()));
        register(&store, &alice).await;
        register(&store, &bob).await;
        let removed = evict(&store, &alice).await.unwrap();
        let counts = Counts {
            devices: 1,
            filters: 1,
        };
        assert_eq!(removed, counts);
        assert_eq!(in_force(&store, &alice).await, (0, 0, 0, false));
        assert_eq!(in_force(&store, &bob).await, (1, 2, 1, true));
        let state = store.state();
        assert_eq!((state.endpoints.len(), state.index.len()), (1, 2));
        let roster = &state.rosters[&alice];
        assert!(roster.active_until <= NOW && !roster.proven);
    }

    #[tokio::test]
    async fn replayed_events_bring_nothing_back() {
        let store = Memory::default();
        let alice = owner(Keys::generate().public_key());
        register(&store, &alice).await;
        let filter = store.of_owner(&alice).await.unwrap();
        let filter = filter.into_iter().find(|row| !row.is_derived()).unwrap();
        evict(&store, &alice).await.unwrap();
        assert!(!store.put(&filter).await.unwrap());
        assert!(!store.put_settings(&settings(&alice)).await.unwrap());
        let devices = device_store::owner_devices(&store, &alice).await.unwrap();
        let row = &devices.devices[0];
        let request = RegistrationRequest {
            device: row.id.clone(),
            owner: alice.clone(),
            order: order(NOW + Seconds(599)),
            platform: Platform::Fcm,
            by_settings: false,
            max_mentions: None,
            payload: PayloadOptions::default(),
            valid_until: NOW + Seconds::from_days(1),
            is_superseded: false,
        };
        let again = device::register(&request, Some(row), &devices, NOW);
        let comes_back = match &again {
            RegistrationDecision::Commit(rows) => rows.0.active_for(&alice, NOW).is_some(),
            _ => false,
        };
        assert!(!comes_back, "{again:?}");
    }

    #[tokio::test]
    async fn eviction_can_be_repeated_after_a_failure_at_any_call() {
        for after_effect in [false, true] {
            let mut fail_in = 0;
            while is_repaired_after_failure(fail_in, after_effect).await {
                fail_in += 1;
            }
            assert!(fail_in > 10, "only {fail_in} calls have failed");
        }
    }

    /// Repeats an eviction whose call number `fail_in` fails, and checks that nothing is left.
    /// Returns `false` if there is no such call.
    async fn is_repaired_after_failure(fail_in: usize, after_effect: bool) -> bool {
        let store = Memory::default();
        let alice = owner(Keys::generate().public_key());
        register(&store, &alice).await;
        store.state().fail_in = Some(fail_in);
        store.state().fail_after_effect = after_effect;
        if evict(&store, &alice).await.is_ok() {
            return false;
        }
        end_leases(&store);
        evict(&store, &alice).await.unwrap();
        assert_eq!(in_force(&store, &alice).await, (0, 0, 0, false));
        let state = store.state();
        assert_eq!(state.endpoints.len(), 0, "{fail_in} {after_effect}");
        assert_eq!(state.index.len(), 0, "{fail_in} {after_effect}");
        true
    }

    /// Ends the leases of removals that were interrupted.
    fn end_leases(store: &Memory) {
        for device in store.state().devices.values_mut() {
            if let Some(registration) = &mut device.registration
                && let DeviceState::Removing { until } = &mut registration.state
            {
                *until = NOW;
            }
        }
    }

    #[tokio::test]
    async fn evicting_an_unknown_pubkey_writes_nothing() {
        let store = Memory::default();
        evict(&store, &owner(Keys::generate().public_key()))
            .await
            .unwrap();
        assert!(store.state().rosters.is_empty());
    }
}
