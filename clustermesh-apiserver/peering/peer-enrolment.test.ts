import { test } from 'tap';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createCa } from '../../pki/ca.ts';
import { parseMeshPeer } from './mesh-peer.ts';
import { enrollmentPlaces, enrolWithPeer } from './peer-enrolment.ts';
import { PeeringError } from './peering-error.ts';
import { makeClientKey } from './peering-key.ts';

const ca = await createCa();
const client = await makeClientKey();

function peerAt(enrollment: readonly string[], hostAliases: readonly object[] = []) {
  return parseMeshPeer({
    apiVersion: 'isthmus.io/v1alpha1',
    kind: 'MeshPeer',
    metadata: { name: 'beta' },
    spec: { clusterId: 2, endpoints: ['https://192.0.2.1'], enrollment, hostAliases, ca: ca.root },
  });
}

test('enrollmentPlaces() dials aliases by their addresses', async (t) => {
  const aliases = [{ hostname: 'beta.mesh.cilium.io', ips: ['192.0.2.1', 'fd00::1'] }];
  const peer = peerAt(['beta.mesh.cilium.io:2382', '192.0.2.9:2382', '[fd00::9]:1'], aliases);
  t.same(enrollmentPlaces(peer), [
    { host: '192.0.2.1', port: 2382 },
    { host: 'fd00::1', port: 2382 },
    { host: '192.0.2.9', port: 2382 },
    { host: 'fd00::9', port: 1 },
  ]);
});

test('enrolWithPeer() says what the last listener said, and ends when it is told to', async (t) => {
  const own = { ownName: parseClusterName('alpha'), key: client, client };
  const places = [await findFreePort(), await findFreePort()].map((port) => `127.0.0.1:${port}`);
  const error = await enrolWithPeer(peerAt(places), {
    ...own,
    signal: new AbortController().signal,
  }).catch((thrown: unknown) => thrown);
  t.ok(error instanceof PeeringError);
  t.match(error, { code: 'unreachable', retryable: true });
  const ended = AbortSignal.abort(new Error('enough'));
  await t.rejects(enrolWithPeer(peerAt(places), { ...own, signal: ended }), { message: 'enough' });
});
