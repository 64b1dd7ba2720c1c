import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { nodeSubjectProblems } from './node-subjects.ts';
import { parsePolicy } from './parse.ts';

test('nodeSubjectProblems() says of each policy about nodes that nothing enforces it', (t) => {
  const problemsOf = (manifest: unknown): string[] => {
    const policy: LocalPolicy = {
      kind: 'CiliumClusterwideNetworkPolicy',
      namespace: '',
      name: 'p',
      generation: 1,
      manifest,
    };
    const context = { clusterName: parseClusterName('alpha'), defaultLocalCluster: true };
    return nodeSubjectProblems(parsePolicy(policy, context)).map(({ message }) => message);
  };
  const nodes = { nodeSelector: {}, ingress: [{}] };
  const pods = { endpointSelector: {}, ingress: [{}] };
  t.match(problemsOf({ spec: nodes }), [/^spec\.nodeSelector is not supported: .* not enforced/]);
  t.equal(problemsOf({ specs: [pods, nodes, nodes] }).length, 1, 'once');
  t.strictSame(problemsOf({ spec: pods }), []);
  t.end();
});
