//! Builds the functions and the listener, and deploys the template.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, sync::OnceCell};

use super::{Aws, REGION, STACK, unsigned_authorization};
use crate::{process::run, root, step, tools::Tools};

/// The prefixes of the variables that `cargo test` sets for the package under test.
const PACKAGE_VARIABLES: [&str; 5] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_PRIMARY_",
];

/// Properties of a table that [`create_tables`] leaves out: `CreateTable` does not have them, or
/// has them in another form.
const OTHER_TABLE_PROPERTIES: [&str; 5] = [
    "DeletionProtectionEnabled",
    "StreamSpecification",
    "TimeToLiveSpecification",
    "PointInTimeRecoverySpecification",
    "SSESpecification",
];

/// Builds the functions with `sam build` and the listener, to run on this machine. Returns the path
/// of the listener. It builds once per process, because tests start several stacks.
///
/// # Errors
/// A build failed.
pub async fn build(tools: &Tools) -> Result<PathBuf> {
    static LISTENER: OnceCell<PathBuf> = OnceCell::const_new();
    LISTENER.get_or_try_init(|| build_all(tools)).await.cloned()
}

async fn build_all(tools: &Tools) -> Result<PathBuf> {
    step("sam build (some minutes the first time, seconds afterwards)");
    run(local_build(&mut sam_build(tools)), "sam build").await?;
    step("building the listener as for its image");
    let mut listener = Command::new(root().join("infra/image/listener"));
    let output = without_package_variables(&mut listener)
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

/// Builds the functions with all optimizations, as `infra/deploy` does.
///
/// # Errors
/// The build failed.
pub async fn build_optimized_functions(tools: &Tools) -> Result<()> {
    step("sam build, with all optimizations (some minutes)");
    let mut build = sam_build(tools);
    run(without_package_variables(&mut build), "sam build").await
}

fn sam_build(tools: &Tools) -> Command {
    let mut build = tools.sam("sam");
    build
        .current_dir(root())
        .args(["build", "--config-env", "local"])
        .env("AWS_DEFAULT_REGION", REGION);
    build
}

/// Makes a build of the functions quicker: without link-time optimization, because its result is
/// not deployed.
pub fn local_build(command: &mut Command) -> &mut Command {
    without_package_variables(command)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
}

/// Removes the variables of the package under test. If they changed from build to build, cargo
/// would compile everything again for each package's tests.
pub fn without_package_variables(command: &mut Command) -> &mut Command {
    let is_of_package = |name: &String| {
        PACKAGE_VARIABLES
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for name in env::vars().map(|(name, _)| name).filter(is_of_package) {
        command.env_remove(name);
    }
    command
}

/// One output of the stack, as the SAM CLI prints it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

/// Deploys the built template with `sam deploy`. Returns the outputs of the stack.
///
/// # Errors
/// The deployment failed.
pub async fn deploy(tools: &Tools, aws: &Aws) -> Result<BTreeMap<String, String>> {
    step("sam deploy to the local endpoint");
    let sam = || {
        let mut command = tools.sam("sam");
        command.current_dir(root()).envs(aws.environment());
        command
    };
    let mut deploy = sam();
    deploy.args(["deploy", "--config-env", "local"]);
    run(&mut deploy, "sam deploy").await?;
    let mut list = sam();
    list.args(["list", "stack-outputs", "--stack-name", STACK])
        .args(["--output", "json"]);
    let output = list.output().await?;
    let outputs: Vec<Output> = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(outputs
        .into_iter()
        .map(|output| (output.output_key, output.output_value))
        .collect())
}

/// Creates the tables of the template with the prefix [`STACK`], without their streams and without
/// deploying the rest. For tests of single parts.
///
/// # Errors
/// The template cannot be read, or the endpoint refuses a table.
pub async fn create_tables(tools: &Tools, environment: &HashMap<String, String>) -> Result<()> {
    create_tables_with_prefix(tools, environment, STACK).await
}

/// As [`create_tables`], with this prefix.
///
/// # Errors
/// The template cannot be read, or the endpoint refuses a table.
pub async fn create_tables_with_prefix(
    tools: &Tools,
    environment: &HashMap<String, String>,
    prefix: &str,
) -> Result<()> {
    let template = transformed_template(tools, "template.yaml").await?;
    let resources = template["Resources"]
        .as_object()
        .context("the template has no resources")?;
    for resource in resources.values() {
        if resource["Type"] == "AWS::DynamoDB::Table" {
            create_table(environment, resource["Properties"].clone(), prefix).await?;
        }
    }
    Ok(())
}

/// Creates a table with these properties of CloudFormation, which have the form of the parameters
/// of `CreateTable`.
async fn create_table(
    environment: &HashMap<String, String>,
    mut table: Value,
    prefix: &str,
) -> Result<()> {
    let suffix = table_suffix(&table).context("a table has no name")?;
    let name = format!("{prefix}{suffix}");
    table["TableName"] = name.as_str().into();
    if let Some(properties) = table.as_object_mut() {
        properties.retain(|property, _| !OTHER_TABLE_PROPERTIES.contains(&property.as_str()));
    }
    let request = reqwest::Client::new()
        .post(&environment["AWS_ENDPOINT_URL"])
        .header("X-Amz-Target", "DynamoDB_20120810.CreateTable")
        .header("Content-Type", "application/x-amz-json-1.0")
        .header("Authorization", unsigned_authorization(REGION, "dynamodb"))
        .header("X-Amz-Date", "20260101T000000Z");
    let response = request.body(table.to_string()).send().await?;
    if !response.status().is_success() {
        bail!("cannot create {name}: {}", response.text().await?);
    }
    Ok(())
}

/// What follows the prefix in the name of a table: `{Fn::Sub: ["${Prefix}-devices", …]}`.
fn table_suffix(table: &Value) -> Option<&str> {
    let name = table["TableName"]["Fn::Sub"][0].as_str()?;
    name.strip_prefix("${Prefix}")
}

/// A template of the repository after the SAM transform, as CloudFormation receives it.
///
/// # Errors
/// The file is not a valid SAM template.
pub async fn transformed_template(tools: &Tools, template: &str) -> Result<Value> {
    let mut python = Command::new(tools.aws("python"));
    python
        .current_dir(root())
        .args(["infra/local/tools/transform.py", template])
        .env("AWS_DEFAULT_REGION", REGION);
    let output = python.output().await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
