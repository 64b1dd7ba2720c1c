import { test } from 'tap';
import { decideServices, type ServiceWishes } from '../merge/service-rules.ts';
import { judgeServices } from './self-check.ts';

const FOUND = 'a kube-proxy in iptables mode answers on http://127.0.0.1:10249/proxyMode';

/** What an agent says that has started beside `then`, when `now` is there. */
function judged(
  wishes: Partial<ServiceWishes>,
  { then, now }: { readonly then?: string; readonly now?: string },
): string {
  const decided = decideServices(
    { services: undefined, kubeProxyReplacement: false, algorithm: 'random', ...wishes },
    then,
  );
  const { rules, reason, problem } = decided;
  const services = {
    local: 0,
    global: 0,
    translated: reason,
    scope: rules.services,
    kubeProxyReplacement: rules.kubeProxyReplacement,
  };
  const notes = problem === undefined ? [] : [problem];
  return judgeServices({ services, notes }, now).problem?.cause ?? 'fine';
}

test('agent and kube-proxy divide Services between them', (t) => {
  t.equal(judged({}, {}), 'fine');
  t.equal(judged({}, { then: FOUND, now: FOUND }), 'fine');
  t.equal(judged({ kubeProxyReplacement: true }, {}), 'fine');
  t.match(
    judged({}, { now: FOUND }),
    /every Service \(all \(nothing .*and a kube-proxy in iptables/,
  );
  t.match(judged({ services: 'all' }, { then: FOUND, now: FOUND }), /both do it/);
  t.match(judged({}, { then: FOUND }), /nothing of a kube-proxy is here: .* nobody translates/);
  t.match(judged({ services: 'global' }, {}), /--services says so\).* nobody translates/);
  t.match(
    judged({ kubeProxyReplacement: true }, { now: FOUND }),
    /replacement is given\), and a kube/,
  );
  t.equal(
    judged({ kubeProxyReplacement: true }, { then: FOUND, now: FOUND }),
    'fine',
    'the agent has said it itself',
  );
  t.end();
});
