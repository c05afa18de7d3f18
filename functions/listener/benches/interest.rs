//! The change feed with a million subscriptions or more, on a quarter of a core: the first load,
//! its memory and the progress that the health interface reports, and the full read beside the
//! polls.
//!
//! `cargo bench -p listener --bench interest -- 3000000` sets the number of rows.
//!
//! This program runs itself again as the process that reads the feed ([`reader`]), and limits that
//! process with a control group. The parent serves the table ([`table`]), is not limited, and
//! measures.

#[path = "interest/quarter_core.rs"]
mod quarter_core;
#[path = "interest/reader.rs"]
mod reader;
#[path = "interest/table.rs"]
mod table;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{quarter_core::QuarterCore, reader::READER_HEALTH, table::Table};

/// The time between two requests to the health interface.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// A report of progress of more than an hour ago is from the moment at which the clock of the
/// reader is put forward.
const CLOCK_JUMP_MS: u64 = 3_600_000;

/// How long the parent waits for one line of the reader.
const LINE_TIMEOUT: Duration = Duration::from_secs(3_600);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        if std::env::var(READER_HEALTH).is_ok() {
            return reader::run().await;
        }
        measure().await
    })
}

async fn measure() -> anyhow::Result<()> {
    // `cargo test --benches` only checks that the program runs. An argument sets another number.
    let is_bench = std::env::args().any(|word| word == "--bench");
    let (default_rows, new_rows) = if is_bench {
        (1_000_000, 40)
    } else {
        (1_000, 2)
    };
    let rows: u64 = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(default_rows);
    let table = Arc::new(Table::new(rows));
    let endpoint = table::serve(Arc::clone(&table)).await?;
    let mut process = ReaderProcess::start(&endpoint)?;
    let limit = QuarterCore::around(process.child.id());
    match &limit {
        Ok(_) => println!("{rows} rows, a quarter of a core"),
        Err(error) => println!("{rows} rows, CPU not limited: {error}"),
    }
    let gaps = Arc::new(HealthGaps::default());
    let watched = tokio::spawn(Arc::clone(&gaps).watch(process.health));
    load(&mut process, &table, rows, &gaps).await?;
    resync(&mut process, &table, rows, new_rows, &gaps).await?;
    process.send("expire")?;
    println!("{}", process.line().await?);
    watched.abort();
    process.child.kill()?;
    process.child.wait()?;
    Ok(())
}

/// Measures the first load.
async fn load(
    process: &mut ReaderProcess,
    table: &Table,
    rows: u64,
    gaps: &HealthGaps,
) -> anyhow::Result<()> {
    let before = process.resident_mib()?;
    let cpu_before = process.cpu_time()?;
    let started = Instant::now();
    process.send("load")?;
    process.wait_for_keys(rows).await?;
    println!(
        "load: {:.1?}, CPU time {:.1?}; resident {before} MiB before, {} MiB after, peak {} MiB",
        started.elapsed(),
        process.cpu_time()?.saturating_sub(cpu_before),
        process.resident_mib()?,
        process.peak_mib()?,
    );
    println!(
        "load: {} pages, {} of them requested again; {}",
        table.full_pages(),
        table.repeated_pages(),
        gaps.take()
    );
    Ok(())
}

/// Measures how long new rows take to reach the interest while the full read runs.
async fn resync(
    process: &mut ReaderProcess,
    table: &Table,
    rows: u64,
    new_rows: u64,
    gaps: &HealthGaps,
) -> anyhow::Result<()> {
    table.forget_pages();
    let cpu_before = process.cpu_time()?;
    process.send("resync")?;
    while table.full_pages() == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    let mut delays = Vec::new();
    for n in 0..new_rows {
        // So that the rows come at different times between two polls.
        sleep(Duration::from_millis(37 * (n % 40))).await;
        let added = Instant::now();
        table.add_row();
        process.wait_for_keys(rows + n + 1).await?;
        delays.push(added.elapsed());
    }
    let (elapsed, pages) = (started.elapsed(), table.full_pages());
    let is_running = pages < table.pages_of_all_rows();
    delays.sort_unstable();
    println!(
        "full read: {} rows/s, running: {is_running}, CPU time {:.2?} per second; \
         {new_rows} new rows reached the interest after {:.1?} (median) and {:.1?} (most)",
        pages * table::PAGE_ROWS * 1_000 / u64::try_from(elapsed.as_millis())?.max(1),
        process
            .cpu_time()?
            .saturating_sub(cpu_before)
            .div_f64(elapsed.as_secs_f64().max(1.0)),
        delays[delays.len() / 2],
        delays[delays.len() - 1],
    );
    println!(
        "full read: {} pages requested again; {}",
        table.repeated_pages(),
        gaps.take()
    );
    Ok(())
}

