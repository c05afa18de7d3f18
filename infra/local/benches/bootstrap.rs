//! The costs of a cold start: the size of each deployed bootstrap, and the time from the start of
//! its process to its first poll of the Runtime API. Functions that need the service key read it
//! before they poll.
//!
//! `cargo bench -p nostr-push-local --bench bootstrap`

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nostr::key::Keys;
use nostr_push_aws::clients;
use nostr_push_local::{
    aws::{Aws, LocalPorts, STACK, build_optimized_functions},
    root,
    tools::Tools,
};
use tokio::{io::AsyncReadExt, net::TcpListener, process::Command};

/// The number of starts of each function.
const RUNS: usize = 30;

/// A Python program that prints the size of a file in a zip archive.
const ZIP_SIZE: &str = "import io, sys, zipfile
archive = io.BytesIO()
with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as z: z.write(sys.argv[1], 'bootstrap')
print(len(archive.getvalue()))";

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` only checks that the bench compiles: a release build takes minutes.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    build_optimized_functions(&tools).await?;
    let data = tempfile::tempdir()?;
    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY).await?;
    let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
    let secrets = aws_sdk_secretsmanager::Client::new(&config);
    secrets
        .create_secret()
        .name("key")
        .secret_string(Keys::generate().secret_key().to_secret_hex())
        .send()
        .await?;
    println!(
        "{:>10}  {:>10}  {:>10}  {:>20}",
        "function", "bytes", "zipped", "start to first poll"
    );
    for function in ["Control", "Matcher", "Deliver"] {
        let bootstrap = root().join(format!(".aws-sam/build/{function}Function/bootstrap"));
        let mut times = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            times.push(time_to_first_poll(&bootstrap, &aws).await?);
        }
        times.sort();
        println!(
            "{function:>10}  {:>10}  {:>10}  {:>20.1?}",
            std::fs::metadata(&bootstrap)?.len(),
            zipped_size(&tools, &bootstrap).await?,
            times[RUNS / 2]
        );
    }
    aws.stop().await;
    Ok(())
}

async fn time_to_first_poll(bootstrap: &Path, aws: &Aws) -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut command = Command::new(bootstrap);
    command
        .envs(aws.environment())
        .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string())
        .envs([
            ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "bench"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
            ("TABLE_PREFIX", STACK),
            ("SERVICE_KEY_SECRET", "key"),
            ("CONTROL_QUEUE_URL", "http://127.0.0.1:9/0/control"),
            ("EVENT_QUEUE_URL", "http://127.0.0.1:9/0/event"),
            ("DELIVERY_QUEUE_URL", "http://127.0.0.1:9/0/delivery"),
            ("PROFILE_QUEUE_URL", "http://127.0.0.1:9/0/profile"),
        ]);
    let started = Instant::now();
    let mut process = command.kill_on_drop(true).spawn()?;
    let (mut connection, _) = tokio::select! {
        accepted = listener.accept() => accepted?,
        status = process.wait() => anyhow::bail!("{} exited: {}", bootstrap.display(), status?),
    };
    let mut request = [0; 256];
    let length = connection.read(&mut request).await?;
    let elapsed = started.elapsed();
    anyhow::ensure!(
        request[..length].starts_with(b"GET /2018-06-01/runtime/invocation/next"),
        "the first request is not a poll"
    );
    process.kill().await?;
    Ok(elapsed)
}

/// The size of the bootstrap in the archive that `sam package` creates.
async fn zipped_size(tools: &Tools, bootstrap: &Path) -> Result<u64> {
    let mut python = Command::new(tools.aws("python"));
    let output = python
        .args(["-c", ZIP_SIZE])
        .arg(bootstrap)
        .output()
        .await?;
    String::from_utf8(output.stdout)?
        .trim()
        .parse()
        .context("Python printed no size")
}
