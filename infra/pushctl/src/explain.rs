//! `pushctl explain`: the matcher's and deliver's own code, on the tables as they are, with
//! everything that writes or sends taken out. So it cannot explain anything that the functions
//! would not do.

use std::{
    collections::HashSet,
    io::Read as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use deliver::handler::{Attempt, Delivered};
use nostr::{
    event::{Event, EventId},
    key::PublicKey,
};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    device::{Device, DeviceId, Roster},
    index_key::{IndexKey, keys_of},
    message::{Content, Outgoing},
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        Admission, Answer, Apps, Claim, Claims, DelayQueue, Devices, IndexReader, MuteLists,
        Outcome, Page, Presences, Publisher, Push, Queue, Rates, Subscriptions, seconds,
    },
    presence::Presence,
    subscription::Subscription,
};
use serde_json::{Value, json};

use crate::operator::Operator;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A file with the event as JSON; `-` reads it from the standard input.
    event: PathBuf,
    /// As if a relay had sent it from its store.
    #[arg(long)]
    backfill: bool,
}

pub(crate) async fn run(operator: &Operator, arguments: &Arguments) -> Result<()> {
    let mut text = String::new();
    if arguments.event.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&arguments.event)
            .with_context(|| format!("cannot read {}", arguments.event.display()))?;
    }
    let event: Event = serde_json::from_str(&text).context("this is no Nostr event")?;
    ensure!(
        event.verify().is_ok(),
        "its id or its signature is wrong: the listener would drop it (bad_signature)"
    );
    let now = clients::now();
    let dry = Dry {
        store: &operator.store,
        queued: Mutex::default(),
        published: Mutex::default(),
    };
    let mut seen = HashSet::new();
    let hits: Vec<IndexKey> = keys_of(&event)
        .map(nostr_push_core::index_key::KeyRef::to_owned)
        .filter(|key| seen.insert(key.to_string()))
        .collect();
    let mut content = Content {
        relay: "wss://explain.invalid".to_owned(),
        received_at: now,
        backfill: arguments.backfill,
        hits,
        position: None,
        event: event.clone(),
    };
    let mut deliveries = Vec::new();
    let mut matched = Vec::new();
    loop {
        matched.push(matcher::handler::handle(&dry, &dry, content.clone(), seconds(now)).await?);
        let mut rest = None;
        for queued in
            std::mem::take(&mut *dry.queued.lock().unwrap_or_else(PoisonError::into_inner))
        {
            match queued {
                Queued::Delivery(delivery) => deliveries.push(*delivery),
                Queued::Rest(content) => rest = Some(*content),
            }
        }
        match rest {
            Some(more) => content = more,
            None => break,
        }
    }
    let sum = |count: fn(&matcher::handler::Matched) -> u64| matched.iter().map(count).sum::<u64>();
    let dropped = matched.iter().find_map(|matched| matched.dropped);
    let mut recipients = Vec::new();
    for outgoing in &deliveries {
        recipients.push(explain(&dry, outgoing, now).await?);
    }
    let answer = json!({
        "event": event.id, "kind": event.kind.as_u16(), "dropped": dropped, "own_event": sum(|m| m.own_event),
        "before_subscription": sum(|m| m.before_subscription), "recipients": recipients,
    });
    operator.answer(&answer, serde_json::to_string_pretty(&answer)?);
    Ok(())
}

/// What deliver would do with one delivery.
async fn explain(dry: &Dry<'_>, outgoing: &Outgoing, now: Millis) -> Result<Value> {
    let attempt = Attempt {
        holder: "explain".to_owned(),
        now,
        lease: Duration::from_secs(60),
    };
    let delivered = deliver::handler::handle(dry, dry, dry, outgoing, &attempt).await?;
    let published =
        std::mem::take(&mut *dry.published.lock().unwrap_or_else(PoisonError::into_inner));
    let (outcome, reason) = match &delivered {
        Delivered::Dropped(reason) => ("dropped", (*reason).to_owned()),
        Delivered::Waiting(wait) => ("waits", format!("the app looks open: {} s", wait.as_secs())),
        Delivered::Tried(tried) => ("pushed", format!("to {} devices", tried.len())),
        Delivered::Again { reason, .. } => ("again", (*reason).to_owned()),
    };
    let owner = outgoing.owner();
    let reasons = if let Outgoing::Event(delivery) = outgoing {
        delivery.reasons.clone()
    } else {
        Vec::new()
    };
    let message = published
        .first()
        .and_then(|push| serde_json::from_str::<Value>(&push.message).ok())
        .map(|message| message["default"].clone());
    Ok(
        json!({"app": owner.app, "recipient": owner.pubkey, "found_by": reasons, "outcome": outcome, "reason": reason, "title": message}),
    )
}

