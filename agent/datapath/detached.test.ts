import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { pinNameOfInterface } from './attach.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { HOST_INTERFACE, openDatapathProcess, openTestNodes } from './testing/nodes.ts';

const skip = kernelSkipReason();

test('promise 16: what is not attached any more is noticed', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one] = lab.nodes;
  await using agent = await openDatapathProcess(one);
  const detached = async (look: readonly string[]): Promise<readonly string[]> => {
    const answer = await agent.request({ look });
    if ('error' in answer) throw new Error(answer.error);
    return answer.detached;
  };
  t.match(await detached([HOST_INTERFACE]), [/endpoint on .* is not attached: restart the agent/]);
  await agent.request({ attach: [HOST_INTERFACE] });
  t.same(await detached([HOST_INTERFACE, 'gone0']), [], 'all is in place');

  const links = join(one.options.bpfRoot, 'isthmus', 'links');
  for (const pin of [`endpoint-${pinNameOfInterface(HOST_INTERFACE)}-to`, 'socket-connect4']) {
    rmSync(join(links, pin));
  }
  t.match(await detached([HOST_INTERFACE]), [
    /^mesh_connect4 not attached to .*: services are not translated/,
    /endpoint on/,
  ]);
  execFileSync('ip', ['-n', one.namespace, 'link', 'delete', 'dev', 'isthmus_vxlan']);
  t.match((await detached([]))[0], /nothing is attached to the tunnel device isthmus_vxlan/);

  // What was taken away comes back without a restart, the device included.
  const healed = await agent.request({ heal: [HOST_INTERFACE], look: [HOST_INTERFACE] });
  t.match(healed, {
    healed: [
      /tunnel device isthmus_vxlan again/,
      /attached mesh_connect4 to .* again/,
      /endpoint on .* again/,
    ],
    detached: [],
  });
  t.match(await agent.request({ heal: [HOST_INTERFACE] }), { healed: [] }, 'once');
  for (const [pin, problem] of [
    ['overlay-from', /nothing is attached to the tunnel device/],
    [
      'overlay-to',
      /nothing is attached to the way out of the tunnel device .*programs of this node/,
    ],
  ] as const) {
    execFileSync('bpftool', ['link', 'detach', 'pinned', join(links, pin)]);
    t.match(await detached([]), [problem]);
    t.match(await agent.request({ heal: [HOST_INTERFACE] }), { healed: [/tunnel device/] });
    t.same(await detached([]), [], pin);
  }
});
