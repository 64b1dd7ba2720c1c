import { test } from 'tap';
import type { UpkeepReport } from '../datapath/desired.ts';
import { datapathLine } from './render-datapath.ts';

const REPORT: UpkeepReport = {
  routingMode: 'tunnel',
  tunnelMtu: 1430,
  largerMtus: ['a', 'b', 'c', 'd'].map((name) => ({ hostInterface: `veth${name}`, mtu: 1500 })),
  problems: [],
  garbage: {
    rounds: 3,
    busyMs: 450,
    intervalMs: 22_500,
    maps: [
      { map: 'mesh_ct', entries: 225_000, maxEntries: 250_000, deleted: 70 },
      { map: 'mesh_nat', entries: 10, maxEntries: 100_000, deleted: 0 },
    ],
  },
};

test('datapathLine() says in a line what travels how', async (t) => {
  const line = datapathLine(REPORT);
  t.match(line, /^routing: tunnel, tunnel MTU 1430; 4 endpoints with a larger MTU \(vetha 1500, /);
  t.match(line, /, \.\.\.\) rely on path MTU discovery: set the CNI's MTU to 1430/);
  t.match(line, /; map mesh_ct is 90 % full$/);
  const quiet = {
    ...REPORT,
    routingMode: 'native',
    largerMtus: [],
    garbage: { ...REPORT.garbage, maps: [] },
  } as const;
  t.equal(datapathLine(quiet), 'routing: native, tunnel MTU 1430');
});
