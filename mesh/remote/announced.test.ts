import fc from 'fast-check';
import { test } from 'tap';
import { type ClusterName, parseClusterName } from '../wire/ids.ts';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../wire/ip.ts';
import type { Node } from '../wire/node.ts';
import { type CidrLists, createAnnounced, judgeNode, type PeerCidrMode } from './announced.ts';

const ALPHA = parseClusterName('alpha');
const BETA = parseClusterName('beta');
const GAMMA = parseClusterName('gamma');

function makeNode(
  name: string,
  changes: { ip?: string; pods?: string; external?: string } = {},
): Node {
  const { ip, pods, external } = changes;
  return {
    name,
    cluster: BETA,
    clusterId: 2,
    addresses: [
      ...(ip === undefined ? [] : [{ type: 'InternalIP', ip: parseIpAddress(ip) }]),
      ...(external === undefined ? [] : [{ type: 'ExternalIP', ip: parseIpAddress(external) }]),
    ],
    ipv4AllocCidr: pods === undefined ? null : parseIpPrefix(pods),
    ipv6AllocCidr: null,
    ipv4SecondaryAllocCidrs: null,
    ipv6SecondaryAllocCidrs: null,
    ipv4HealthIp: null,
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    source: 'custom-resource',
    encryptionKey: 0,
    labels: null,
    annotations: null,
    wireguardPubKey: '',
    bootId: '',
  };
}

function open(mode: PeerCidrMode = 'learn') {
  const announced = createAnnounced({ own: ALPHA, mode });
  const reason = (cluster: ClusterName, prefix: string): string | undefined =>
    announced.judge(cluster, parseIpPrefix(prefix))?.reason;
  return { announced, reason };
}

const list = (changes: Partial<Record<keyof CidrLists, string[]>>): CidrLists => {
  const ranges = (texts: string[] = []): IpPrefix[] => texts.map((text) => parseIpPrefix(text));
  return {
    pods: ranges(changes.pods),
    nodes: ranges(changes.nodes),
    services: ranges(changes.services),
    machines: ranges(changes.machines),
  };
};

test('what nobody may announce is refused in every mode, also for the own cluster', async (t) => {
  const never = ['0.0.0.0/0', '::/0', '10.0.0.0/7', 'fd00::/16', '127.0.0.1/32', '::1/128'];
  const more = ['169.254.1.1/32', '169.0.0.0/8', '224.0.0.5/32', 'fe80::1/128', 'ff02::1/128'];
  for (const mode of ['learn', 'open', 'strict'] as const) {
    const { reason } = open(mode);
    for (const text of [...never, ...more, '255.255.255.255/32', '0.1.2.3/32']) {
      for (const cluster of [ALPHA, BETA]) {
        t.match(reason(cluster, text), /^(range-too-wide|address-not-allowed)$/, `${mode} ${text}`);
      }
    }
  }
  t.equal(open().reason(BETA, '10.0.0.0/8'), undefined, "the widest of Cilium's defaults");
});

test('a peer may announce what is free: new networks of new nodes, and addresses of no network', async (t) => {
  const { announced, reason } = open();
  t.equal(reason(BETA, '172.31.7.9/32'), undefined, 'as with ENI, where nodes have no networks');
  announced.setNode(BETA, 'n1', makeNode('n1', { ip: '192.0.2.9', pods: '10.2.0.0/24' }));
  t.equal(reason(BETA, '10.2.0.7/32'), undefined);
  t.equal(reason(BETA, '10.2.1.7/32'), undefined, 'before its node is known');
  t.equal(reason(GAMMA, '10.2.0.7/32'), 'address-foreign');
  t.equal(reason(GAMMA, '10.2.0.0/16'), 'address-foreign', 'a network around it');
  t.equal(reason(GAMMA, '192.0.2.9/32'), 'address-foreign');
  t.equal(reason(GAMMA, '10.2.1.7/32'), undefined);
  announced.setNode(BETA, 'n1', undefined);
  t.equal(reason(GAMMA, '10.2.0.7/32'), undefined, 'free again');
});

test('the own cluster takes its networks from peers that had them first, and peers learn of it', async (t) => {
  const { announced, reason } = open();
  const changes: string[] = [];
  announced.onChange((change) =>
    changes.push(`${change?.kind} ${change?.cluster} ${change?.range}`),
  );
  announced.setNode(BETA, 'n1', makeNode('n1', { pods: '10.1.0.0/24' }));
  announced.setNode(ALPHA, 'a1', makeNode('a1', { pods: '10.1.0.0/16' }));
  t.equal(reason(BETA, '10.1.0.5/32'), 'address-ours');
  t.equal(reason(ALPHA, '10.1.0.5/32'), undefined);
  t.same(announced.contests(), [{ cluster: BETA, range: '10.1.0.0/24', holder: ALPHA }]);
  t.same(changes, ['held beta 10.1.0.0/24', 'released beta 10.1.0.0/24', 'held alpha 10.1.0.0/16']);
  announced.setNode(ALPHA, 'a1', undefined);
  t.same(announced.contests(), []);
  t.equal(reason(BETA, '10.1.0.5/32'), undefined);
  t.equal(reason(GAMMA, '10.1.0.5/32'), 'address-foreign', 'beta has it again');
});

