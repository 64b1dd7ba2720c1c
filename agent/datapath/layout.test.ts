import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { z } from 'zod';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import * as maps from '../../mesh/wire/maps.ts';
import { MAP_NAMES } from './object.ts';
import { OBJECT_FILES } from './preflight.ts';
import { OBJECT_DIR } from './testing/bpffs.ts';

const btfSchema = z.object({
  types: z.array(
    z.looseObject({
      kind: z.string(),
      name: z.string().optional(),
      size: z.number().optional(),
      members: z.array(z.looseObject({ name: z.string(), bits_offset: z.number() })).optional(),
    }),
  ),
});

type BtfType = z.infer<typeof btfSchema>['types'][number];

const skip = existsSync(OBJECT_DIR)
  ? false
  : `needs the eBPF objects in ${OBJECT_DIR}: npm run build`;

function readTypes(): BtfType[] {
  return OBJECT_FILES.flatMap((name) => {
    const text = execFileSync('bpftool', ['-j', 'btf', 'dump', 'file', join(OBJECT_DIR, name)], {
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    });
    return btfSchema.parse(JSON.parse(text)).types;
  });
}

test('maps.ts: structs are those of the compiled programs', { skip }, (t) => {
  const compiled = new Map<string, { size: number; fields: Record<string, number> }>();
  for (const type of readTypes()) {
    if (type.kind !== 'STRUCT' || !type.name?.startsWith('mesh_')) continue;
    const fields = (type.members ?? []).map((member) => [member.name, member.bits_offset / 8]);
    compiled.set(type.name, { size: type.size ?? 0, fields: Object.fromEntries(fields) });
  }
  const { size: addressSize } = compiled.get('mesh_address') ?? { size: 0 };
  t.equal(addressSize, maps.ADDRESS_SIZE);
  compiled.delete('mesh_address');
  const twins = Object.entries(maps.STRUCT_LAYOUTS).map(([name, { size, fields }]) => {
    const snake = Object.entries(fields).map(([field, offset]) => [toSnake(field), offset]);
    return [name, { size, fields: Object.fromEntries(snake) }] as const;
  });
  t.strictSame(Object.fromEntries([...compiled].sort()), Object.fromEntries([...twins].sort()));
  t.end();
});

test('object.ts: map names are those of the compiled programs', { skip }, (t) => {
  const names = readTypes().filter(({ kind, name }) => kind === 'VAR' && name?.startsWith('mesh_'));
  t.strictSame([...new Set(names.map(({ name }) => name))].sort(), [...MAP_NAMES].sort());
  t.end();
});

test('maps.ts: reasons are those of wire.h', (t) => {
  const header = readHeader();
  const named = [...header.matchAll(/^\t(?:COUNT|DROP)_([A-Z_]+) = (\d+),$/gm)].map(
    ([, name = '', number]) => [Number(number), name.toLowerCase().replaceAll('_', '-')] as const,
  );
  t.strictSame([...maps.REASONS], named);
  for (const [number] of maps.REASONS) {
    const isDrop = new RegExp(`^\tDROP_[A-Z_]+ = ${number},$`, 'm').test(header);
    t.equal(number >= maps.FIRST_DROP_REASON, isDrop, `${number} is on the right side`);
  }
  t.match(header, new RegExp(`MESH_REASONS = ${maps.REASON_LIMIT},`));
  t.end();
});

test('maps.ts: reasons are in the documentation', (t) => {
  const documentation = readFileSync(projectPath('docs/datapath.md'), 'utf8');
  for (const reason of maps.REASONS.values()) t.match(documentation, `\`${reason}\``);
  for (const name of MAP_NAMES) t.match(documentation, `\`${name}\``);
  t.end();
});

test('maps.ts: constants are those of wire.h', (t) => {
  const header = readHeader();
  const constants: Record<string, number> = {
    MESH_LAYOUT_VERSION: maps.LAYOUT_VERSION,
    IPCACHE_HAS_TUNNEL: maps.IPCACHE_HAS_TUNNEL,
    ENDPOINT_INGRESS_ENFORCED: maps.ENDPOINT_INGRESS_ENFORCED,
    ENDPOINT_EGRESS_ENFORCED: maps.ENDPOINT_EGRESS_ENFORCED,
    DIRECTION_INGRESS: maps.DIRECTIONS.indexOf('ingress'),
    DIRECTION_EGRESS: maps.DIRECTIONS.indexOf('egress'),
    POLICY_STATIC_BITS: maps.POLICY_STATIC_BITS,
    POLICY_FULL_BITS: maps.POLICY_FULL_BITS,
    POLICY_DENY: maps.POLICY_DENY,
  };
  for (const [name, value] of Object.entries(constants)) {
    t.match(header, new RegExp(`^#define ${name} ${value}$`, 'm'), name);
  }
  t.end();
});

function readHeader(): string {
  return readFileSync(projectPath('bpf/lib/wire.h'), 'utf8');
}

function toSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
