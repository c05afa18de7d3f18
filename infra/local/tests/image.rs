//! The listener's image is built with docker or buildah, and its program is started in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{
    path::Path,
    process::{Output, Stdio},
};

use nostr_push_local::{
    packages::{has_buildah, shell_succeeds},
    process::run,
    report_skipped, root,
};
use serde_json::{Value, json};
use tokio::process::Command;

const IMAGE: &str = "nostr-push-listener:test";

#[tokio::test]
async fn image_contains_a_listener_that_starts() {
    let docker = shell_succeeds("docker info").await;
    if !docker && !has_buildah().await {
        return report_skipped(
            "the listener's image needs docker, or buildah with permission to mount \
             (Debian, as root: apt-get install buildah)",
        );
    }
    let mut build = Command::new(root().join("infra/image/build"));
    build.arg(architecture()).arg(IMAGE).stdout(Stdio::null());
    run(&mut build, "infra/image/build").await.unwrap();
    if docker {
        let mut start = Command::new("docker");
        start.args(["run", "--rm", "--read-only", IMAGE]);
        assert_names_missing_variables(&mut start).await;
    } else {
        check_with_buildah().await;
    }
}

async fn check_with_buildah() {
    let container = stdout(&buildah_output(&["from", IMAGE]).await);
    let inspected = buildah_output(&["inspect", "--type", "image", IMAGE]).await;
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/listener"]));
    let mounted = stdout(&buildah_output(&["mount", &container]).await);
    let mut files = files_in(Path::new(&mounted), "");
    files.sort();
    assert_eq!(
        files,
        ["/etc/ssl/certs/ca-certificates.crt", "/listener"],
        "the image contains no other files"
    );
    // Without a container runtime, run it chrooted into the image as its user.
    let mut start = Command::new("/usr/sbin/chroot");
    start.args(["--userspec=65532:65532", &mounted, "/listener"]);
    assert_names_missing_variables(&mut start).await;
    buildah_output(&["rm", &container]).await;
    buildah_output(&["rmi", IMAGE]).await;
}

/// Without environment variables the program names those that are missing. So it starts, and needs
/// no libraries of the host.
async fn assert_names_missing_variables(command: &mut Command) {
    let output = command.env_clear().output().await.unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for variable in [
        "RELAYS",
        "TABLE_PREFIX",
        "CONTROL_QUEUE_URL",
        "EVENT_QUEUE_URL",
        "PROFILE_QUEUE_URL",
        "SERVICE_KEY_SECRET",
    ] {
        assert!(message.contains(variable), "{variable}: {message}");
    }
}

fn buildah(arguments: &[&str]) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs"]).args(arguments);
    command
}

async fn buildah_output(arguments: &[&str]) -> Output {
    buildah(arguments).output().await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x86_64"
    }
}

/// The paths of all files in a folder. `prefix` is the folder's own path.
fn files_in(folder: &Path, prefix: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_in(&entry.path(), &path));
        } else {
            files.push(path);
        }
    }
    files
}
