//! Every request that the programs made is evaluated against the role that the deployed stack gives
//! the program. The local endpoint itself allows everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use nostr_push_local::{
    aws::{ACCOUNT, REGION, STACK},
    proxy::requests::{NeededPermission, Requests},
    root,
    stack::Stack,
    tools::Tools,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

/// Permissions that no request of the whole test needs, and why the role has them.
const UNUSED: [(&str, &str, &str); 3] = [
    (
        "AWSLambda*",
        "logs:CreateLogGroup",
        "part of the policies that SAM adds to each role; the template creates the log groups",
    ),
    (
        "RestOfTheFanOut",
        "sqs:SendMessage",
        "needs an event with more than 1,000 recipients",
    ),
    (
        "Reconcile",
        "sqs:SendMessage",
        "needs a device that is removed between the match and the delivery",
    ),
];

/// The roles of the deployed stack, as `tools/roles.py` prints them.
#[derive(Deserialize)]
struct Deployed {
    roles: BTreeMap<String, Value>,
    event_sources: Vec<EventSource>,
    log_groups: BTreeMap<String, String>,
    repository: String,
}

#[derive(Deserialize)]
struct EventSource {
    program: String,
    arn: String,
}

#[derive(Deserialize)]
struct Evaluation {
    results: Vec<Evaluated>,
    unused: Vec<Permission>,
}

