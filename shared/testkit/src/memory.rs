//! The ports of `nostr_push_core` in memory, with the same guarantees as the real ones, and with
//! faults on demand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use nostr::{event::EventId, key::PublicKey};
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    device::{Device, DeviceId, Roster},
    index_key::IndexKey,
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        AllApps, Apps, Blocklist, Budgets, ChangeFeed, ClaimResult, Claims, DelayQueue, Devices,
        Endpoints, EnsuredEndpoint, FeedPage, FeedPosition, Inbox, IndexPage, IndexReader,
        IndexWriter, Members, MuteLists, OwnerSettings, PortResult, Presences, ProfileWriter,
        Profiles, PublishOutcome, Publisher, Push, Queue, RateAdmission, Rates, Received,
        RelayCursor, Relays, RetryReason, Standing, Standings, Subscriptions, Unavailable, Usages,
    },
    presence::Presence,
    profile::{Profile, ProfileKey, ProfileUpdate},
    settings::Settings,
    subscription::{IndexRow, Subscription},
};

/// All ports of a stage.
#[derive(Default)]
pub struct Memory {
    state: Mutex<MemoryState>,
}

/// The state of the ports. Tests read and change it.
#[derive(Default)]
pub struct MemoryState {
    /// Apps.
    pub apps: HashMap<String, App>,
    /// Blocked pubkeys.
    pub blocked: BTreeSet<PublicKey>,
    /// What the stack holds.
    pub usage: Option<Usage>,
    /// What was taken from each budget in each window.
    pub budgets: BTreeMap<(String, Seconds), u64>,
    /// Device rows.
    pub devices: BTreeMap<DeviceId, Device>,
    /// Rosters.
    pub rosters: BTreeMap<Owner, Roster>,
    /// Subscriptions.
    pub subscriptions: BTreeMap<(Owner, String), Subscription>,
    /// The stamps of the subscriptions in the change feed.
    pub stamps: BTreeMap<(Owner, String), Millis>,
    /// The clock that stamps writes. Tests set it.
    pub clock: Millis,
    /// Presences.
    pub presences: BTreeMap<Owner, Presence>,
    /// The numbers of reads and writes of presences.
    pub presence_reads_and_writes: (usize, usize),
    /// Mute lists.
    pub mute_lists: BTreeMap<PublicKey, MuteList>,
    /// Profiles, and the order of the event from which each was read.
    pub profiles: BTreeMap<ProfileKey, (Profile, Option<Order>)>,
    /// The number of profiles read.
    pub profiles_read: usize,
    /// The admitted events of a recipient's minute, and the number of events beyond the limit.
    pub rates: BTreeMap<(Owner, Seconds), (BTreeSet<EventId>, u64)>,
    /// The ARNs of disabled endpoints.
    pub disabled: BTreeSet<String>,
    /// Settings of dialect H.
    pub settings: BTreeMap<Owner, Settings>,
    /// Index rows, by index key and sort key.
    pub index: BTreeMap<(IndexKey, String), IndexRow>,
    /// Endpoints: ARN to platform application and token.
    pub endpoints: BTreeMap<String, (String, String)>,
    /// Claims: holder, end of the lease, devices done, and whether it is completed.
    pub claims: BTreeMap<String, (String, Millis, Vec<String>, bool)>,
    /// Accepted publishes.
    pub published: Vec<(String, Push)>,
    /// The outcome of publishing to an endpoint, if not `Delivered`.
    pub outcomes: HashMap<String, PublishOutcome>,
    /// Sent messages, encoded.
    pub sent: Vec<String>,
    /// Messages sent with a delay, encoded.
    pub delayed: Vec<(Duration, String)>,
    /// Messages that wait to be received, encoded, by their receipts.
    pub inbox: BTreeMap<String, String>,
    /// How often each of them has been received.
    pub receives: BTreeMap<String, u32>,
    /// Relays' cursors.
    pub cursors: BTreeMap<String, RelayCursor>,
    /// The listener's tasks and the end of each task's lease.
    pub members: BTreeMap<String, Seconds>,
    /// The number of index pages read.
    pub pages_read: usize,
    /// The number of subscriptions read by their identity.
    pub subscriptions_read: usize,
    /// Rows per page of the index.
    pub page_size: Option<usize>,
    /// The number of calls before the one that fails. `None` means that no call fails.
    pub fail_in: Option<usize>,
    /// `true` if the failing call takes effect nevertheless, as a request that times out may.
    pub fail_after_effect: bool,
    /// If set, every call with this name fails. Only calls that use `call_named` have a name.
    pub failing: Option<&'static str>,
    endpoint_count: usize,
}

