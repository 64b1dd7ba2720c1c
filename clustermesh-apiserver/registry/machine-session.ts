/** A machine as the subject of a session. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createRateLimit } from '../controllers/rate-limit.ts';
import type { MachineBook } from './machine-book.ts';
import type { MachineConfigs } from './machine-configs.ts';
import type { SessionSubject } from './session-subject.ts';

const POLICY_PREFIX = 'machine/';
/** Much more than a machine has to say; each message may cost a write to etcd, and one that babbles has to wait. */
const MESSAGES = { burst: 50, perSecond: 10 };

/** Name of a machine where policies stand: no node has a slash in its name. */
export function machinePolicyName(name: string): string {
  return POLICY_PREFIX + name;
}

/** The machine that a name stands for where policies stand; undefined for a node's. */
export function machineOfPolicyName(name: string): string | undefined {
  return name.startsWith(POLICY_PREFIX) ? name.slice(POLICY_PREFIX.length) : undefined;
}

/** Makes the subject of the machine of a certificate. */
export function machineSubject(
  name: string,
  context: {
    readonly book: Pick<MachineBook, 'open'>;
    readonly configs: Pick<MachineConfigs, 'attach'>;
    readonly clock: Clock;
  },
): SessionSubject {
  return {
    kind: 'machine',
    name,
    policyName: machinePolicyName(name),
    open(greeting, onReplaced) {
      const opening = context.book.open(name, greeting, onReplaced);
      if (opening.kind !== 'open') return opening;
      const { session } = opening;
      const pace = createRateLimit({ ...MESSAGES, clock: context.clock });
      let detach = (): void => undefined;
      return {
        kind: 'open',
        session: {
          async take({ machine, health }, signal) {
            await pace.take(signal);
            if (health !== undefined) {
              await session.takeHealth(health, signal);
              return { kind: 'taken' };
            }
            if (machine === undefined) {
              return { kind: 'unexpected', expected: 'facts of a machine, its health or policies' };
            }
            const conflict = await session.offer(machine, signal);
            return { kind: 'answered', sequence: machine.sequence, conflict };
          },
          follow(send) {
            detach = context.configs.attach(name, send);
          },
          close() {
            detach();
            session.close();
          },
        },
      };
    },
  };
}
