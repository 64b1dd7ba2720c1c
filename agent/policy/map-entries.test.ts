import fc from 'fast-check';
import { test } from 'tap';
import type { PolicyEntry } from '../datapath/desired.ts';
import {
  blockCode,
  blockOf,
  codeOfRow,
  contains,
  isDeny,
  lookupVerdict,
  type PortBlock,
  resolveAny,
  resolveExact,
  rowOfCode,
} from './map-entries.ts';

const PEER = 70_000;
const row = (over: Partial<PolicyEntry>): PolicyEntry => ({
  endpointId: 1,
  direction: 'ingress',
  identity: PEER,
  protocol: 6,
  port: 80,
  portPrefixBits: 16,
  verdict: 'allow',
  ...over,
});
const question = { direction: 'ingress', identity: PEER, protocol: 6, port: 80 } as const;

const picks: readonly {
  readonly name: string;
  readonly rows: readonly Partial<PolicyEntry>[];
  readonly verdict: 'allow' | 'deny' | 'none';
}[] = [
  { name: 'nothing without a row', rows: [], verdict: 'none' },
  { name: 'a row of the identity', rows: [{}], verdict: 'allow' },
  { name: 'no row of another direction', rows: [{ direction: 'egress' }], verdict: 'none' },
  { name: 'no row of another identity', rows: [{ identity: 70_001 }], verdict: 'none' },
  { name: 'no row of another port', rows: [{ port: 81 }], verdict: 'none' },
  { name: 'no row of another protocol', rows: [{ protocol: 17 }], verdict: 'none' },
  {
    name: 'a block that holds the port',
    rows: [{ port: 64, portPrefixBits: 10 }],
    verdict: 'allow',
  },
  {
    name: 'of one identity the narrower one',
    rows: [{ verdict: 'deny' }, { protocol: 0, port: 0, portPrefixBits: 0 }],
    verdict: 'deny',
  },
  {
    name: 'the narrower one, also against a deny of any',
    rows: [{}, { identity: 0, port: 0, portPrefixBits: 0, verdict: 'deny' }],
    verdict: 'allow',
  },
  {
    name: 'the narrower one of any',
    rows: [
      { port: 0, portPrefixBits: 0 },
      { identity: 0, verdict: 'deny' },
    ],
    verdict: 'deny',
  },
  {
    name: 'of equally wide ones the deny of the identity',
    rows: [{ verdict: 'deny' }, { identity: 0 }],
    verdict: 'deny',
  },
  {
    name: 'of equally wide ones the deny of any',
    rows: [{}, { identity: 0, verdict: 'deny' }],
    verdict: 'deny',
  },
];

for (const { name, rows, verdict } of picks) {
  test(`lookupVerdict() picks ${name}`, async (t) => {
    const given = rows.map(row);
    t.equal(lookupVerdict(given, question).kind, verdict);
    t.equal(lookupVerdict(given.reverse(), question).kind, verdict, 'in any order');
  });
}

/** Few protocols and ports, so that blocks meet. */
const block = fc.oneof(
  fc.constant<PortBlock>({ protocol: 0, port: 0, portPrefixBits: 0 }),
  fc
    .tuple(fc.constantFrom(6, 17), fc.integer({ min: 0, max: 16 }), fc.nat(15))
    .map(([protocol, portPrefixBits, low]): PortBlock => {
      // Ports 65520 to 65535, of which the block takes as many as its bits leave.
      const port = (65_520 + low) & (0xffff << (16 - portPrefixBits)) & 0xffff;
      return { protocol, port, portPrefixBits };
    }),
);
const blocks = fc.array(block, { maxLength: 6 });
const codes = (list: readonly PortBlock[]): number[] => list.map(blockCode);

test('rows give what a deny that wins over every allow says, at every port', async () => {
  fc.assert(
    fc.property(blocks, blocks, blocks, blocks, (allow, deny, anyAllow, anyDeny) => {
      const any = resolveAny({ allow: codes(anyAllow), deny: codes(anyDeny) });
      const exact = resolveExact({ allow: codes(allow), deny: codes(deny) }, any);
      const place = { endpointId: 1, direction: 'ingress' } as const;
      const rows = [
        ...any.map((code) => rowOfCode(code, { ...place, identity: 0 })),
        ...exact.map((code) => rowOfCode(code, { ...place, identity: PEER })),
      ];
      const says = (
        identity: number,
        protocol: number,
        port: number,
        [allows, denies]: readonly [readonly PortBlock[], readonly PortBlock[]],
      ): boolean => {
        const point = blockCode({ protocol, port, portPrefixBits: 16 });
        const has = (list: readonly PortBlock[]) =>
          list.some((one) => contains(blockCode(one), point));
        const wanted = has(denies) ? 'deny' : has(allows) ? 'allow' : 'none';
        return lookupVerdict(rows, { ...question, identity, protocol, port }).kind === wanted;
      };
      for (const protocol of [1, 6, 17]) {
        for (const port of [0, 80, ...Array.from({ length: 16 }, (_, index) => 65_520 + index)]) {
          const both = [
            [...allow, ...anyAllow],
            [...deny, ...anyDeny],
          ] as const;
          if (!says(PEER, protocol, port, both)) return false;
          if (!says(71_000, protocol, port, [anyAllow, anyDeny])) return false;
        }
      }
      return true;
    }),
    { numRuns: 2000 },
  );
});

test('no row is there for nothing: without any one of them some port would be judged otherwise', async () => {
  fc.assert(
    fc.property(blocks, blocks, blocks, (allow, deny, anyAllow) => {
      const any = resolveAny({ allow: codes(anyAllow), deny: [] });
      const exact = resolveExact({ allow: codes(allow), deny: codes(deny) }, any);
      return exact.every((code) => {
        const others = exact.filter((other) => other !== code);
        const inside = others.filter((other) => contains(blockOf(code), blockOf(other)));
        // A row that narrower ones fill wholly, as two halves may, is as good as they are.
        if (inside.length > 0) return true;
        const point = rowOfCode(code, { endpointId: 1, direction: 'ingress', identity: PEER });
        const rows = [
          ...any.map((each) => rowOfCode(each, { ...point, identity: 0 })),
          ...others.map((each) => rowOfCode(each, { ...point, identity: PEER })),
        ];
        const asked = { ...question, protocol: point.protocol || 1, port: point.port };
        return lookupVerdict(rows, asked).kind !== (isDeny(code) ? 'deny' : 'allow');
      });
    }),
    { numRuns: 1000 },
  );
});

test('codes are rows and back', async (t) => {
  for (const verdict of ['allow', 'deny'] as const) {
    for (const portPrefixBits of [0, 1, 15, 16]) {
      const port = 0xffff & (0xffff << (16 - portPrefixBits));
      const wanted = row({ verdict, portPrefixBits, port });
      t.same(rowOfCode(codeOfRow(wanted), wanted), wanted);
    }
  }
  const everything = row({ protocol: 0, port: 0, portPrefixBits: 0 });
  t.same(rowOfCode(codeOfRow(everything), everything), everything);
});
