import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { z } from 'zod';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { programSize } from './bpf.ts';
import { loadObjects } from './object.ts';
import { OBJECT_FILES } from './preflight.ts';
import { kernelSkipReason, OBJECT_DIR, openTestBpffs } from './testing/bpffs.ts';

const RECORD = projectPath('bpf/program-sizes.json');
const MOST_GROWTH = 1.2;
/** The verifier of the kernel goes through no more for one program (BPF_COMPLEXITY_LIMIT_INSNS). */
const VERIFIER_LIMIT = 1_000_000;

const sizesSchema = z.record(
  z.string(),
  z.object({ instructions: z.number(), verified: z.number() }),
);
const PROGRAM = /^SEC\("(?:tc|cgroup\/[a-z0-9_]+)"\)\n(?:int|__noinline int) (mesh_[a-z0-9_]+)\(/gm;

/** Names of the programs in the sources. */
function programNames(): string[] {
  return OBJECT_FILES.flatMap((file) => {
    const source = readFileSync(projectPath(`bpf/${file.replace(/\.o$/, '.c')}`), 'utf8');
    return [...source.matchAll(PROGRAM)].map(([, name]) => name ?? '');
  });
}

test('no program has grown by more than a fifth since its size was recorded', {
  skip: kernelSkipReason(),
}, async (t) => {
  await using bpffs = await openTestBpffs('sizes');
  using objects = loadObjects(
    OBJECT_FILES.map((file) => join(OBJECT_DIR, file)),
    { pinFolder: join(bpffs.path, 'maps') },
  );
  const sizes = Object.fromEntries(
    programNames().map((name) => [name, programSize(objects.program(name))]),
  );
  t.ok(Object.keys(sizes).length >= 11, 'the programs were found in the sources');
  if (process.env.TAP_SNAPSHOT === '1')
    writeFileSync(RECORD, `${JSON.stringify(sizes, null, 2)}\n`);
  const recorded = sizesSchema.parse(JSON.parse(readFileSync(RECORD, 'utf8')));
  t.same(
    Object.keys(recorded).sort(),
    Object.keys(sizes).sort(),
    'every program is recorded: TAP_SNAPSHOT=1 writes bpf/program-sizes.json anew',
  );
  for (const [name, { instructions, verified }] of Object.entries(sizes)) {
    const before = recorded[name];
    t.ok(
      instructions <= (before?.instructions ?? 0) * MOST_GROWTH,
      `${name} has ${instructions} instructions, recorded are ${before?.instructions}`,
    );
    t.ok(
      verified <= (before?.verified ?? 0) * MOST_GROWTH,
      `the verifier goes through ${verified} of ${name}, recorded are ${before?.verified}`,
    );
    t.ok(verified < VERIFIER_LIMIT / 2, `${name} is well within the verifier's limit`);
  }
});
