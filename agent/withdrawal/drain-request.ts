import { z } from 'zod';
import type { Mesh } from '../../mesh/remote/mesh.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';
import type { Drains } from './drains.ts';
import type { Withdrawal } from './withdrawal.ts';

const requestSchema = z.object({ cluster: z.string() });

/** An answer over the agent's socket. */
export interface DrainAnswer {
  readonly status: number;
  readonly body: { readonly message: string } | { readonly error: string };
}

/** Answers `POST /v1/drain` and `/v1/undrain`, whose body is `{"cluster":"<name>"}`. */
export type ServeDrain = (action: 'drain' | 'undrain', body: string) => DrainAnswer;

/** Makes the function that drains clusters on request. */
export function createDrainService(options: {
  readonly own: ClusterName;
  readonly drains: Drains;
  readonly mesh: Pick<Mesh, 'lives'>;
  readonly withdrawal: Pick<Withdrawal, 'touch'>;
  readonly clock: Clock;
  readonly logger: Logger;
}): ServeDrain {
  const { drains, logger } = options;

  const change = (action: 'drain' | 'undrain', cluster: ClusterName): DrainAnswer => {
    const isNews =
      action === 'drain' ? drains.add(cluster, options.clock.now()) : drains.remove(cluster);
    options.withdrawal.touch();
    if (isNews) logger.warn({ cluster, action }, 'an operator changed the use of a cluster');
    return ok(messageOf(action, { cluster, isNews }));
  };

  return (action, body) => {
    let cluster: ClusterName;
    try {
      cluster = parseClusterName(requestSchema.parse(JSON.parse(body)).cluster);
    } catch (error) {
      const why = error instanceof Error ? error.message.replace(/\s+/g, ' ') : String(error);
      return refuse(400, `cannot ${action}: expected {"cluster":"<name>"}: ${why}`);
    }
    if (cluster === options.own) {
      return refuse(
        400,
        `cannot ${action} ${cluster}: it is this agent's own cluster, only peers can be drained`,
      );
    }
    const peers = options.mesh.lives().map(({ name }) => name);
    // A cluster that was drained and then removed can still be undrained.
    if (!peers.includes(cluster) && !drains.has(cluster)) {
      const known = peers.length === 0 ? 'it has no peers' : `its peers are ${peers.join(', ')}`;
      return refuse(404, `cannot ${action} ${cluster}: this agent has no such peer, ${known}`);
    }
    try {
      return change(action, cluster);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      return refuse(500, `cannot ${action} ${cluster}: it cannot be kept in --state-dir: ${why}`);
    }
  };
}

function messageOf(
  action: 'drain' | 'undrain',
  { cluster, isNews }: { readonly cluster: ClusterName; readonly isNews: boolean },
): string {
  if (action === 'drain') {
    return `cluster ${cluster} ${isNews ? 'is drained' : 'was drained before'}: new connections go to it only where a service has no other backend; this node only, until undrained`;
  }
  return isNews
    ? `cluster ${cluster} is used again`
    : `cluster ${cluster} was not drained, nothing has changed`;
}

function ok(message: string): DrainAnswer {
  return { status: 200, body: { message } };
}

function refuse(status: number, error: string): DrainAnswer {
  return { status, body: { error } };
}
