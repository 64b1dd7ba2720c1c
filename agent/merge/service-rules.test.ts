import { test } from 'tap';
import { decideServices, type ServiceWishes } from './service-rules.ts';

const WISHES: ServiceWishes = {
  services: undefined,
  kubeProxyReplacement: false,
  algorithm: 'random',
};
const FOUND = 'process 7 is a kube-proxy';

const CASES: readonly (readonly [
  wishes: Partial<ServiceWishes>,
  found: string | undefined,
  services: 'global' | 'all',
  reason: RegExp,
  problem: RegExp | undefined,
])[] = [
  [{}, undefined, 'all', /^all \(nothing of a kube-proxy was found on this node\)$/, undefined],
  [{}, FOUND, 'global', /^global \(the others are left to kube-proxy: process 7/, undefined],
  [{ services: 'all' }, FOUND, 'all', /^all \(--services says so\)$/, undefined],
  [{ services: 'global' }, undefined, 'global', /^global \(--services says so\)$/, undefined],
  [{ kubeProxyReplacement: true }, undefined, 'all', /--kube-proxy-replacement/, undefined],
  [
    { kubeProxyReplacement: true },
    FOUND,
    'all',
    /--kube-proxy-replacement/,
    /but process 7 is a kube-proxy: stop kube-proxy on this node and run "kube-proxy --cleanup"/,
  ],
];
for (const [wishes, found, services, reason, problem] of CASES) {
  test(`decideServices(${JSON.stringify(wishes)}), ${found ?? 'no kube-proxy'}`, async (t) => {
    const decided = decideServices({ ...WISHES, ...wishes }, found);
    t.equal(decided.rules.services, services);
    t.equal(decided.rules.kubeProxyReplacement, wishes.kubeProxyReplacement ?? false);
    t.match(decided.reason, reason);
    if (problem === undefined) t.equal(decided.problem, undefined);
    else t.match(decided.problem, problem);
  });
}
