/**
 * One agent's stream: Hello, then facts, each answered in turn, and how policies stand and what checks say, which is not
 * answered.
 */
import { type ServerDuplexStream, status } from '@grpc/grpc-js';
import { z } from 'zod';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { NodeConflict } from '../convert/node.ts';
import type { AgentBoard, AgentReportSession } from './agent-board.ts';
import type { NodeProber, ProbedNode } from './node-prober.ts';
import type { PolicyBoard, PolicySession } from './policy-board.ts';
import { parsePolicyNews } from './policy-report.ts';
import type { SessionSubject, SubjectSession } from './session-subject.ts';

const SCHEMA = 1;
const HELLO_TIMEOUT_MS = 10_000;
const MAX_ID_LENGTH = 128;

const messageSchema = z.object({
  hello: z
    .object({
      schema: z.number().default(0),
      cluster_name: z.string().default(''),
      node_name: z.string().default(''),
      agent_version: z.string().default(''),
      instance_id: z.string().max(MAX_ID_LENGTH).default(''),
      run_id: z.string().max(MAX_ID_LENGTH).default(''),
      takes_config: z.boolean().default(false),
      takes_probes: z.boolean().default(false),
    })
    .optional(),
  facts: z.looseObject({ sequence: z.number().default(0) }).optional(),
  machine: z.looseObject({ sequence: z.number().default(0) }).optional(),
  health: z.looseObject({}).optional(),
  policies: z.looseObject({}).optional(),
  report: z.object({ json: z.string().default('') }).optional(),
  probed: z.looseObject({}).optional(),
});

type Hello = NonNullable<z.infer<typeof messageSchema>['hello']>;

/** Whom a stream is served for, and with what. */
export interface ServeOptions {
  /** Node or machine of the caller's certificate. */
  readonly subject: SessionSubject;
  readonly clusterName: string;
  /** Is told how policies stand. */
  readonly policies: Pick<PolicyBoard, 'open'>;
  /** Is told how agents do. Default: they are not asked. */
  readonly agents?: Pick<AgentBoard, 'open'> | undefined;
  /** Asks nodes whether they reach others. Default: they are not asked. */
  readonly prober?: Pick<NodeProber, 'open'> | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Ends the stream when it aborts. */
  readonly signal: AbortSignal;
}

