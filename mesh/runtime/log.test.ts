import { test } from 'tap';
import { createLogger } from './log.ts';

test('createLogger() writes JSON lines and hides credentials', async (t) => {
  const lines: string[] = [];
  const destination = { write: (line: string) => lines.push(line) };
  const logger = createLogger('agent', { level: 'info', destination });
  const credentials = {
    key: 'k-secret',
    cert: 'c-secret',
    ca: 'a-secret',
    token: 't-secret',
    name: 'shown',
  };
  logger.info({ cluster: 'beta', credentials, peer: { credentials } }, 'peer connected');
  logger.debug('not shown');
  t.equal(lines.length, 1);
  t.notMatch(lines[0], /secret/);
  const line: unknown = JSON.parse(lines[0] ?? '');
  t.match(line, { level: 'info', name: 'agent', cluster: 'beta', msg: 'peer connected' });
  t.match(line, { credentials: { name: 'shown' }, time: /^\d{4}-\d\d-\d\dT/ });
});
