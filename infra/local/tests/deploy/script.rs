//! The arguments, the configuration and the zones of `infra/deploy`.

use std::{fs, process::Command};

use nostr_push_local::root;

use crate::fakes::Fakes;

#[test]
fn flags_reach_sam_and_region_and_profile_every_call() {
    let run = Fakes::with_status("CREATE_COMPLETE").deploy(&[
        "--profile",
        "work",
        "--region=eu-central-1",
        "--s3-bucket",
        "a bucket",
        "--no-progressbar",
        "Relays=wss://one.example, wss://two.example",
        "HeartbeatApp=",
        "--role-arn",
        "arn:aws:iam::123456789012:role/it's",
    ]);
    assert!(run.succeeded, "{}", run.output);
    for call in run.calls_of("aws").iter().skip(1) {
        let start = "aws --profile work --region eu-central-1 ";
        assert!(call.starts_with(start), "{call}");
    }
    let deployment = run.calls_of("sam [deploy]")[0];
    for words in [
        "[--profile] [work] [--region] [eu-central-1]",
        "[--s3-bucket] [a bucket] [--no-progressbar]",
        "[--no-resolve-s3]",
        "[--role-arn] [arn:aws:iam::123456789012:role/it's]",
        r#"[Relays="wss://one.example, wss://two.example"] [HeartbeatApp=""]"#,
    ] {
        assert!(deployment.contains(words), "{words}: {deployment}");
    }
}

#[test]
fn command_line_comes_before_the_configuration() {
    let fakes = Fakes::with_status("CREATE_COMPLETE");
    let config = "[other.deploy.parameters]  # a comment\n\
        stack_name = \"from-file\"\n\
        region = \"eu-west-1\"\n\
        parameter_overrides = [\n  \"Architecture=x86_64\",\n  \"LogLevel=debug\",\n]\n\
        [default.deploy.parameters]\nstack_name = \"not-this\"\n";
    fakes.set("other.toml", config);
    let environment = ["--config-file", "other.toml", "--config-env", "other"];
    let run = fakes.deploy(&environment);
    assert!(run.succeeded, "{}", run.output);
    let deployment = run.calls_of("sam [deploy]")[0];
    for words in [
        "[--stack-name=from-file]",
        "[--region] [eu-west-1]",
        r#"[LogLevel="debug"]"#,
        r#"[Architecture="x86_64"]"#,
    ] {
        assert!(deployment.contains(words), "{words}: {deployment}");
    }

    let more = [
        "--stack-name=mine",
        "--region",
        "eu-west-2",
        "LogLevel=warn",
    ];
    let run = fakes.deploy(&[&environment[..], &more].concat());
    let deployment = run.calls_of("sam [deploy]")[0];
    assert!(deployment.contains("[--stack-name=mine]"), "{deployment}");
    assert!(deployment.contains("[--region] [eu-west-2]"));
    // `sam deploy` uses the last of two values.
    let values = r#"[LogLevel="debug"] [LogLevel="warn"]"#;
    assert!(deployment.contains(values), "{deployment}");
}