/** Serves one stream until it ends. */
export async function serveSession(
  call: ServerDuplexStream<unknown, unknown>,
  options: ServeOptions,
): Promise<void> {
  const { subject, clock } = options;
  const logger = options.logger.child({ [subject.kind]: subject.name });
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  const greeted = new AbortController();
  let session: SubjectSession | undefined;
  let standings: PolicySession | undefined;
  let reports: AgentReportSession | undefined;
  let probed: ProbedNode | undefined;

  const end = (): void => {
    ended.abort();
    probed?.close();
    session?.close();
  };
  const fail = (code: status, details: string): void => {
    if (!ended.signal.aborted) call.emit('error', { code, details });
    end();
  };
  const send = (message: object): void => {
    if (!ended.signal.aborted) call.write(message);
  };
  const answer = (sequence: number, conflict: NodeConflict | undefined): void => {
    if (ended.signal.aborted) return;
    if (conflict === undefined) {
      const isGreeting = sequence === 0;
      const takes_reports = isGreeting && options.agents !== undefined;
      call.write({ accepted: { sequence, takes_policies: isGreeting, takes_reports } });
    } else call.write({ rejected: { sequence, ...conflict } });
  };
  const refuse = ({ field, reason }: NodeConflict): void => {
    logger.warn({ field, reason }, 'a session was refused');
    answer(0, { field, reason });
    if (!ended.signal.aborted) call.end();
    end();
  };
  const greet = (hello: Hello | undefined): void => {
    greeted.abort();
    const refusal = judgeHello(hello, options);
    if (refusal !== undefined || hello === undefined) {
      refuse(refusal ?? { field: 'hello', reason: 'expected a greeting first' });
      return;
    }
    const { agent_version: agentVersion, instance_id: instanceId, run_id: runId } = hello;
    const takesConfig = hello.takes_config;
    const greeting = { agentVersion, instanceId, runId, takesConfig };
    const opening = subject.open(greeting, (reason) => fail(status.ABORTED, reason));
    switch (opening.kind) {
      case 'open':
        session = opening.session;
        standings = options.policies.open(subject.policyName);
        reports = options.agents?.open(subject.policyName);
        answer(0, undefined);
        session.follow(send);
        if (hello.takes_probes && subject.kind === 'node') {
          probed = options.prober?.open(subject.name, send);
        }
        return;
      case 'wait':
        logger.warn({ reason: opening.reason }, 'a session has to wait');
        fail(status.UNAVAILABLE, opening.reason);
        return;
      case 'refused':
        refuse(opening);
        return;
      default:
        throw opening satisfies never;
    }
  };
  const receive = async (message: unknown): Promise<void> => {
    const { hello, facts, machine, health, policies, report, ...other } =
      messageSchema.parse(message);
    if (session === undefined) return greet(hello);
    if (policies !== undefined) {
      const news = parsePolicyNews(policies);
      // It is there all the same: nothing that is for people ends its session.
      if (news === undefined) logger.warn('cannot read how policies stand');
      else standings?.take(news);
      return;
    }
    if (report !== undefined) {
      if (reports?.take(report.json) === false) logger.warn('cannot read how the agent does');
      return;
    }
    if (other.probed !== undefined) {
      if (probed?.take(other.probed) === false) logger.warn('cannot read what a node has seen');
      return;
    }
    const outcome = await session.take({ facts, machine, health }, signal);
    switch (outcome.kind) {
      case 'answered': {
        const { sequence, conflict } = outcome;
        if (conflict !== undefined) {
          const { field, reason } = conflict;
          logger.warn({ field, reason }, 'what is said was rejected');
          return answer(sequence, { field, reason });
        }
        return answer(sequence, undefined);
      }
      case 'taken':
        return;
      case 'unexpected':
        return fail(status.INVALID_ARGUMENT, `expected ${outcome.expected} after the greeting`);
      default:
        throw outcome satisfies never;
    }
  };

  call.on('end', () => {
    if (!ended.signal.aborted) call.end();
    end();
  });
  call.on('cancelled', end);
  call.on('error', end);
  options.signal.addEventListener(
    'abort',
    () => fail(status.UNAVAILABLE, 'the registry is being stopped'),
    { once: true, signal: ended.signal },
  );
  call.on('data', (message: unknown) => {
    // One after the other: a client that sends faster than we answer has to wait.
    call.pause();
    receive(message).then(
      () => call.resume(),
      (error: unknown) => {
        if (signal.aborted) return end();
        if (error instanceof z.ZodError) return fail(status.INVALID_ARGUMENT, 'malformed message');
        logger.warn({ err: error }, 'cannot take what is said');
        const details = error instanceof KvError ? 'etcd does not answer' : 'internal error';
        fail(error instanceof KvError ? status.UNAVAILABLE : status.INTERNAL, details);
      },
    );
  });
  const waiting = AbortSignal.any([signal, greeted.signal]);
  await clock.sleep(HELLO_TIMEOUT_MS, waiting).then(
    () => fail(status.DEADLINE_EXCEEDED, `no greeting within ${HELLO_TIMEOUT_MS / 1000} s`),
    () => undefined,
  );
}

function judgeHello(
  hello: Hello | undefined,
  options: Pick<ServeOptions, 'subject' | 'clusterName'>,
): NodeConflict | undefined {
  const { subject, clusterName } = options;
  if (hello === undefined) return { field: 'hello', reason: 'expected a greeting first' };
  if (hello.schema !== SCHEMA) {
    return {
      field: 'hello.schema',
      reason: `schema ${hello.schema} is not known, expected ${SCHEMA}: bring agent and apiserver to one version`,
    };
  }
  if (hello.cluster_name !== clusterName) {
    return {
      field: 'hello.cluster_name',
      reason: `this is the registry of cluster ${clusterName}, not of ${JSON.stringify(hello.cluster_name)}`,
    };
  }
  if (hello.node_name !== subject.name) {
    const { kind, name } = subject;
    return {
      field: 'hello.node_name',
      reason: `${JSON.stringify(hello.node_name)} is not the ${kind} of the certificate, ${kind}-${name}`,
    };
  }
  return undefined;
}
