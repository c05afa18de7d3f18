//! A release folder is deployed onto the local AWS endpoint, after a first deployment that fails.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use aws_sdk_cloudformation::Client;
use nostr_push_aws::clients;
use nostr_push_local::{
    aws::{Aws, LocalPorts, REGION, STACK},
    packages::{has_buildah, has_package},
    process::{Service, run},
    report_skipped, root,
    tools::Tools,
};
use nostr_push_testkit::free_port;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// How long one deployment may take.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(1200);

/// A resource that AWS and the local endpoint refuse to create, after all others.
const BROKEN: &str = "Resources:
  Broken:
    Type: AWS::SSM::Parameter
    DependsOn: [Observability, Listener, AppsTable]
    Properties: {Type: SecureString, Value: x}
";

#[tokio::test(flavor = "multi_thread")]
async fn release_is_deployed_after_a_failed_first_deployment() {
    let installed = has_buildah().await
        && has_package("skopeo", "skopeo").await
        && has_package("docker-registry", "docker-registry").await;
    if !installed {
        return report_skipped(
            "the test of a release folder needs buildah with permission to mount, skopeo and a \
             registry (Debian, as root: apt-get install buildah skopeo docker-registry)",
        );
    }
    let stack = Stack::start().await;
    let release = stack.make_release().await;
    assert_release_is_complete(&release);

    // A release whose template contains a resource that cannot be created deploys itself.
    let broken = stack.broken_copy(&release).await;
    let (succeeded, output) = stack.deploy(&broken, &[]).await;
    assert!(!succeeded, "{output}");
    for text in [
        "== stack nostr-push in us-east-1 of account 000000000000: absent",
        "   Broken: ",
        "the deployment failed, and the status of nostr-push is ROLLBACK_COMPLETE",
    ] {
        assert!(output.contains(text), "{text}: {output}");
    }

    assert_eq!(
        stack.cli("dynamodb list-tables --query TableNames").await,
        "[]"
    );

    let from = release.to_string_lossy();
    let arguments = ["--from", &*from, "AvailabilityZones=us-east-1b,us-east-1c"];
    let (succeeded, output) = stack.deploy(root(), &arguments).await;
    assert!(succeeded, "{output}");
    for text in [
        "of account 000000000000: ROLLBACK_COMPLETE",
        "It is deleted now, and deployed again.",
        "sam deploy, without the listener: the first deployment",
        "== deployed: https://",
    ] {
        assert!(output.contains(text), "{text}: {output}");
    }
    assert_eq!(stack.status().await, "UPDATE_COMPLETE");
    let zones = "ec2 describe-subnets --output text --query \
        Subnets[?starts_with(CidrBlock,'10.42.0.')].AvailabilityZone|sort(@)|join(',',@)";
    assert_eq!(stack.cli(zones).await, "us-east-1b,us-east-1c");
    let image = stack.listener_image().await;
    stack.assert_image_is_in_the_registry(&image).await;

    let updated = stack.last_update().await;
    let (succeeded, output) = stack.deploy(&release, &[]).await;
    assert!(succeeded, "{output}");
    let text = "of account 000000000000: UPDATE_COMPLETE";
    assert!(output.contains(text), "{output}");
    assert_eq!(stack.listener_image().await, image);
    assert_eq!(stack.last_update().await, updated, "nothing has changed");
    stack.stop().await;
}

fn assert_release_is_complete(release: &Path) {
    let sums = fs::read_to_string(release.join("SHA256SUMS")).unwrap();
    for file in [
        "VERSION",
        "infra/deploy",
        "infra/github/deploy.yml",
        "docs/first-deployment.md",
        "x86_64/template.yaml",
        "x86_64/listener.oci.tar",
        "x86_64/ControlFunction/bootstrap",
        "x86_64/FeedbackFunction/bootstrap",
    ] {
        let line = format!("  ./{file}\n");
        assert!(sums.contains(&line), "{file}: {sums}");
    }
    assert!(release.join("samconfig.toml").exists());
    assert!(!sums.contains("samconfig.toml"), "operators edit it");
    // Paths of the machine that made the release would not exist elsewhere.
    for template in ["x86_64/template.yaml", "x86_64/Listener/template.yaml"] {
        let text = fs::read_to_string(release.join(template)).unwrap();
        let here = root().to_string_lossy();
        assert!(!text.contains(&*here), "{template}: {text}");
    }
}

struct Stack {
    aws: Aws,
    registry: Service,
    registry_address: String,
    cloudformation: Client,
    path: OsString,
    data: tempfile::TempDir,
}

