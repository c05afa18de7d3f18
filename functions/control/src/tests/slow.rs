//! The ports in memory, with pauses between calls, so that events that are handled at the same time
//! interleave.

use std::{collections::VecDeque, sync::Mutex};

use nostr_push_core::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    device::{Device, DeviceId, Roster},
    order::Order,
    owner::Owner,
    ports::{
        Apps, Blocklist, Budgets, Devices, Endpoints, EnsuredEndpoint, IndexWriter, OwnerSettings,
        PortResult, Presences, Subscriptions, Usages,
    },
    presence::Presence,
    settings::Settings,
    subscription::{IndexRow, Subscription},
};
use nostr_push_testkit::memory::Memory;

/// Ports that pause before each call for as many polls as the next number says, and later for one.
pub(super) struct Slow<'a> {
    memory: &'a Memory,
    pauses: Mutex<VecDeque<usize>>,
}

impl<'a> Slow<'a> {
    pub(super) fn new(memory: &'a Memory, pauses: impl IntoIterator<Item = usize>) -> Self {
        Self {
            memory,
            pauses: Mutex::new(pauses.into_iter().collect()),
        }
    }

    async fn memory(&self) -> &Memory {
        let pause = self.pauses.lock().unwrap().pop_front().unwrap_or(1);
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
        self.memory
    }
}

impl Apps for Slow<'_> {
    async fn app(&self, app: &str) -> PortResult<Option<App>> {
        self.memory().await.app(app).await
    }
}

impl Blocklist for Slow<'_> {
    async fn is_blocked(&self, pubkey: &nostr::key::PublicKey) -> PortResult<bool> {
        self.memory().await.is_blocked(pubkey).await
    }
}

impl Usages for Slow<'_> {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        self.memory().await.usage().await
    }

    async fn record_usage(&self, usage: &Usage) -> PortResult<()> {
        self.memory().await.record_usage(usage).await
    }
}

impl Budgets for Slow<'_> {
    async fn take(&self, budget: &str, window: Seconds, units: u64, max: u64) -> PortResult<bool> {
        self.memory().await.take(budget, window, units, max).await
    }
}

impl Devices for Slow<'_> {
    async fn devices(&self, ids: &[DeviceId]) -> PortResult<Vec<Device>> {
        self.memory().await.devices(ids).await
    }

    async fn roster(&self, owner: &Owner) -> PortResult<Option<Roster>> {
        self.memory().await.roster(owner).await
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> PortResult<Option<DeviceId>> {
        self.memory().await.device_of_endpoint(endpoint_arn).await
    }

    async fn commit(&self, device: Option<&Device>, roster: Option<&Roster>) -> PortResult<bool> {
        self.memory().await.commit(device, roster).await
    }
}

impl Subscriptions for Slow<'_> {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        self.memory().await.get(ids).await
    }

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
        self.memory().await.of_owner(owner).await
    }

    async fn put(&self, row: &Subscription) -> PortResult<bool> {
        self.memory().await.put(row).await
    }

    async fn replace(&self, row: &Subscription, read: Millis) -> PortResult<bool> {
        self.memory().await.replace(row, read).await
    }
}

impl IndexWriter for Slow<'_> {
    async fn put_index(&self, rows: Vec<IndexRow>) -> PortResult<()> {
        for row in rows {
            self.memory().await.put_index(vec![row]).await?;
        }
        Ok(())
    }

    async fn delete_index(&self, rows: Vec<IndexRow>, order: Order) -> PortResult<()> {
        for row in rows {
            self.memory().await.delete_index(vec![row], order).await?;
        }
        Ok(())
    }
}

impl OwnerSettings for Slow<'_> {
    async fn settings(&self, owner: &Owner) -> PortResult<Option<Settings>> {
        self.memory().await.settings(owner).await
    }

    async fn put_settings(&self, settings: &Settings) -> PortResult<bool> {
        self.memory().await.put_settings(settings).await
    }
}

impl Presences for Slow<'_> {
    async fn presence(&self, owner: &Owner) -> PortResult<Option<Presence>> {
        self.memory().await.presence(owner).await
    }

    async fn mark_awaited(&self, owner: &Owner, order: &Order) -> PortResult<bool> {
        self.memory().await.mark_awaited(owner, order).await
    }

    async fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        expires_at: Seconds,
    ) -> PortResult<bool> {
        let memory = self.memory().await;
        memory.put_presence(owner, presence, expires_at).await
    }
}

impl Endpoints for Slow<'_> {
    async fn ensure(&self, platform_application: &str, token: &str) -> PortResult<EnsuredEndpoint> {
        self.memory()
            .await
            .ensure(platform_application, token)
            .await
    }

    async fn delete(&self, endpoint_arn: &str) -> PortResult<()> {
        self.memory().await.delete(endpoint_arn).await
    }

    async fn is_enabled(&self, endpoint_arn: &str) -> PortResult<bool> {
        self.memory().await.is_enabled(endpoint_arn).await
    }
}
