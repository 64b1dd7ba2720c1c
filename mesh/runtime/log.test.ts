import { test } from 'tap';
import { createLogger, logLevelSteps } from './log.ts';

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

test('logLevelSteps() lets a program tell more, its parts as well, and then what it told at first', (t) => {
  const lines: string[] = [];
  const destination = { write: (line: string) => lines.push(line) };
  const logger = createLogger('agent', { level: 'warn', destination });
  const part = logger.child({ part: 'a' }).child({ part: 'b' });
  const step = logLevelSteps(logger, 'warn');
  const told: string[][] = [];
  for (let call = 0; call < 5; call += 1) {
    lines.splice(0);
    part.trace('trace');
    part.debug('debug');
    part.info('info');
    part.warn('warn');
    told.push(lines.map((line) => JSON.parse(line).msg));
    step();
    t.match(JSON.parse(lines.at(-1) ?? ''), { level: 'info', msg: 'log level changed' });
  }
  t.same(told, [
    ['warn'],
    ['info', 'warn'],
    ['debug', 'info', 'warn'],
    ['trace', 'debug', 'info', 'warn'],
    ['warn'],
  ]);
  t.end();
});