impl Memory {
    /// Ports with these apps configured.
    pub fn with_apps(apps: impl IntoIterator<Item = App>) -> Self {
        let memory = Self::default();
        memory.state().apps = apps.into_iter().map(|app| (app.app.clone(), app)).collect();
        memory
    }

    /// The state of the ports.
    ///
    /// # Panics
    /// If a test has panicked while it held the state.
    pub fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().expect("no test panics with the state")
    }

    /// Applies `effect`, unless this call is the one that fails.
    fn call<T>(&self, effect: impl FnOnce(&mut MemoryState) -> T) -> PortResult<T> {
        let mut state = self.state();
        let fails = state.fail_in == Some(0);
        state.fail_in = state.fail_in.and_then(|n| n.checked_sub(1));
        if fails && !state.fail_after_effect {
            return Err(unavailable());
        }
        let result = effect(&mut state);
        if fails {
            Err(unavailable())
        } else {
            Ok(result)
        }
    }

    /// As [`Memory::call`], for a call that [`MemoryState::failing`] can name.
    fn call_named<T>(
        &self,
        name: &str,
        effect: impl FnOnce(&mut MemoryState) -> T,
    ) -> PortResult<T> {
        if self.state().failing == Some(name) {
            return Err(unavailable());
        }
        self.call(effect)
    }
}

fn unavailable() -> Unavailable {
    Unavailable::new("memory", "a fault on demand")
}

impl Apps for Memory {
    async fn app(&self, app: &str) -> PortResult<Option<App>> {
        self.call(|state| state.apps.get(app).cloned())
    }
}

impl AllApps for Memory {
    async fn all_apps(&self) -> PortResult<Vec<App>> {
        self.call(|state| state.apps.values().cloned().collect())
    }

    async fn all_blocked(&self) -> PortResult<BTreeSet<PublicKey>> {
        self.call(|state| state.blocked.clone())
    }
}

impl Blocklist for Memory {
    async fn is_blocked(&self, pubkey: &PublicKey) -> PortResult<bool> {
        self.call(|state| state.blocked.contains(pubkey))
    }
}

impl Usages for Memory {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        self.call(|state| state.usage)
    }

    async fn record_usage(&self, usage: &Usage) -> PortResult<()> {
        self.call(|state| state.usage = Some(*usage))
    }
}

impl Budgets for Memory {
    async fn take(&self, budget: &str, window: Seconds, units: u64, max: u64) -> PortResult<bool> {
        self.call_named("take", |state| {
            let taken = state
                .budgets
                .entry((budget.to_owned(), window))
                .or_default();
            let fits = *taken + units <= max;
            *taken += if fits { units } else { 0 };
            fits
        })
    }
}

impl Standings for Memory {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        self.call(|state| {
            let rosters = owners.iter().filter_map(|owner| state.rosters.get(owner));
            let standing = |roster: &Roster| {
                let standing = Standing {
                    active_until: roster.active_until,
                    proven: roster.proven,
                };
                (roster.owner.clone(), standing)
            };
            rosters.map(standing).collect()
        })
    }
}

impl Devices for Memory {
    async fn devices(&self, ids: &[DeviceId]) -> PortResult<Vec<Device>> {
        self.call(|state| {
            ids.iter()
                .filter_map(|id| state.devices.get(id).cloned())
                .collect()
        })
    }

