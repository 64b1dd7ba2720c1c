/** What administrators ask of the registry: tokens and machines. Who calls has been found out before. */
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import { formatEnrollmentToken } from '../../mesh/wire/enrollment-token.ts';
import { findBadLabel, isLabelKey } from './granted-labels.ts';
import type { MachineBook, MachineOutcome, MachineReport } from './machine-book.ts';
import type { TokenActor, TokenBook, TokenListing } from './token-book.ts';
import { parseTokenWish } from './token-wish.ts';

/** Users of a token that a report of it names: the latest. */
const MAX_USERS_TOLD = 100;

/** Why a call is not answered. */
export type AdminErrorCode = 'invalid' | 'unknown' | 'not-offered';

/** A call of an administrator that cannot be answered; the message says why and what to do. */
export class AdminError extends Error {
  readonly code: AdminErrorCode;
  readonly retryable = false;

  constructor(code: AdminErrorCode, message: string) {
    super(message);
    this.name = 'AdminError';
    this.code = code;
  }
}

/** Whether machines can enrol here. `reason` is for people. */
export type EnrollmentOffer =
  | {
      readonly kind: 'offered';
      /** SHA-256 of the public key of the authority that the listener's certificate ends at. */
      readonly anchor: Buffer;
      /** `host:port`; `to` is the address of ours that the administrator calls at. */
      readonly endpoint: (to: string) => string;
    }
  | { readonly kind: 'not-offered'; readonly reason: string };

/** Who asks, and where. */
export interface AdminCaller extends TokenActor {
  /** Address of ours that the call came in at. */
  readonly to: string;
  readonly signal: AbortSignal;
}

/** A method of the service Admin in registry.proto: takes its request as it came, gives its response. */
export type AdminMethod = (request: unknown, caller: AdminCaller) => Promise<object>;

/** Methods of the service Admin, by name. They throw AdminError, TokenError, KvError, and ZodError for a malformed request. */
export type Admin = Readonly<
  Record<
    | 'CreateToken'
    | 'ListTokens'
    | 'RevokeToken'
    | 'ListMachines'
    | 'GetMachine'
    | 'LabelMachine'
    | 'RemoveMachine'
    | 'SetMachineEndpoint'
    | 'RemoveMachineEndpoint',
    AdminMethod
  >
>;

const idSchema = z.object({ id: z.string().default('') });
const nameSchema = z.object({ name: z.string().default('') });
const labelSchema = nameSchema.extend({
  set: z.record(z.string(), z.string()).default({}),
  remove: z.array(z.string()).default([]),
});

const endpointSchema = nameSchema.extend({ endpoint: z.looseObject({}).optional() });
const endpointNameSchema = nameSchema.extend({ endpoint: z.string().default('') });

