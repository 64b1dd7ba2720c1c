import { execFile, execFileSync } from 'node:child_process';
import { test } from 'tap';
import { findKubeProxy, type KubeProxyFacts, thisNode } from './kube-proxy.ts';
import { kernelSkipReason } from './testing/bpffs.ts';

const NOTHING: KubeProxyFacts = {
  proxyMode: async () => undefined,
  process: () => undefined,
  output: async () => undefined,
  text: () => '',
  hasDevice: () => false,
};
/** Answers of one program to any question, or to those about one chain. */
const says = (program: string, answer: string): KubeProxyFacts['output'] => {
  return async (command) => (command === program ? answer : undefined);
};

const CASES: readonly (readonly [
  what: string,
  facts: Partial<KubeProxyFacts>,
  found: RegExp | undefined,
])[] = [
  ['nothing', {}, undefined],
  [
    'one that answers',
    { proxyMode: async () => 'nftables' },
    /^a kube-proxy in nftables mode answers/,
  ],
  ['somebody else who answers', { proxyMode: async () => '<html>' }, undefined],
  ['a process', { process: () => 77 }, /^process 77 is a kube-proxy$/],
  [
    'its IPVS device',
    { hasDevice: (name) => name === 'kube-ipvs0' },
    /^device kube-ipvs0 is there$/,
  ],
  [
    'its nft table',
    { output: says('nft', 'table ip filter\ntable ip6 kube-proxy\n') },
    /^nft table ip6 kube-proxy is there$/,
  ],
  ['nft tables of others', { output: says('nft', 'table ip kube-proxy-like\n') }, undefined],
  [
    'its chain, by nft',
    { output: says('iptables-nft', '') },
    /^chain KUBE-SERVICES is there \(iptables-nft\)$/,
  ],
  [
    'its chain, legacy',
    { output: says('ip6tables-legacy', ''), text: () => 'filter\nnat\n' },
    /^chain KUBE-SERVICES is there \(ip6tables-legacy\)$/,
  ],
];
for (const [what, facts, found] of CASES) {
  test(`findKubeProxy() where there is ${what}`, async (t) => {
    const text = await findKubeProxy({ ...NOTHING, ...facts });
    if (found === undefined) t.equal(text, undefined);
    else t.match(text, found);
  });
}

test('findKubeProxy() asks no legacy table into being', async (t) => {
  const asked: string[] = [];
  await findKubeProxy({
    ...NOTHING,
    text: () => 'filter\n',
    output: async (command) => {
      asked.push(command);
      return undefined;
    },
  });
  t.same(asked, ['nft', 'iptables-nft', 'ip6tables-nft']);
});

test('findKubeProxy() finds nothing here, where no kube-proxy is', async (t) => {
  t.equal(await thisNode().output('false', []), undefined);
  t.equal(await thisNode().output('echo', ['yes']), 'yes\n');
  t.equal(await thisNode().output('no-such-program', []), undefined);
  t.equal(thisNode().text('/no/such/file'), '');
  t.equal(thisNode().hasDevice('lo'), true);
  t.equal(thisNode().process(), undefined);
  t.equal(await thisNode().proxyMode(), undefined);
});

const skip = kernelSkipReason();

test('findKubeProxy() sees chains that iptables has made', { skip }, async (t) => {
  const namespace = `ist-kp-${process.pid}`;
  execFileSync('ip', ['netns', 'add', namespace]);
  t.teardown(() => execFileSync('ip', ['netns', 'delete', namespace]));
  const inside = (command: string, args: readonly string[]) =>
    new Promise<string | undefined>((resolve) => {
      const argv = ['netns', 'exec', namespace, command, ...args];
      execFile('ip', argv, (error, stdout) => resolve(error === null ? stdout : undefined));
    });
  const facts: KubeProxyFacts = { ...NOTHING, output: inside };
  t.equal(await findKubeProxy(facts), undefined);
  t.notMatch((await inside('iptables-nft-save', [])) ?? '', /nat/, 'looking makes no table');
  for (const program of ['iptables-nft', 'ip6tables-nft']) {
    await inside(program, ['-t', 'nat', '-N', 'KUBE-SERVICES']);
    t.equal(await findKubeProxy(facts), `chain KUBE-SERVICES is there (${program})`);
    await inside(program, ['-t', 'nat', '-X', 'KUBE-SERVICES']);
    t.equal(await findKubeProxy(facts), undefined);
  }
});
