/**
 * A Cilium cluster is connected to one of ours as its operators do it: by values of Cilium's own chart, which also are all that
 * Cilium's command line changes. What the chart makes of them is given to Cilium's real kvstoremesh.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { needHelm, parseObjects, type RenderedObject, runHelm } from '../chart/helm.ts';
import { waitFor } from '../lab/wait-for.ts';
import { ciliumChart } from '../peers/cilium-chart.ts';
import { startCiliumKvstoremesh } from '../peers/cilium-kvstoremesh.ts';
import { prepareOurApiserver } from '../peers/our-apiserver.ts';
import { needPeers } from '../peers/peer-binary.ts';

const PEER = 'cilium-1.20';
const helm = needHelm(process.env);
const { skip, paths } = needPeers([`${PEER}/clustermesh-apiserver`], process.env);
/** Where Cilium's pods have the files of their peers. */
const MOUNT = '/var/lib/cilium/clustermesh/';
const OBJECTS = `apiVersion: v1
kind: Node
metadata: {name: n1, labels: {kubernetes.io/os: linux}}
spec: {podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {hostIP: 192.0.2.1, podIP: 10.1.1.7, podIPs: [{ip: 10.1.1.7}]}
`;

function decoded(object: RenderedObject | undefined, key: string): string {
  const value: unknown = object?.data?.[key];
  if (typeof value !== 'string') throw new Error(`${object?.metadata.name} has no ${key}`);
  return object?.kind === 'Secret' ? Buffer.from(value, 'base64').toString() : value;
}

test("values of Cilium's chart connect it to us, with an authority of each (promise 3)", {
  skip: helm.skip || skip,
  timeout: 240_000,
}, async (t) => {
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  await using dir = await openTempDir('cilium-chart');
  await using etcd = await openEtcdServer();
  await using alpha = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: etcd.endpoint,
    dir,
    signal: ending.signal,
  });
  await alpha.manifest('objects.yaml', OBJECTS);

  const values = {
    cluster: { name: 'beta', id: 2 },
    clustermesh: {
      useAPIServer: true,
      apiserver: { service: { type: 'LoadBalancer' }, tls: { auto: { method: 'helm' } } },
      config: { enabled: true, clusters: { alpha: { ips: ['127.0.0.1'], port: alpha.gatePort } } },
    },
    tls: { caBundle: { enabled: true, content: alpha.ca.root } },
  };
  await writeFile(dir.file('values.json'), JSON.stringify(values));
  const rendered = await runHelm(
    [
      ...['template', 'cilium', await ciliumChart(PEER), '--namespace', 'kube-system'],
      ...['--values', dir.file('values.json')],
    ],
    { program: helm.program, home: dir.path },
  );
  t.equal(rendered.code, 0, rendered.stderr);
  const objects = parseObjects(rendered.stdout);
  const named = (name: string): RenderedObject | undefined =>
    objects.find(
      ({ kind, metadata }) => metadata.name === name && /^(Secret|ConfigMap)$/.test(kind),
    );

  // The projected volume of Cilium's pods.
  const peers = dir.file('cilium-peers');
  await mkdir(peers);
  const config = decoded(named('cilium-kvstoremesh'), 'alpha');
  t.match(
    config,
    `https://alpha.mesh.cilium.io:${alpha.gatePort}`,
    "by the name in our server's certificate",
  );
  await writeFile(`${peers}/alpha`, config.replaceAll(MOUNT, `${peers}/`));
  const remote = named('clustermesh-apiserver-remote-cert');
  await writeFile(`${peers}/common-etcd-client.crt`, decoded(remote, 'tls.crt'));
  await writeFile(`${peers}/common-etcd-client.key`, decoded(remote, 'tls.key'));
  await writeFile(
    `${peers}/common-etcd-client-ca.crt`,
    decoded(named('cilium-root-ca.crt'), 'ca.crt'),
  );

  // What a person gives us of the Cilium cluster is its authority, and nothing else.
  await alpha.trust('beta', { root: decoded(named('cilium-ca'), 'ca.crt') });
  await alpha.start();
  await using server = await openEtcdServer();
  await using local = await openEtcd({ endpoints: [server.endpoint] });
  await using mirror = await startCiliumKvstoremesh(paths[0]!, {
    cluster: { name: 'beta', id: 2 },
    peersDir: peers,
    localEndpoint: server.endpoint,
    dir,
    signal: ending.signal,
  });
  const found = await waitFor("our pod in Cilium's mirror", async () => {
    const { pairs } = await local.list('cilium/cache/ip/v1/alpha/');
    return pairs.find(({ key }) => key.endsWith('/10.1.1.7'));
  }).catch((cause) => {
    throw new Error(`it said: ${mirror.lines.slice(-10).join('\n')}`, { cause });
  });
  t.match(JSON.parse(found.value.toString()), { IP: '10.1.1.7', K8sPodName: 'web' });
});
