import type { Test } from 'tap';
import { systemClock } from '../../runtime/clock.ts';
import { createLogger } from '../../runtime/log.ts';
import { parseClusterId, parseClusterName } from '../../wire/ids.ts';
import { createClusterIds } from '../cluster-ids.ts';
import { createPeer, type Peer } from '../peer.ts';
import { createRecordingSink, type RecordingSink } from './recording-sink.ts';

/** Peer beta of cluster alpha (1), running by the real clock until the end of the test, without a connection yet. */
export function startPeer(t: Pick<Test, 'teardown'>): { peer: Peer; sink: RecordingSink } {
  const sink = createRecordingSink();
  const stopping = new AbortController();
  const own = { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 } as const;
  const peer = createPeer(parseClusterName('beta'), {
    own,
    nodeIps: [],
    sink,
    ids: createClusterIds(own),
    onIdentified: () => undefined,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const running = peer.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  return { peer, sink };
}
