import { test } from 'tap';
import { frame } from '../datapath/testing/packet.ts';
import { describeRecord } from './event.ts';
import { createFilter, type FilterRequest } from './filter.ts';
import type { PacketRecord, ServiceRecord } from './record.ts';
import { testNames, testPacket, testService } from './testing/records.ts';

const tell = (record: PacketRecord | ServiceRecord) =>
  describeRecord(record, { time: 0, names: testNames() });

const EVENTS = {
  drop: tell(testPacket()),
  six: tell(testPacket({ packet: frame({ from: 'fd02::5', to: 'fd01::2', protocol: 'icmp' }) })),
  trace: tell(testPacket({ kind: 'trace', reason: 0 })),
  call: tell(testService()),
  refused: tell(testService({ reason: 158, backend: undefined })),
};

const CASES: readonly [FilterRequest, readonly (keyof typeof EVENTS)[]][] = [
  [{}, ['drop', 'six', 'trace', 'call', 'refused']],
  [{ kinds: ['drop'] }, ['drop', 'six', 'refused']],
  [{ kinds: ['trace', 'service'] }, ['trace', 'call', 'refused']],
  [{ from: ['10.2.0.5'] }, ['drop', 'trace']],
  [{ from: ['10.2.0.0/16'] }, ['drop', 'trace']],
  [{ from: ['fd02::/64'] }, ['six']],
  [{ from: ['10.9.0.0/16', 'FD02::5'] }, ['six']],
  [{ to: ['demo/web'] }, ['drop', 'trace']],
  [{ from: ['demo/web'] }, []],
  [{ to: ['10.2.0.5'] }, ['call']],
  [{ identity: ['131372'] }, ['drop', 'six', 'trace']],
  [{ identity: ['65837', '9'] }, ['drop', 'six', 'trace']],
  [{ identity: ['9'] }, []],
  [{ endpoint: ['7'] }, ['drop', 'six', 'trace']],
  [{ endpoint: ['8'] }, []],
  [{ cluster: ['beta'] }, ['drop', 'six', 'trace', 'call']],
  [{ port: ['80'] }, ['drop', 'trace', 'call', 'refused']],
  [{ port: ['8080'] }, ['call']],
  [{ kinds: ['drop'], port: ['80'], cluster: ['beta'] }, ['drop']],
  [{ kinds: ['drop'], port: ['80'], cluster: ['gamma'] }, []],
];

test('createFilter() lets through what fits every option', (t) => {
  for (const [request, expected] of CASES) {
    const filter = createFilter(request);
    const found = Object.entries(EVENTS).flatMap(([name, event]) => (filter(event) ? [name] : []));
    t.same(found, expected, JSON.stringify(request));
  }
  t.end();
});

test('createFilter() says what an option takes', (t) => {
  const cases: readonly [FilterRequest, string][] = [
    [{ kinds: ['x'] }, 'kind x: expected one of drop, trace, service'],
    [
      { from: ['web'] },
      'from web: expected an address, a prefix, or namespace/name of a pod of this node',
    ],
    [
      { to: ['10.1.0.0/x y'] },
      'to 10.1.0.0/x y: expected an address, a prefix, or namespace/name of a pod of this node',
    ],
    [{ port: ['65536'] }, 'port 65536: expected a number from 0 to 65535'],
    [{ identity: ['-1'] }, 'identity -1: expected a number from 0 to 4294967295'],
    [{ endpoint: ['1e3'] }, 'endpoint 1e3: expected a number from 0 to 65535'],
  ];
  for (const [request, message] of cases) {
    t.throws(() => createFilter(request), { code: 'bad-filter', message });
  }
  t.end();
});
