import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'tap';
import { labSkipReason } from '../e2e/lab/preflight.ts';
import { needKube } from '../e2e/peers/kube-programs.ts';
import { needPeers } from '../e2e/peers/peer-binary.ts';
import { storedObject } from './kube-storage.ts';
import { CILIUM, type KubernetesSizes } from './kubernetes-lab.ts';

const run = promisify(execFile);
const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const TINY: KubernetesSizes = {
  nodes: 10,
  namespaces: 3,
  identities: 30,
  pods: 100,
  services: 10,
  endpoints: 50,
};
const skip =
  labSkipReason(process.env) ||
  needKube(process.env).skip ||
  needPeers([`${CILIUM}/clustermesh-apiserver`], process.env).skip;

test('storedObject() puts objects where kube-apiserver has them', async (t) => {
  const metadata = { namespace: 'demo', name: 'web' };
  const { key, value } = storedObject({ apiVersion: 'v1', kind: 'Service', metadata });
  t.equal(key, '/registry/services/specs/demo/web');
  const stored = JSON.parse(value);
  t.match(stored, { apiVersion: 'v1', kind: 'Service', metadata });
  t.match(stored.metadata.uid, /^[0-9a-f-]{36}$/, 'without a uid it would not be read');
  const node = { apiVersion: 'cilium.io/v2', kind: 'CiliumNode', metadata: { name: 'n1' } };
  t.equal(storedObject(node).key, '/registry/cilium.io/ciliumnodes/n1');
  t.throws(() => storedObject({ ...node, kind: 'Sheep' }), {
    message: 'cannot store a Sheep: its place is unknown',
  });
});

// A whole API server and three publishers, one after the other: long, and what it runs is tested elsewhere.
if (process.env.ISTHMUS_LONG === 'true') {
  test('bench kubernetes: every publisher is complete, and every change comes through', {
    skip,
    timeout: 300_000,
  }, async (t) => {
    const flags = Object.entries(TINY).map(([name, value]) => `--${name}=${value}`);
    const args = [MAIN, 'kubernetes', ...flags, '--churn=50', '--seconds=2'];
    const { stdout } = await run(process.execPath, args, { maxBuffer: 64 * 1024 * 1024 });
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { metric: string; value: number; peerValue?: number });
    for (const mode of ['cilium', 'any-cni']) {
      const own = lines.filter(({ metric }) => metric.endsWith(`, mode ${mode}`));
      t.equal(own.length, 8, mode);
      t.ok(own.every(({ value, peerValue }) => value >= 0 && peerValue !== undefined));
    }
  });
}
