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
  nodeKey,
  nodesPrefix,
  type ParsedKey,
  parseKey,
  serviceKey,
  servicesPrefix,
  syncedKey,
  syncedPrefix,
} from './keys.ts';
import { refusalOf } from './testing/refusal.ts';

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

test('keys that only others write parse as well', async (t) => {
  const beta = parseClusterName('beta');
  const cases: readonly (readonly [string, ParsedKey])[] = [
    ['cilium/cache/nodes/v1/beta/n1', { kind: 'node', cluster: beta, name: 'n1', cached: true }],
    [
      'cilium/cache/ip/v1/beta/10.2.0.0/16',
      {
        kind: 'ip',
        cluster: beta,
        prefix: parseIpPrefix('10.2.0.0/16'),
        isCidr: true,
        cached: true,
      },
    ],
    [
      'cilium/cache/identities/v1/beta/id/131329',
      { kind: 'identity', cluster: beta, id: parseNumericIdentity(131_329), cached: true },
    ],
    [
      'cilium/state/serviceexports/v1/beta/demo/web',
      { kind: 'service-export', cluster: beta, namespace: 'demo', name: 'web', cached: false },
    ],
    [
      'cilium/cache/endpointslices/v1/beta/demo/web-x1',
      { kind: 'endpoint-slice', cluster: beta, namespace: 'demo', name: 'web-x1', cached: true },
    ],
    [
      'cilium/state/identities/v1/value/k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo;/192.0.2.1',
      {
        kind: 'identity-reference',
        labels: 'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo;',
        suffix: '192.0.2.1',
      },
    ],
    ['cilium/state/identities/v1/locks/k8s:a=b;', { kind: 'internal' }],
    ['cilium/.initlock/1a2b', { kind: 'internal' }],
    ['cilium/.has-cluster-config', { kind: 'internal' }],
    ['cilium/kvstoremesh-lock/77', { kind: 'internal' }],
    ['cilium/state/noderegister/v1/vm1', { kind: 'internal' }],
  ];
  for (const [key, parsed] of cases) t.strictSame(parseKey(key), parsed, key);
});

test('what is no key is refused by its name', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['', /expected it to begin with cilium\/ or isthmus\/local\//],
    ['other/x', /expected it to begin with/],
    ['isthmus/registry/x', /expected it to begin with/],
    ['cilium', /unknown area ""/],
    ['cilium/nope/x', /unknown area "nope"/],
    ['cilium/.heartbeat/', /3 parts, expected 2/],
    ['cilium/state/nodes', /version "", expected v1/],
    ['cilium/state/nodes/v2/alpha/n1', /version "v2", expected v1/],
    ['cilium/state/pods/v1/alpha/n1', /unknown kind "pods"/],
    ['cilium/state/nodes/v1/alpha', /5 parts, expected 6/],
    ['cilium/state/nodes/v1/alpha/', /an empty part/],
    ['cilium/state/nodes/v1/alpha/n1/x', /7 parts, expected 6/],
    ['cilium/state/nodes/v1/Alpha/n1', /cluster name "Alpha"/],
    ['cilium/state/services/v1/alpha/demo', /6 parts, expected 7/],
    ['cilium/state/services/v1/alpha//web', /an empty part/],
    ['cilium/state/ip/v1/alpha/10.0.0.1', /address space "alpha", expected default/],
    ['cilium/cache/ip/v1/default/10.0.0.1', /"default": it is reserved/],
    ['cilium/state/ip/v1/default', /expected <cluster or default>/],
    ['cilium/state/ip/v1/default/10.0.0.0/8/8', /expected <cluster or default>/],
    ['cilium/state/ip/v1/default/10.0.0.300', /"10\.0\.0\.300": expected an IPv4 or IPv6 address/],
    ['cilium/state/ip/v1/default/10.0.0.0/33', /expected a length of 0 to 32/],
    ['cilium/state/ip/v1/default/10.0.0.0/', /expected a prefix length/],
    ['cilium/state/identities/v1/65793', /expected id\/<number>/],
    ['cilium/state/identities/v1/id/', /identity "", expected a decimal number/],
    ['cilium/state/identities/v1/id/1e3', /identity "1e3", expected a decimal number/],
    ['cilium/state/identities/v1/id/007', /identity "007", expected a decimal number/],
    ['cilium/state/identities/v1/id/16777216', /expected an integer below 2\^24/],
    ['cilium/state/identities/v1/id/1/2', /expected id\/<number>/],
    ['cilium/state/identities/v1/value/k8s:a=b;', /expected id\/<number>/],
    ['cilium/cache/identities/v1/id/65793', /expected id\/<number>/],
    ['cilium/cache/identities/v1/beta/value/x/y', /expected id\/<number>/],
    ['cilium/cluster-config/alpha/x', /4 parts, expected 3/],
    ['cilium/cluster-config/', /an empty part/],
    ['cilium/cluster-config/-a', /cluster name "-a"/],
    ['cilium/synced/alpha', /expected cilium\/synced\/<cluster>\/<prefix>/],
    ['cilium/synced/alpha/', /expected cilium\/synced\/<cluster>\/<prefix>/],
    ['isthmus/local/pods/a/b', /unknown area "pods"/],
    ['isthmus/local/services/demo', /4 parts, expected 5/],
    ['isthmus/local/policies/NetworkPolicy//a', /an empty part/],
  ];
  for (const [key, message] of cases) {
    const error = refusalOf(() => parseKey(key));
    t.equal(error.code, 'bad-key', key);
    t.equal(error.key, key);
    t.match(error.message, message);
    t.ok(error.message.startsWith(`cannot parse key ${key}: `));
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

test('keys spell a prefix by whether the value has a mask', async (t) => {
  t.equal(keyTextOfPrefix(parseIpPrefix('10.0.0.1'), false), '10.0.0.1');
  t.equal(keyTextOfPrefix(parseIpPrefix('10.0.0.1'), true), '10.0.0.1/32');
});
