import { test } from 'tap';
import type { PolicyReport } from '../api/status.ts';
import { createPolicyReporter } from './policy-reports.ts';

function reportOf(name: string, changes: Partial<PolicyReport> = {}): PolicyReport {
  return {
    policy: `CiliumNetworkPolicy demo/${name}`,
    generation: 1,
    state: 'enforced',
    endpoints: [],
    entries: 0,
    lastError: undefined,
    problems: [],
    ...changes,
  };
}

test('a session is told everything once, then changes, then nothing', async (t) => {
  const reporter = createPolicyReporter();
  const problems = [
    { path: 'spec.ingress[0]', message: 'layer 7 rules are not supported' },
    { path: '', message: 'generation 1 stays in force' },
  ];
  const first = reporter.next([
    reportOf('a', { endpoints: [7, 9], entries: 12, lastError: 'the map is full' }),
    reportOf('b', { problems }),
  ]);
  t.same(
    first.map(({ complete }) => complete),
    [false, true],
    'the last message says that it is the last',
  );
  t.same(first[0]?.reports, [
    {
      policy: 'CiliumNetworkPolicy demo/a',
      generation: 1,
      endpoints: 2,
      entries: 12,
      last_error: 'the map is full',
      problems: [],
    },
    {
      policy: 'CiliumNetworkPolicy demo/b',
      generation: 1,
      endpoints: 0,
      entries: 0,
      last_error: '',
      problems: ['spec.ingress[0]: layer 7 rules are not supported', 'generation 1 stays in force'],
    },
  ]);
  const same = [
    reportOf('a', { endpoints: [7, 9], entries: 12, lastError: 'the map is full' }),
    reportOf('b', { problems }),
  ];
  t.same(reporter.next(same), []);
  const [changed, gone, ...more] = reporter.next([reportOf('b', { generation: 2 })]);
  t.match(changed, { reports: [{ generation: 2, problems: [] }], gone: [], complete: false });
  t.match(gone, { reports: [], gone: ['CiliumNetworkPolicy demo/a'] });
  t.equal(more.length, 0);
});

test('a session without policies is told that there are none', async (t) => {
  t.same(createPolicyReporter().next([]), [{ reports: [], gone: [], complete: true }]);
});

test('messages stay below what a registry takes, however many and long reports are', async (t) => {
  const problem = { path: 'spec', message: 'x'.repeat(2_000) };
  const reports = Array.from({ length: 3_000 }, (_, number) =>
    reportOf(`p${number}`, { problems: number % 100 === 0 ? Array(50).fill(problem) : [] }),
  );
  const reporter = createPolicyReporter();
  const messages = reporter.next(reports);
  t.equal(messages.flatMap((message) => message.reports).length, 3_000);
  for (const message of messages) {
    if (Buffer.byteLength(JSON.stringify(message)) > 60 * 1024) t.fail('a message is too long');
  }
  const long = messages.flatMap((message) => message.reports)[0];
  t.equal(long?.problems.length, 21);
  t.equal(long?.problems.at(-1), 'and 30 more');
  t.match(long?.problems[0], /…$/);
  t.ok(messages.length > 10);
  t.equal(reporter.next([]).flatMap(({ gone }) => gone).length, 3_000);
});
