/** What the socket answers about policies: `/v1/policies` and below. */
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import { explainEndpoint, listPolicies } from '../policy/policy-list.ts';
import { answerSimulation, type ReadOptions } from '../policy/simulate-answer.ts';
import { tracePacket } from '../policy/trace.ts';
import { TraceError } from '../policy/trace-error.ts';
import { isHostQuery, parseParty, resolveParty } from '../policy/trace-party.ts';
import type { EndpointView, PolicyView } from '../policy/trace-view.ts';

/** What answers are made of. */
export interface PolicySources {
  /** Made anew for each question. */
  readonly view: () => PolicyView;
  readonly readOptions: ReadOptions;
  /** False: there is no such endpoint. Throws when the kernel cannot be told. */
  readonly setAudit: (endpointId: number, on: boolean) => boolean;
  readonly logger: Logger;
}

/** A question. */
export interface PolicyRequest {
  readonly method: string;
  readonly url: URL;
  readonly body: () => Promise<string>;
}

/** An answer, to be sent as JSON. */
export interface PolicyAnswer {
  readonly status: number;
  readonly body: unknown;
}

/** Methods by path. */
const METHODS: Readonly<Record<string, string>> = {
  '/v1/policies': 'GET',
  '/v1/policies/node': 'GET',
  '/v1/policies/endpoints': 'GET',
  '/v1/policies/resolve': 'GET',
  '/v1/policies/trace': 'POST',
  '/v1/policies/simulate': 'POST',
  '/v1/policies/audit': 'PUT',
};

/** How long a simulation computes before others get their turn, in milliseconds. */
const TURN_MS = 10;

const address = z
  .string()
  .transform((text) => parseIpAddress(text))
  .optional();
const party = z.object({
  cluster: z.string().optional(),
  node: z.string().optional(),
  pod: z.string().optional(),
  address,
  kind: z.enum(['endpoint', 'node', 'world']),
  identity: z.number().int().nonnegative(),
  labels: z.array(z.string()),
  nodeLabels: z.array(z.string()),
  namedPorts: z.array(z.object({ name: z.string(), protocol: z.number(), port: z.number() })),
});
const flow = z.object({
  from: party,
  to: party,
  protocol: z.number().int().min(0).max(255),
  port: z.number().int().min(0).max(65_535),
});
const traceBody = z.object({ questions: z.array(flow).max(1000) });
const simulateBody = z.object({
  manifests: z.array(
    z.object({
      kind: z.enum(POLICY_KINDS),
      namespace: z.string(),
      name: z.string(),
      generation: z.number(),
      manifest: z.unknown(),
      origin: z.object({ file: z.string(), lines: z.record(z.string(), z.number()) }).optional(),
    }),
  ),
  deleted: z.array(z.string()),
  flows: z.array(flow),
  withPairs: z.boolean(),
});
const auditBody = z.object({ endpointId: z.number().int(), audit: z.boolean() });

/** Whether a path is one of these. */
export function isPolicyPath(pathname: string): boolean {
  return pathname in METHODS;
}

/** Answers a question about policies. Never throws for what is asked; throws when an answer cannot be computed. */
export async function answerPolicies(
  request: PolicyRequest,
  sources: PolicySources,
): Promise<PolicyAnswer> {
  const { pathname, searchParams } = request.url;
  const wanted = METHODS[pathname];
  if (wanted !== request.method) {
    return refuse(405, `cannot ${request.method} ${pathname}: expected ${wanted}`);
  }
  try {
    switch (pathname) {
      case '/v1/policies':
        return ok(listPolicies(sources.view()));
      case '/v1/policies/node': {
        const { cluster, node } = sources.view();
        return ok({ cluster, node });
      }
      case '/v1/policies/endpoints':
        return ok(endpoints(searchParams.get('endpoint') ?? '', sources.view()));
      case '/v1/policies/resolve': {
        const view = sources.view();
        const resolved = resolveParty(parseParty(searchParams.get('party') ?? ''), view);
        return ok({ cluster: view.cluster, node: view.node, ...resolved });
      }
      case '/v1/policies/trace': {
        const { questions } = traceBody.parse(JSON.parse(await request.body()));
        const view = sources.view();
        return ok(questions.map((question) => tracePacket(whole(question), view)));
      }
      case '/v1/policies/simulate':
        return ok(await simulate(await request.body(), sources));
      default:
        return await setAudit(await request.body(), sources);
    }
  } catch (error) {
    if (error instanceof TraceError) return refuse(400, error.message);
    if (error instanceof SyntaxError || error instanceof z.ZodError) {
      return refuse(400, `cannot read the question: ${error.message.replace(/\s+/g, ' ')}`);
    }
    throw error;
  }
}

/** Endpoints of the node that a number, an address or a pod's name means. */
function endpoints(wanted: string, view: PolicyView): unknown[] {
  const query = parseParty(wanted);
  const isMeant = ({ endpointId, addresses, pod }: EndpointView): boolean => {
    switch (query.kind) {
      case 'endpoint':
        return endpointId === query.endpointId;
      case 'address':
        return addresses.includes(query.address);
      case 'name':
        return query.namespace === undefined
          ? pod.endsWith(`/${query.name}`)
          : pod === `${query.namespace}/${query.name}`;
      default:
        if (isHostQuery(query)) return endpointId === HOST_ENDPOINT_ID;
        throw new TraceError(
          'bad-question',
          `${wanted}: expected NAMESPACE/NAME of a pod, host, an address or the number of an endpoint`,
        );
    }
  };
  return view.endpoints.filter(isMeant).map((endpoint) => explainEndpoint(endpoint, view));
}

/** Computes in turns: the agent has other things to do. */
async function simulate(body: string, { view, readOptions }: PolicySources): Promise<unknown> {
  const { manifests, flows, ...rest } = simulateBody.parse(JSON.parse(body));
  const running = answerSimulation(
    {
      ...rest,
      manifests: manifests.map(({ origin, ...manifest }) =>
        origin === undefined ? manifest : { ...manifest, origin },
      ),
      flows: flows.map(whole),
    },
    view(),
    readOptions,
  );
  let turnEnds = performance.now() + TURN_MS;
  for (;;) {
    const step = running.next();
    if (step.done) return step.value;
    if (performance.now() < turnEnds) continue;
    await setImmediate();
    turnEnds = performance.now() + TURN_MS;
  }
}

async function setAudit(body: string, sources: PolicySources): Promise<PolicyAnswer> {
  const { endpointId, audit } = auditBody.parse(JSON.parse(body));
  if (!sources.setAudit(endpointId, audit)) {
    return refuse(404, `there is no endpoint ${endpointId} on this node`);
  }
  sources.logger.warn({ endpointId, audit }, 'an operator switched audit mode of an endpoint');
  return ok({ endpointId, audit });
}

/** JSON leaves out what is undefined. */
function whole(question: z.infer<typeof flow>) {
  const side = (info: z.infer<typeof party>) => ({
    ...info,
    cluster: info.cluster,
    node: info.node,
    pod: info.pod,
    address: info.address,
  });
  return { ...question, from: side(question.from), to: side(question.to) };
}

function ok(body: unknown): PolicyAnswer {
  return { status: 200, body };
}

function refuse(status: number, error: string): PolicyAnswer {
  return { status, body: { error } };
}
