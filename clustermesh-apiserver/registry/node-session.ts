/** A node as the subject of a session. */
import type { NodeBook } from './node-book.ts';
import type { SessionSubject } from './session-subject.ts';

/** Makes the subject of the node of a certificate. */
export function nodeSubject(name: string, book: Pick<NodeBook, 'open'>): SessionSubject {
  return {
    kind: 'node',
    name,
    policyName: name,
    open(_greeting, onReplaced) {
      const reason = `another session of node ${name} has begun: two agents share its certificate, or this one reconnected`;
      const session = book.open(name, () => onReplaced(reason));
      return {
        kind: 'open',
        session: {
          async take({ facts }, signal) {
            if (facts === undefined) return { kind: 'unexpected', expected: 'facts or policies' };
            const conflict = await session.offer(facts, signal);
            return { kind: 'answered', sequence: facts.sequence, conflict };
          },
          follow: () => undefined,
          close: () => session.close(),
        },
      };
    },
  };
}
