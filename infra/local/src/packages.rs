//! Debian packages that single tests need. A test installs them where it can, and reports itself as
//! skipped where it cannot.

use std::process::Stdio;

use tokio::process::Command;

use crate::step;

/// Returns `true` if the program is installed, or can be installed with `apt-get` (on Debian, as
/// root).
pub async fn has_package(program: &str, package: &str) -> bool {
    let exists = format!("command -v {program}");
    if shell_succeeds(&exists).await {
        return true;
    }
    step(&format!("installing {package} (apt-get)"));
    let install = format!("apt-get install -y -qq {package}");
    shell_succeeds(&format!(
        "{install} || {{ apt-get update -qq && {install}; }}"
    ))
    .await;
    shell_succeeds(&exists).await
}

/// Returns `true` if buildah is installed, or can be, and may mount images here.
pub async fn has_buildah() -> bool {
    let mount = "c=$(buildah --storage-driver vfs from scratch) \
        && buildah --storage-driver vfs mount $c \
        && buildah --storage-driver vfs rm $c";
    has_package("buildah", "buildah").await && shell_succeeds(mount).await
}

/// Returns `true` if a command of the shell succeeds.
pub async fn shell_succeeds(command: &str) -> bool {
    let status = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    status.is_ok_and(|status| status.success())
}
