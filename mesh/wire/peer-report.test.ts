import { test } from 'tap';
import { parseClusterName } from './ids.ts';
import { meshPeerKey } from './keys.ts';
import { decodePeerReport, encodePeerReport, type PeerReport } from './peer-report.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = meshPeerKey(parseClusterName('beta'));
const REPORT: PeerReport = {
  state: 'stale',
  since: 5,
  reason: 'no answer',
  heartbeatAt: 4,
  clockDifferenceMs: -20,
};

test('a report is written and read', async (t) => {
  const text =
    '{"schema":1,"state":"stale","since":5,"reason":"no answer","heartbeatAt":4,"clockDifferenceMs":-20}';
  t.equal(encodePeerReport(REPORT), text);
  t.strictSame(decodePeerReport(text, KEY), REPORT);
  const young = { state: 'connecting', since: 0, reason: '', heartbeatAt: null } as const;
  const empty: PeerReport = { ...young, clockDifferenceMs: null };
  t.strictSame(decodePeerReport(encodePeerReport(empty), KEY), empty);
  t.strictSame(decodePeerReport('{"schema":1,"state":"connecting"}', KEY), empty);
  t.ok(
    Object.is(
      decodePeerReport('{"schema":1,"state":"ready","clockDifferenceMs":-0}', KEY)
        .clockDifferenceMs,
      0,
    ),
  );
});

test('each malformed field is refused with its key and name', async (t) => {
  for (const [fields, field] of [
    [{ schema: 2 }, 'schema'],
    [{ state: 'withdrawn' }, 'state'],
    [{ since: -1 }, 'since'],
    [{ reason: 1 }, 'reason'],
    [{ heartbeatAt: '4' }, 'heartbeatAt'],
    [{ clockDifferenceMs: 0.5 }, 'clockDifferenceMs'],
    [{ clockDifferenceMs: '0' }, 'clockDifferenceMs'],
  ] as const) {
    const value = JSON.stringify({ ...JSON.parse(encodePeerReport(REPORT)), ...fields });
    const error = refusalOf(() => decodePeerReport(value, KEY));
    t.strictSame([error.key, error.field], [KEY, field]);
  }
});