    async fn roster(&self, owner: &Owner) -> PortResult<Option<Roster>> {
        self.call(|state| state.rosters.get(owner).cloned())
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> PortResult<Option<DeviceId>> {
        self.call(|state| {
            let has = |device: &&Device| {
                device
                    .registration
                    .as_ref()
                    .is_some_and(|r| r.endpoint_arn.as_deref() == Some(endpoint_arn))
            };
            state
                .devices
                .values()
                .find(has)
                .map(|device| device.id.clone())
        })
    }

    async fn commit(&self, device: Option<&Device>, roster: Option<&Roster>) -> PortResult<bool> {
        self.call(|state| {
            let same = |stored: Option<u64>, version: u64| stored.unwrap_or(0) == version;
            let unchanged = device
                .is_none_or(|d| same(state.devices.get(&d.id).map(|d| d.version), d.version))
                && roster.is_none_or(|r| {
                    same(state.rosters.get(&r.owner).map(|r| r.version), r.version)
                });
            if unchanged {
                if let Some(device) = device {
                    state.devices.insert(
                        device.id.clone(),
                        Device {
                            version: device.version + 1,
                            ..device.clone()
                        },
                    );
                }
                if let Some(roster) = roster {
                    state.rosters.insert(
                        roster.owner.clone(),
                        Roster {
                            version: roster.version + 1,
                            ..roster.clone()
                        },
                    );
                }
            }
            unchanged
        })
    }
}

impl Subscriptions for Memory {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        self.call(|state| {
            state.subscriptions_read += ids.len();
            ids.iter()
                .filter_map(|id| state.subscriptions.get(id).cloned())
                .collect()
        })
    }

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
        self.call(|state| {
            state
                .subscriptions
                .values()
                .filter(|row| row.owner == *owner)
                .cloned()
                .collect()
        })
    }

    async fn put(&self, row: &Subscription) -> PortResult<bool> {
        self.call(|state| {
            let id = (row.owner.clone(), row.identity.clone());
            let newer = state
                .subscriptions
                .get(&id)
                .is_none_or(|stored| row.order.supersedes(&stored.order));
            if newer {
                state.stamps.insert(id.clone(), state.clock);
                state.subscriptions.insert(id, row.clone());
            }
            newer
        })
    }

    async fn replace(&self, row: &Subscription, read: Millis) -> PortResult<bool> {
        self.call(|state| {
            let id = (row.owner.clone(), row.identity.clone());
            let stored = state.subscriptions.get(&id);
            let is_same =
                stored.is_some_and(|stored| stored.order == row.order && stored.changed_at == read);
            if is_same {
                state.stamps.insert(id.clone(), state.clock);
                state.subscriptions.insert(id, row.clone());
            }
            is_same
        })
    }
}

impl Presences for Memory {
    async fn presence(&self, owner: &Owner) -> PortResult<Option<Presence>> {
        self.call(|state| {
            state.presence_reads_and_writes.0 += 1;
            state.presences.get(owner).copied()
        })
    }

    async fn mark_awaited(&self, owner: &Owner, order: &Order) -> PortResult<bool> {
        self.call(|state| {
            let stored = state
                .presences
                .get_mut(owner)
                .filter(|stored| stored.order == *order);
            stored.map(|stored| stored.awaited = true).is_some()
        })
    }

    async fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        _expires_at: Seconds,
    ) -> PortResult<bool> {
        self.call(|state| {
            let newer = state
                .presences
                .get(owner)
                .is_none_or(|stored| presence.order.supersedes(&stored.order));
            if newer {
                state.presence_reads_and_writes.1 += 1;
                state.presences.insert(owner.clone(), *presence);
            }
            newer
        })
    }
}

impl OwnerSettings for Memory {
    async fn settings(&self, owner: &Owner) -> PortResult<Option<Settings>> {
        self.call(|state| state.settings.get(owner).cloned())
    }

