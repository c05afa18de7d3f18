//! The local AWS endpoint, and the deployment onto it.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::app::{App, Platform};
use nostr_push_testkit::free_port;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, task::JoinHandle};

use crate::{
    meter::Meter,
    process::{Service, run},
    root,
    sns_proxy::Proxy,
    step,
    tools::Tools,
};

/// The name of the stack, as in `samconfig.toml`.
pub const STACK: &str = "nostr-push";

/// The region of everything local.
pub const REGION: &str = "us-east-1";

/// The ports of one data directory. Queue URLs hold them, so they stay the same.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ports {
    /// Of ministack.
    pub endpoint: u16,
    /// Of the proxy before SNS.
    pub sns: u16,
}

impl Ports {
    /// The ones that people know, for `cargo local`.
    pub const USUAL: Self = Self {
        endpoint: 4566,
        sns: 4567,
    };
    /// Any, for tests that run at the same time.
    pub const ANY: Self = Self {
        endpoint: 0,
        sns: 0,
    };
}

/// The local AWS endpoint.
pub struct Aws {
    /// ministack.
    pub ministack: Service,
    moto: Service,
    /// Before SNS.
    pub sns: Proxy,
    sns_server: JoinHandle<()>,
    endpoint: String,
    sns_endpoint: String,
    /// What the functions and the listener are given in its place: the same, or through a meter.
    service_environment: HashMap<String, String>,
}

impl Aws {
    /// Starts it, with the state that `data` holds.
    ///
    /// # Errors
    /// A program cannot be started, or a port is taken.
    pub async fn start(tools: &Tools, data: &Path, wished: Ports) -> Result<Self> {
        Self::start_metered(tools, data, wished, None).await
    }

