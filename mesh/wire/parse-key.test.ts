import { test } from 'tap';
import { parseClusterName, parseNumericIdentity } from './ids.ts';
import { parseIpPrefix } from './ip.ts';
import { type ParsedKey, parseKey } from './parse-key.ts';
import { refusalOf } from './testing/refusal.ts';

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
    ['isthmus/registry/nodes/n1', { kind: 'internal' }],
    [
      'isthmus/local/ip/10.1.0.5',
      {
        kind: 'ip',
        cluster: undefined,
        prefix: parseIpPrefix('10.1.0.5/32'),
        isCidr: false,
        cached: false,
      },
    ],
    [
      'isthmus/local/identities/65793',
      { kind: 'identity', cluster: undefined, id: parseNumericIdentity(65_793), cached: false },
    ],
    ['isthmus/local/digest/isthmus/local/ip', { kind: 'mesh-digest', prefix: 'isthmus/local/ip' }],
  ];
  for (const [key, parsed] of cases) t.strictSame(parseKey(key), parsed, key);
});

test('what is no key is refused by its name', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['', /begin with cilium\/, isthmus\/local\/, isthmus\/mesh\/ or isthmus\/registry\//],
    ['other/x', /expected it to begin with/],
    ['isthmus/other/x', /expected it to begin with/],
    ['isthmus/registry', /an empty part/],
    ['isthmus/registry//x', /an empty part/],
    ['isthmus/mesh/other', /unknown area "other"/],
    ['isthmus/local/digest', /expected isthmus\/local\/digest\/<prefix>/],
    ['isthmus/local/ip/10.1.0.5/x', /./],
    ['isthmus/local/ip/2001:DB8::1', /expected it written 2001:db8::1/],
    ['isthmus/local/identities/x', /expected a decimal number/],
    ['isthmus/local/identities/1/2', /expected id\/<number>/],
    ['isthmus/mesh/digest', /expected isthmus\/mesh\/digest\/<prefix>/],
    ['isthmus/mesh/digest/a//b', /expected isthmus\/mesh\/digest\/<prefix>/],
    ['isthmus/mesh/stamp/x', /4 parts, expected 3/],
    ['isthmus/mesh/peer/Beta', /cluster name "Beta"/],
    [
      'cilium/state/ip/v1/default/10.1.2.3/16',
      /address 10.1.2.3\/16, expected it written 10.1.0.0\/16/,
    ],
    ['cilium/state/ip/v1/default/2001:DB8::1', /expected it written 2001:db8::1/],
    ['cilium/state/ip/v1/default/2001:db8:0::1', /expected it written 2001:db8::1/],
    ['cilium/state/ip/v1/default/::ffff:10.0.0.1', /expected it written 10.0.0.1/],
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
