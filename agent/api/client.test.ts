import { once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { callAgent } from './client.ts';

test('callAgent() tells an agent that is not there from one that does not answer', async (t) => {
  await using dir = await openTempDir('client');
  await t.rejects(callAgent(dir.file('none.sock'), { path: '/v1/status' }), {
    name: 'ApiError',
    code: 'unreachable',
    retryable: true,
    message: /cannot reach the agent on .*none\.sock/,
  });
  // Takes connections and never answers.
  const silent = createServer();
  silent.listen(dir.file('silent.sock'));
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  await t.rejects(callAgent(dir.file('silent.sock'), { path: '/v1/status', timeoutMs: 100 }), {
    code: 'timeout',
    retryable: true,
    message: /silent\.sock does not answer within 100 ms/,
  });
});
