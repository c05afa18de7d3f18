//! How `infra/image/build` calls docker.

use std::process::Command;

use crate::fakes::Fakes;

#[test]
fn docker_builds_a_plain_image_without_attestations() {
    let fakes = Fakes::with_status("absent");
    fakes.set("docker", "");
    let run = fakes.run(Command::new("bash").args(["infra/image/build", "arm64", "name:tag"]));
    assert!(run.succeeded, "{}", run.output);
    assert!(run.output.contains("name:tag"), "{}", run.output);
    let build = run.calls_of("docker buildx build")[0];
    for words in [
        "--load --provenance=false --sbom=false",
        "--platform linux/arm64",
        "--tag name:tag",
    ] {
        assert!(build.contains(words), "{words}: {build}");
    }
}
