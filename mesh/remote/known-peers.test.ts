import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { createLogger } from '../runtime/log.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { openKnownPeers } from './known-peers.ts';

const logger = createLogger('test', { level: 'silent' });
const beta = parseClusterName('beta');

test('ids are known to the next process, until they are forgotten', async (t) => {
  await using dir = await openTempDir('known');
  const peers = openKnownPeers(dir.path, logger);
  t.equal(peers.idOf(beta), undefined);
  peers.learn(beta, parseClusterId(2));
  peers.save?.();
  t.equal(openKnownPeers(dir.path, logger).idOf(beta), 2);
  peers.forget(beta);
  peers.save?.();
  t.equal(openKnownPeers(dir.path, logger).idOf(beta), undefined);
});

test('a file that cannot be read is as if nothing were known, and is replaced', async (t) => {
  await using dir = await openTempDir('known');
  for (const content of ['{"be', '{"beta":0}', '{"Beta":2}', 'null']) {
    writeFileSync(dir.file('peers.json'), content);
    t.equal(openKnownPeers(dir.path, logger).idOf(beta), undefined);
  }
  const peers = openKnownPeers(dir.path, logger);
  peers.learn(beta, parseClusterId(3));
  peers.save?.();
  t.same(JSON.parse(readFileSync(dir.file('peers.json'), 'utf8')), { beta: 3 });
});

test('a directory that cannot be written does not stop anything', async (t) => {
  await using dir = await openTempDir('known');
  const peers = openKnownPeers(dir.file('nowhere'), logger);
  peers.learn(beta, parseClusterId(2));
  peers.save?.();
  t.equal(peers.idOf(beta), 2);
});
