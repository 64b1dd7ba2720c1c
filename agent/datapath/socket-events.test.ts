import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { SERVICE_EVENT } from '../../mesh/wire/maps.ts';
import { decodeRecord, type EventRecord, splitRecords } from '../monitor/record.ts';
import { createDatapathEvents } from './events.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { openSocketRig, RIG_FRONTENDS } from './testing/socket-rig.ts';

const skip = kernelSkipReason();

test('calls to services are told: refusals always, translations from medium on', {
  skip,
}, async (t) => {
  await using rig = await openSocketRig();
  const events = createDatapathEvents(rig.maps);
  const records: EventRecord[] = [];
  await using _reader = await events.read({
    onRecords(batch) {
      for (const bytes of splitRecords(batch)) {
        t.equal(bytes.length, SERVICE_EVENT.size);
        records.push(decodeRecord(bytes));
      }
    },
    onFailure: (error) => t.error(error),
  });
  const call = (family: 'four' | 'six') =>
    rig.pod.call({ kind: 'tcp', address: RIG_FRONTENDS[family], port: 80, timeoutMs: 5000 });
  const send = () =>
    rig.pod.call({
      kind: 'udp',
      socket: 'one',
      type: 'udp6',
      address: RIG_FRONTENDS.six,
      port: 80,
    });
  const server = await rig.listen('TCP', 'four', 'tcp');
  const datagrams = await rig.listen('UDP', 'six', 'udp');
  rig.give('TCP', 'four', { backends: [{ ...server, clusterId: 2 }] });
  rig.give('UDP', 'six', { backends: [datagrams] });
  rig.give('TCP', 'six', { backends: [] });
  const refused = {
    kind: 'service',
    reason: 158,
    direction: 'egress',
    protocol: 'TCP',
    frontend: { address: RIG_FRONTENDS.six, port: 80 },
    backend: undefined,
  };
  const opened = {
    ...refused,
    reason: 3,
    frontend: { address: RIG_FRONTENDS.four, port: 80 },
    backend: { address: server.address, port: server.port, clusterId: 2 },
  };

  t.match(await call('four'), { said: 'tcp' });
  t.match(await call('six'), { error: 'ECONNREFUSED' });
  await until('the refusal is told', () => records.length > 0);
  t.match(records, [refused]);
  t.equal(records.length, 1, 'no translation at level none');

  events.setTraceLevel('medium');
  records.length = 0;
  t.match(await call('four'), { said: 'tcp' });
  for (let count = 0; count < 3; count += 1) t.match(await send(), { said: 'udp' });
  t.match(await call('six'), { error: 'ECONNREFUSED' });
  await until('the refusal is told', () =>
    records.some((record) => record.kind === 'service' && record.backend === undefined),
  );
  const cookies = new Set(
    records.map((record) => (record.kind === 'service' ? record.cookie : undefined)),
  );
  t.match(records, [
    opened,
    {
      reason: 3,
      protocol: 'UDP',
      frontend: { address: RIG_FRONTENDS.six, port: 80 },
      backend: { address: datagrams.address, port: datagrams.port, clusterId: 1 },
    },
    refused,
  ]);
  t.equal(records.length, 3, 'a socket that keeps its backend is told of once');
  t.notOk(cookies.has(0n));
  t.equal(cookies.size, 3, 'three sockets');
});
