import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { readEtcdClientConfig } from '../../mesh/kvstore/client-config.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { writePeerFiles } from '../machine/peer-files.ts';
import {
  makePeersFolder,
  type NodeRecord,
  readNodeState,
  removeNodeState,
  writeNodeState,
} from './node-record.ts';

const ALPHA = parseClusterName('alpha');
const RECORD: NodeRecord = {
  name: 'n1',
  clusterName: ALPHA,
  clusterId: 1,
  enrollment: { host: '2001:db8::1', port: 2382 },
  registry: { host: '2001:db8::1', port: 2381 },
  etcdEndpoints: ['https://[2001:db8::1]:2379'],
  serverName: 'alpha.mesh.cilium.io',
};

test('what enrolling leaves is read again, or all of it is not there', async (t) => {
  await using dir = await openTempDir('node-record');
  const stateDir = dir.file('state');
  const authority = await createTestAuthority(dir);
  const files = await authority.issue('node-n1');
  const [ca = '', certificate = '', key = ''] = [
    readFileSync(files.caFile, 'utf8'),
    readFileSync(files.certFile, 'utf8'),
    readFileSync(files.keyFile, 'utf8'),
  ];
  const certificates = { ca, certificate, key };
  t.equal(readNodeState(stateDir), undefined);
  makePeersFolder(stateDir);
  writeNodeState(stateDir, { record: RECORD, certificates });
  t.same(readNodeState(stateDir), { record: RECORD, certificates });
  t.equal(lstatSync(dir.file('state', 'node.json')).mode & 0o777, 0o600);
  const config = await readEtcdClientConfig(dir.file('state', 'etcd.config'));
  t.same(config.endpoints, ['https://alpha.mesh.cilium.io:2379'], 'an address goes by a name');
  t.same(config.hostAliases, [{ hostname: 'alpha.mesh.cilium.io', ips: ['2001:db8::1'] }]);
  const named = {
    ...RECORD,
    etcdEndpoints: ['https://clustermesh-apiserver.kube-system.svc:2379'],
  };
  writeNodeState(stateDir, { record: named, certificates });
  const { endpoints, hostAliases } = await readEtcdClientConfig(dir.file('state', 'etcd.config'));
  t.same([endpoints, hostAliases], [named.etcdEndpoints, []], 'a name is resolved by who dials it');

  for (const [what, damage] of [
    ['half a record', () => writeFileSync(dir.file('state', 'node.json'), '{')],
    ['another schema', () => writeFileSync(dir.file('state', 'node.json'), '{"schema":2}')],
    ['no key', () => rmSync(dir.file('state', 'certs', 'tls.key'))],
    ['no client file', () => rmSync(dir.file('state', 'etcd.config'))],
  ] as const) {
    writeNodeState(stateDir, { record: RECORD, certificates });
    damage();
    t.equal(readNodeState(stateDir), undefined, what);
  }
});

test('removeNodeState() takes away what is its own', async (t) => {
  await using dir = await openTempDir('node-record');
  const stateDir = dir.file('state');
  makePeersFolder(stateDir);
  removeNodeState(stateDir);
  t.same(readdirSync(stateDir), [], 'a node that never enrolled');
  makePeersFolder(stateDir);
  writeFileSync(dir.file('state', 'machine.json'), '{}');
  writeFileSync(dir.file('state', 'etcd.config'), '');
  writeFileSync(dir.file('state', 'clustermesh', 'beta'), '');
  removeNodeState(stateDir);
  t.same(
    readdirSync(stateDir).sort(),
    ['clustermesh', 'etcd.config', 'machine.json'],
    'a machine is left alone',
  );
  rmSync(dir.file('state', 'machine.json'));
  const certificates = { ca: 'a', certificate: 'b', key: 'c' };
  writeNodeState(stateDir, { record: RECORD, certificates });
  writePeerFiles(stateDir, RECORD, [parseClusterName('beta')]);
  writeFileSync(dir.file('state', 'peers.json'), '{}');
  removeNodeState(stateDir);
  t.same(readdirSync(stateDir), ['peers.json'], 'what is not of enrolling stays');
  t.notOk(existsSync(dir.file('state', 'certs')));
});
