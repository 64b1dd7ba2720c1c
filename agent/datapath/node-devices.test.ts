import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import type { DatapathOptions } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { DatapathAnswer } from './testing/datapath-process.ts';
import { openDatapathProcess, openTestNodes, runIn } from './testing/nodes.ts';

const skip = kernelSkipReason();

test('node devices: attached only for services that are called from outside', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [node] = lab.nodes;
  await runIn(node.namespace, [
    'ip',
    'link',
    'add',
    'second',
    'type',
    'veth',
    'peer',
    'name',
    'third',
  ]);
  const pins = (): string[] =>
    readdirSync(join(node.options.bpfRoot, 'isthmus/links'))
      .filter((name) => name.startsWith('node-'))
      .sort();
  const open = async (options: Partial<DatapathOptions>): Promise<DatapathAnswer> => {
    await using agent = await openDatapathProcess(node, options);
    return agent.opened;
  };

  t.match(await open({ externalServices: true }), { detached: [] });
  t.strictSame(
    pins(),
    ['node-underlay-from', 'node-underlay-to'],
    'those with the addresses of the node',
  );
  t.match(await open({ externalServices: true, devices: ['second', 'third'] }), { detached: [] });
  t.strictSame(
    pins(),
    ['node-second-from', 'node-second-to', 'node-third-from', 'node-third-to'],
    'those named, and no others any more',
  );
  t.match(await open({ externalServices: true, devices: ['lo'] }), {
    code: 'bad-option',
    error: /by interface lo: it is of type loopback, not Ethernet; name .* --devices/,
  });
  t.equal(pins().length, 4, 'what is wrong harms nothing');
  t.match(await open({}), { detached: [] });
  t.strictSame(pins(), [], 'switched off: detached');

  await using agent = await openDatapathProcess(node, {
    externalServices: true,
    devices: ['second'],
  });
  await runIn(node.namespace, ['ip', 'link', 'delete', 'dev', 'second']);
  t.match(await agent.request({}), {
    detached: [/^nothing is attached to second: services are not reached from outside/],
  });
  await agent.request({ uninstall: true });
  t.notOk(existsSync(join(node.options.bpfRoot, 'isthmus')), 'uninstalled: nothing is left');
});
