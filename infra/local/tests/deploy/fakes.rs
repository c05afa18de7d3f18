//! A copy of the scripts in a folder of its own, with fake tools that record how they are called.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use nostr_push_local::root;
use tempfile::TempDir;

/// The files that `infra/deploy` reads.
const COPIED: [&str; 5] = [
    "infra/deploy",
    "infra/image/build",
    "infra/local/tools/sam.in",
    "samconfig.toml",
    "template.yaml",
];

/// Where each fake tool is put, and its script in the folder `fakes`.
const TOOLS: [(&str, &str); 8] = [
    ("bin/aws", "aws"),
    ("bin/sam", "sam"),
    ("bin/docker", "container"),
    ("bin/buildah", "container"),
    ("bin/skopeo", "container"),
    ("bin/cargo", "cargo"),
    ("bin/zig", "zig"),
    // The listener is not built.
    ("infra/image/listener", "listener"),
];

/// The repository that the stack names.
pub(crate) const REPOSITORY: &str =
    "123456789012.dkr.ecr.us-west-2.amazonaws.com/nostr-push-listener";

/// How one run of a script ended.
pub(crate) struct Run {
    pub(crate) succeeded: bool,
    /// Everything that it printed.
    pub(crate) output: String,
    /// The calls of the tools, in order.
    pub(crate) calls: Vec<String>,
}

impl Run {
    /// The calls that start with this text.
    pub(crate) fn calls_of(&self, start: &str) -> Vec<&str> {
        let calls = self.calls.iter().map(String::as_str);
        calls.filter(|call| call.starts_with(start)).collect()
    }

    /// Fails unless the script failed with this text in its output, and deployed nothing.
    pub(crate) fn assert_refused(&self, text: &str) {
        assert!(!self.succeeded, "{}", self.output);
        assert!(self.output.contains(text), "{text}: {}", self.output);
        assert!(self.calls_of("sam [deploy]").is_empty(), "{:?}", self.calls);
    }
}

/// The folder with the scripts and the fake tools.
pub(crate) struct Fakes {
    folder: TempDir,
}

impl Fakes {
    /// The stack has this status, in an account with nothing unusual.
    pub(crate) fn with_status(status: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in COPIED {
            let target = folder.path().join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(root().join(file), target).unwrap();
        }
        // Links, because a file that has just been written cannot always be run: another thread
        // may have started a process that still has it open.
        let scripts = root().join("infra/local/tests/deploy/fakes");
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        for (tool, script) in TOOLS {
            symlink(scripts.join(script), folder.path().join(tool)).unwrap();
        }
        let fakes = Self { folder };
        fakes.set("status", status);
        fakes.set("region", "us-west-2");
        fakes.set("repository", REPOSITORY);
        fakes
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that the fake tools read.
    pub(crate) fn set(&self, file: &str, text: &str) -> &Self {
        fs::write(self.path().join(file), format!("{text}\n")).unwrap();
        self
    }

    pub(crate) fn get(&self, file: &str) -> String {
        let text = fs::read_to_string(self.path().join(file)).unwrap_or_default();
        text.trim().to_owned()
    }

    /// Runs `infra/deploy` in dash where there is one, without a terminal.
    pub(crate) fn deploy(&self, arguments: &[&str]) -> Run {
        let shell = ["/bin/dash", "/bin/sh"];
        let shell = shell.iter().find(|shell| Path::new(shell).exists());
        let mut command = Command::new(shell.unwrap());
        self.run(command.arg("infra/deploy").args(arguments))
    }

    pub(crate) fn run(&self, command: &mut Command) -> Run {
        let _ = fs::remove_file(self.path().join("log"));
        let path = format!("{}/bin:/usr/bin:/bin", self.path().display());
        let output = command
            .current_dir(self.path())
            .env_clear()
            .env("PATH", path)
            .env("FAKE", self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        Run {
            succeeded: output.status.success(),
            output: String::from_utf8_lossy(&text).into_owned(),
            calls: self.get("log").lines().map(str::to_owned).collect(),
        }
    }
}
