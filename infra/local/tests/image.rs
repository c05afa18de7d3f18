//! The listener's image: built from scratch, without a daemon where there is none, and its program
//! started in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{path::Path, process::Stdio};

use nostr_push_local::{not_tried, process::run, root, step};
use tokio::process::Command;

/// Whether a command succeeds.
async fn succeeds(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    status.is_ok_and(|status| status.success())
}

async fn has_docker() -> bool {
    succeeds(Command::new("docker").arg("info")).await
}

fn buildah(arguments: &[&str]) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs"]).args(arguments);
    command
}

/// Whether buildah is there, or can be had (as root on Debian), and may do here what it has to.
async fn has_buildah() -> bool {
    if !succeeds(&mut buildah(&["--version"])).await {
        step("installing buildah (apt-get)");
        let install = "apt-get install -y -qq buildah || { apt-get update -qq && apt-get install -y -qq buildah; }";
        succeeds(Command::new("sh").args(["-c", install])).await;
    }
    let probe = "c=$(buildah --storage-driver vfs from scratch) && buildah --storage-driver vfs mount $c && buildah --storage-driver vfs rm $c";
    succeeds(Command::new("sh").args(["-c", probe])).await
}

#[tokio::test]
async fn the_image_is_built_and_holds_a_listener_that_starts() {
    let docker = has_docker().await;
    if !docker && !has_buildah().await {
        return not_tried(
            "the listener's image, which needs docker, or buildah with the rights to mount (Debian, as root: apt-get install buildah)",
        );
    }
    let name = "nostr-push-listener:test";
    run(
        Command::new(root().join("infra/image/build"))
            .arg(architecture())
            .arg(name)
            .stdout(Stdio::null()),
        "infra/image/build",
    )
    .await
    .unwrap();
    if docker {
        return refuses_to_start(Command::new("docker").args(["run", "--rm", "--read-only", name]))
            .await;
    }
    let output = buildah(&["from", name]).output().await.unwrap();
    let container = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let inspected = buildah(&["inspect", "--type", "image", name])
        .output()
        .await
        .unwrap();
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["OCIv1"]["config"]["User"], "65532:65532");
    assert_eq!(
        inspected["OCIv1"]["config"]["Entrypoint"],
        serde_json::json!(["/listener"])
    );
    let mounted = String::from_utf8(
        buildah(&["mount", &container])
            .output()
            .await
            .unwrap()
            .stdout,
    )
    .unwrap()
    .trim()
    .to_owned();
    let mut files: Vec<String> = Vec::new();
    list(Path::new(&mounted), "", &mut files);
    files.sort();
    assert_eq!(
        files,
        ["/etc/ssl/certs/ca-certificates.crt", "/listener"],
        "nothing else is in it"
    );
    // In its own root as its own user, which is as far as a machine without a container runtime
    // goes.
    refuses_to_start(Command::new("/usr/sbin/chroot").args([
        "--userspec=65532:65532",
        &mounted,
        "/listener",
    ]))
    .await;
    buildah(&["rm", &container])
        .stdout(Stdio::null())
        .status()
        .await
        .unwrap();
    buildah(&["rmi", name])
        .stdout(Stdio::null())
        .status()
        .await
        .unwrap();
}

/// Without its variables it says which are missing: so it runs, with no library but its own.
async fn refuses_to_start(command: &mut Command) {
    let output = command.env_clear().output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for variable in [
        "RELAYS",
        "TABLE_PREFIX",
        "CONTROL_QUEUE_URL",
        "EVENT_QUEUE_URL",
        "SERVICE_KEY_SECRET",
    ] {
        assert!(said.contains(variable), "{variable}: {said}");
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x86_64"
    }
}

/// The files below a folder.
fn list(folder: &Path, name: &str, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &name, files)
        } else {
            files.push(name)
        }
    }
}
