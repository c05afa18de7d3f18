//! Which pubkeys may become owners, checked before the signature. Control checks the same again:
//! here it keeps events that cannot have an effect from using up budgets and queues.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_core::{
    Millis, Seconds,
    admission::{Admission, admits, app_of, has_work},
    announcement::AnnouncedApp,
    app::App,
    owner::OwnerClass,
    ports::{AllApps, PortResult},
};

use crate::{
    announcement::{Announcements, Announcer},
    counter::DropReason,
    gate::Gate,
    options::Options,
    relay_context::RelayContext,
};

/// How often the apps are read.
const READ_INTERVAL: Millis = Seconds::from_minutes(1).to_millis();

/// How often the listener checks whether strangers use up their budget.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The apps and the blocked pubkeys, as last read.
#[derive(Debug, Default)]
pub struct AdmissionRules {
    apps: HashMap<String, App>,
    blocked: BTreeSet<PublicKey>,
    /// The app of dialect H events without an `app` tag.
    heartbeat_app: Option<String>,
}

impl AdmissionRules {
    /// The rules of these apps.
    pub fn new(
        apps: Vec<App>,
        blocked: BTreeSet<PublicKey>,
        heartbeat_app: Option<String>,
    ) -> Self {
        let apps = apps.into_iter().map(|app| (app.app.clone(), app));
        Self {
            apps: apps.collect(),
            blocked,
            heartbeat_app,
        }
    }

    /// Checks whether the author of a control event may be an owner. The signature need not have
    /// been verified.
    ///
    /// Returns the class whose budget pays for the event. A stranger whom the app admits by work, a
    /// grant or a list counts as known, and so does not wait behind other strangers.
    ///
    /// An event of an unknown app passes: control refuses it.
    ///
    /// # Errors
    /// Why the event is dropped.
    pub fn check(
        &self,
        event: &Event,
        class: OwnerClass,
        now: Seconds,
    ) -> Result<OwnerClass, DropReason> {
        if self.blocked.contains(&event.pubkey) {
            return Err(DropReason::NotAdmitted);
        }
        if class != OwnerClass::Stranger {
            return Ok(class);
        }
        let Some(app) = self.app_of(event).and_then(|app| self.apps.get(app)) else {
            return Ok(class);
        };
        if app.admission == Admission::Open {
            return Ok(class);
        }
        check_id(event, |event| admits(app, event, now))?;
        Ok(OwnerClass::Known)
    }

    /// Checks whether a control event has the work that its app asks for in the last announcement.
    /// An event without it may be admitted later.
    ///
    /// # Errors
    /// Why the event is dropped.
    pub fn check_work(
        &self,
        event: &Event,
        class: OwnerClass,
        announced: &[AnnouncedApp],
    ) -> Result<(), DropReason> {
        if class != OwnerClass::Stranger || announced.is_empty() {
            return Ok(());
        }
        let id = self.app_of(event);
        let app = announced.iter().find(|app| Some(app.app.as_str()) == id);
        app.and_then(|app| app.difficulty)
            .map_or(Ok(()), |difficulty| {
                check_id(event, |event| has_work(event, difficulty))
            })
    }

    /// The app of a control event. `None` if that is not certain.
    fn app_of<'a>(&'a self, event: &'a Event) -> Option<&'a str> {
        app_of(event, self.heartbeat_app.as_deref())
    }

    /// The apps that are open to everybody, and that ask for work while strangers use up their
    /// budget.
    pub fn announced(&self, is_scarce: bool) -> Vec<AnnouncedApp> {
        let apps = self.apps.values();
        let mut announced: Vec<AnnouncedApp> = apps
            .filter(|app| extra_difficulty(app, true).is_some())
            .map(|app| AnnouncedApp::new(app, extra_difficulty(app, is_scarce)))
            .collect();
        announced.sort_unstable_by(|a, b| a.app.cmp(&b.app));
        announced
    }
}

/// Checks that the id is right, and then what depends on it: the work is in the id.
fn check_id(event: &Event, is_admitted: impl Fn(&Event) -> bool) -> Result<(), DropReason> {
    if !event.verify_id() {
        Err(DropReason::BadSignature)
    } else if is_admitted(event) {
        Ok(())
    } else {
        Err(DropReason::NotAdmitted)
    }
}

/// The difficulty of the work that an open app asks for while strangers use up their budget.
fn extra_difficulty(app: &App, is_scarce: bool) -> Option<u8> {
    let asks = is_scarce && app.admission == Admission::Open && app.pow_difficulty.is_some();
    asks.then(|| app.pow_difficulty())
}

/// Reads the apps every minute, and announces when open apps begin or cease to ask for work. Never
/// ends.
pub fn follow_apps<A: AllApps>(
    source: A,
    context: &RelayContext,
    options: &Options,
    announcements: Announcements,
) -> impl Future<Output = ()> + use<A> {
    // The rest of the context would keep the buffers open.
    follow(
        source,
        Arc::clone(&context.gate),
        options.heartbeat_app.clone(),
        context.keys.current().clone(),
        announcements,
        context.clock,
    )
}

async fn follow(
    source: impl AllApps,
    gate: Arc<Gate>,
    heartbeat_app: Option<String>,
    keys: Keys,
    announcements: Announcements,
    clock: fn() -> Millis,
) {
    let mut read_at: Option<Millis> = None;
    let mut announcer = Announcer::default();
    loop {
        let now = clock();
        if read_at.is_none_or(|read_at| read_at + READ_INTERVAL <= now) {
            match read(&source, heartbeat_app.clone()).await {
                Ok(rules) => {
                    gate.set_admission(rules);
                    read_at = Some(now);
                }
                Err(error) => tracing::warn!(
                    stage = "listener",
                    dependency = error.dependency,
                    "apps not read: {error}"
                ),
            }
        }
        let apps = gate.apps_to_announce(now);
        if read_at.is_some()
            && let Some(event) = announcer.announce(&apps, &keys, now)
        {
            announcements.send_replace(Some(Arc::new(event)));
            // No work is asked for that is not announced.
            gate.set_announced(apps);
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

async fn read(source: &impl AllApps, heartbeat_app: Option<String>) -> PortResult<AdmissionRules> {
    let (apps, blocked) = (source.all_apps().await?, source.all_blocked().await?);
    Ok(AdmissionRules::new(apps, blocked, heartbeat_app))
}
