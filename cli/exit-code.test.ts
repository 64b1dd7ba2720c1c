import { CommanderError } from 'commander';
import { test } from 'tap';
import { TraceError } from '../agent/policy/trace-error.ts';
import { failureOf } from './agent-program.ts';
import { CliError } from './cli-error.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';

test('every kind of failure has its exit code', (t) => {
  const coded = (code: string): Error => Object.assign(new Error('text'), { code });
  const cases: [unknown, number][] = [
    [new CommanderError(0, 'commander.help', ''), 0],
    [new CommanderError(1, 'commander.unknownOption', ''), 2],
    [new CliError('problem', ''), 1],
    [new CliError('usage', ''), 2],
    [new CliError('unreachable', ''), 3],
    [new CliError('change', ''), 4],
    [new CliError('timeout', ''), 124],
    [new TraceError('bad-question', ''), 2],
    [coded('topology'), 2],
    [coded('timeout'), 124],
    [coded('unreadable'), 1],
    [new Error('a fault of ours'), 1],
    ['text', 1],
  ];
  for (const [error, code] of cases) t.equal(exitCodeOf(error), code, String(error));
  t.same(errorLines(new CliError('usage', 'a\nb')), ['a', 'b']);
  t.same(errorLines(new CommanderError(1, 'x', 'printed by commander')), []);
  t.match(errorLines(new Error('a fault of ours')).join('\n'), /exit-code\.test/, 'with its stack');
  t.end();
});

test('of several agents, the worst decides', (t) => {
  const answer = (code: number) => ({ code, text: '', problem: `ended with ${code}` });
  const cases: [number[], string][] = [
    [[1], 'problem'],
    [[1, 3, 124], 'unreachable'],
    [[1, 124], 'timeout'],
    [[2, 1], 'usage'],
    [[77], 'problem'],
  ];
  for (const [codes, code] of cases) {
    t.match(failureOf(codes.map(answer)), {
      code,
      message: codes.map((one) => `ended with ${one}`).join('\n'),
    });
  }
  t.end();
});