enum Queued {
    Delivery(Box<Outgoing>),
    Rest(Box<Content>),
}

/// Reads what is stored, and keeps to itself what would be written or sent.
struct Dry<'a> {
    store: &'a Store,
    queued: Mutex<Vec<Queued>>,
    published: Mutex<Vec<Push>>,
}

impl Apps for Dry<'_> {
    async fn app(&self, app: &str) -> Answer<Option<App>> {
        self.store.app(app).await
    }
}

impl Devices for Dry<'_> {
    async fn devices(&self, ids: &[DeviceId]) -> Answer<Vec<Device>> {
        self.store.devices(ids).await
    }

    async fn roster(&self, owner: &Owner) -> Answer<Option<Roster>> {
        self.store.roster(owner).await
    }

    async fn device_of_endpoint(&self, endpoint_arn: &str) -> Answer<Option<DeviceId>> {
        self.store.device_of_endpoint(endpoint_arn).await
    }

    async fn commit(&self, _: Option<&Device>, _: Option<&Roster>) -> Answer<bool> {
        Ok(true)
    }
}

impl Subscriptions for Dry<'_> {
    async fn get(&self, ids: &[(Owner, String)]) -> Answer<Vec<Subscription>> {
        self.store.get(ids).await
    }

    async fn of_owner(&self, owner: &Owner) -> Answer<Vec<Subscription>> {
        self.store.of_owner(owner).await
    }

    async fn put(&self, _: &Subscription) -> Answer<bool> {
        Ok(true)
    }
}

impl IndexReader for Dry<'_> {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> Answer<Page> {
        self.store.page(key, after).await
    }
}

impl MuteLists for Dry<'_> {
    async fn mute_list(&self, pubkey: &PublicKey) -> Answer<Option<MuteList>> {
        self.store.mute_list(pubkey).await
    }

    async fn put_mute_list(&self, _: &MuteList) -> Answer<bool> {
        Ok(true)
    }
}

impl Presences for Dry<'_> {
    async fn presence(&self, owner: &Owner) -> Answer<Option<Presence>> {
        self.store.presence(owner).await
    }

    async fn await_presence(&self, _: &Owner, _: &Order) -> Answer<bool> {
        Ok(true)
    }

    async fn put_presence(&self, _: &Owner, _: &Presence, _: Seconds) -> Answer<bool> {
        Ok(true)
    }
}

/// As if it came for the first time: what has been pushed is explained all the same.
impl Claims for Dry<'_> {
    async fn acquire(&self, _: &str, _: &str, _: Millis, _: Millis) -> Answer<Claim> {
        Ok(Claim::Acquired(Vec::new()))
    }

    async fn done(&self, _: &str, _: &str, _: &str) -> Answer<bool> {
        Ok(true)
    }

    async fn release(&self, _: &str, _: &str, _: bool) -> Answer<()> {
        Ok(())
    }
}

/// As if the minute had room: it is over soon.
impl Rates for Dry<'_> {
    async fn admit(&self, _: &Owner, _: Seconds, _: &EventId, _: u32) -> Answer<Admission> {
        Ok(Admission::Admitted)
    }

    async fn overflow(&self, _: &Owner, _: Seconds) -> Answer<()> {
        Ok(())
    }

    async fn overflowed(&self, _: &Owner, _: Seconds) -> Answer<u64> {
        Ok(0)
    }
}

impl Publisher for Dry<'_> {
    async fn publish(&self, _: &str, push: &Push) -> Outcome {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(push.clone());
        Outcome::Delivered
    }
}

impl DelayQueue<Outgoing> for Dry<'_> {
    async fn send_after(&self, _: &Outgoing, _: Duration) -> Answer<()> {
        Ok(())
    }
}

impl Queue<Outgoing> for Dry<'_> {
    async fn send(&self, messages: &[Outgoing]) -> Answer<()> {
        let queued = messages
            .iter()
            .map(|outgoing| Queued::Delivery(Box::new(outgoing.clone())));
        self.queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(queued);
        Ok(())
    }
}

impl Queue<Content> for Dry<'_> {
    async fn send(&self, messages: &[Content]) -> Answer<()> {
        let queued = messages
            .iter()
            .map(|content| Queued::Rest(Box::new(content.clone())));
        self.queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(queued);
        Ok(())
    }
}