#[test]
fn each_environment_has_its_own_stack() {
    for (arguments, stack) in [
        (&[][..], "nostr-push"),
        (&["--config-env", "production"], "production-nostr-push"),
    ] {
        let run = Fakes::with_status("CREATE_COMPLETE").deploy(arguments);
        let deployment = run.calls_of("sam [deploy]")[0];
        let name = format!("[--stack-name={stack}]");
        assert!(deployment.contains(&name), "{deployment}");
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let fakes = Fakes::with_status("absent");
    for (arguments, text) in [
        (&["Relay=wss://typo.example"][..], "has no parameter Relay"),
        (&["--config-env", "staging"], "no section [staging.deploy"),
        (&["--region"], "--region needs a value"),
        (&["production"], "unknown argument: production"),
        (&["--from", "nowhere"], "is no release folder"),
        (&["--stack-name", "Push"], "bad stack name: Push"),
        (&["--stack-name", &"p".repeat(56)], "bad stack name: ppp"),
    ] {
        fakes.deploy(arguments).assert_refused(text);
    }
}

#[test]
fn zones_are_chosen_once_and_where_not_all_run_fargate() {
    let zones = |call: &str| {
        let (_, rest) = call.split_once("[AvailabilityZones=\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    for (status, region, available, chosen) in [
        (
            "absent",
            "us-west-1",
            "us-west-1a\tus-west-1c",
            Some("us-west-1a,us-west-1c"),
        ),
        (
            "absent",
            "ap-northeast-1",
            "ap-northeast-1a\tap-northeast-1c\tap-northeast-1d",
            Some("ap-northeast-1a,ap-northeast-1c"),
        ),
        (
            "absent",
            "us-west-1",
            "us-west-1b",
            Some("us-west-1b,us-west-1b"),
        ),
        ("absent", "eu-central-1", "eu-central-1a", None),
        (
            "UPDATE_COMPLETE",
            "us-west-1",
            "us-west-1a\tus-west-1c",
            None,
        ),
    ] {
        let fakes = Fakes::with_status(status);
        fakes.set("zones", available);
        let run = fakes.deploy(&["--region", region]);
        assert!(run.succeeded, "{}", run.output);
        for deployment in run.calls_of("sam [deploy]") {
            assert_eq!(
                zones(deployment).as_deref(),
                chosen,
                "{region}: {deployment}"
            );
        }
    }
    let fakes = Fakes::with_status("absent");
    fakes.set("zones", "");
    let run = fakes.deploy(&["--region", "us-west-1"]);
    run.assert_refused("no availability zone of us-west-1 that runs Fargate");
    // Somebody who names a VPC or zones has chosen.
    for parameter in ["VpcId=vpc-1", "AvailabilityZones=us-west-1a,us-west-1b"] {
        let run = fakes.deploy(&["--region", "us-west-1", parameter]);
        assert!(run.succeeded, "{}", run.output);
    }
}

#[test]
fn other_versions_than_the_pinned_ones_are_reported() {
    let fakes = Fakes::with_status("CREATE_COMPLETE");
    let pins = "aws-sam-cli==1.171.0\ncargo-lambda==1.9.2\nziglang==0.17.0";
    fakes.set("infra/local/tools/sam.in", pins);
    let run = fakes.deploy(&[]);
    for text in [
        "aws 2.34.1\n",
        "sam 1.170.0 (warning: nostr-push was tried with 1.171.0)\n",
        "cargo-lambda 1.9.2\n",
        "zig 0.17.0\n",
    ] {
        assert!(run.output.contains(text), "{text}: {}", run.output);
    }
}

#[test]
fn release_folder_is_deployed_only_if_it_matches_its_checksums() {
    let fakes = Fakes::with_status("CREATE_COMPLETE");
    let release = fakes.path().join("release");
    fs::create_dir_all(release.join("arm64")).unwrap();
    for file in ["arm64/template.yaml", "arm64/listener.oci.tar"] {
        fs::copy(root().join("template.yaml"), release.join(file)).unwrap();
    }
    fs::write(release.join("VERSION"), "1.2.3\n").unwrap();
    let sums = "sha256sum VERSION arm64/* >SHA256SUMS";
    let status = Command::new("sh")
        .args(["-c", sums])
        .current_dir(&release)
        .status();
    assert!(status.unwrap().success());

    let run = fakes.deploy(&["--from", "release"]);
    assert!(run.succeeded, "{}", run.output);
    assert!(run.calls_of("sam [build]").is_empty(), "{:?}", run.calls);
    let template = format!(
        "[--template-file={}/arm64/template.yaml]",
        release.display()
    );
    let deployment = run.calls_of("sam [deploy]")[0];
    assert!(deployment.contains(&template), "{deployment}");
    let copy = run.calls_of("skopeo copy")[0];
    assert!(copy.contains("-listener:1.2.3-"), "{copy}");

    fs::write(release.join("arm64/listener.oci.tar"), "other").unwrap();
    let run = fakes.deploy(&["--from", "release"]);
    run.assert_refused("is damaged: it does not match its SHA256SUMS");
    let run = fakes.deploy(&["--from", "release", "Architecture=x86_64"]);
    run.assert_refused("has no architecture x86_64");
}

#[test]
fn image_of_a_release_is_pushed_with_docker_without_skopeo() {
    let fakes = Fakes::with_status("CREATE_COMPLETE");
    fakes.set("docker", "");
    let run = fakes.deploy(&[]);
    assert!(run.succeeded, "{}", run.output);
    let calls = run.calls_of("docker");
    let position = |start: &str| calls.iter().position(|call| call.starts_with(start));
    let login = position("docker login --username AWS --password-stdin 123456789012");
    let push = position("docker push 123456789012.dkr.ecr");
    assert!(login.is_some() && login < push, "{calls:?}");
    assert!(run.calls_of("buildah").is_empty());
}
