/** One agent's stream: Hello, then facts, each answered in turn, and how policies stand, which is not answered. */
import { type ServerDuplexStream, status } from '@grpc/grpc-js';
import { z } from 'zod';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { NodeConflict } from '../convert/node.ts';
import type { NodeBook, NodeSession } from './node-book.ts';
import type { PolicyBoard, PolicySession } from './policy-board.ts';
import { parsePolicyNews } from './policy-report.ts';

const SCHEMA = 1;
const HELLO_TIMEOUT_MS = 10_000;

const messageSchema = z.object({
  hello: z
    .object({
      schema: z.number().default(0),
      cluster_name: z.string().default(''),
      node_name: z.string().default(''),
      agent_version: z.string().default(''),
    })
    .optional(),
  facts: z.looseObject({ sequence: z.number().default(0) }).optional(),
  policies: z.looseObject({}).optional(),
});

type Hello = NonNullable<z.infer<typeof messageSchema>['hello']>;

/** Whom a stream is served for, and with what. */
export interface ServeOptions {
  /** Node of the caller's certificate. */
  readonly node: string;
  readonly clusterName: string;
  readonly book: NodeBook;
  /** Is told how policies stand. */
  readonly policies: Pick<PolicyBoard, 'open'>;
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
  const { node, book, clock, logger } = options;
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  const greeted = new AbortController();
  let session: NodeSession | undefined;
  let standings: PolicySession | undefined;

  const end = (): void => {
    ended.abort();
    session?.close();
  };
  const fail = (code: status, details: string): void => {
    if (!ended.signal.aborted) call.emit('error', { code, details });
    end();
  };
  const answer = (sequence: number, conflict: NodeConflict | undefined): void => {
    if (ended.signal.aborted) return;
    if (conflict === undefined) {
      call.write({ accepted: { sequence, takes_policies: sequence === 0 } });
    } else call.write({ rejected: { sequence, ...conflict } });
  };
  const receive = async (message: unknown): Promise<void> => {
    const { hello, facts, policies } = messageSchema.parse(message);
    if (session === undefined) {
      greeted.abort();
      const refusal = judgeHello(hello, options);
      answer(0, refusal);
      if (refusal !== undefined) {
        logger.warn({ node, ...refusal }, 'a session was refused');
        call.end();
        end();
        return;
      }
      session = book.open(node, () =>
        fail(
          status.ABORTED,
          `another session of node ${node} has begun: two agents share its certificate, or this one reconnected`,
        ),
      );
      standings = options.policies.open(node);
      return;
    }
    if (policies !== undefined) {
      const news = parsePolicyNews(policies);
      // The node is there all the same: nothing that is for people ends its session.
      if (news === undefined) logger.warn({ node }, 'cannot read how policies stand on a node');
      else standings?.take(news);
      return;
    }
    if (facts === undefined) {
      return fail(status.INVALID_ARGUMENT, 'expected facts or policies after the greeting');
    }
    const conflict = await session.offer(facts, signal);
    if (conflict !== undefined)
      logger.warn({ node, ...conflict }, 'what a node says of itself was rejected');
    answer(facts.sequence, conflict);
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
        logger.warn({ node, err: error }, 'cannot take what a node says');
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
  options: Pick<ServeOptions, 'node' | 'clusterName'>,
): NodeConflict | undefined {
  const { node, clusterName } = options;
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
  if (hello.node_name !== node) {
    return {
      field: 'hello.node_name',
      reason: `${JSON.stringify(hello.node_name)} is not the node of the certificate, node-${node}`,
    };
  }
  return undefined;
}
