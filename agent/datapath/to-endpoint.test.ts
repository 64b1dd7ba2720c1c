import { test } from 'tap';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { PacketSpec } from './testing/packet.ts';
import { openProgramRun, testEndpoint, testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();

test('mesh_to_endpoint: who the stack speaks for', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { ingressEnforced: true })],
    deletes: [],
  });
  run.tables.ipcache.apply({
    upserts: [testPrefix('203.0.113.0/24', 0x20000 + 9), testPrefix('192.0.2.1/32', 1)],
    deletes: [],
  });
  const to = (from: string): PacketSpec => ({ from, to: '10.1.0.2', protocol: 'tcp' });
  const delivered = { kind: 'stack', reasons: ['forwarded ingress'] };
  const denied = { kind: 'drop', reasons: ['policy-denied ingress'] };

  t.strictSame(run.toEndpoint(to('10.1.0.1')), delivered, 'the node itself, from any address');
  t.strictSame(
    run.toEndpoint(to('192.0.2.1'), 9),
    delivered,
    'forwarded, with the address of the node',
  );
  t.strictSame(run.toEndpoint(to('198.51.100.1'), 9), denied, 'the world');
  t.strictSame(run.toEndpoint(to('203.0.113.7'), 9), denied, 'a known identity');

  run.tables.policy.apply({ upserts: [testPolicy(1, 0x20000 + 9)], deletes: [] });
  t.strictSame(run.toEndpoint(to('203.0.113.7'), 9), delivered, 'a known identity, allowed');
  t.strictSame(run.toEndpoint(to('198.51.100.1'), 9), denied, 'the world still');
  run.tables.policy.apply({ upserts: [testPolicy(1, 2)], deletes: [] });
  t.strictSame(run.toEndpoint(to('198.51.100.1'), 9), delivered, 'the world, allowed');
  t.strictSame(
    run.toEndpoint({ from: '10.1.0.1', to: '10.1.0.99', protocol: 'tcp' }),
    { kind: 'drop', reasons: ['no-endpoint ingress'] },
    'to an address that is no endpoint',
  );
});

test('mesh_to_endpoint: answers to what the endpoint asked', { skip }, async (t) => {
  await using run = await openProgramRun();
  run.tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2', { ingressEnforced: true })],
    deletes: [],
  });
  const question: PacketSpec = {
    from: '10.1.0.2',
    to: '198.51.100.1',
    protocol: 'udp',
    sourcePort: 5353,
    destinationPort: 53,
  };
  const answer: PacketSpec = {
    from: '198.51.100.1',
    to: '10.1.0.2',
    protocol: 'udp',
    sourcePort: 53,
    destinationPort: 5353,
  };
  t.equal(run.toEndpoint(answer, 9).kind, 'drop', 'before the question');
  t.equal(run.fromEndpoint(question).kind, 'stack');
  t.equal(run.toEndpoint(answer, 9).kind, 'stack', 'after it');
  t.equal(run.toEndpoint({ ...answer, sourcePort: 54 }, 9).kind, 'drop', 'from another port');
  t.equal(
    run.toEndpoint({ ...answer, from: '198.51.100.2' }, 9).kind,
    'drop',
    'from another address',
  );
});
