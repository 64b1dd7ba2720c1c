import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { CONFIG } from '../../mesh/wire/maps.ts';
import { mapInfo, updateElement } from './bpf.ts';
import { loadObjects } from './object.ts';
import { kernelSkipReason, OBJECT_DIR, openTestBpffs } from './testing/bpffs.ts';

const skip = kernelSkipReason();
const SOCKET = join(OBJECT_DIR, 'mesh_socket.bpf.o');
const OVERLAY = join(OBJECT_DIR, 'mesh_overlay.bpf.o');
const ENDPOINT = join(OBJECT_DIR, 'mesh_endpoint.bpf.o');
const SIZES = { mesh_translations: 64, mesh_choices: 64, mesh_ct: 64 };

test('loadObjects() shares maps between objects and with the next process', { skip }, async (t) => {
  await using bpffs = await openTestBpffs('objects');
  const pinFolder = join(bpffs.path, 'maps');
  const load = (mapSizes = {}) =>
    loadObjects([SOCKET, OVERLAY], { pinFolder, mapSizes: { ...SIZES, ...mapSizes } });

  const first = load({ mesh_backends: 10 });
  const { id } = mapInfo(first.maps.get('mesh_backends').fd);
  t.equal(first.maps.get('mesh_backends').maxEntries, 10);
  t.ok(existsSync(join(pinFolder, 'mesh_backends')));
  t.throws(() => first.program('mesh_nonsense'), { code: 'load-failed', message: /mesh_nonsense/ });
  t.throws(() => first.maps.get('mesh_nonsense'), { code: 'load-failed' });
  first[Symbol.dispose]();
  first[Symbol.dispose]();

  const second = load({ mesh_backends: 20 });
  t.equal(mapInfo(second.maps.get('mesh_backends').fd).id, id, 'the same map');
  t.equal(second.maps.get('mesh_backends').maxEntries, 10, 'which keeps its size');
  second[Symbol.dispose]();
});

test('loadObjects() refuses pinned maps of another layout', { skip }, async (t) => {
  await using bpffs = await openTestBpffs('objects');
  const pinFolder = join(bpffs.path, 'maps');
  loadObjects([OVERLAY], { pinFolder, mapSizes: SIZES })[Symbol.dispose]();
  const path = join(pinFolder, 'mesh_endpoints');
  rmSync(path);
  const create = ['map', 'create', path, 'type', 'hash', 'key', '16', 'value', '40'];
  execFileSync('bpftool', [...create, 'entries', '8', 'name', 'other', 'flags', '1']);
  t.throws(() => loadObjects([OVERLAY], { pinFolder, mapSizes: SIZES }), {
    code: 'incompatible-map',
    message: /mesh_endpoints: value size 40, expected 36; .*rm -r/,
  });
});

test('loadObjects() refuses pinned maps of another layout version', { skip }, async (t) => {
  await using bpffs = await openTestBpffs('objects');
  const pinFolder = join(bpffs.path, 'maps');
  const objects = loadObjects([OVERLAY], { pinFolder, mapSizes: SIZES });
  const config = Buffer.alloc(CONFIG.size);
  config.writeUInt32LE(99);
  updateElement(objects.maps.get('mesh_config').fd, Buffer.alloc(4), config);
  objects[Symbol.dispose]();
  t.throws(() => loadObjects([OVERLAY], { pinFolder, mapSizes: SIZES }), {
    code: 'incompatible-map',
    message: /mesh_config: layout version 99, expected 2/,
  });
});

test('loadObjects() says which object cannot be read', { skip }, async (t) => {
  await using bpffs = await openTestBpffs('objects');
  await using dir = await openTempDir('objects');
  const options = { pinFolder: join(bpffs.path, 'maps') };
  t.throws(() => loadObjects([dir.file('missing.o')], options), {
    code: 'load-failed',
    message: /missing\.o: ENOENT/,
  });
  writeFileSync(dir.file('half.o'), 'not an object');
  t.throws(() => loadObjects([dir.file('half.o')], options), {
    code: 'load-failed',
    message: /half\.o: /,
  });
});

test('loadObjects() is not put off by signals, such as a profiler sends', { skip }, async (t) => {
  await using bpffs = await openTestBpffs('objects');
  let signals = 0;
  const count = (): void => {
    signals += 1;
  };
  process.on('SIGUSR2', count);
  // Each of them ends a run of the verifier that it meets; the largest program takes tens of milliseconds.
  const sender = spawn('sh', [
    '-c',
    'while kill -USR2 "$0"; do sleep 0.001; done',
    `${process.pid}`,
  ]);
  try {
    while (signals < 3) await once(process, 'SIGUSR2');
    for (const name of ['first', 'second', 'third']) {
      const pinFolder = join(bpffs.path, name);
      const objects = loadObjects([ENDPOINT], { pinFolder, mapSizes: SIZES });
      t.ok(objects.program('mesh_from_endpoint') > 0);
      objects[Symbol.dispose]();
    }
  } finally {
    sender.kill('SIGKILL');
    await once(sender, 'exit');
    // What is on its way still would end the process.
    await wait(50);
    process.off('SIGUSR2', count);
  }
});