    async fn put_settings(&self, settings: &Settings) -> PortResult<bool> {
        self.call(|state| {
            let newer = state
                .settings
                .get(&settings.owner)
                .is_none_or(|stored| settings.order.supersedes(&stored.order));
            if newer {
                state
                    .settings
                    .insert(settings.owner.clone(), settings.clone());
            }
            newer
        })
    }
}

impl MuteLists for Memory {
    async fn mute_list(&self, pubkey: &PublicKey) -> PortResult<Option<MuteList>> {
        self.call(|state| state.mute_lists.get(pubkey).cloned())
    }

    async fn put_mute_list(&self, list: &MuteList) -> PortResult<bool> {
        self.call(|state| {
            let newer = state
                .mute_lists
                .get(&list.pubkey)
                .is_none_or(|stored| list.order.supersedes(&stored.order));
            if newer {
                state.mute_lists.insert(list.pubkey, list.clone());
            }
            newer
        })
    }
}

impl Profiles for Memory {
    async fn profiles(
        &self,
        keys: &[ProfileKey],
    ) -> PortResult<BTreeMap<ProfileKey, Option<Profile>>> {
        self.call_named("profiles", |state| {
            state.profiles_read += keys.len();
            let rows = keys.iter().map(|key| {
                let row = state.profiles.get(key);
                (key.clone(), row.map(|(profile, _)| profile.clone()))
            });
            rows.collect()
        })
    }

    async fn claim_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<bool> {
        self.call_named("claim_request", |state| {
            let row = state.profiles.get(key);
            let is_due = Profile::is_due(row.map(|(profile, _)| profile), now);
            if is_due {
                state.profiles.entry(key.clone()).or_default().0.asked_at = now;
            }
            is_due
        })
    }

    async fn release_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<()> {
        self.call_named("release_request", |state| {
            let row = state.profiles.get_mut(key);
            if let Some((profile, _)) = row.filter(|(profile, _)| profile.asked_at == now) {
                profile.asked_at = Seconds(0);
            }
        })
    }
}

impl ProfileWriter for Memory {
    async fn put_profile(&self, update: &ProfileUpdate, _now: Seconds) -> PortResult<bool> {
        self.call(|state| {
            let (profile, order) = state.profiles.entry(update.key.clone()).or_default();
            let is_newer = order.is_none_or(|stored| update.order.supersedes(&stored));
            if is_newer {
                profile.name.clone_from(&update.name);
                profile.picture.clone_from(&update.picture);
                *order = Some(update.order);
            }
            is_newer
        })
    }
}

impl Rates for Memory {
    async fn admit(
        &self,
        owner: &Owner,
        window: Seconds,
        event: &EventId,
        max: u32,
    ) -> PortResult<RateAdmission> {
        self.call(|state| {
            let (events, overflow) = state.rates.entry((owner.clone(), window)).or_default();
            if events.len() < max as usize || events.contains(event) {
                events.insert(*event);
                RateAdmission::Admitted
            } else {
                RateAdmission::Full {
                    first: *overflow == 0,
                }
            }
        })
    }

    async fn overflow(&self, owner: &Owner, window: Seconds) -> PortResult<()> {
        self.call(|state| state.rates.entry((owner.clone(), window)).or_default().1 += 1)
    }

    async fn overflowed(&self, owner: &Owner, window: Seconds) -> PortResult<u64> {
        self.call(|state| {
            state
                .rates
                .get(&(owner.clone(), window))
                .map_or(0, |(_, overflow)| *overflow)
        })
    }
}

impl IndexWriter for Memory {
    async fn put_index(&self, rows: Vec<IndexRow>) -> PortResult<()> {
        for row in rows {
            self.call(|state| {
                let id = (row.index_key.clone(), row.sort_key());
                if state.index.get(&id).is_none_or(|stored| {
                    row.order.supersedes(&stored.order)
                        || (row.order == stored.order && row.since > stored.since)
                }) {
                    state.index.insert(id, row);
                }
            })?;
        }
        Ok(())
    }

