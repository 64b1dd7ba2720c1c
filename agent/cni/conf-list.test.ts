import { test } from 'tap';
import { chainPlugin, type PluginSettings, unchainPlugin } from './conf-list.ts';

const SETTINGS: PluginSettings = {
  socketPath: '/run/isthmus/agent.sock',
  agentDown: 'wait',
  agentDownTimeoutMs: 30_000,
};
const OURS = {
  type: 'clustermesh-cni',
  socketPath: '/run/isthmus/agent.sock',
  agentDown: 'wait',
  agentDownTimeout: '30s',
};
const PTP = {
  type: 'ptp',
  ipMasq: true,
  ipam: { type: 'host-local', ranges: [[{ subnet: '10.1.0.0/24' }]] },
};
const PORTMAP = { type: 'portmap', capabilities: { portMappings: true } };

const chain = (conf: unknown, settings = SETTINGS): unknown => {
  const text = chainPlugin(JSON.stringify(conf), '10-x.conflist', settings);
  return text === undefined ? 'as it is' : JSON.parse(text);
};
const list = (...plugins: unknown[]): Record<string, unknown> => ({
  cniVersion: '1.0.0',
  name: 'net',
  disableCheck: true,
  plugins,
});

const CASES: readonly (readonly [name: string, before: unknown, after: unknown])[] = [
  ['behind the others, which are kept', list(PTP, PORTMAP), list(PTP, PORTMAP, OURS)],
  ['already there', list(PTP, OURS), 'as it is'],
  ['not last, since somebody else must be', list(PTP, OURS, PORTMAP), 'as it is'],
  [
    'told something else',
    list(PTP, { ...OURS, agentDown: 'open' }, PORTMAP),
    list(PTP, OURS, PORTMAP),
  ],
  ['there twice', list(PTP, OURS, PORTMAP, OURS), list(PTP, OURS, PORTMAP)],
  ['in front of the interface', list(OURS, PTP), list(PTP, OURS)],
  [
    'a single plugin becomes a list',
    { cniVersion: '0.3.1', name: 'net', ...PTP },
    { cniVersion: '0.3.1', name: 'net', plugins: [PTP, OURS] },
  ],
  [
    'one of several versions is spoken',
    { ...list(PTP), cniVersion: '9.0.0', cniVersions: ['1.0.0', '9.0.0'] },
    { ...list(PTP, OURS), cniVersion: '9.0.0', cniVersions: ['1.0.0', '9.0.0'] },
  ],
];

for (const [name, before, after] of CASES) {
  test(`chainPlugin(): ${name}`, async (t) => {
    t.same(chain(before), after);
    if (after !== 'as it is') t.equal(chain(after), 'as it is', 'a second time changes nothing');
  });
}

test('chainPlugin() tells the plugin what to do without an agent', async (t) => {
  const settings = { ...SETTINGS, agentDown: 'open', agentDownTimeoutMs: 1500 } as const;
  t.match(chain(list(PTP), settings), {
    plugins: [PTP, { agentDown: 'open', agentDownTimeout: '1500ms' }],
  });
});

const REFUSED: readonly (readonly [name: string, text: string, message: RegExp])[] = [
  ['no JSON', '{"plugins":', /10-x\.conflist: it is not JSON/],
  ['no object', '[]', /expected a JSON object/],
  ['neither list nor plugin', '{"cniVersion":"1.0.0","name":"x"}', /expected "plugins"/],
  ['plugins that are none', '{"cniVersion":"1.0.0","plugins":["ptp"]}', /expected "plugins"/],
  [
    'an old version',
    JSON.stringify({ ...list(PTP), cniVersion: '0.2.0' }),
    /cniVersion is "0\.2\.0"/,
  ],
  [
    'no version',
    JSON.stringify({ ...list(PTP), cniVersion: undefined }),
    /cniVersion is undefined/,
  ],
  ['nothing but ours', JSON.stringify(list(OURS)), /no plugin but ours/],
];

for (const [name, text, message] of REFUSED) {
  test(`chainPlugin() refuses ${name}`, async (t) => {
    t.throws(() => chainPlugin(text, '10-x.conflist', SETTINGS), { code: 'bad-conf', message });
  });
}

test('unchainPlugin() takes ours out and leaves the rest', async (t) => {
  const text = unchainPlugin(JSON.stringify(list(PTP, OURS, PORTMAP)), 'x');
  t.same(JSON.parse(text ?? ''), list(PTP, PORTMAP));
  t.equal(unchainPlugin(JSON.stringify(list(PTP)), 'x'), undefined);
  t.equal(unchainPlugin(JSON.stringify({ cniVersion: '1.0.0', ...PTP }), 'x'), undefined);
});
