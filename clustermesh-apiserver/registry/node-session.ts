/** A node as the subject of a session. */
import type { MachineConfigs } from './machine-configs.ts';
import type { NodeBook } from './node-book.ts';
import type { SessionSubject } from './session-subject.ts';

/** Makes the subject of the node of a certificate. `configs`: where its agent hears of its peers; undefined: it does not. */
export function nodeSubject(
  name: string,
  context: {
    readonly book: Pick<NodeBook, 'open'>;
    readonly configs: Pick<MachineConfigs, 'attachNode'> | undefined;
  },
): SessionSubject {
  const { book, configs } = context;
  return {
    kind: 'node',
    name,
    policyName: name,
    open({ takesConfig }, onReplaced) {
      const reason = `another session of node ${name} has begun: two agents share its certificate, or this one reconnected`;
      const session = book.open(name, () => onReplaced(reason));
      let detach: (() => void) | undefined;
      return {
        kind: 'open',
        session: {
          async take({ facts }, signal) {
            if (facts === undefined) return { kind: 'unexpected', expected: 'facts or policies' };
            const conflict = await session.offer(facts, signal);
            return { kind: 'answered', sequence: facts.sequence, conflict };
          },
          follow(send) {
            if (takesConfig) detach = configs?.attachNode(send);
          },
          close() {
            detach?.();
            session.close();
          },
        },
      };
    },
  };
}
