/** What becomes of a call to a global Service: whether it is translated here, to which backends of a peer, and whether they answer. */
import { type Problem, problemOf } from '../../mesh/diagnosis/problem.ts';
import type { StepList, StepResult } from '../../mesh/diagnosis/step-list.ts';
import type { Backend, DatapathTable, FrontendEntry, FrontendKey } from '../datapath/desired.ts';
import type { ServiceAccount } from '../merge/service-account.ts';
import type { TcpOutcome } from '../withdrawal/probe.ts';
import type { LocalEnd } from './pod-path.ts';
import { type CallTcp, NOBODY_CALLS, TCP_WORDS } from './tcp-call.ts';

/** Backends of a peer that are called: one may be down. */
const MOST_BACKENDS = 3;
/** Reasons that a sentence names. */
const MOST_REASONS = 3;

/** What is known of Services here. */
export interface ServicePathSources {
  /** Everything about `namespace/name`; undefined: nobody has it. */
  readonly accountOf: (name: string) => ServiceAccount | undefined;
  /** Frontends that this node shall have. */
  readonly frontends: () => Iterable<FrontendEntry>;
  /** Those that the kernel has. */
  readonly kernel: Pick<DatapathTable<FrontendEntry, FrontendKey>, 'rows' | 'keyOf'>;
}

/** A frontend that is translated to backends of the peer. */
export interface ServiceTarget {
  /** `namespace/name`. */
  readonly service: string;
  readonly frontend: FrontendEntry;
  /** Some of the peer's, at least one. */
  readonly backends: readonly Backend[];
  /** Somebody named the Service; else it is an example. */
  readonly isAsked: boolean;
}

/** What is asked of them. */
export interface ServiceQuestion extends ServicePathSources {
  readonly peer: string;
  readonly clusterId: number | undefined;
  /** `namespace/name`; undefined: one that uses the peer is picked. */
  readonly wanted: string | undefined;
}

/** Adds the step `service`. Returns undefined when there is nobody to call. */
export async function followService(
  list: StepList,
  options: ServiceQuestion,
): Promise<ServiceTarget | undefined> {
  const { peer, wanted, frontends, clusterId } = options;
  const target =
    clusterId === undefined ? undefined : pickTarget(frontends(), { wanted, clusterId });
  await list.next('service', () => {
    if (target !== undefined) return judgeTarget(target, options);
    if (wanted === undefined) {
      return { seen: [`no Service uses a backend of cluster ${peer} here`], isSkipped: true };
    }
    return judgeUnused(wanted, options);
  });
  return target;
}

/** Who calls, and what is known of the call before. */
export interface ServiceCall {
  readonly peer: string;
  /** Undefined: there is nobody to call. */
  readonly target: ServiceTarget | undefined;
  /** `netns` undefined: the node itself. */
  readonly caller: LocalEnd;
  /** Why policies of this cluster deny it; undefined: they do not. */
  readonly denial: Problem | undefined;
  readonly call: CallTcp;
  readonly signal: AbortSignal;
}

/** Adds the step `call`: the frontend and the peer's backends are called from a pod, or from the node. */
export async function callService(list: StepList, options: ServiceCall): Promise<void> {
  const { target, caller, call, signal } = options;
  await list.next('call', async () => {
    if (target === undefined) return { seen: ['there is no backend to call'], isSkipped: true };
    const { frontend, backends } = target;
    if (frontend.protocol !== 'TCP') {
      return { seen: [`it is of ${frontend.protocol}: only TCP is called`], isSkipped: true };
    }
    const outcomes = await call([frontend, ...backends], { netns: caller.netns, signal });
    if (outcomes === 'no-program') return { seen: [NOBODY_CALLS], isSkipped: true };
    const [ofFrontend = 'silent', ...ofBackends] = outcomes;
    const seen = [
      `${caller.name} calls ${frontend.address} ${frontend.port}: it ${TCP_WORDS[ofFrontend]}`,
      ...backends.map(
        ({ address, port }, index) =>
          `${caller.name} calls backend ${address} ${port}: it ${TCP_WORDS[ofBackends[index] ?? 'silent']}`,
      ),
    ];
    return { seen, problem: callProblem(target, { ...options, ofFrontend, ofBackends }) };
  });
}