    /// Starts it so that a meter counts what the functions and the listener ask of it.
    ///
    /// # Errors
    /// A program cannot be started, or a port is taken.
    pub async fn start_metered(
        tools: &Tools,
        data: &Path,
        wished: Ports,
        meter: Option<&Meter>,
    ) -> Result<Self> {
        let logs = data.join("logs");
        // Those of an earlier start.
        let _ = fs::remove_dir_all(&logs);
        let state = data.join("ministack");
        for directory in [&logs, &state, &state.join("s3"), &state.join("tmp")] {
            fs::create_dir_all(directory)?;
        }
        let ports = ports(data, wished)?;
        let (endpoint, sns_endpoint) = (url(ports.endpoint), url(ports.sns));

        step("starting moto (SNS) behind the recording proxy");
        let moto_port = free_port(0);
        let mut command = Command::new(tools.aws("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &moto_port.to_string()]);
        let mut moto = Service::start("moto", &mut command, &logs)?;
        let moto_url = url(moto_port);
        moto.ready(|| answers(format!("{moto_url}/moto-api/data.json")))
            .await?;
        let events = aws_sdk_sns::Client::new(
            &clients::at(&environment(&endpoint, &sns_endpoint), "AWS_ENDPOINT_URL").await,
        );
        let sns = Proxy::open(moto_url, data, events).await?;
        let sns_server = sns
            .serve(SocketAddr::from(([127, 0, 0, 1], ports.sns)))
            .await?;

        let service_environment = match meter {
            Some(meter) => environment(
                &meter.before(&endpoint).await?,
                &meter.before(&sns_endpoint).await?,
            ),
            None => environment(&endpoint, &sns_endpoint),
        };
        step("starting ministack (everything else)");
        let mut command = Command::new(tools.aws("python"));
        command
            .arg(root().join("infra/local/tools/endpoint.py"))
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", ports.endpoint.to_string())
            .env("IOT_MTLS_ENABLED", "0")
            .env("SFTP_ENABLED", "0")
            .env("PERSIST_STATE", "1")
            .env("STATE_DIR", &state)
            .env("S3_PERSIST", "1")
            .env("S3_DATA_DIR", state.join("s3"))
            .env("TMPDIR", state.join("tmp"))
            // The functions inherit these. Without them they would call the real AWS.
            .envs(&service_environment);
        let mut ministack = Service::start("ministack", &mut command, &logs)?;
        ministack
            .ready(|| answers(format!("{endpoint}/_ministack/health")))
            .await?;
        Ok(Self {
            ministack,
            moto,
            sns,
            sns_server,
            endpoint,
            sns_endpoint,
            service_environment,
        })
    }

    /// What a program needs in its environment to use this endpoint.
    pub fn environment(&self) -> HashMap<String, String> {
        environment(&self.endpoint, &self.sns_endpoint)
    }

    /// What the service itself needs for it: the same, but through the meter if there is one.
    pub fn service_environment(&self) -> &HashMap<String, String> {
        &self.service_environment
    }

    /// Waits until one of its programs ends by itself.
    pub async fn ended(&mut self) -> String {
        tokio::select! {
            ended = self.ministack.ended() => ended,
            ended = self.moto.ended() => ended,
        }
    }

    /// Stops it, its state written.
    pub async fn stop(self) {
        self.ministack.stop().await;
        self.sns_server.abort();
        self.moto.stop().await;
    }
}

/// Dummy credentials, and the two endpoints.
fn environment(endpoint: &str, sns_endpoint: &str) -> HashMap<String, String> {
    let pairs = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ENDPOINT_URL_SNS", sns_endpoint),
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

/// Builds the functions by `sam build`, and the listener. Answers its path.
///
/// # Errors
/// Something does not compile.
pub async fn build(tools: &Tools) -> Result<PathBuf> {
    step("sam build (some minutes at first, seconds after)");
    let mut build = tools.sam("sam");
    build
        .current_dir(root())
        .args(["build", "--config-env", "local"])
        .env("AWS_DEFAULT_REGION", REGION);
    run(without_package(&mut build), "sam build").await?;
    step("building the listener, as its image holds it");
    let mut listener = Command::new(root().join("infra/image/listener"));
    let output = without_package(&mut listener)
        .arg("x86_64")
        .stderr(Stdio::inherit())
        .output()
        .await?;
    let path = String::from_utf8(output.stdout)?
        .lines()
        .last()
        .map(PathBuf::from);
    path.filter(|_| output.status.success())
        .context("infra/image/listener failed")
}

/// Takes out what `cargo test` says of the package that it tests: cargo would build all anew for
/// the next package's tests.
fn without_package(command: &mut Command) -> &mut Command {
    let says = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    for name in env::vars()
        .map(|(name, _)| name)
        .filter(|name| says.iter().any(|prefix| name.starts_with(prefix)))
    {
        command.env_remove(name);
    }
    command
}

/// One output of the stack, as the SAM CLI lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

/// Deploys the built template by `sam deploy`. Answers the stack's outputs.
///
/// # Errors
/// The deployment failed.
pub async fn deploy(tools: &Tools, aws: &Aws) -> Result<BTreeMap<String, String>> {
    step("sam deploy onto the local endpoint");
    let mut command = tools.sam("sam");
    command
        .current_dir(root())
        .args(["deploy", "--config-env", "local"])
        .envs(aws.environment());
    run(&mut command, "sam deploy").await?;
    let mut list = tools.sam("sam");
    list.current_dir(root())
        .args([
            "list",
            "stack-outputs",
            "--stack-name",
            STACK,
            "--output",
            "json",
        ])
        .envs(aws.environment());
    let output = list.output().await?;
    let outputs: Vec<Output> = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(outputs
        .into_iter()
        .map(|output| (output.output_key, output.output_value))
        .collect())
}

/// Stores an app with its platform applications, made or found.
///
/// # Errors
/// The endpoint failed.
pub async fn put_app(
    environment: &HashMap<String, String>,
    mut app: App,
    platforms: &[Platform],
) -> Result<App> {
    let sns = aws_sdk_sns::Client::new(&clients::at(environment, "AWS_ENDPOINT_URL_SNS").await);
    for platform in platforms {
        let (key, credential) = match platform {
            Platform::Apns => ("APNS", "local"),
            Platform::ApnsSandbox => ("APNS_SANDBOX", "local"),
            Platform::Fcm => ("GCM", "local"),
        };
        let request = sns
            .create_platform_application()
            .name(&app.app)
            .platform(key)
            .attributes("PlatformCredential", credential);
        let arn = request
            .send()
            .await?
            .platform_application_arn
            .context("no ARN")?;
        app.platforms.insert(*platform, arn);
    }
    Store::new(&clients::at(environment, "AWS_ENDPOINT_URL").await, STACK)
        .put_app(&app)
        .await?;
    Ok(app)
}

/// Has the app's platform applications tell this topic what happens to their endpoints.
///
/// # Errors
/// The endpoint failed.
pub async fn tell(environment: &HashMap<String, String>, app: &App, topic: &str) -> Result<()> {
    let sns = aws_sdk_sns::Client::new(&clients::at(environment, "AWS_ENDPOINT_URL_SNS").await);
    for arn in app.platforms.values() {
        let mut request = sns
            .set_platform_application_attributes()
            .platform_application_arn(arn);
        for event in [
            "EventEndpointDeleted",
            "EventEndpointUpdated",
            "EventDeliveryFailure",
        ] {
            request = request.attributes(event, topic);
        }
        request.send().await?;
    }
    Ok(())
}

/// The tables of the template under the prefix [`STACK`], without deploying the rest: for tests of
/// single parts.
///
/// # Errors
/// The template cannot be read, or the endpoint refuses a table.
pub async fn create_tables(tools: &Tools, environment: &HashMap<String, String>) -> Result<()> {
    let template = transformed_template(tools, "template.yaml").await?;
    let resources = template["Resources"]
        .as_object()
        .context("a template has resources")?;
    for table in resources
        .values()
        .filter(|resource| resource["Type"] == "AWS::DynamoDB::Table")
    {
        let mut properties = table["Properties"].clone();
        let name = properties["TableName"]["Fn::Sub"]
            .as_str()
            .context("a table has a name")?
            .replace("${AWS::StackName}", STACK);
        properties["TableName"] = name.as_str().into();
        for other in [
            "TimeToLiveSpecification",
            "PointInTimeRecoverySpecification",
            "SSESpecification",
        ] {
            properties
                .as_object_mut()
                .and_then(|properties| properties.remove(other));
        }
        // The properties of CloudFormation are the parameters of the API, so they go as they are.
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=local/20260101/{REGION}/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = reqwest::Client::new()
            .post(&environment["AWS_ENDPOINT_URL"])
            .header("X-Amz-Target", "DynamoDB_20120810.CreateTable");
        let request = request
            .header("Content-Type", "application/x-amz-json-1.0")
            .header("Authorization", scope)
            .header("X-Amz-Date", "20260101T000000Z");
        let answer = request.body(properties.to_string()).send().await?;
        if !answer.status().is_success() {
            bail!("{name} was not created: {}", answer.text().await?);
        }
    }
    Ok(())
}

/// A template of the project after the SAM transform, as CloudFormation will see it.
///
/// # Errors
/// It is no valid SAM template.
pub async fn transformed_template(tools: &Tools, template: &str) -> Result<serde_json::Value> {
    let mut python = Command::new(tools.aws("python"));
    python
        .current_dir(root())
        .args(["infra/local/tools/transform.py", template])
        .env("AWS_DEFAULT_REGION", REGION);
    let output = python.output().await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The ports written down in `data`, or the wished ones where they are free, or any.
fn ports(data: &Path, wished: Ports) -> Result<Ports> {
    let file = data.join("ports.json");
    if let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()));
    }
    let ports = Ports {
        endpoint: free_port(wished.endpoint),
        sns: free_port(wished.sns),
    };
    fs::write(file, serde_json::to_string(&ports)?)?;
    Ok(ports)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Whether a GET of this URL succeeds.
pub(crate) async fn answers(url: String) -> bool {
    reqwest::get(url)
        .await
        .is_ok_and(|answer| answer.status().is_success())
}