#[derive(Deserialize)]
struct Evaluated {
    request: Request,
    allowed: bool,
    /// Why the request could not be evaluated.
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Request {
    program: String,
    action: String,
    resource: String,
    context: BTreeMap<String, String>,
}

/// One action on one resource that a policy allows.
#[derive(Deserialize)]
struct Permission {
    program: String,
    policy: String,
    action: String,
    resource: String,
}

impl Request {
    fn new(program: &str, action: &str, resource: &str) -> Self {
        Self {
            program: program.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            context: BTreeMap::new(),
        }
    }
}

impl From<NeededPermission> for Request {
    /// All endpoints of a platform application become one.
    fn from(needed: NeededPermission) -> Self {
        let resource = match needed.resource.rsplit_once('/') {
            Some((application, _)) if application.contains(":endpoint/") => {
                format!("{application}/00000000-0000-4000-8000-000000000000")
            }
            _ => needed.resource,
        };
        Self {
            program: needed.program,
            action: needed.action,
            resource,
            context: needed.context,
        }
    }
}

/// Each role allows what its program and AWS do with it, nothing on the applications of another
/// stack, and little that is not needed.
pub(crate) async fn roles_allow_exactly_what_is_needed(
    tools: &Tools,
    stack: &Stack,
    requests: &Requests,
) -> Result<(), String> {
    let needed = requests
        .needed()
        .map_err(|unknown| format!("proxy/requests.rs lacks the permissions of {unknown:?}"))?;
    let deployed = deployed(tools, stack).await?;
    let mut requests: BTreeSet<Request> = needed.into_iter().map(Request::from).collect();
    assert!(requests.len() > 50, "only {} requests", requests.len());
    let foreign = of_another_stack(&requests);
    assert!(!foreign.is_empty(), "no request names an application");
    requests.extend(requests_of_aws(&deployed));

    let evaluation = evaluate(tools, &deployed, &requests).await?;
    let mut problems: Vec<String> = evaluation.results.iter().filter_map(problem).collect();
    let unused = evaluation.unused.iter().filter(|unused| !is_known(unused));
    problems.extend(unused.map(|unused| {
        let Permission {
            program,
            policy,
            action,
            resource,
        } = unused;
        format!("{program}: nothing needs {action} on {resource} ({policy})")
    }));
    let foreign = evaluate(tools, &deployed, &foreign).await?.results;
    let foreign = foreign.into_iter().filter(|result| result.allowed);
    problems.extend(foreign.map(|result| {
        let Request {
            program,
            action,
            resource,
            ..
        } = result.request;
        format!("{program}: {action} is allowed on another stack's {resource}")
    }));
    println!(
        "local: {} permissions evaluated, {} of them unused for a reason",
        requests.len(),
        evaluation.unused.len()
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n"))
    }
}

/// What is wrong with a request: it is denied, or it cannot be evaluated.
fn problem(result: &Evaluated) -> Option<String> {
    let Request {
        program,
        action,
        resource,
        ..
    } = &result.request;
    if let Some(error) = &result.error {
        return Some(format!("{program}: {action} on {resource}: {error}"));
    }
    let statement = json!({"Effect": "Allow", "Action": action, "Resource": resource});
    (!result.allowed).then(|| format!("{program} is denied, and would need {statement}"))
}

/// Returns `true` if an unused permission is one of [`UNUSED`].
fn is_known(unused: &Permission) -> bool {
    UNUSED.iter().any(|(policy, action, _)| {
        let matches = match policy.strip_suffix('*') {
            Some(prefix) => unused.policy.starts_with(prefix),
            None => unused.policy == *policy,
        };
        matches && unused.action == *action
    })
}

/// The same requests on the platform applications of a stack whose name begins with this stack's.
fn of_another_stack(requests: &BTreeSet<Request>) -> BTreeSet<Request> {
    let requests = requests.iter().cloned();
    requests
        .filter_map(|mut request| {
            let own = format!("/{STACK}.");
            let is_application = request.resource.contains(&own);
            request.resource = request.resource.replace(&own, &format!("/{STACK}-2."));
            is_application.then_some(request)
        })
        .collect()
}

/// What AWS does with the roles. The local endpoint does not send these requests.
///
/// - Lambda polls queues
///   (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>) and streams
///   (<https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-eventsourcemapping.html>),
///   and writes logs (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html>).
/// - ECS downloads the image and writes logs
///   (<https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html>).
fn requests_of_aws(deployed: &Deployed) -> Vec<Request> {
    let mut requests = Vec::new();
    for EventSource { program, arn } in &deployed.event_sources {
        let actions: &[&str] = if arn.contains("/stream/") {
            requests.push(Request::new(program, "dynamodb:ListStreams", "*"));
            &[
                "dynamodb:DescribeStream",
                "dynamodb:GetRecords",
                "dynamodb:GetShardIterator",
            ]
        } else {
            &[
                "sqs:ReceiveMessage",
                "sqs:DeleteMessage",
                "sqs:GetQueueAttributes",
            ]
        };
        requests.extend(actions.iter().map(|a| Request::new(program, a, arn)));
    }
    for (program, group) in &deployed.log_groups {
        let stream = format!("arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:1");
        let group = format!("arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*");
        requests.push(Request::new(program, "logs:CreateLogStream", &group));
        requests.push(Request::new(program, "logs:PutLogEvents", &stream));
    }
    let name = &deployed.repository;
    let repository = format!("arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}");
    requests.push(Request::new("ecs", "ecr:GetAuthorizationToken", "*"));
    for action in [
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
    ] {
        requests.push(Request::new("ecs", action, &repository));
    }
    requests
}

/// Reads the roles of the deployed stack.
async fn deployed(tools: &Tools, stack: &Stack) -> Result<Deployed, String> {
    let mut python = Command::new(tools.aws("python"));
    python
        .current_dir(root())
        .args(["infra/local/tools/roles.py", STACK])
        .envs(stack.aws.environment());
    let output = python.output().await.unwrap();
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

async fn evaluate(
    tools: &Tools,
    deployed: &Deployed,
    requests: &BTreeSet<Request>,
) -> Result<Evaluation, String> {
    let mut node = tools.node().unwrap();
    node.current_dir(root().join("infra/local/iam"))
        .arg("evaluate.mjs")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut node = node.spawn().unwrap();
    let input = json!({"roles": deployed.roles, "requests": requests}).to_string();
    let mut stdin = node.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = node.wait_with_output().await.unwrap();
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}
