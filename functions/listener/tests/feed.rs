//! The change feed: new, ended, late and missed subscriptions, failures, and full reads beside the
//! polls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use listener::{
    feed::Feed,
    health::{self, Health},
    shutdown::Shutdown,
};
use nostr::key::Keys;
use nostr_push_core::{
    Millis, Seconds,
    order::Order,
    ports::{ChangeFeed, FeedPage, FeedPosition, PortResult, Unavailable},
    subscription::Subscription,
};
use nostr_push_testkit::{owner, subscription};
use serde_json::json;
use support::until;
use tokio::net::TcpListener;

const NOW: Millis = Millis(1_800_000_000_000);
const HOUR: Millis = Seconds::from_hours(1).to_millis();
const POLL_INTERVAL: Millis = Millis(1_500);

thread_local! {
    /// The clock of one test. Each test runs on a thread of its own.
    static CLOCK: Cell<Millis> = const { Cell::new(NOW) };
}

fn clock() -> Millis {
    CLOCK.get()
}

/// A row and its stamp.
type StampedRow = (Millis, Subscription);

/// A change feed with four partitions. Clones share their state.
#[derive(Clone, Default)]
struct Table {
    /// The rows of each partition, with their stamps.
    rows: Arc<Mutex<[Vec<StampedRow>; 4]>>,
    /// Each page that was requested: the partition, `since`, and the number of rows before it.
    requests: Arc<Mutex<Vec<(u64, Millis, usize)>>>,
    /// The number of requests from now on that succeed before one fails.
    fail_in: Arc<Mutex<Option<usize>>>,
    /// If `true`, pages of all rows are never answered.
    full_reads_hang: Arc<AtomicBool>,
}

/// The rows of one page.
const PAGE_ROWS: usize = 10;

impl ChangeFeed for Table {
    fn partitions(&self) -> u64 {
        4
    }

    async fn page(
        &self,
        partition: u64,
        since: Millis,
        after: Option<&FeedPosition>,
    ) -> PortResult<FeedPage> {
        let skipped = after.map_or(0, |after| usize::try_from(after.stamp.0).unwrap());
        self.requests
            .lock()
            .unwrap()
            .push((partition, since, skipped));
        if since == Millis(0) && self.full_reads_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        {
            let mut fail_in = self.fail_in.lock().unwrap();
            if *fail_in == Some(0) {
                *fail_in = None;
                return Err(Unavailable::new("table", "a failure on demand"));
            }
            *fail_in = fail_in.map(|n| n - 1);
        }
        let rows = self.rows.lock().unwrap();
        let rows = rows[usize::try_from(partition).unwrap()].iter();
        let rows: Vec<Subscription> = rows
            .filter(|(stamp, _)| *stamp >= since)
            .skip(skipped)
            .map(|(_, row)| row.clone())
            .collect();
        // The position of this feed is a number of rows.
        let next = (rows.len() > PAGE_ROWS).then(|| FeedPosition {
            stamp: Millis((skipped + PAGE_ROWS) as u64),
            owner: String::new(),
            identity: String::new(),
        });
        let rows = rows.into_iter().take(PAGE_ROWS).collect();
        Ok(FeedPage { rows, next })
    }
}

impl Table {
    /// Adds a row for one tag with this stamp, that ends `ends_in` after [`NOW`].
    fn add(&self, tag: &str, stamp: Millis, ends_in: Millis, relays: &[&str]) {
        let row = Subscription {
            valid_until: (NOW + ends_in).to_seconds(),
            relays: relays.iter().map(|relay| (*relay).to_owned()).collect(),
            order: Order::counter(1),
            ..subscription(&owner(Keys::generate().public_key()), &json!({"#t": [tag]}))
        };
        let partition = tag.len() % 4;
        self.rows.lock().unwrap()[partition].push((stamp, row));
    }

    fn add_lasting(&self, tag: &str, stamp: Millis) {
        self.add(tag, stamp, HOUR * 1_000, &[]);
    }

    fn feed(&self) -> Feed<Table> {
        self.feed_with(&Arc::default())
    }

    fn feed_with(&self, health: &Arc<Health>) -> Feed<Table> {
        Feed::new(self.clone(), Arc::clone(health), clock, false)
    }