    async fn delete_index(&self, rows: Vec<IndexRow>, order: Order) -> PortResult<()> {
        for row in rows {
            self.call(|state| {
                let id = (row.index_key.clone(), row.sort_key());
                if state.index.get(&id).is_some_and(|stored| {
                    !stored.order.supersedes(&order)
                        && (stored.order != order || stored.since <= row.since)
                }) {
                    state.index.remove(&id);
                }
            })?;
        }
        Ok(())
    }
}

impl IndexReader for Memory {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> PortResult<IndexPage> {
        self.call(|state| {
            state.pages_read += 1;
            let size = state.page_size.unwrap_or(500);
            let under = state.index.iter().filter(|((k, sort), _)| {
                k == key && after.is_none_or(|after| sort.as_str() > after)
            });
            let rows: Vec<IndexRow> = under.map(|(_, row)| row.clone()).take(size + 1).collect();
            let next = (rows.len() > size).then(|| rows[size - 1].sort_key());
            IndexPage {
                rows: rows.into_iter().take(size).collect(),
                next,
            }
        })
    }
}

impl Endpoints for Memory {
    async fn ensure(&self, platform_application: &str, token: &str) -> PortResult<EnsuredEndpoint> {
        self.call(|state| {
            if token == "bad" {
                return EnsuredEndpoint::BadToken;
            }
            let new = (platform_application.to_owned(), token.to_owned());
            if let Some((arn, _)) = state.endpoints.iter().find(|(_, stored)| **stored == new) {
                state.disabled.remove(arn);
                return EnsuredEndpoint::Ready(arn.clone());
            }
            state.endpoint_count += 1;
            let arn = format!("arn:endpoint/{}", state.endpoint_count);
            state.endpoints.insert(arn.clone(), new);
            EnsuredEndpoint::Ready(arn)
        })
    }

    async fn is_enabled(&self, endpoint_arn: &str) -> PortResult<bool> {
        self.call(|state| {
            state.endpoints.contains_key(endpoint_arn) && !state.disabled.contains(endpoint_arn)
        })
    }

    async fn delete(&self, endpoint_arn: &str) -> PortResult<()> {
        self.call(|state| {
            state.endpoints.remove(endpoint_arn);
        })
    }
}

impl Publisher for Memory {
    async fn publish(&self, endpoint_arn: &str, push: &Push) -> PublishOutcome {
        let published = self.call(|state| {
            let outcome = state
                .outcomes
                .get(endpoint_arn)
                .cloned()
                .unwrap_or(PublishOutcome::Delivered);
            if outcome == PublishOutcome::Delivered {
                state
                    .published
                    .push((endpoint_arn.to_owned(), push.clone()));
            }
            outcome
        });
        published.unwrap_or(PublishOutcome::Retry {
            after: None,
            reason: RetryReason::NoResponse,
        })
    }
}

impl Claims for Memory {
    async fn acquire(
        &self,
        claim: &str,
        holder: &str,
        now: Millis,
        until: Millis,
    ) -> PortResult<ClaimResult> {
        self.call(|state| match state.claims.get_mut(claim) {
            Some((_, _, _, true)) => ClaimResult::Completed,
            Some((_, lease, _, _)) if *lease > now => ClaimResult::Taken(*lease),
            Some((stored, lease, done, _)) => {
                holder.clone_into(stored);
                *lease = until;
                ClaimResult::Acquired(done.clone())
            }
            None => {
                state.claims.insert(
                    claim.to_owned(),
                    (holder.to_owned(), until, Vec::new(), false),
                );
                ClaimResult::Acquired(Vec::new())
            }
        })
    }

    async fn done(&self, claim: &str, holder: &str, token_hash: &str) -> PortResult<bool> {
        self.call(|state| match state.claims.get_mut(claim) {
            Some((stored, _, done, false)) if stored == holder => {
                done.push(token_hash.to_owned());
                true
            }
            _ => false,
        })
    }

