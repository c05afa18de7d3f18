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

/// How long a program may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a program may take to stop before it is killed. The listener drains for up to 25 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(28);

/// Runs a program to its end. `what` is its name in error messages.
///
/// # Errors
/// The program cannot be started, or fails.
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

/// A program that runs until it is stopped. Its output goes to a log file.
pub struct Service {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts the program. Its log file is `<name>.log` in the folder `logs`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &'static str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C signals the terminal's process group. The stack stops its programs itself, in
            // order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until `is_ready` returns `true`.
    ///
    /// # Errors
    /// The program exits before it is ready, or is not ready within a minute.
    pub async fn wait_until_ready<F: Future<Output = bool>>(
        &mut self,
        is_ready: impl Fn() -> F,
    ) -> Result<()> {
        let waiting = timeout(READY_TIMEOUT, async {
            while !is_ready().await {
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} exited before it was ready: {status}", self.name);
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        });
        waiting
            .await
            .unwrap_or_else(|_| bail!("{} is not ready after {READY_TIMEOUT:?}", self.name))
            .with_context(|| format!("see {}", self.log.display()))
    }

    /// Waits until the program exits, and returns a message about it.
    pub async fn wait_for_exit(&mut self) -> String {
        let status = self
            .child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        format!(
            "{} exited unexpectedly: {status}, see {}",
            self.name,
            self.log.display()
        )
    }

    /// Kills the program (SIGKILL).
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Stops the program (SIGTERM), and kills it if it does not exit in time.
    pub async fn stop(mut self) {
        let Some(pid) = self.child.id() else { return };
        let _ = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await;
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            eprintln!(
                "local: {} was killed, because it did not stop within {STOP_TIMEOUT:?}",
                self.name
            );
            let _ = self.child.kill().await;
        }
    }
}