impl Stack {
    async fn start() -> Self {
        let tools = Tools::install().await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
            .await
            .unwrap();
        let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
        let (registry, registry_address) = start_registry(data.path()).await;
        // The folder of SAM is the first one: cargo-lambda looks for zig with the first `python3`.
        let mut path = vec![tools.sam_bin(), Tools::install_aws_cli().await.unwrap()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        Self {
            path: std::env::join_paths(path).unwrap(),
            cloudformation: Client::new(&config),
            aws,
            registry,
            registry_address,
            data,
        }
    }

    async fn stop(self) {
        self.aws.stop().await;
        self.registry.stop().await;
    }

    /// Makes a release for `x86_64` only, which other tests build as well.
    async fn make_release(&self) -> PathBuf {
        let folder = self.data.path().join("release");
        let mut release = Command::new(root().join("infra/release"));
        release
            .args(["--architecture", "x86_64"])
            .args(["--without-pushctl", "--without-sbom"])
            .arg(&folder)
            .env("PATH", &self.path)
            .env("SAM_CLI_TELEMETRY", "0")
            .env("AWS_DEFAULT_REGION", REGION)
            .stdout(Stdio::null());
        let release = nostr_push_local::aws::local_build(&mut release);
        run(release, "infra/release").await.unwrap();
        folder
    }

    /// A copy of the release with a resource that cannot be created, and with right checksums.
    async fn broken_copy(&self, release: &Path) -> PathBuf {
        let broken = self.data.path().join("broken");
        let mut copy = Command::new("cp");
        copy.arg("-R").args([release, &broken]);
        run(&mut copy, "cp").await.unwrap();
        let template = broken.join("x86_64/template.yaml");
        let text = fs::read_to_string(&template).unwrap();
        assert!(text.contains("\nResources:\n"));
        fs::write(&template, text.replacen("Resources:\n", BROKEN, 1)).unwrap();
        let mut sums = Command::new("sh");
        let sum = "f=./x86_64/template.yaml; grep -v \" $f\\$\" SHA256SUMS >new; \
            sha256sum $f >>new; mv new SHA256SUMS";
        sums.args(["-c", sum]).current_dir(&broken);
        run(&mut sums, "sha256sum").await.unwrap();
        broken
    }

    /// Runs `infra/deploy` of this folder. Returns `true` if it succeeded, and what it printed.
    async fn deploy(&self, folder: &Path, arguments: &[&str]) -> (bool, String) {
        let mut deploy = Command::new(folder.join("infra/deploy"));
        deploy
            .args(["--config-env", "local"])
            .args(arguments)
            .envs(self.aws.environment())
            .env("PATH", &self.path)
            .env("SAM_CLI_TELEMETRY", "0")
            .env("NOSTR_PUSH_TEST_REGISTRY", &self.registry_address)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(DEPLOY_TIMEOUT, deploy.output()).await;
        let output = output.expect("the deployment ends").unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        println!("{text}");
        (output.status.success(), text)
    }

    /// Runs the AWS CLI with these arguments, separated by spaces. Returns what it prints.
    async fn cli(&self, arguments: &str) -> String {
        let mut aws = Command::new("aws");
        aws.args(arguments.split_whitespace())
            .env("PATH", &self.path)
            .envs(self.aws.environment());
        let output = aws.output().await.unwrap();
        assert!(output.status.success(), "aws {arguments}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn describe(&self) -> aws_sdk_cloudformation::types::Stack {
        let request = self.cloudformation.describe_stacks().stack_name(STACK);
        request.send().await.unwrap().stacks.unwrap().remove(0)
    }

    async fn status(&self) -> String {
        let status = self.describe().await.stack_status.unwrap();
        status.as_str().to_owned()
    }

    async fn last_update(&self) -> Option<String> {
        let time = self.describe().await.last_updated_time;
        time.map(|time| time.to_string())
    }

    async fn listener_image(&self) -> String {
        let parameters = self.describe().await.parameters.unwrap();
        let mut parameters = parameters.into_iter();
        let image = parameters.find(|p| p.parameter_key() == Some("ListenerImage"));
        image.unwrap().parameter_value.unwrap()
    }

    /// The stack names the image in ECR, by the digest that the registry has.
    async fn assert_image_is_in_the_registry(&self, image: &str) {
        let (registry, rest) = image.split_once('/').unwrap();
        assert_eq!(registry, "000000000000.dkr.ecr.us-east-1.amazonaws.com");
        assert!(rest.starts_with("nostr-push-listener@sha256:"), "{rest}");
        let mut inspect = Command::new("skopeo");
        inspect.args(["inspect", "--config", "--tls-verify=false"]);
        inspect.arg(format!("docker://{}/{rest}", self.registry_address));
        let output = inspect.output().await.unwrap();
        let config: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(config["architecture"], "amd64");
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"][0], "/listener");
    }
}

/// Starts a registry in place of ECR. Returns its address.
async fn start_registry(data: &Path) -> (Service, String) {
    let address = format!("127.0.0.1:{}", free_port(0));
    let config = data.join("registry.yml");
    let folder = data.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
        folder.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    let mut registry = Service::start("registry", &mut command, data).unwrap();
    let url = format!("http://{address}/v2/");
    let is_ready = async || {
        let response = reqwest::get(&url).await;
        response.is_ok_and(|response| response.status().is_success())
    };
    registry.wait_until_ready(is_ready).await.unwrap();
    (registry, address)
}
