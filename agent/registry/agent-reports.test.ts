import { test } from 'tap';
import type { AgentReport, PeerSight } from '../../mesh/wire/agent-report.ts';
import { createAgentReporter } from './agent-reports.ts';

function report(changes: Partial<AgentReport> = {}): AgentReport {
  return {
    schema: 1,
    kind: 'node',
    name: 'n1',
    version: '1',
    startedAt: 0,
    ready: true,
    missing: [],
    notes: [],
    clusters: [],
    clustersLeftOut: 0,
    policies: { count: 0, errors: [] },
    pressure: [],
    kernel: [],
    endpoints: 1,
    routingMode: 'tunnel',
    ...changes,
  };
}

function beta(changes: Partial<PeerSight>): PeerSight {
  return {
    name: 'beta',
    own: false,
    state: 'ready',
    since: 0,
    reason: '',
    notes: [],
    counts: {},
    heldBack: {},
    refused: 0,
    ...changes,
  };
}

test('what matters is told at once, numbers alone once a minute', (t) => {
  const reporter = createAgentReporter();
  t.ok(reporter.next(report(), 0), 'the first report');
  t.equal(reporter.next(report(), 10_000), undefined, 'nothing has changed');
  t.equal(reporter.next(report({ endpoints: 2 }), 20_000), undefined, 'a number can wait');
  t.match(reporter.next(report({ endpoints: 2 }), 60_000), /"endpoints":2/);
  t.equal(reporter.next(report({ endpoints: 2 }), 200_000), undefined, 'it has been told');
  t.ok(reporter.next(report({ endpoints: 2, ready: false, missing: ['x'] }), 200_001));

  const clusters = [beta({ counts: { ips: 1 } })];
  t.ok(reporter.next(report({ clusters }), 200_002));
  const more = [beta({ counts: { ips: 2 }, lagMs: { p50: 1, p99: 2 }, refused: 0 })];
  t.equal(reporter.next(report({ clusters: more }), 200_003), undefined);
  t.ok(reporter.next(report({ clusters: [beta({ state: 'stale' })] }), 200_004), 'a state');
  t.ok(reporter.next(report({ clusters: [beta({ refused: 1 })] }), 200_005), 'the first refusal');
  t.equal(reporter.next(report({ clusters: [beta({ refused: 9 })] }), 200_006), undefined);

  const full = (used: number): AgentReport =>
    report({ pressure: [{ map: 'mesh_ct', used, size: 100 }] });
  t.ok(reporter.next(full(61), 300_000));
  t.equal(reporter.next(full(65), 300_001), undefined);
  t.ok(reporter.next(full(91), 300_002), 'a table that fills');
  t.end();
});
