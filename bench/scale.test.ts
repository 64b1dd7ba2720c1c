import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'tap';
import { kernelSkipReason } from '../agent/datapath/testing/bpffs.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { endpointIp, keysOfCluster, meshSizeFor, peerClusters, rowsOf } from './mesh-plan.ts';
import { parseSizes } from './sizes.ts';

const run = promisify(execFile);
const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const skip = kernelSkipReason();

interface Line {
  readonly metric: string;
  readonly value: number;
  readonly conditions: Readonly<Record<string, number>>;
}

/** Runs a benchmark as a user does, and returns its results. */
async function results(...args: string[]): Promise<Line[]> {
  const { stdout } = await run(process.execPath, [MAIN, ...args]);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

function lineOf(lines: readonly Line[], metric: RegExp): Line {
  const found = lines.find((line) => metric.test(line.metric));
  if (found === undefined) throw new Error(`no result is called ${metric}`);
  return found;
}

const TINY = ['--peers=3', '--nodes=2', '--identities=4', '--endpoints=20'];

test('bench mesh: a real agent reads a small mesh, all of it, and follows its changes', {
  skip,
}, async (t) => {
  const lines = await results(
    'mesh',
    ...TINY,
    '--churn=100',
    '--seconds=1',
    '--settleSeconds=0',
    '--fewEndpoints=40',
  );
  t.equal(lineOf(lines, /^first sync/).conditions.rows, 78);
  t.equal(lineOf(lines, /^median lag/).conditions.unseen, 0, 'every change came to the map');
  t.equal(lineOf(lines, /^errors/).value, 0);
  t.ok(lineOf(lines, /^resident memory/).value > 10);
});

test('bench mesh: each peer with an etcd of its own', { skip }, async (t) => {
  const lines = await results('mesh', ...TINY, '--etcds=3', '--churn=0', '--settleSeconds=2');
  t.equal(lineOf(lines, /^first sync/).conditions.rows, 78);
  t.equal(lineOf(lines, /^errors/).value, 0);
});

test('bench restart: an agent that was killed comes back, and its maps are right', {
  skip,
}, async (t) => {
  const lines = await results('restart', ...TINY, '--changed=3', '--rounds=1');
  const { conditions } = lineOf(lines, /known to be right/);
  t.equal(conditions.rowsWrongAfterwards, 0);
  t.equal(conditions.missesMeanwhile, 0, 'no row was away meanwhile');
});

test('bench policy: rows of a small mesh, compiled and brought up to date', async (t) => {
  const sizes = ['--policies=20', '--clusters=3', '--identities=10', '--endpoints=4'];
  const lines = await results('policy', ...sizes, '--namespaces=2', '--changes=3', '--rounds=1');
  t.ok(Number(lineOf(lines, /^full compile/).conditions.rows) > 4);
  t.ok(lineOf(lines, /^one new identity/).value > 0);
  t.ok(lineOf(lines, /^resident memory/).value > 10);
});

test('bench service and list print a result for each size and peer', { skip }, async (t) => {
  const services = await results('service', '--backends=200', '--changes=5', '--warmup=2');
  t.equal(services.length, 3);
  const lists = await results('list', '--keys=500', '--rounds=1');
  t.ok(lists.length >= 1);
});

test('the plan of a mesh gives every cluster its own addresses and identities', async (t) => {
  const peers = peerClusters({ peers: 300, nodes: 2, identities: 2, endpoints: 5 }, true);
  t.equal(meshSizeFor(300), 511);
  t.equal(peers[299]?.id, parseClusterId(301));
  t.equal(rowsOf(peers), 300 * 11);
  const addresses = peers.flatMap((peer) =>
    [0, 1, 2, 3, 4].map((index) => endpointIp(peer, index)),
  );
  t.equal(new Set(addresses).size, 1500);
  const keys = new Set(peers.flatMap((peer) => [...keysOfCluster(peer)].map(({ key }) => key)));
  // Each a configuration, 2 nodes, 2 identities, 5 endpoints and 4 markers; the heartbeat is everybody's.
  t.equal(keys.size, 300 * 14 + 1);
  t.throws(() => peerClusters({ peers: 511, nodes: 1, identities: 1, endpoints: 1 }, true), {
    message: /at most 510/,
  });
  t.throws(() => peerClusters({ peers: 1, nodes: 1, identities: 1, endpoints: 241 }, true), {
    message: /240 endpoints on each/,
  });
});

test('parseSizes() takes numbers in both forms and says what it knows', async (t) => {
  t.same(parseSizes(['--peers', '3', '--nodes=4'], { peers: 1, nodes: 2, rounds: 9 }), {
    peers: 3,
    nodes: 4,
    rounds: 9,
  });
  t.throws(() => parseSizes(['--what', '3'], { peers: 1 }), {
    message: 'cannot understand --what: expected some of --peers N',
  });
  t.throws(() => parseSizes(['--peers', 'x'], { peers: 1 }), {
    message: 'cannot understand --peers x: expected a whole number',
  });
  t.throws(() => parseSizes(['--peers'], { peers: 1 }), { message: /expected a whole number/ });
});
