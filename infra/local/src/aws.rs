//! The local AWS endpoint, and the deployment to it.

mod apps;
mod deployment;

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nostr_push_aws::clients;
use nostr_push_testkit::free_port;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, task::JoinHandle};

pub use self::{
    apps::{put_app, report_endpoint_events},
    deployment::{
        build, build_optimized_functions, create_tables, create_tables_with_prefix, deploy,
        local_build, transformed_template, without_package_variables,
    },
};
use crate::{process::Service, proxy::ServiceProxy, root, sns_proxy::Proxy, step, tools::Tools};

/// The name of the stack, as in `samconfig.toml`.
pub const STACK: &str = "nostr-push";

/// The region of the local endpoint.
pub const REGION: &str = "us-east-1";

/// The account of the local endpoint.
pub const ACCOUNT: &str = "000000000000";

/// The TCP ports of one data folder. They stay the same across restarts, because queue URLs contain
/// them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LocalPorts {
    /// The port of ministack.
    pub endpoint: u16,
    /// The port of the SNS proxy.
    pub sns: u16,
}

impl LocalPorts {
    /// The ports of `cargo local`, which `docs/local.md` names.
    pub const DEFAULT: Self = Self {
        endpoint: 4566,
        sns: 4567,
    };
    /// Any free ports, for tests that run at the same time.
    pub const ANY: Self = Self {
        endpoint: 0,
        sns: 0,
    };
}

/// The local AWS endpoint: ministack, and moto behind a proxy for SNS.
pub struct Aws {
    /// ministack, the endpoint of everything except SNS.
    pub ministack: Service,
    moto: Service,
    /// The proxy in front of SNS.
    pub sns: Proxy,
    sns_server: JoinHandle<()>,
    urls: Urls,
    /// The environment of the functions and the listener. Its URLs may be those of a proxy.
    service_environment: HashMap<String, String>,
}

/// The two endpoints.
#[derive(Clone)]
struct Urls {
    endpoint: String,
    sns: String,
}

impl Aws {
    /// Starts the endpoint with the state in the folder `data`. `ports` applies to a new folder.
    ///
    /// # Errors
    /// A program cannot be started, or a port is in use.
    pub async fn start(tools: &Tools, data: &Path, ports: LocalPorts) -> Result<Self> {
        Self::start_behind(tools, data, ports, None).await
    }

    /// As [`start`](Self::start), with a proxy for the requests of the functions and the listener.
    ///
    /// # Errors
    /// A program cannot be started, or a port is in use.
    pub async fn start_behind(
        tools: &Tools,
        data: &Path,
        ports: LocalPorts,
        proxy: Option<&ServiceProxy>,
    ) -> Result<Self> {
        let logs = data.join("logs");
        // Logs of an earlier start.
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs)?;
        let ports = stored_ports(data, ports)?;
        let urls = Urls {
            endpoint: url(ports.endpoint),
            sns: url(ports.sns),
        };
        step("starting moto (SNS) and its proxy");
        let (moto, moto_url) = start_moto(tools, &logs).await?;
        let topics = clients::at(&urls.environment(), "AWS_ENDPOINT_URL").await;
        let topics = aws_sdk_sns::Client::new(&topics);
        let sns = Proxy::open(moto_url, data, topics).await?;
        let sns_address = SocketAddr::from(([127, 0, 0, 1], ports.sns));
        let sns_server = sns.serve(sns_address).await?;

        let service_environment = match proxy {
            None => urls.environment(),
            Some(proxy) => Urls {
                endpoint: proxy.serve(&urls.endpoint).await?,
                sns: proxy.serve(&urls.sns).await?,
            }
            .environment(),
        };
        step("starting ministack (all other services)");
        let mut ministack = Service::start(
            "ministack",
            &mut ministack(tools, data, ports.endpoint, &service_environment)?,
            &logs,
        )?;
        let health = format!("{}/_ministack/health", urls.endpoint);
        ministack.wait_until_ready(|| succeeds(&health)).await?;
        Ok(Self {
            ministack,
            moto,
            sns,
            sns_server,
            urls,
            service_environment,
        })
    }

    /// The environment of a program that uses the endpoint.
    pub fn environment(&self) -> HashMap<String, String> {
        self.urls.environment()
    }

    /// The environment of the service itself. If there is a proxy, requests go through it.
    pub fn service_environment(&self) -> &HashMap<String, String> {
        &self.service_environment
    }

    /// Waits until one of the programs exits, and returns a message about it.
    pub async fn wait_for_exit(&mut self) -> String {
        tokio::select! {
            message = self.ministack.wait_for_exit() => message,
            message = self.moto.wait_for_exit() => message,
        }
    }

    /// Stops the endpoint. ministack writes its state.
    pub async fn stop(self) {
        self.ministack.stop().await;
        self.sns_server.abort();
        self.moto.stop().await;
    }
}

impl Urls {
    /// These endpoints with dummy credentials.
    fn environment(&self) -> HashMap<String, String> {
        let pairs = [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ENDPOINT_URL_SNS", self.sns.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }
}

/// Starts moto. Returns its URL as well.
async fn start_moto(tools: &Tools, logs: &Path) -> Result<(Service, String)> {
    let port = free_port(0);
    let mut command = Command::new(tools.aws("python"));
    command
        .arg(root().join("infra/local/tools/sns.py"))
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .env("MOTO_ACCOUNT_ID", ACCOUNT);
    let mut moto = Service::start("moto", &mut command, logs)?;
    let status = format!("{}/moto-api/data.json", url(port));
    moto.wait_until_ready(|| succeeds(&status)).await?;
    Ok((moto, url(port)))
}

/// The command that starts ministack. The functions inherit its environment.
fn ministack(
    tools: &Tools,
    data: &Path,
    port: u16,
    service_environment: &HashMap<String, String>,
) -> Result<Command> {
    let state = data.join("ministack");
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = state.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    let mut command = Command::new(tools.aws("python"));
    command
        .arg(root().join("infra/local/tools/endpoint.py"))
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("IOT_MTLS_ENABLED", "0")
        .env("SFTP_ENABLED", "0")
        .env("PERSIST_STATE", "1")
        .env("STATE_DIR", &state)
        .env("S3_PERSIST", "1")
        .env("S3_DATA_DIR", folder("s3")?)
        .env("TMPDIR", folder("tmp")?)
        .envs(service_environment);
    Ok(command)
}

/// The ports that are stored in `data`. If there are none, stores the preferred ports, or free
/// ports in place of those in use.
fn stored_ports(data: &Path, preferred: LocalPorts) -> Result<LocalPorts> {
    let file = data.join("ports.json");
    if let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()));
    }
    let ports = LocalPorts {
        endpoint: free_port(preferred.endpoint),
        sns: free_port(preferred.sns),
    };
    fs::write(file, serde_json::to_string(&ports)?)?;
    Ok(ports)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Returns `true` if a GET of this URL succeeds.
pub(crate) async fn succeeds(url: &str) -> bool {
    reqwest::get(url)
        .await
        .is_ok_and(|response| response.status().is_success())
}

/// An `Authorization` header without a valid signature. The local endpoint checks no signatures,
/// but reads the region and the service from the header.
pub(crate) fn unsigned_authorization(region: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=local/20260101/{region}/{service}/aws4_request, \
         SignedHeaders=host, Signature=0"
    )
}