/// The process that reads the feed.
struct ReaderProcess {
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
    health: SocketAddr,
}

impl ReaderProcess {
    fn start(endpoint: &str) -> anyhow::Result<Self> {
        let health = SocketAddr::from(([127, 0, 0, 1], nostr_push_testkit::free_port(0)));
        let mut child = Command::new(std::env::current_exe()?)
            .env(READER_HEALTH, health.to_string())
            .env("AWS_ENDPOINT_URL", endpoint)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "x")
            .env("AWS_SECRET_ACCESS_KEY", "x")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            lines,
            health,
        })
    }

    fn send(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{command}")?;
        Ok(self.input.flush()?)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        timeout(LINE_TIMEOUT, self.lines.recv())
            .await
            .context("the reader is silent")?
            .context("the reader ended")
    }

    /// Waits until the interest has this number of keys.
    async fn wait_for_keys(&mut self, keys: u64) -> anyhow::Result<()> {
        while self.line().await?.parse::<u64>()? < keys {}
        Ok(())
    }

    /// A number of `/proc/PID/status`, in MiB.
    fn memory_mib(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.context("no such line")?.parse::<u64>()? / 1024)
    }

    fn resident_mib(&self) -> anyhow::Result<u64> {
        self.memory_mib("VmRSS")
    }

    fn peak_mib(&self) -> anyhow::Result<u64> {
        self.memory_mib("VmHWM")
    }

    /// The CPU time of all threads that have not ended.
    fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let times = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let time = times.split_whitespace().next().context("no time")?;
            nanoseconds += time.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// What the health interface reports.
#[derive(Default)]
struct HealthGaps {
    /// The greatest age of the progress, in milliseconds.
    progress_ms: AtomicU64,
    /// The longest response, in milliseconds.
    response_ms: AtomicU64,
    /// The responses that were not 200.
    not_alive: AtomicU64,
}

impl HealthGaps {
    /// Asks `/healthz` again and again.
    async fn watch(self: Arc<Self>, health: SocketAddr) {
        loop {
            let asked = Instant::now();
            if let Ok((is_alive, details)) = healthz(health).await {
                let age = details["progress_age_ms"].as_u64().unwrap_or_default();
                if age < CLOCK_JUMP_MS {
                    self.progress_ms.fetch_max(age, Ordering::SeqCst);
                    self.not_alive
                        .fetch_add(u64::from(!is_alive), Ordering::SeqCst);
                }
                let response = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.response_ms.fetch_max(response, Ordering::SeqCst);
            }
            sleep(HEALTH_INTERVAL).await;
        }
    }

    /// The results since the last call, as text.
    fn take(&self) -> String {
        let take = |value: &AtomicU64| value.swap(0, Ordering::SeqCst);
        format!(
            "longest gap of progress {} ms, longest response of /healthz {} ms, not alive {} times",
            take(&self.progress_ms),
            take(&self.response_ms),
            take(&self.not_alive)
        )
    }
}

/// The response of `/healthz` if the first load has begun.
async fn healthz(address: SocketAddr) -> anyhow::Result<(bool, Value)> {
    let mut socket = TcpStream::connect(address).await?;
    socket
        .write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut response = String::new();
    socket.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").context("no body")?;
    Ok((head.contains(" 200 "), serde_json::from_str(body)?))
}