test('between peers the first keeps a range, also over a restart, until it lets go', async (t) => {
  const { announced, reason } = open();
  announced.restore(BETA, [parseIpPrefix('10.2.0.0/24')]);
  announced.setNode(GAMMA, 'g1', makeNode('g1', { ip: '203.0.113.1', pods: '10.2.0.0/16' }));
  t.equal(reason(GAMMA, '10.2.0.5/32'), 'address-foreign');
  t.equal(reason(GAMMA, '10.2.9.5/32'), undefined, 'not learned, but free');
  announced.setNode(BETA, 'n1', makeNode('n1', { pods: '10.2.0.0/24' }));
  announced.settle(BETA);
  t.equal(reason(GAMMA, '10.2.0.5/32'), 'address-foreign', 'it is claimed again');
  announced.setNode(BETA, 'n1', undefined);
  t.equal(reason(GAMMA, '10.2.0.5/32'), undefined);
  t.equal(reason(BETA, '10.2.0.5/32'), 'address-foreign');
});

test("a person's list is what a cluster may announce, whatever its nodes say", async (t) => {
  const { announced, reason } = open();
  announced.setNode(BETA, 'n1', makeNode('n1', { pods: '10.9.0.0/24' }));
  announced.setNode(ALPHA, 'a1', makeNode('a1', { pods: '10.2.0.0/24' }));
  announced.setLists(
    new Map([[BETA, list({ pods: ['10.2.0.0/16'], machines: ['192.0.2.0/28'] })]]),
  );
  t.equal(reason(BETA, '10.2.0.5/32'), undefined, 'it comes before the own cluster');
  t.equal(reason(BETA, '10.9.0.5/32'), 'address-not-listed');
  t.equal(reason(GAMMA, '10.9.0.5/32'), undefined, 'what is not listed is free');
  t.equal(announced.isMachine(BETA, parseIpPrefix('192.0.2.3/32')), true);
  t.equal(announced.isMachine(BETA, parseIpPrefix('10.2.0.3/32')), false);
  announced.setLists(new Map());
  t.equal(reason(BETA, '10.2.0.5/32'), 'address-ours');
  t.equal(reason(BETA, '10.9.0.5/32'), undefined);
  t.equal(reason(GAMMA, '10.9.0.5/32'), 'address-foreign');
});

test('strict refuses what no person has listed, open only what nobody may have', async (t) => {
  const strict = open('strict');
  t.equal(strict.reason(BETA, '10.2.0.5/32'), 'address-not-listed');
  strict.announced.setLists(new Map([[BETA, list({ nodes: ['10.2.0.0/16'] })]]));
  t.equal(strict.reason(BETA, '10.2.0.5/32'), undefined);
  t.equal(strict.reason(BETA, '10.2.0.0/15'), 'address-not-listed', 'wider than the list');
  t.equal(strict.reason(ALPHA, '10.2.9.5/32'), undefined, 'the own cluster is never judged');
  const loose = open('open');
  loose.announced.setNode(ALPHA, 'a1', makeNode('a1', { pods: '10.1.0.0/16' }));
  t.equal(loose.reason(BETA, '10.1.0.5/32'), undefined);
});

test('a node is refused for an address of another cluster, not for a network', async (t) => {
  const { announced } = open();
  announced.setNode(ALPHA, 'a1', makeNode('a1', { ip: '192.0.2.1', pods: '10.1.0.0/16' }));
  const judge = (node: Node): string | undefined => judgeNode(announced, BETA, node)?.reason;
  t.equal(judge(makeNode('n', { ip: '192.0.2.1' })), 'address-ours');
  t.equal(judge(makeNode('n', { ip: '198.51.100.1', external: '10.1.3.4' })), 'address-ours');
  t.equal(judge(makeNode('n', { ip: '198.51.100.1', pods: '10.1.4.0/24' })), undefined);
  t.equal(judge(makeNode('n', { ip: '198.51.100.1', pods: '0.0.0.0/0' })), 'range-too-wide');
  // Two clusters may stand behind one external address.
  announced.setNode(GAMMA, 'g', makeNode('g', { ip: '10.8.0.1', external: '203.0.113.7' }));
  t.equal(judge(makeNode('n', { ip: '10.9.0.1', external: '203.0.113.7' })), undefined);
});

test('whatever nodes come and go, no two clusters may announce one address, and somebody may', async () => {
  const clusters = [ALPHA, BETA, GAMMA];
  const networks = ['10.1.0.0/16', '10.1.0.0/24', '10.1.1.0/24', '10.2.0.0/16', '10.0.0.0/8'];
  const step = fc.record({
    cluster: fc.nat(2),
    node: fc.nat(2),
    network: fc.option(fc.nat(networks.length - 1), { nil: undefined }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const { announced, reason } = open();
      const claimed = new Map<string, string>();
      for (const { cluster, node, network } of steps) {
        const name = clusters[cluster] ?? ALPHA;
        const pods = network === undefined ? undefined : networks[network];
        announced.setNode(
          name,
          `n${node}`,
          pods === undefined ? undefined : makeNode(`n${node}`, { pods }),
        );
        if (pods === undefined) claimed.delete(`${name}/n${node}`);
        else claimed.set(`${name}/n${node}`, pods);
      }
      const isOurs = [...claimed].some(
        ([key, pods]) => key.startsWith('alpha/') && pods === '10.1.0.0/24',
      );
      if (isOurs && reason(BETA, '10.1.0.9/32') !== 'address-ours') return false;
      for (const address of ['10.1.0.9/32', '10.1.1.9/32', '10.2.3.4/32']) {
        const allowed = [BETA, GAMMA].filter((name) => reason(name, address) === undefined);
        const claimants = [...claimed.values()].filter(
          (pods) =>
            announced.judge(parseClusterName('other'), parseIpPrefix(address)) !== undefined &&
            pods !== '',
        );
        // A range that some cluster holds is open to one peer at most; a free address is open to all.
        if (claimants.length > 0 && allowed.length > 1) return false;
        if (claimed.size === 0 && allowed.length !== 2) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
});
