import { test } from 'tap';
import type { ExportedPort } from '../../../mesh/wire/service-export.ts';
import { mergePorts } from './merge-ports.ts';
import { exportOf } from './testing/exports.ts';

const port = (name: string, number: number, more: Partial<ExportedPort> = {}): ExportedPort => ({
  name,
  protocol: 'TCP',
  appProtocol: undefined,
  port: number,
  ...more,
});

/** What clusters export, oldest first, and what comes of it as `name port/protocol`. */
const CASES: readonly {
  name: string;
  exported: readonly (readonly ExportedPort[])[];
  ports: readonly string[];
  disagreeing?: readonly string[];
  note?: RegExp;
}[] = [
  {
    name: 'the same ports',
    exported: [[port('http', 80)], [port('http', 80)]],
    ports: ['http 80/TCP'],
  },
  {
    name: 'the same ports in another order are no conflict',
    exported: [
      [port('a', 1), port('b', 2)],
      [port('b', 2), port('a', 1)],
    ],
    ports: ['a 1/TCP', 'b 2/TCP'],
  },
  {
    name: 'no protocol is TCP',
    exported: [[port('http', 80)], [port('http', 80, { protocol: '' })]],
    ports: ['http 80/TCP'],
  },
  {
    name: 'the union of different ports, and a conflict',
    exported: [[port('http', 80)], [port('http', 80), port('dns', 53, { protocol: 'UDP' })]],
    ports: ['http 80/TCP', 'dns 53/UDP'],
    disagreeing: ['c0'],
  },
  {
    name: 'one number in two protocols is two ports',
    exported: [[port('tcp', 42), port('udp', 42, { protocol: 'UDP' })]],
    ports: ['tcp 42/TCP', 'udp 42/UDP'],
  },
  {
    name: 'a name that is taken for another port is left out',
    exported: [[port('http', 80)], [port('http', 81)]],
    ports: ['http 80/TCP'],
    disagreeing: ['c1'],
    note: /port "http" 81\/TCP of c1 is left out: the name is that of port "http" 80\/TCP/,
  },
  {
    name: 'the first name of a port counts',
    exported: [[port('http', 80)], [port('web', 80)]],
    ports: ['http 80/TCP'],
    disagreeing: ['c1'],
    note: /port "web" 80\/TCP of c1 is imported as port "http" 80\/TCP/,
  },
  {
    name: 'the first appProtocol of a port counts',
    exported: [[port('http', 80, { appProtocol: 'http' })], [port('http', 80)]],
    ports: ['http 80/TCP'],
    disagreeing: ['c1'],
    note: /is imported with appProtocol "http"/,
  },
  {
    name: 'a port without a name stands alone',
    exported: [[port('', 80)], [port('dns', 53)]],
    ports: [' 80/TCP'],
    disagreeing: ['c1'],
    note: /port "dns" 53\/TCP of c1 is left out: a port without a name can only stand alone/,
  },
  {
    name: 'a port without a name does not join others',
    exported: [[port('http', 80)], [port('', 443)]],
    ports: ['http 80/TCP'],
    disagreeing: ['c1'],
    note: /port 443\/TCP of c1 is left out: a port without a name/,
  },
  {
    name: 'what Kubernetes would refuse is left out, and the rest stays',
    exported: [
      [port('http', 80)],
      [port('Not A Name', 81), port('q', 82, { protocol: 'QUIC' }), port('z', 0), port('http', 80)],
    ],
    ports: ['http 80/TCP'],
    disagreeing: ['c1'],
    note: /no DNS label.*none of Kubernetes.*no such port/,
  },
  {
    name: 'an appProtocol that is no name is left out',
    exported: [[port('http', 80, { appProtocol: 'not a name' })]],
    ports: ['http 80/TCP'],
    disagreeing: ['c0'],
  },
];

for (const { name, exported, ports, disagreeing = [], note } of CASES) {
  test(`mergePorts(): ${name}`, async (t) => {
    const merged = mergePorts(
      exported.map((list, index) => exportOf(`c${index}`, { ports: list, age: index })),
    );
    t.strictSame(
      merged.ports.map((one) => `${one.name} ${one.port}/${one.protocol}`),
      ports,
    );
    t.strictSame(merged.disagreeing, disagreeing);
    if (note === undefined) return;
    t.match(merged.notes.join('; '), note);
  });
}

test('mergePorts() takes what a Service can hold and no more', async (t) => {
  const many = Array.from({ length: 400 }, (_, index) => port(`p${index}`, index + 1));
  t.equal(mergePorts([exportOf('alpha', { ports: many })]).ports.length, 250);
});
