import { test } from 'tap';
import { openClusterAccess } from './cluster-access.ts';
import { type RegistryService, registryPlaces } from './cluster-access-kubernetes.ts';

test('registryPlaces() names the best place first', (t) => {
  const service = (change: Partial<RegistryService['spec']>, ingress: object[] = []) => ({
    spec: {
      clusterIP: '10.96.0.9',
      ports: [
        { name: 'apiserv-client', port: 2379, nodePort: 32379 },
        { name: 'registry', port: 2381, nodePort: 32381 },
      ],
      ...change,
    },
    status: { loadBalancer: { ingress } },
  });
  const nodes = ['192.0.2.1', '192.0.2.2'];
  t.same(
    registryPlaces(service({}, [{ ip: '203.0.113.5' }, { hostname: 'lb.example.org' }]), nodes),
    [
      { host: '203.0.113.5', port: 2381 },
      { host: 'lb.example.org', port: 2381 },
      { host: '192.0.2.1', port: 32381 },
      { host: '192.0.2.2', port: 32381 },
      { host: '10.96.0.9', port: 2381 },
    ],
  );
  const unnamed = service({ ports: [{ name: '', port: 2381 }] });
  t.same(registryPlaces(unnamed, nodes), [{ host: '10.96.0.9', port: 2381 }]);
  const headless = service({ clusterIP: 'None', ports: [{ name: 'registry', port: 2381 }] });
  t.same(registryPlaces(headless, nodes), []);
  t.same(registryPlaces(service({ ports: [{ name: 'etcd', port: 2379 }] }), nodes), []);
  t.end();
});

test('openClusterAccess() says what is missing', async (t) => {
  const { signal } = new AbortController();
  const registry = { host: '127.0.0.1', port: 1 };
  const cases = [
    [{}, /say which cluster: --registry HOST:PORT with --certificates DIR, or --context NAME/],
    [{ registry }, /--registry needs --certificates/],
    [{ registry, context: 'a' }, /give either --registry or --context/],
    [{ registry, certificates: '/nowhere' }, /cannot read \/nowhere\/ca\.crt/],
    [{ context: 'a', kubeconfig: '/nowhere' }, /cannot read \/nowhere \(--kubeconfig\)/],
  ] as const;
  for (const [flags, message] of cases) {
    await t.rejects(openClusterAccess(flags, { signal }), { code: 'usage', message });
  }
});