function callProblem(
  target: ServiceTarget,
  options: Pick<ServiceCall, 'peer' | 'caller' | 'denial'> & {
    readonly ofFrontend: TcpOutcome;
    readonly ofBackends: readonly TcpOutcome[];
  },
): Problem | undefined {
  const { service, frontend, backends, isAsked } = target;
  const { peer, caller, denial, ofFrontend, ofBackends } = options;
  const silent = backends.filter((_, index) => ofBackends[index] === 'silent');
  const refusing = backends.filter((_, index) => ofBackends[index] === 'refused');
  const isOneFine = ofBackends.includes('accepted');
  const subject = `Service ${service}`;
  const named = (some: readonly Backend[]): string =>
    some.map(({ address, port }) => `${address} ${port}`).join(', ');
  const make = (id: 'service-silent' | 'service-refused', cause: string): Problem => {
    const [first] = silent;
    const to = first ?? frontend;
    const values = { service, from: caller.address, to: to.address, port: `${to.port}/TCP` };
    const problem = problemOf(id, { subject, cause, values });
    return isAsked && !isOneFine ? problem : { ...problem, severity: 'warning' };
  };
  if (silent.length > 0) {
    if (denial !== undefined) return denial;
    return make(
      'service-silent',
      `nothing comes back from ${named(silent)} of cluster ${peer}, policies here allow it, and nodes are reached: policies of ${peer} drop it, or the pod is gone`,
    );
  }
  if (refusing.length > 0) {
    return make(
      'service-refused',
      `${named(refusing)} of cluster ${peer} refuses the connection: nothing listens there`,
    );
  }
  if (ofFrontend === 'accepted') return undefined;
  return make(
    'service-silent',
    `its address ${frontend.address} ${frontend.port} ${ofFrontend === 'refused' ? 'refuses the connection' : 'does not answer'}, and its backends of cluster ${peer} do: another of its backends is down`,
  );
}

/** TCP first, which can be called. */
function pickTarget(
  frontends: Iterable<FrontendEntry>,
  { wanted, clusterId }: { readonly wanted: string | undefined; readonly clusterId: number },
): ServiceTarget | undefined {
  let found: ServiceTarget | undefined;
  for (const frontend of frontends) {
    if (frontend.scope !== 'internal') continue;
    if (wanted !== undefined && frontend.service !== wanted) continue;
    const backends = frontend.backends.filter((backend) => backend.clusterId === clusterId);
    if (backends.length === 0) continue;
    const target = {
      service: frontend.service,
      frontend,
      backends: backends.slice(0, MOST_BACKENDS),
      isAsked: wanted !== undefined,
    };
    if (frontend.protocol === 'TCP') return target;
    found ??= target;
  }
  return found;
}

/** Whether the kernel holds what is wanted. */
function judgeTarget(
  { service, frontend, backends }: ServiceTarget,
  { peer, clusterId, kernel, accountOf }: ServiceQuestion,
): StepResult {
  const { address, port, protocol } = frontend;
  const all = frontend.backends.filter((backend) => backend.clusterId === clusterId).length;
  const affinity = accountOf(service)?.affinity ?? 'none';
  const seen = [
    `Service ${service} at ${address} ${port}/${protocol} is translated to ${frontend.backends.length} backends, ${all} of cluster ${peer}; affinity ${affinity}`,
  ];
  const key = kernel.keyOf(frontend);
  const row = kernel.rows().find((held) => kernel.keyOf(held) === key);
  const missing = backends.filter(
    (backend) =>
      row?.backends.some(
        (held) => held.address === backend.address && held.port === backend.port,
      ) !== true,
  );
  if (missing.length === 0) return { seen };
  const cause =
    row === undefined
      ? `the kernel does not translate ${address} ${port}/${protocol}, as it should`
      : `the kernel does not know backends ${missing.map((backend) => backend.address).join(', ')} of ${address} ${port}/${protocol}, as it should`;
  return { seen, problem: problemOf('kernel-differs', { subject: `Service ${service}`, cause }) };
}

/** Why no call to a Service goes to the peer. */
function judgeUnused(service: string, { accountOf, peer }: ServiceQuestion): StepResult {
  const subject = `Service ${service}`;
  const values = { service };
  const account = accountOf(service);
  if (account === undefined || account.notTranslated !== '') {
    const why = account?.notTranslated ?? 'neither this cluster nor a peer has it';
    return {
      seen: [],
      problem: problemOf('service-not-translated', { subject, cause: why, values }),
    };
  }
  const offered = account.backends.filter(({ cluster }) => cluster === peer);
  const notes = account.clusters.find(({ cluster }) => cluster === peer)?.notes ?? [];
  const used = account.backends.filter(({ state }) => state === 'used');
  const seen = [
    `cluster ${peer} offers ${offered.length} backends; ${used.length} of all ${account.backends.length} are used; affinity ${account.affinity}`,
    ...notes,
  ];
  const reasons = [...new Set(offered.map(({ reason, state }) => reason || `it is ${state}`))];
  const ofPeer =
    offered.length === 0
      ? `cluster ${peer} offers no backend of it`
      : `none of its ${offered.length} backends in cluster ${peer} is used: ${reasons.slice(0, MOST_REASONS).join('; ')}`;
  if (used.length > 0) {
    const problem = problemOf('service-peer-unused', {
      subject,
      cause: `of Service ${service}: ${ofPeer}`,
      values,
    });
    return { seen, problem };
  }
  const isEnding = account.backends.some(({ state }) => state === 'draining');
  const cause = `${isEnding ? 'all backends are about to end' : 'no cluster has a backend that is used'}: ${ofPeer}`;
  return { seen, problem: problemOf('service-no-backend', { subject, cause, values }) };
}
