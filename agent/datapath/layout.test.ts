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

/** Records of the ring are in no map, so the objects' type information lacks them: the compiler has checked them in wire.h. */
const RING_RECORDS = ['mesh_event', 'mesh_service_event'] as const;

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
  for (const name of RING_RECORDS) compiled.set(name, assertedLayout(name));
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
    ENDPOINT_AUDIT: maps.ENDPOINT_AUDIT,
    DIRECTION_INGRESS: maps.DIRECTIONS.indexOf('ingress'),
    DIRECTION_EGRESS: maps.DIRECTIONS.indexOf('egress'),
    POLICY_STATIC_BITS: maps.POLICY_STATIC_BITS,
    POLICY_FULL_BITS: maps.POLICY_FULL_BITS,
    POLICY_DENY: maps.POLICY_DENY,
    SERVICE_SCOPE_INTERNAL: maps.SERVICE_SCOPES.indexOf('internal'),
    SERVICE_SCOPE_EXTERNAL: maps.SERVICE_SCOPES.indexOf('external'),
    SERVICE_EXTERNAL: maps.SERVICE_EXTERNAL,
    SERVICE_MAGLEV: maps.SERVICE_MAGLEV,
    SERVICE_WRITING: maps.SERVICE_WRITING,
    MEMBER_ACTIVE: maps.MEMBER_ACTIVE,
    MEMBER_DRAINING: maps.MEMBER_DRAINING,
    MAGLEV_BLOCK: maps.MAGLEV_BLOCK_ENTRIES,
    OVERLAY_SOURCE_OFF: maps.OVERLAY_SOURCE_CHECKS.indexOf('off'),
    OVERLAY_SOURCE_CLUSTER: maps.OVERLAY_SOURCE_CHECKS.indexOf('cluster'),
    OVERLAY_SOURCE_STRICT: maps.OVERLAY_SOURCE_CHECKS.indexOf('strict'),
    CONFIG_EXTERNAL_SERVICES: maps.CONFIG_EXTERNAL_SERVICES,
    CONFIG_NATIVE_ROUTING: maps.CONFIG_NATIVE_ROUTING,
    CONFIG_POLICY_AUDIT: maps.CONFIG_POLICY_AUDIT,
    CONFIG_LOCALHOST_JUDGED: maps.CONFIG_LOCALHOST_JUDGED,
    CT_REPLIED: maps.CT_REPLIED,
    CT_ESTABLISHED: maps.CT_ESTABLISHED,
    CT_VIA_OVERLAY: maps.CT_VIA_OVERLAY,
    CT_TRANSLATED: maps.CT_TRANSLATED,
    EVENT_KINDS: maps.EVENT_KINDS.length,
    EVENT_PACKET_SIZE: maps.EVENT.size - maps.EVENT.fields.packet,
    ...Object.fromEntries([
      ...maps.EVENT_KINDS.map((name, index) => [
        `EVENT_${name.toUpperCase().replaceAll('-', '_')}`,
        index + 1,
      ]),
      ...maps.TRACE_LEVELS.map((name, index) => [`TRACE_${name.toUpperCase()}`, index]),
      ...maps.FLOW_STATES.map((name, index) => [`FLOW_STATE_${name.toUpperCase()}`, index]),
    ]),
  };
  for (const [name, value] of Object.entries(constants)) {
    t.match(header, new RegExp(`^#define ${name} ${value}$`, 'm'), name);
  }
  t.end();
});

function assertedLayout(name: string): { size: number; fields: Record<string, number> } {
  const header = readHeader();
  const size = new RegExp(`^ASSERT_SIZE\\(struct ${name}, (\\d+)\\);$`, 'm').exec(header)?.[1];
  const offsets = header.matchAll(
    new RegExp(`^ASSERT_OFFSET\\(struct ${name}, (\\w+), (\\d+)\\);$`, 'gm'),
  );
  const fields = [...offsets].map(([, field = '', offset]) => [field, Number(offset)] as const);
  return { size: Number(size), fields: Object.fromEntries(fields) };
}

function readHeader(): string {
  return ['wire.h', 'wire_events.h', 'wire_firewall.h', 'wire_reasons.h']
    .map((name) => readFileSync(projectPath(`bpf/lib/${name}`), 'utf8'))
    .join('');
}

function toSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
