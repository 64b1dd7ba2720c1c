import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { PROGRAM_TYPES } from './bpf.ts';
import { NEEDED_HELPERS, OPTIONAL_HELPERS, probeFeatures, renderFeatures } from './features.ts';
import { OBJECT_FILES } from './preflight.ts';
import { kernelSkipReason, OBJECT_DIR } from './testing/bpffs.ts';

const skip = kernelSkipReason();

/** An instruction that calls a helper: its code, and no source register, which would make it a call of our own. */
const CALL = 0x85;

/**
 * Helpers that a compiled object (ELF64, little-endian) calls. Functions of .text may be without a caller: of them it is
 * only known that some program may.
 */
function helpersOf(object: Buffer): { readonly id: number; readonly isProgram: boolean }[] {
  const sections = Number(object.readBigUInt64LE(40));
  const size = object.readUInt16LE(58);
  const count = object.readUInt16LE(60);
  const at = (index: number) => {
    const header = sections + index * size;
    return {
      name: object.readUInt32LE(header),
      isCode: object.readUInt32LE(header + 4) === 1 && (object.readUInt32LE(header + 8) & 4) !== 0,
      offset: Number(object.readBigUInt64LE(header + 24)),
      length: Number(object.readBigUInt64LE(header + 32)),
    };
  };
  const names = at(object.readUInt16LE(62));
  const helpers: { readonly id: number; readonly isProgram: boolean }[] = [];
  for (let index = 0; index < count; index += 1) {
    const section = at(index);
    if (!section.isCode) continue;
    const start = names.offset + section.name;
    const name = object.toString('utf8', start, object.indexOf(0, start));
    const isProgram = name !== '.text';
    for (let offset = section.offset; offset < section.offset + section.length; offset += 8) {
      const isCall = object.readUInt8(offset) === CALL && object.readUInt8(offset + 1) >> 4 === 0;
      if (isCall) helpers.push({ id: object.readInt32LE(offset + 4), isProgram });
    }
  }
  return helpers;
}

test('features.ts: every helper that a program calls is probed', { skip }, (t) => {
  const known = new Map(NEEDED_HELPERS.map(([id, , , types]) => [id, types]));
  const optional: readonly number[] = Object.values(OPTIONAL_HELPERS);
  const called = new Set<number>();
  for (const file of OBJECT_FILES) {
    const type = file.includes('socket') ? PROGRAM_TYPES.cgroupSockAddr : PROGRAM_TYPES.tc;
    for (const { id, isProgram } of helpersOf(readFileSync(join(OBJECT_DIR, file)))) {
      called.add(id);
      const types = known.get(id);
      const isKnown =
        optional.includes(id) || (isProgram ? types?.includes(type) : types !== undefined);
      if (!isKnown) t.fail(`${file} calls helper ${id}, which features.ts does not name`);
    }
  }
  for (const [id, name] of NEEDED_HELPERS) t.ok(called.has(id), `${name} is needed by a program`);
  t.ok(called.size > 10);
  t.end();
});

test('probeFeatures() finds everything on the kernel that tests run on', { skip }, (t) => {
  const features = probeFeatures();
  for (const { name, isFound } of features) t.ok(isFound, name);
  const text = renderFeatures(
    features.map((feature) => (feature.isNeeded ? feature : { ...feature, isFound: false })),
    '5.10.0',
  );
  t.match(text, /^kernel 5\.10\.0\nFEATURE/);
  t.match(text, /helper redirect_peer +Linux 5\.10 +needed +yes\n/);
  t.match(text, /helper set_retval +Linux 5\.18 +optional +NO +a connect .* EPERM instead/);
  t.end();
});
