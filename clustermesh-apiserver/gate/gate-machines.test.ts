import { createHash, X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { machineLeaf, nodeLeaf } from '../../pki/names.ts';
import { createMachineBook } from '../registry/machine-book.ts';
import { openGateFixture, until } from './testing/gate-fixture.ts';
import type { RawClient } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;
const HOUR_MS = 3_600_000;

test('a machine reads through the gate as long as it is one', {
  skip,
  timeout: 60_000,
}, async (t) => {
  const book = createMachineBook({
    store: createMemoryStore(),
    publish: () => undefined,
    findConflict: () => undefined,
    ownAddresses: () => [],
    checksOf: () => [],
    graceMs: 60_000,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  await using fixture = await openGateFixture({ machines: book.trust });
  const { own, gate } = fixture;
  const key = Buffer.from('cilium/cache/nodes/v1/beta/n1');
  const get = async (client: RawClient): Promise<string> => {
    try {
      await client.call('KV', 'Range', { key });
      return 'OK';
    } catch (error) {
      return String(error);
    }
  };
  const leaf = machineLeaf('db');
  const { cert } = await fixture.tls(own, leaf);
  const spki = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' });
  const hash = createHash('sha256').update(spki).digest('hex');
  const enrol = (publicKeyHash: string) =>
    book.enrol(
      {
        name: 'db',
        namespace: 'default',
        labels: {},
        addressRanges: [],
        addresses: ['192.0.2.10'],
        key: { hash: publicKeyHash, expiresAt: Date.now() + HOUR_MS },
        tokenId: 't',
        agentVersion: '',
      },
      signal,
    );

  const early = await fixture.client(own, leaf);
  t.match(await get(early), /permission denied/, 'a certificate alone is not enough');
  t.ok(gate.status.refused['unknown-machine']);
  early[Symbol.dispose]();
  await enrol(hash);
  const machine = await fixture.client(own, leaf);
  await until('it is let in', async () => (await get(machine)) === 'OK');
  const node = await fixture.client(own, nodeLeaf('n1'));
  const [ofMachine, ofNode] = [machine, node].map((client) =>
    client.watch({ key: Buffer.from('cilium/cache/'), range_end: Buffer.from('cilium/cache0') }),
  );
  await until(
    'both watch',
    () => gate.status.clients.filter(({ watches }) => watches > 0).length === 2,
  );

  const began = Date.now();
  await book.remove('db', signal);
  await until('its stream is cut', () => ofMachine?.error !== undefined);
  t.ok(Date.now() - began < 10_000, 'within 10 s');
  t.match(await get(machine), /permission denied/);
  t.ok(gate.status.refused.revoked);
  t.equal(ofNode?.error, undefined, 'others go on');

  await enrol('of somebody else');
  t.equal(book.get('db')?.state, 'enrolled', 'another machine has the name');
  t.match(await get(machine), /permission denied/, 'with its old key it is nobody');
});
