import { test } from 'tap';
import { waitFor } from '../lab/wait-for.ts';
import { corednsPeer, startCoredns } from './coredns.ts';
import { openKubeCluster } from './kube-cluster.ts';
import { crdPeers } from './kube-crds.ts';
import { needKube } from './kube-programs.ts';
import { needPeers } from './peer-binary.ts';

const { skip: skipKube, programs } = needKube(process.env);
const skip = skipKube || needPeers([corednsPeer, ...crdPeers], process.env).skip;

const OBJECTS = `
apiVersion: v1
kind: Service
metadata: { name: web, namespace: default }
spec: { clusterIP: 10.96.7.7, ports: [{ name: http, port: 80 }] }
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: { name: web, namespace: default }
spec: { type: ClusterSetIP, ips: [10.96.8.8], ports: [{ name: http, protocol: TCP, port: 80 }] }
`;

test('CoreDNS answers for a cluster and for the set of clusters', { skip }, async (t) => {
  await using cluster = await openKubeCluster({ name: 'names', programs });
  await cluster.installCrds(['mcs-api']);
  await cluster.kubectl(['apply', '-f', '-'], { input: OBJECTS });
  await using dns = await startCoredns({ kubeconfig: cluster.adminKubeconfig });
  t.same(await dns.query('web.default.svc.cluster.local', 'A'), ['10.96.7.7']);
  t.same(await dns.query('web.default.svc.clusterset.local', 'A'), ['10.96.8.8']);
  t.same(await dns.query('_http._tcp.web.default.svc.clusterset.local', 'SRV'), [
    '0 100 80 web.default.svc.clusterset.local',
  ]);
  t.same(await dns.query('other.default.svc.clusterset.local', 'A'), []);
  await cluster.kubectl(['delete', 'serviceimport', 'web']);
  await waitFor('the name to go', async () => {
    return (await dns.query('web.default.svc.clusterset.local', 'A')).length === 0;
  });
});
