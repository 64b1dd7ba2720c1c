import { test } from 'tap';
import { OWN_KINDS } from '../../mesh/remote/cluster-sink.ts';
import type { MeshStatus } from '../../mesh/remote/mesh.ts';
import type { PeerStatus } from '../../mesh/remote/peer.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import type { EngineStatus } from '../state/engine.ts';
import { createReadiness } from './readiness.ts';

const ownCluster = (synced: readonly string[]): PeerStatus =>
  ({ name: 'alpha', own: true, synced, state: { kind: 'ready' } }) as unknown as PeerStatus;

test('createReadiness() waits for the routes of the host once, and not for each change', (t) => {
  const clusters = [ownCluster([])];
  let areRoutesBehind = true;
  const readiness = createReadiness({
    mesh: () => ({ clusters }) as unknown as MeshStatus,
    engine: { status: () => ({ tables: [] }) as unknown as EngineStatus },
    datapath: { detached: () => [] },
    hostInterfaces: () => [],
    audited: () => [],
    areRoutesBehind: () => areRoutesBehind,
    clock: createManualClock(),
  });
  const routes = 'routes of this host to pods elsewhere are still being made';
  t.match(readiness.missing(), [/not everything has been read/, routes]);

  areRoutesBehind = false;
  t.match(readiness.missing(), [/not everything/, routes], 'what was not read has no routes yet');

  areRoutesBehind = true;
  clusters[0] = ownCluster(OWN_KINDS);
  t.strictSame(readiness.missing(), [routes]);

  areRoutesBehind = false;
  t.strictSame(readiness.missing(), []);
  areRoutesBehind = true;
  t.strictSame(readiness.missing(), [], 'a change later on is followed in moments');
  t.end();
});

test('createReadiness() waits for no routes where there are none', (t) => {
  const readiness = createReadiness({
    mesh: () => ({ clusters: [ownCluster(OWN_KINDS)] }) as unknown as MeshStatus,
    engine: { status: () => ({ tables: [] }) as unknown as EngineStatus },
    datapath: { detached: () => [] },
    hostInterfaces: () => [],
    audited: () => [],
    clock: createManualClock(),
  });
  t.strictSame(readiness.missing(), []);
  t.end();
});
