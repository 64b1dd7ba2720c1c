import { test } from 'tap';
import { parseClusterName, parseNumericIdentity } from './ids.ts';
import { parseIpAddress, parseIpPrefix } from './ip.ts';
import {
  CANARY_PREFIXES,
  canaryPrefix,
  clusterConfigKey,
  HEARTBEAT_KEY,
  identitiesPrefix,
  identityKey,
  ipKey,
  ipsPrefix,
  keyTextOfPrefix,
  localPolicyKey,
  localServiceKey,
  MESH_STAMP_KEY,
  meshDigestKey,
  meshPeerKey,
  nodeKey,
  nodesPrefix,
  serviceKey,
  servicesPrefix,
  syncedKey,
  syncedPrefix,
} from './keys.ts';
import { type ParsedKey, parseKey } from './parse-key.ts';

const alpha = parseClusterName('alpha');

test('keys are built as Cilium builds them, and parse to their parts', async (t) => {
  const cases: readonly (readonly [string, string, ParsedKey])[] = [
    [HEARTBEAT_KEY, 'cilium/.heartbeat', { kind: 'heartbeat' }],
    [
      nodeKey(alpha, 'n1.example'),
      'cilium/state/nodes/v1/alpha/n1.example',
      { kind: 'node', cluster: alpha, name: 'n1.example', cached: false },
    ],
    [
      ipKey(parseIpAddress('10.1.0.5')),
      'cilium/state/ip/v1/default/10.1.0.5',
      {
        kind: 'ip',
        cluster: undefined,
        prefix: parseIpPrefix('10.1.0.5'),
        isCidr: false,
        cached: false,
      },
    ],
    [
      ipKey(parseIpPrefix('2001:db8::/64')),
      'cilium/state/ip/v1/default/2001:db8::/64',
      {
        kind: 'ip',
        cluster: undefined,
        prefix: parseIpPrefix('2001:db8::/64'),
        isCidr: true,
        cached: false,
      },
    ],
    [
      identityKey(parseNumericIdentity(65_793)),
      'cilium/state/identities/v1/id/65793',
      { kind: 'identity', cluster: undefined, id: parseNumericIdentity(65_793), cached: false },
    ],
    [
      serviceKey(alpha, 'demo', 'web'),
      'cilium/state/services/v1/alpha/demo/web',
      { kind: 'service', cluster: alpha, namespace: 'demo', name: 'web', cached: false },
    ],
    [
      clusterConfigKey(alpha),
      'cilium/cluster-config/alpha',
      { kind: 'cluster-config', cluster: alpha },
    ],
    [
      syncedKey(alpha, CANARY_PREFIXES.nodes),
      'cilium/synced/alpha/cilium/state/nodes/v1',
      { kind: 'synced', cluster: alpha, prefix: 'cilium/state/nodes/v1' },
    ],
    [
      localServiceKey('demo', 'web'),
      'isthmus/local/services/demo/web',
      { kind: 'local-service', namespace: 'demo', name: 'web' },
    ],
    [
      localPolicyKey('NetworkPolicy', 'demo', 'allow'),
      'isthmus/local/policies/NetworkPolicy/demo/allow',
      { kind: 'local-policy', policyKind: 'NetworkPolicy', namespace: 'demo', name: 'allow' },
    ],
    [
      meshDigestKey('cilium/state/nodes/v1/alpha/'),
      'isthmus/mesh/digest/cilium/state/nodes/v1/alpha',
      { kind: 'mesh-digest', prefix: 'cilium/state/nodes/v1/alpha' },
    ],
    [MESH_STAMP_KEY, 'isthmus/mesh/stamp', { kind: 'mesh-stamp' }],
    [meshPeerKey(alpha), 'isthmus/mesh/peer/alpha', { kind: 'mesh-peer', cluster: alpha }],
    [
      localPolicyKey('CiliumClusterwideNetworkPolicy', '', 'all'),
      'isthmus/local/policies/CiliumClusterwideNetworkPolicy/_/all',
      {
        kind: 'local-policy',
        policyKind: 'CiliumClusterwideNetworkPolicy',
        namespace: '',
        name: 'all',
      },
    ],
  ];
  for (const [built, expected, parsed] of cases) {
    t.equal(built, expected);
    t.strictSame(parseKey(built), parsed, expected);
  }
});

test('watched prefixes end in a slash, those of markers do not', async (t) => {
  const prefixes: readonly (readonly [string, string])[] = [
    [nodesPrefix(alpha), 'cilium/state/nodes/v1/alpha/'],
    [nodesPrefix(alpha, { cached: true }), 'cilium/cache/nodes/v1/alpha/'],
    [ipsPrefix(alpha), 'cilium/state/ip/v1/default/'],
    [ipsPrefix(alpha, { cached: true }), 'cilium/cache/ip/v1/alpha/'],
    [identitiesPrefix(alpha), 'cilium/state/identities/v1/id/'],
    [identitiesPrefix(alpha, { cached: true }), 'cilium/cache/identities/v1/alpha/id/'],
    [servicesPrefix(alpha), 'cilium/state/services/v1/alpha/'],
    [servicesPrefix(alpha, { cached: true }), 'cilium/cache/services/v1/alpha/'],
    [syncedPrefix(alpha), 'cilium/synced/alpha/'],
    [canaryPrefix('ips', { cached: true }), 'cilium/cache/ip/v1'],
  ];
  for (const [built, expected] of prefixes) t.equal(built, expected);
  t.same(CANARY_PREFIXES, {
    nodes: 'cilium/state/nodes/v1',
    ips: 'cilium/state/ip/v1',
    identities: 'cilium/state/identities/v1',
    services: 'cilium/state/services/v1',
    serviceexports: 'cilium/state/serviceexports/v1',
    endpointslices: 'cilium/state/endpointslices/v1',
  });
});

test('a digest key is the same with and without the slash of its prefix', async (t) => {
  t.equal(meshDigestKey('a/b'), meshDigestKey('a/b/'));
});

test('keys spell a prefix by whether the value has a mask', async (t) => {
  t.equal(keyTextOfPrefix(parseIpPrefix('10.0.0.1'), false), '10.0.0.1');
  t.equal(keyTextOfPrefix(parseIpPrefix('10.0.0.1'), true), '10.0.0.1/32');
});
