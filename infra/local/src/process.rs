//! Programs that the local stack starts and stops.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

/// How long a program may take to end by itself. The listener drains for up to 25 s.
const GRACE: Duration = Duration::from_secs(28);

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or fails.
pub async fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed: {status}");
    }
    Ok(())
}

/// A program that runs until it is stopped; its output goes to a log file.
pub struct Service {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &'static str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C goes to whoever has the terminal; we stop our programs ourselves, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Its output so far.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// It ends before, or is not ready in time.
    pub async fn ready<F: Future<Output = bool>>(&mut self, ready: impl Fn() -> F) -> Result<()> {
        let waiting = timeout(Duration::from_secs(60), async {
            while !ready().await {
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended at once: {status}", self.name);
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        });
        waiting
            .await
            .unwrap_or_else(|_| bail!("{} is not ready after a minute", self.name))
            .with_context(|| format!("see {}", self.log.display()))
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> String {
        let status = self
            .child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        format!(
            "{} ended by itself: {status}, see {}",
            self.name,
            self.log.display()
        )
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Asks it to end, and makes it if it does not.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill")
                .args(["-TERM", &pid.to_string()])
                .status()
                .await;
            if timeout(GRACE, self.child.wait()).await.is_err() {
                eprintln!("local: {} did not end in {GRACE:?}: killed", self.name);
                let _ = self.child.kill().await;
            }
        }
    }
}