/** Makes the methods. */
export function createAdmin(options: {
  readonly tokens: Pick<TokenBook, 'create' | 'list' | 'revoke'>;
  readonly machines: Pick<
    MachineBook,
    'get' | 'report' | 'label' | 'remove' | 'setEndpoint' | 'removeEndpoint'
  >;
  /** Machines whose labels their MeshMachine decides, as `namespace/name`. Default: none. */
  readonly labelled?: ReadonlySet<string>;
  readonly offer: () => EnrollmentOffer;
  readonly logger: Logger;
}): Admin {
  const { tokens, machines, logger } = options;
  const known = (name: string): MachineReport => {
    const report = machines.get(name);
    if (report !== undefined) return report;
    throw new AdminError(
      'unknown',
      `no machine is called ${JSON.stringify(name.slice(0, 80))}; see \`clustermesh vm list\``,
    );
  };
  const after = (name: string, outcome: MachineOutcome): object => {
    if (outcome.kind === 'refused') {
      throw new AdminError('invalid', `${outcome.field}: ${outcome.reason}`);
    }
    return { machine: machineMessage(known(name)) };
  };
  return {
    async CreateToken(request, caller) {
      const offer = options.offer();
      if (offer.kind === 'not-offered') throw new AdminError('not-offered', offer.reason);
      const wish = parseTokenWish(request);
      const { record, secret } = await tokens.create(wish, actorOf(caller), caller.signal);
      const { id } = record;
      return {
        token: formatEnrollmentToken({ id, secret, anchor: offer.anchor }),
        report: tokenMessage({ record, state: 'usable', uses: [] }),
        enrollment_endpoint: offer.endpoint(caller.to),
      };
    },
    async ListTokens(_request, { signal }) {
      return { tokens: (await tokens.list(signal)).map(tokenMessage) };
    },
    async RevokeToken(request, caller) {
      const { id } = idSchema.parse(request);
      return { token: tokenMessage(await tokens.revoke(id, actorOf(caller), caller.signal)) };
    },
    async ListMachines() {
      return { machines: machines.report.map(machineMessage) };
    },
    async GetMachine(request) {
      return { machine: machineMessage(known(nameSchema.parse(request).name)) };
    },
    async LabelMachine(request, caller) {
      const { name, set, remove } = labelSchema.parse(request);
      const { namespace } = known(name).record;
      if (options.labelled?.has(`${namespace}/${name}`)) {
        throw new AdminError(
          'invalid',
          `labels: those of ${name} are decided by its MeshMachine: change spec.labels there (kubectl edit meshmachine -n ${namespace} ${name})`,
        );
      }
      const bad = findBadLabel(set) ?? badKey(remove);
      if (bad !== undefined) throw new AdminError('invalid', `labels: ${bad}`);
      const outcome = await machines.label(name, { set, remove }, caller.signal);
      const answer = after(name, outcome);
      logger.info({ machine: name, set, remove, ...actorOf(caller) }, 'a machine was labelled');
      return answer;
    },
    async RemoveMachine(request, caller) {
      const { name } = nameSchema.parse(request);
      const before = known(name);
      const outcome = await machines.remove(name, caller.signal);
      if (outcome.kind === 'refused') {
        throw new AdminError('invalid', `${outcome.field}: ${outcome.reason}`);
      }
      logger.info({ machine: name, ...actorOf(caller) }, 'a machine was removed');
      const report = machines.get(name) ?? { ...before, record: outcome.record, state: 'removed' };
      return { machine: machineMessage(report) };
    },
    async SetMachineEndpoint(request, caller) {
      const { name, endpoint } = endpointSchema.parse(request);
      known(name);
      const answer = after(name, await machines.setEndpoint(name, endpoint, caller.signal));
      logger.info({ machine: name, endpoint, ...actorOf(caller) }, 'a machine has an endpoint');
      return answer;
    },
    async RemoveMachineEndpoint(request, caller) {
      const { name, endpoint } = endpointNameSchema.parse(request);
      known(name);
      const answer = after(name, await machines.removeEndpoint(name, endpoint, caller.signal));
      logger.info({ machine: name, endpoint, ...actorOf(caller) }, 'a machine lost an endpoint');
      return answer;
    },
  };
}

function actorOf({ by, from }: AdminCaller): TokenActor {
  return { by, from };
}

function badKey(keys: readonly string[]): string | undefined {
  const bad = keys.find((key) => !isLabelKey(key));
  return bad === undefined ? undefined : `${JSON.stringify(bad.slice(0, 80))} is no key of a label`;
}

/** A token as TokenReport of registry.proto. */
function tokenMessage({ record, state, uses }: TokenListing): object {
  const { revoked } = record;
  const latest = [...uses].sort((a, b) => a.at - b.at).slice(-MAX_USERS_TOLD);
  return {
    id: record.id,
    state,
    names: record.names,
    labels: record.labels,
    namespace: record.namespace,
    address_ranges: record.addressRanges,
    created_at: record.createdAt,
    created_by: record.createdBy,
    expires_at: record.expiresAt,
    uses: record.uses,
    uses_left: record.usesLeft,
    revoked_at: revoked?.at ?? 0,
    revoked_by: revoked?.by ?? '',
    used_by: latest.map(({ machine, at, from }) => ({ machine, at, from })),
  };
}

/** A machine as MachineReport of registry.proto. */
function machineMessage(report: MachineReport): object {
  const { record } = report;
  return {
    name: record.name,
    namespace: record.namespace,
    labels: record.labels,
    address_ranges: record.addressRanges,
    addresses: record.addresses,
    state: report.state,
    for_ms: Math.max(0, Math.round(report.forMs)),
    token_id: record.tokenId,
    enrolled_at: record.enrolledAt,
    agent_version: record.agentVersion,
    problems: report.problems,
    failing_checks: [...report.failingChecks].map(([check, { healthy, reason }]) => ({
      check,
      healthy,
      reason,
    })),
    endpoints: record.endpoints ?? [],
  };
}
