/** Whether a peer's clock and ours agree, by what its server says in passing and by what our reader has measured. */
import type { EtcdTls } from '../kvstore/etcd-endpoint.ts';
import type { Clock } from '../runtime/clock.ts';
import { lookAtServerDate } from '../runtime/server-date.ts';
import type { PeerSight } from '../wire/agent-report.ts';
import type { ServerPlace } from './endpoint-path.ts';
import { type Problem, problemOf } from './problem.ts';
import type { StepResult } from './step-list.ts';

/** A date is to the second, and its way takes time. */
const WRONG_MS = 30_000;

/** Looks. Never rejects: a server that does not tell leaves the question open. */
export async function lookAtClock(
  peer: string,
  options: {
    readonly places: readonly ServerPlace[];
    readonly tls: EtcdTls | undefined;
    readonly sight: PeerSight | undefined;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
): Promise<StepResult> {
  const { places, tls, sight, clock } = options;
  const { signal } = options;
  const [place] = places;
  const date =
    place === undefined || tls === undefined
      ? undefined
      : // Nothing is believed by it but the time: what its certificate is worth has been said before.
        await lookAtServerDate({
          host: place.address,
          port: place.port,
          name: place.name,
          caller: { cert: tls.cert, key: tls.key },
          signal,
        });
  const measured = sight?.clockWrongByMs;
  const difference = date === undefined ? measured : date - clock.now();
  if (difference === undefined) {
    return { seen: ['its server does not tell its time'], isSkipped: true };
  }
  const seconds = Math.round(Math.abs(difference) / 1000);
  const direction = difference > 0 ? 'ahead of' : 'behind';
  const seen = [
    `its clock is ${seconds} s ${direction} ours, ${new Date(clock.now()).toISOString()}`,
  ];
  const isWrong = Math.abs(difference) >= WRONG_MS;
  return isWrong
    ? { seen, problem: clockProblem(peer, `its clock is ${seconds} s ${direction} ours`) }
    : { seen };
}

function clockProblem(peer: string, cause: string): Problem {
  return problemOf('peer-clock', { subject: `peer ${peer}`, cause, values: { peer } });
}
