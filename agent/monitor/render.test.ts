import { test } from 'tap';
import { frame, ipPacket } from '../datapath/testing/packet.ts';
import { describeRecord, type MonitorEvent } from './event.ts';
import type { PacketRecord, ServiceRecord } from './record.ts';
import { renderCompact, renderDict } from './render.ts';
import { testNames, testPacket, testService } from './testing/records.ts';

const PLAIN = { colours: false, withNode: false };

const tell = (record: PacketRecord | ServiceRecord): MonitorEvent =>
  describeRecord(record, { time: 1_000_000 * 3600, names: testNames() });

const LOST: MonitorEvent = {
  kind: 'lost',
  time: '1970-01-01T01:00:00.000000Z',
  node: 'n1',
  where: 'rate-limit',
  of: 'drop',
  count: 12,
};
const START: MonitorEvent = {
  kind: 'start',
  time: LOST.time,
  node: 'n1',
  traceLevel: 'none',
  history: 0,
};

test('renderCompact() makes a line of each event', (t) => {
  const about = ipPacket({
    from: '10.1.0.2',
    to: '10.2.0.5',
    protocol: 'tcp',
    destinationPort: 80,
  });
  const error = frame({
    from: '192.0.2.9',
    to: '10.1.0.2',
    protocol: 'icmp',
    type: 3,
    payload: about,
  });
  const six = frame({ from: 'fd02::5', to: 'fd01::2', protocol: 'tcp', flags: '', sourcePort: 1 });
  const cases: readonly [MonitorEvent, string | undefined][] = [
    [
      tell(testPacket()),
      "01:00:00.000000 drop    policy-denied ingress endpoint 7 10.2.0.5:4444 (131372, beta) -> 10.1.0.2:80 (demo/web, 65837, alpha) TCP SYN 70 bytes veth7: no policy row allows it, and a policy selects the endpoint: expected, or else compare the labels of the other side with the policy's selectors; identity 5 (init) means that the pod's address is not known yet",
    ],
    [
      tell(testPacket({ kind: 'trace', reason: 0, state: 'new', packet: six, endpointId: 0 })),
      '01:00:00.000000 trace   forwarded ingress endpoint 7 [fd02::5]:1 (131372, beta) -> [fd01::2]:80 (65837, alpha) TCP no flags new 70 bytes veth7',
    ],
    [
      tell(testPacket({ kind: 'trace', reason: 0, packet: error, sourceIdentity: 2, ifindex: 12 })),
      '01:00:00.000000 trace   forwarded ingress endpoint 7 192.0.2.9 (world) -> 10.1.0.2 (demo/web, 65837, alpha) ICMPv4 destination unreachable (about TCP 10.1.0.2 port 40000 -> 10.2.0.5 port 80) 70 bytes interface 12',
    ],
    [
      tell(testService()),
      '01:00:00.000000 service service-translated demo/web 10.96.0.1:80 TCP -> 10.2.0.5:8080 (beta)',
    ],
    [
      tell(testService({ reason: 158, backend: undefined })),
      '01:00:00.000000 service service-no-backend demo/web 10.96.0.1:80 TCP refused: the service has no backends, the call was refused: make a server ready in some cluster that exports the service',
    ],
    [
      LOST,
      '01:00:00.000000 lost    12 drop events lost: the node has more than it may tell in a second (--bpf-events-default-rate-limit)',
    ],
    [
      { ...LOST, where: 'listener', of: undefined },
      '01:00:00.000000 lost    12 events lost: this reader was too slow (--monitor-queue-size)',
    ],
    [START, undefined],
  ];
  for (const [event, line] of cases) t.equal(renderCompact(event, PLAIN), line);
  t.end();
});

test('renderCompact() colours for terminals, and names the node among several', (t) => {
  const line = renderCompact(tell(testPacket()), { colours: true, withNode: true }) ?? '';
  t.ok(line.startsWith('01:00:00.000000 n1 \u001b[31mdrop   \u001b[0m policy-denied'), line);
  t.end();
});

test('renderDict() makes a block of each event', (t) => {
  const dict = renderDict(tell(testPacket()), PLAIN) ?? '';
  t.match(dict, /^TIME: +1970-01-01T01:00:00\.000000Z\nNODE: +n1\nKIND: +drop\n/);
  t.match(dict, /\nREASON: +policy-denied \(133\)\n/);
  t.match(
    dict,
    /\nSOURCE IDENTITY: +131372\nSOURCE CLUSTER: +beta\nSOURCE LABELS: +k8s:app=client\n/,
  );
  t.match(dict, /\nDESTINATION POD: +demo\/web\n/);
  t.match(dict, /\nPACKET: +[0-9a-f]+\nADVICE: +no policy row allows it/);
  t.ok(dict.endsWith('\n'), 'an empty line ends it');
  t.match(
    renderDict(tell(testService()), PLAIN),
    /\nBACKEND: +10\.2\.0\.5:8080\nBACKEND CLUSTER: +beta\n/,
  );
  t.match(renderDict(LOST, PLAIN), /\nTEXT: +12 drop events lost/);
  t.equal(renderDict(START, PLAIN), undefined);
  t.match(
    renderDict(tell(testPacket()), { colours: true, withNode: false }),
    /KIND: +.\[31mdrop.\[0m\n/,
  );
  t.end();
});