    fn requests(&self) -> Vec<(u64, Millis, usize)> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

async fn load(feed: &mut Feed<Table>) {
    let (_stop, mut shutdown) = Shutdown::channel();
    assert!(feed.load(&mut shutdown).await);
}

async fn read_at(feed: &mut Feed<Table>, now: Millis) {
    CLOCK.set(now);
    feed.read().await.unwrap();
}

fn tags<F: ChangeFeed>(feed: &Feed<F>) -> Vec<String> {
    let mut tags: Vec<String> = feed
        .view()
        .interest
        .read()
        .unwrap()
        .keys()
        .map(|(key, _)| key.to_string())
        .collect();
    tags.sort();
    tags
}

fn requested_relays(feed: &Feed<Table>) -> Vec<String> {
    let view = feed.view();
    view.requested_relays
        .lock()
        .unwrap()
        .most_requested(&[], 10)
}

#[tokio::test]
async fn follows_new_ended_and_missed_subscriptions() {
    let table = Table::default();
    let relays = ["wss://relay.example"];
    table.add_lasting("lasting", NOW - HOUR);
    table.add("ending", NOW - HOUR, HOUR * 2, &relays);
    let mut feed = table.feed();
    let mut changes = feed.changes();
    load(&mut feed).await;
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting"]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(requested_relays(&feed), relays);

    changes.mark_unchanged();
    table.add_lasting("new", NOW + Millis(1_000));
    // Its stamp is long ago, but it was not in the feed until now.
    table.add_lasting("missed", NOW - HOUR);
    read_at(&mut feed, NOW + POLL_INTERVAL).await;
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting", "#t:new"]);
    assert!(changes.has_changed().unwrap());

    changes.mark_unchanged();
    read_at(&mut feed, NOW + POLL_INTERVAL * 2).await;
    assert!(
        !changes.has_changed().unwrap(),
        "reading the same rows again changes nothing"
    );

    read_at(&mut feed, NOW + HOUR * 3).await;
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:new"],
        "a subscription ends without a row in the feed"
    );
    assert!(requested_relays(&feed).is_empty());

    feed.resync().await;
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:missed", "#t:new"],
        "the full read finds the missed row"
    );
    changes.mark_unchanged();
    read_at(&mut feed, NOW + HOUR * 3 + POLL_INTERVAL).await;
    assert!(changes.has_changed().unwrap(), "the next poll notifies");
}

#[tokio::test]
async fn finds_a_row_that_becomes_visible_late_within_about_a_minute() {
    let table = Table::default();
    let mut feed = table.feed();
    load(&mut feed).await;
    table.requests();
    // A row is stamped 10 s after the load, and becomes visible 100 s later.
    let stamp = NOW + Millis(10_000);
    let visible_at = stamp + Millis(100_000);
    let mut is_visible = false;
    let mut found_at = None;
    for poll in 1..200 {
        let now = NOW + POLL_INTERVAL * poll;
        if now > visible_at && !is_visible {
            table.add_lasting("late", stamp);
            is_visible = true;
        }
        read_at(&mut feed, now).await;
        if tags(&feed) == ["#t:late"] {
            found_at = found_at.or(Some(now));
        }
    }
    let delay = found_at.expect("the row is found") - visible_at;
    assert!(delay <= Millis(62_000), "{delay} ms");
    let is_full = |(_, since, _): &(u64, Millis, usize)| *since == Millis(0);
    assert!(!table.requests().iter().any(is_full));
}

#[tokio::test]
async fn polls_and_reads_of_late_rows_overlap() {
    let table = Table::default();
    let mut feed = table.feed();
    load(&mut feed).await;
    table.requests();
    let (mut late_reads, mut previous, mut previous_late) = (0, NOW, NOW);
    for poll in 1..=400 {
        let now = NOW + POLL_INTERVAL * poll;
        read_at(&mut feed, now).await;
        let mut since: Vec<Millis> = table.requests().into_iter().map(|r| r.1).collect();
        since.dedup();
        if since.len() == 2 {
            let late = since.remove(0);
            assert_eq!(late, previous_late - Seconds::from_minutes(5).to_millis());
            late_reads += 1;
            previous_late = now;
        }
        assert_eq!(since, [previous - Millis(15_000)]);
        previous = now;
    }
    assert_eq!(late_reads, 10, "in ten minutes");
}

#[tokio::test]
async fn announces_what_was_read_before_a_failure() {
    let table = Table::default();
    let mut feed = table.feed();
    load(&mut feed).await;
    let mut changes = feed.changes();
    changes.mark_unchanged();
    for tag in ["aaaa", "a", "aa", "aaa"] {
        table.add_lasting(tag, NOW);
    }
    *table.fail_in.lock().unwrap() = Some(3);
    CLOCK.set(NOW + POLL_INTERVAL);
    feed.read().await.unwrap_err();
    assert!(!tags(&feed).is_empty());
    assert!(changes.has_changed().unwrap());

    table.requests();
    read_at(&mut feed, NOW + HOUR).await;
    let since: Vec<Millis> = table.requests().into_iter().map(|r| r.1).collect();
    assert!(
        since.iter().all(|since| *since < NOW),
        "the next read covers what failed"
    );
    assert_eq!(tags(&feed).len(), 4);
}

