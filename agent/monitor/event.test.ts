import { test } from 'tap';
import { frame } from '../datapath/testing/packet.ts';
import { describeRecord, formatTime } from './event.ts';
import { renderCompact } from './render.ts';
import { NOBODY, testNames, testPacket, testService } from './testing/records.ts';

const TIME = Date.UTC(2025, 10, 21, 16, 48, 0, 123) * 1000 + 456;

test('describeRecord() names both sides of a packet as far as they are known', (t) => {
  const names = testNames();
  t.same(describeRecord(testPacket(), { time: TIME, names }), {
    kind: 'drop',
    time: '2025-11-21T16:48:00.123456Z',
    node: 'n1',
    reason: 'policy-denied',
    reasonNumber: 133,
    direction: 'ingress',
    state: 'unknown',
    interface: 'veth7',
    endpoint: { id: 7, pod: 'demo/web' },
    source: {
      address: '10.2.0.5',
      port: 4444,
      identity: 131_372,
      reserved: undefined,
      cluster: 'beta',
      pod: undefined,
      labels: ['k8s:app=client'],
    },
    destination: {
      address: '10.1.0.2',
      port: 80,
      identity: 65_837,
      reserved: undefined,
      cluster: 'alpha',
      pod: 'demo/web',
      labels: ['k8s:app=web'],
    },
    network: 'IPv4',
    protocol: 'TCP',
    flags: ['SYN'],
    icmp: undefined,
    isLaterFragment: false,
    isCutOff: false,
    length: 70,
    advice:
      "no policy row allows it, and a policy selects the endpoint: expected, or else compare the labels of the other side with the policy's selectors; identity 5 (init) means that the pod's address is not known yet",
    packet: testPacket().packet.toString('hex'),
  });
  t.end();
});

test('describeRecord() says nothing of what is not known', (t) => {
  const unknown = testPacket({
    reason: 250,
    ifindex: 99,
    endpointId: 0,
    sourceIdentity: 0,
    destinationIdentity: 2,
    packet: Buffer.from('ff'.repeat(12), 'hex'),
  });
  const event = describeRecord(unknown, { time: TIME, names: testNames() });
  t.match(event, {
    reason: 'reason-250',
    interface: 'interface 99',
    endpoint: undefined,
    source: { ...NOBODY, address: undefined },
    destination: { identity: 2, reserved: 'world', cluster: undefined },
    isCutOff: true,
    advice: /newer than this agent/,
  });
  t.notOk('endpoint' in JSON.parse(JSON.stringify(event)), 'nor in JSON');
  t.end();
});

test('describeRecord() finds the endpoint by the interface where the program did not know it', (t) => {
  const spoofed = testPacket({ reason: 132, endpointId: 0 });
  t.match(describeRecord(spoofed, { time: TIME, names: testNames() }), {
    endpoint: { id: 7, pod: 'demo/web' },
  });
  t.end();
});

test('describeRecord() gives no advice for what went on', (t) => {
  const trace = testPacket({
    kind: 'trace',
    reason: 1,
    packet: frame({ from: '10.1.0.2', to: '10.2.0.5', protocol: 'icmp', sourcePort: 9 }),
  });
  t.match(describeRecord(trace, { time: TIME, names: testNames() }), {
    kind: 'trace',
    reason: 'forwarded-overlay',
    icmp: { name: 'echo request', id: 9 },
    advice: undefined,
  });
  t.end();
});

test('describeRecord() says why audit mode was needed', (t) => {
  const audited = testPacket({
    kind: 'policy-audit',
    reason: 133,
    state: 'new',
    packet: frame({ from: '10.2.0.5', to: '10.1.0.2', protocol: 'tcp', destinationPort: 22 }),
  });
  const event = describeRecord(audited, { time: TIME, names: testNames() });
  t.match(event, { kind: 'policy-audit', reason: 'policy-denied', state: 'new' });
  t.match(event.advice, /no policy row allows it/);
  const [line = ''] = [renderCompact(event, { colours: false, withNode: false })];
  t.match(line, /policy-audit policy-denied ingress/);
  t.end();
});

test('describeRecord() tells what became of a call to a service', (t) => {
  const names = testNames();
  t.match(describeRecord(testService(), { time: TIME, names }), {
    kind: 'service',
    reason: 'service-translated',
    service: 'demo/web',
    destination: { address: '10.96.0.1', port: 80 },
    backend: { address: '10.2.0.5', port: 8080, cluster: 'beta' },
    cookie: '1099511627776',
    advice: undefined,
  });
  const refused = testService({ reason: 158, backend: undefined });
  t.match(describeRecord(refused, { time: TIME, names }), {
    reason: 'service-no-backend',
    backend: undefined,
    advice: /the service has no backends/,
  });
  t.end();
});

test('formatTime() has microseconds', (t) => {
  t.equal(formatTime(0), '1970-01-01T00:00:00.000000Z');
  t.equal(formatTime(1_000_007), '1970-01-01T00:00:01.000007Z');
  t.end();
});
