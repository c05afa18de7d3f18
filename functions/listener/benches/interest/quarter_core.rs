//! A limit of a quarter of a core for one process, as Fargate's 0.25 vCPU: a control group of the
//! kernel, of version 2 or 1. It needs root.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

/// A control group with the limit. It is removed when the value is dropped.
pub(crate) struct QuarterCore {
    group: PathBuf,
}

/// The folders of control groups, and the files and contents that set the limit. Each time the
/// process has run for 25 ms of a period of 100 ms, it waits for the next period.
const LIMITS: [(&str, &[(&str, &str)]); 2] = [
    ("/sys/fs/cgroup", &[("cpu.max", "25000 100000")]),
    (
        "/sys/fs/cgroup/cpu",
        &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "25000"),
        ],
    ),
];

impl QuarterCore {
    /// Limits this process.
    pub(crate) fn around(process: u32) -> anyhow::Result<Self> {
        let mut reasons = Vec::new();
        for (parent, limits) in LIMITS {
            let group = PathBuf::from(parent).join(format!("nostr-push-interest-{process}"));
            match limit(&group, limits, process) {
                Ok(()) => return Ok(Self { group }),
                Err(error) => reasons.push(format!("{error:#}")),
            }
            let _ = fs::remove_dir(&group);
        }
        anyhow::bail!("{}", reasons.join("; "))
    }
}

fn limit(group: &Path, limits: &[(&str, &str)], process: u32) -> anyhow::Result<()> {
    fs::create_dir(group).with_context(|| format!("{}", group.display()))?;
    for (file, value) in limits {
        write(&group.join(file), value)?;
    }
    write(&group.join("cgroup.procs"), &process.to_string())
}

/// Writes to a file that exists. The kernel creates the files of a control group, and the parent
/// may be an ordinary folder that only contains the control groups of version 1.
fn write(file: &Path, value: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).open(file);
    opened
        .and_then(|mut opened| opened.write_all(value.as_bytes()))
        .with_context(|| format!("{}", file.display()))
}

impl Drop for QuarterCore {
    fn drop(&mut self) {
        // A group can be removed once its process is gone.
        for _ in 0..20 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