#[tokio::test]
async fn load_continues_after_a_failure_where_it_stopped() {
    let table = Table::default();
    for n in 0..100 {
        table.add_lasting(&format!("{n:04}"), NOW);
    }
    *table.fail_in.lock().unwrap() = Some(8);
    let health = Arc::default();
    let mut feed = table.feed_with(&health);
    load(&mut feed).await;
    assert_eq!(tags(&feed).len(), 100);
    // Ten pages of the rows, one empty page of each other partition, and one repeated page.
    assert_eq!(table.requests().len(), 10 + 3 + 1);
    assert!(health.readiness(NOW).0);
}

#[tokio::test]
async fn load_stops_on_request() {
    let table = Table::default();
    table.full_reads_hang.store(true, Ordering::SeqCst);
    let mut feed = table.feed();
    let (stop, mut shutdown) = Shutdown::channel();
    stop.stop();
    assert!(!feed.load(&mut shutdown).await);
}

#[tokio::test]
async fn new_filters_arrive_while_the_full_read_hangs() {
    let table = Table::default();
    let health = Arc::default();
    let mut feed = table.feed_with(&health);
    load(&mut feed).await;
    let interest = feed.view().interest;
    table.full_reads_hang.store(true, Ordering::SeqCst);
    table.requests();
    let polling = feed.poll(1.0);
    let is_full_read = |(_, since, _): &(u64, Millis, usize)| *since == Millis(0);
    let test = async {
        CLOCK.set(NOW + HOUR * 4);
        let read = || !table.requests.lock().unwrap().is_empty();
        until("a poll", read).await;
        let started = || table.requests.lock().unwrap().iter().any(is_full_read);
        assert!(!started(), "with jitter it begins after 4.5 hours");
        CLOCK.set(NOW + HOUR * 5);
        until("the full read began", started).await;
        table.add_lasting("new", clock());
        until("the new row", || interest.read().unwrap().len() == 1).await;
        let full_reads = table.requests().into_iter().filter(is_full_read).count();
        assert_eq!(full_reads, 1, "it is still running");
        assert!(health.liveness(clock()).0);
        assert!(health.readiness(clock()).0);
    };
    tokio::select! {
        () = polling => panic!("it never returns"),
        () = test => {}
    }
}

/// A feed with one partition, whose pages are always ready. The first load ends when `served` is
/// set.
struct Endless {
    pages: AtomicUsize,
    served: Arc<AtomicBool>,
}

impl ChangeFeed for Endless {
    fn partitions(&self) -> u64 {
        1
    }

    async fn page(
        &self,
        _partition: u64,
        _since: Millis,
        _after: Option<&FeedPosition>,
    ) -> PortResult<FeedPage> {
        let pages = self.pages.fetch_add(1, Ordering::SeqCst);
        assert!(pages < 10_000, "the health interface never responded");
        let owner = owner(Keys::parse(&"01".repeat(32)).unwrap().public_key());
        let row = |n: usize| subscription(&owner, &json!({"#t": [n.to_string()]}));
        let next = FeedPosition {
            stamp: Millis(0),
            owner: String::new(),
            identity: String::new(),
        };
        Ok(FeedPage {
            rows: (0..500).map(row).collect(),
            next: (!self.served.load(Ordering::SeqCst)).then_some(next),
        })
    }
}

#[tokio::test]
async fn health_is_served_by_the_one_thread_that_loads() {
    let health = Arc::new(Health::default());
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(health::serve(socket, Arc::clone(&health), clock));
    let served = Arc::new(AtomicBool::new(false));
    let source = Endless {
        pages: AtomicUsize::new(0),
        served: Arc::clone(&served),
    };
    let mut feed = Feed::new(source, Arc::clone(&health), clock, false);
    let (_stop, mut shutdown) = Shutdown::channel();
    let check = async {
        until("the load began", || health.liveness(NOW).0).await;
        health::check(address)
            .await
            .expect_err("ECS waits for the first load");
        CLOCK.set(NOW + HOUR);
        until_healthy(address).await;
        assert!(!health.readiness(clock()).0, "the load is running");
        served.store(true, Ordering::SeqCst);
    };
    let (loaded, ()) = tokio::join!(feed.load(&mut shutdown), check);
    assert!(loaded);
    health::check(address).await.unwrap();
    assert!(health.readiness(clock()).0);
}

/// Waits until the container check succeeds.
async fn until_healthy(address: std::net::SocketAddr) {
    while health::check(address).await.is_err() {
        tokio::task::yield_now().await;
    }
}
