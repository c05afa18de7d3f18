//! What `infra/deploy` does in each status of the stack. The statuses are those of
//! <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html>.

use crate::fakes::{Fakes, REPOSITORY};

/// The statuses that are refused, and what the message contains.
const REFUSED: [(&str, &str); 12] = [
    ("CREATE_IN_PROGRESS", "still working on nostr-push"),
    ("ROLLBACK_IN_PROGRESS", "still working on nostr-push"),
    ("DELETE_IN_PROGRESS", "still working on nostr-push"),
    ("UPDATE_IN_PROGRESS", "still working on nostr-push"),
    (
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "still working on nostr-push",
    ),
    (
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "Run this command again when it has finished",
    ),
    (
        "CREATE_FAILED",
        "aws cloudformation delete-stack --stack-name nostr-push --region us-west-2",
    ),
    (
        "ROLLBACK_FAILED",
        "aws cloudformation delete-stack --stack-name nostr-push --region us-west-2",
    ),
    (
        "DELETE_FAILED",
        "aws cloudformation delete-stack --stack-name nostr-push --region us-west-2",
    ),
    (
        "UPDATE_ROLLBACK_FAILED",
        "aws cloudformation continue-update-rollback --stack-name nostr-push",
    ),
    (
        "UPDATE_FAILED",
        "aws cloudformation rollback-stack --stack-name nostr-push",
    ),
    ("SOMETHING_NEW", "which this script does not know"),
];

#[test]
fn first_deployment_deploys_twice_and_without_a_prompt() {
    for status in ["absent", "REVIEW_IN_PROGRESS"] {
        let fakes = Fakes::with_status(status);
        let run = fakes.deploy(&["Relays=wss://relay.example"]);
        assert!(run.succeeded, "{}", run.output);
        let deployments = run.calls_of("sam [deploy]");
        assert_eq!(deployments.len(), 2, "{:?}", run.calls);
        assert!(!deployments[0].contains("ListenerImage"));
        let image = format!("[ListenerImage=\"{REPOSITORY}@sha256:");
        assert!(deployments[1].contains(&image), "{}", deployments[1]);
        for deployment in deployments {
            assert!(deployment.contains("[--no-confirm-changeset]"));
            assert!(deployment.contains(r#"[Relays="wss://relay.example"]"#));
        }
        let role = run.calls_of("aws --region us-west-2 iam create-service-linked-role");
        assert_eq!(role.len(), 1, "{:?}", run.calls);
        // The role exists.
        assert!(!run.output.contains("was not created"), "{}", run.output);
    }
}

#[test]
fn later_deployment_deploys_once_with_the_image() {
    for status in [
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
    ] {
        let run = Fakes::with_status(status).deploy(&[]);
        assert!(run.succeeded, "{}", run.output);
        let deployments = run.calls_of("sam [deploy]");
        assert_eq!(deployments.len(), 1, "{:?}", run.calls);
        assert!(deployments[0].contains("[ListenerImage="));
        assert!(!run.calls.iter().any(|call| call.contains(" iam ")));
    }
}

#[test]
fn failed_first_deployment_is_deleted_and_deployed_again() {
    let run = Fakes::with_status("ROLLBACK_COMPLETE").deploy(&[]);
    assert!(run.succeeded, "{}", run.output);
    for text in [
        "DevicesTable: Resource of type AWS::DynamoDB::Table with identifier nostr-push-devices \
         already exists.",
        "It is deleted now, and deployed again.",
    ] {
        assert!(run.output.contains(text), "{}", run.output);
    }
    let calls: Vec<&str> = run
        .calls
        .iter()
        .map(String::as_str)
        .filter(|call| call.contains("delete") || call.starts_with("sam [deploy]"))
        .collect();
    assert_eq!(calls.len(), 4, "{calls:?}");
    assert!(calls[0].contains("delete-stack --stack-name nostr-push"));
    assert!(calls[1].contains("wait stack-delete-complete --stack-name nostr-push"));
    assert!(!calls[2].contains("ListenerImage"));
    assert!(calls[3].contains("ListenerImage"));
}

#[test]
fn other_statuses_are_refused_with_what_to_do() {
    for (status, text) in REFUSED {
        let run = Fakes::with_status(status).deploy(&[]);
        run.assert_refused(text);
        assert!(run.output.contains(status), "{}", run.output);
        // Nothing is built in vain, and nothing is deleted.
        assert!(run.calls_of("sam").is_empty(), "{:?}", run.calls);
        let deleted = run.calls.iter().any(|call| call.contains("delete-stack"));
        assert!(!deleted, "{:?}", run.calls);
    }
}

#[test]
fn missing_permission_is_not_taken_for_a_first_deployment() {
    for (error, text) in [
        (
            "Unable to locate credentials. You can configure credentials by running \
             \"aws configure\".",
            "no valid credentials",
        ),
        (
            "An error occurred (ExpiredToken) when calling the GetCallerIdentity operation: \
             The security token included in the request is expired",
            "no valid credentials",
        ),
        (
            "Error when retrieving token from sso: Token has expired and refresh failed",
            "aws sso login",
        ),
        (
            "An error occurred (AccessDenied) when calling the DescribeStacks operation: User: \
             arn:aws:iam::123456789012:user/me is not authorized to perform: \
             cloudformation:DescribeStacks on resource: \
             arn:aws:cloudformation:us-west-2:123456789012:stack/nostr-push/*",
            "lack the permission",
        ),
    ] {
        let fakes = Fakes::with_status("absent");
        fakes.set("error", error);
        let run = fakes.deploy(&["--region", "us-west-2"]);
        run.assert_refused(text);
        assert!(run.output.contains(error), "{}", run.output);
        assert!(run.calls_of("sam").is_empty(), "{:?}", run.calls);
    }
}

#[test]
fn failure_of_a_deployment_names_its_reason() {
    let fakes = Fakes::with_status("absent");
    fakes.set("outcome", "ROLLBACK_COMPLETE");
    let run = fakes.deploy(&[]);
    assert!(!run.succeeded);
    for text in [
        "DevicesTable: Resource of type AWS::DynamoDB::Table",
        "the deployment failed, and the status of nostr-push is ROLLBACK_COMPLETE",
        "run this command again",
    ] {
        assert!(run.output.contains(text), "{}", run.output);
    }
    assert_eq!(run.calls_of("sam [deploy]").len(), 1);
    assert!(run.calls_of("buildah").is_empty(), "{:?}", run.calls);
}

#[test]
fn unconfirmed_changes_are_not_taken_for_a_deployment() {
    let fakes = Fakes::with_status("absent");
    fakes.set("outcome", "REVIEW_IN_PROGRESS");
    let run = fakes.deploy(&[]);
    assert!(!run.succeeded);
    let text = "nothing was deployed, because the changes were not confirmed";
    assert!(run.output.contains(text), "{}", run.output);
}

#[test]
fn stack_without_a_repository_gets_no_image() {
    for repository in ["None", ""] {
        let fakes = Fakes::with_status("CREATE_COMPLETE");
        fakes.set("repository", repository);
        let run = fakes.deploy(&[]);
        run.assert_refused("has no output ListenerRepository");
        assert!(run.calls_of("buildah").is_empty(), "{:?}", run.calls);
    }
}