    async fn release(&self, claim: &str, holder: &str, completed: bool) -> PortResult<()> {
        self.call(|state| {
            if let Some((stored, lease, _, done)) = state.claims.get_mut(claim)
                && stored == holder
            {
                *done |= completed;
                *lease = Millis(0);
            }
        })
    }
}

impl<T: serde::Serialize + Send + Sync> Queue<T> for Memory {
    async fn send(&self, messages: &[T]) -> PortResult<()> {
        self.call_named("send", |state| {
            let encoded = messages
                .iter()
                .map(|message| nostr_push_core::message::encode(message).expect("messages encode"));
            state.sent.extend(encoded);
        })
    }
}

impl<T: serde::de::DeserializeOwned + Send + Sync> Inbox<T> for Memory {
    async fn receive(&self) -> PortResult<Vec<Received<T>>> {
        self.call(|state| {
            let messages = state.inbox.iter().take(10).map(|(receipt, body)| {
                let receives = state.receives.entry(receipt.clone()).or_default();
                *receives += 1;
                Received {
                    message: nostr_push_core::message::decode(body).expect("messages decode"),
                    receipt: receipt.clone(),
                    receive_count: *receives,
                }
            });
            messages.collect()
        })
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        self.call(|state| {
            for receipt in receipts {
                state.inbox.remove(receipt);
            }
        })
    }
}

impl<T: serde::Serialize + Send + Sync> DelayQueue<T> for Memory {
    async fn send_after(&self, message: &T, delay: Duration) -> PortResult<()> {
        self.call(|state| {
            let encoded = nostr_push_core::message::encode(message).expect("messages encode");
            state.delayed.push((delay, encoded));
        })
    }
}

impl ChangeFeed for Memory {
    fn partitions(&self) -> u64 {
        1
    }

    async fn page(
        &self,
        _partition: u64,
        since: Millis,
        after: Option<&FeedPosition>,
    ) -> PortResult<FeedPage> {
        self.call(|state| {
            let size = state.page_size.unwrap_or(500);
            let position = |(owner, identity): &(Owner, String), stamp| FeedPosition {
                stamp,
                owner: owner.to_string(),
                identity: identity.clone(),
            };
            let mut rows: Vec<(FeedPosition, Subscription)> = state
                .subscriptions
                .iter()
                .map(|(id, row)| {
                    (
                        position(id, state.stamps.get(id).copied().unwrap_or_default()),
                        row.clone(),
                    )
                })
                .filter(|(at, _)| at.stamp >= since && after.is_none_or(|after| at > after))
                .collect();
            rows.sort_by(|(a, _), (b, _)| a.cmp(b));
            let next = (rows.len() > size).then(|| rows[size - 1].0.clone());
            rows.truncate(size);
            FeedPage {
                rows: rows.into_iter().map(|(_, row)| row).collect(),
                next,
            }
        })
    }
}

impl Relays for Memory {
    async fn cursor(&self, relay: &str) -> PortResult<Option<RelayCursor>> {
        self.call(|state| state.cursors.get(relay).copied())
    }

    async fn checkpoint(
        &self,
        relay: &str,
        cursor: RelayCursor,
        _status: &str,
        _now: Seconds,
    ) -> PortResult<()> {
        self.call(|state| {
            let stored = state.cursors.entry(relay.to_owned()).or_default();
            if cursor.read_until >= stored.read_until {
                *stored = cursor;
            }
        })
    }
}

impl Members for Memory {
    async fn join(&self, member: &str, now: Seconds, until: Seconds) -> PortResult<Vec<String>> {
        self.call(|state| {
            state.members.insert(member.to_owned(), until);
            state
                .members
                .iter()
                .filter(|(_, until)| **until > now)
                .map(|(member, _)| member.clone())
                .collect()
        })
    }

    async fn leave(&self, member: &str) -> PortResult<()> {
        self.call(|state| {
            state.members.remove(member);
        })
    }
}
