import fc from 'fast-check';
import { test } from 'tap';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import type { ParsedPolicy } from './rule.ts';
import { ccnpOf, clauseText, cnpOf, npOf, parse, ruleLines } from './testing/rule-text.ts';

/** One policy of each kind in which every part of the language is used. */
const WHOLE: readonly Partial<LocalPolicy>[] = [
  npOf({
    policyTypes: ['Ingress', 'Egress'],
    ingress: [
      {
        from: [
          { podSelector: { matchLabels: { app: 'a' } } },
          { ipBlock: { cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] } },
        ],
        ports: [{ port: 80, endPort: 90, protocol: 'TCP' }, { port: 'http' }],
      },
    ],
    egress: [
      {
        to: [
          {
            namespaceSelector: { matchExpressions: [{ key: 'a', operator: 'In', values: ['b'] }] },
          },
        ],
        ports: [{ port: 53, protocol: 'UDP' }],
      },
    ],
  }),
  cnpOf({
    enableDefaultDeny: { ingress: true, egress: true },
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { app: 'a' } }],
        fromRequires: [{ matchLabels: { b: 'c' } }],
        toPorts: [{ ports: [{ port: '80', endPort: 90, protocol: 'TCP' }], rules: {} }],
      },
      {
        fromEntities: ['cluster'],
        icmps: [{ fields: [{ family: 'IPv6', type: 'EchoRequest' }] }],
        authentication: { mode: 'disabled' },
      },
    ],
    ingressDeny: [
      { fromCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] }, { cidrGroupRef: 'x' }] },
    ],
    egress: [
      {
        toServices: [
          { k8sService: { serviceName: 'a', namespace: 'b' } },
          { k8sServiceSelector: { selector: { matchLabels: { a: 'b' } }, namespace: 'c' } },
        ],
      },
      { toCIDR: ['192.0.2.0/24'] },
    ],
    egressDeny: [
      { toNodes: [{ matchLabels: { role: 'x' } }] },
      { toEndpoints: [{}], toPorts: [{ ports: [{ port: 'http' }] }] },
    ],
  }),
  ccnpOf({
    nodeSelector: { matchLabels: { role: 'x' } },
    ingress: [{ fromCIDRSet: [{ cidrGroupSelector: { matchLabels: { a: 'b' } } }] }],
    egressDeny: [{ toEntities: ['world'] }],
  }),
];

/** Paths to every value within a manifest but those whose content is its author's own. */
function* pathsIn(
  value: unknown,
  path: readonly (string | number)[] = [],
): Generator<readonly (string | number)[]> {
  yield path;
  if (path.at(-1) === 'matchLabels' || typeof value !== 'object' || value === null) return;
  for (const [key, item] of Object.entries(value)) yield* pathsIn(item, [...path, key]);
}

/** A copy of a value in which what stands at a path is another. */
function withValue(
  value: unknown,
  path: readonly (string | number)[],
  change: (old: unknown) => unknown,
): unknown {
  const [step, ...rest] = path;
  if (step === undefined) return change(value);
  const copy: Record<string | number, unknown> = (
    Array.isArray(value) ? [...value] : { ...(value as object) }
  ) as Record<string | number, unknown>;
  copy[step] = withValue(copy[step], rest, change);
  return copy;
}

/** Why a policy lets through what another does not; undefined where it does not. */
function widening(changed: ParsedPolicy, original: ParsedPolicy): string | undefined {
  if (changed.clauses.some(({ isolates }) => isolates)) return undefined;
  const known = new Set(ruleLines(original));
  const lines = ruleLines(changed);
  const more = lines.find((line) => line.startsWith('allow') && !known.has(line));
  if (more !== undefined) return `allows more: ${more}`;
  for (const line of known) {
    const everything = line.includes('ingress')
      ? 'deny ingress from any on any'
      : 'deny egress to any on any';
    if (line.startsWith('deny') && !lines.includes(line) && !lines.includes(everything))
      return `denies less: ${line}`;
  }
  const closed = changed.clauses.map(clauseText).join();
  return closed === original.clauses.map(clauseText).join()
    ? undefined
    : `closes otherwise: ${closed}`;
}

/** Says of each change of each value of each whole policy that it is noticed and widens nothing. */
function tryEverywhere(
  change: (old: unknown) => unknown,
  isChange: (old: unknown, field: string | number | undefined) => boolean,
): string[] {
  const faults: string[] = [];
  for (const policy of WHOLE) {
    const original = parse(policy);
    for (const path of pathsIn((policy.manifest as { spec: unknown }).spec)) {
      let applies = false;
      const changeThere = (old: unknown): unknown => {
        applies = isChange(old, path.at(-1));
        return applies ? change(old) : old;
      };
      const manifest = withValue(policy.manifest, ['spec', ...path], changeThere);
      if (!applies) continue;
      const changed = parse({ ...policy, manifest });
      const fault =
        changed.problems.length === 0 ? 'says nothing of it' : widening(changed, original);
      if (fault !== undefined) faults.push(`${policy.kind} ${path.join('.')}: ${fault}`);
    }
  }
  return faults;
}

test('parsePolicy() reads every part of the language', async (t) => {
  for (const policy of WHOLE) t.same(parse(policy).problems, []);
});

test('parsePolicy(): an unknown field anywhere is said and widens nothing', async (t) => {
  const isObject = (old: unknown) => typeof old === 'object' && old !== null && !Array.isArray(old);
  let tried = 0;
  for (const value of [{}, [], 'x', 0, false]) {
    const faults = tryEverywhere(
      (old) => {
        tried += 1;
        return { ...(old as object), novelty: value };
      },
      // A label may have any name.
      (old, field) => isObject(old) && field !== 'matchLabels',
    );
    t.same(faults, []);
  }
  t.ok(tried > 200, `${tried} places`);
});

test('parsePolicy(): a value of a wrong type anywhere is said and widens nothing', async (t) => {
  t.same(
    tryEverywhere(
      () => 0.5,
      () => true,
    ),
    [],
  );
  t.same(
    tryEverywhere(
      () => '\u0000',
      (old) => typeof old !== 'string',
    ),
    [],
  );
  t.same(
    tryEverywhere(
      () => [{ novelty: 1 }],
      () => true,
    ),
    [],
  );
  t.same(
    tryEverywhere(
      () => ({ novelty: 1 }),
      () => true,
    ),
    [],
  );
  t.same(
    tryEverywhere(
      () => true,
      (old) => typeof old !== 'boolean',
    ),
    [],
  );
});

test('parsePolicy() never throws, whatever a manifest holds', async (t) => {
  const fields = [
    'spec',
    'specs',
    'endpointSelector',
    'nodeSelector',
    'podSelector',
    'policyTypes',
    'ingress',
    'ingressDeny',
    'egress',
    'egressDeny',
    'enableDefaultDeny',
    'from',
    'to',
    'ports',
    'fromEndpoints',
    'toEndpoints',
    'fromEntities',
    'fromCIDRSet',
    'toCIDR',
    'toServices',
    'fromNodes',
    'fromRequires',
    'toPorts',
    'icmps',
    'fields',
    'port',
    'endPort',
    'protocol',
    'rules',
    'cidr',
    'except',
    'cidrGroupRef',
    'matchLabels',
    'matchExpressions',
    'key',
    'operator',
    'values',
    'ipBlock',
    'namespaceSelector',
    'type',
    'family',
    '__proto__',
    'constructor',
    'length',
  ];
  const { manifest } = fc.letrec((tie) => ({
    manifest: fc.oneof(
      { maxDepth: 7, withCrossShrink: true },
      fc.constantFrom<unknown>(
        null,
        0,
        -1,
        80,
        1e300,
        true,
        '',
        'a',
        '0',
        'Ingress',
        'all',
        '10.0.0.0/8',
        'In',
        'TCP',
        {},
        [],
      ),
      fc.array(tie('manifest'), { maxLength: 3 }),
      fc
        .array(fc.tuple(fc.constantFrom(...fields), tie('manifest')), { maxLength: 5 })
        .map((entries) => JSON.parse(JSON.stringify(Object.fromEntries(entries)))),
    ),
  }));
  const kinds = ['NetworkPolicy', 'CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy'] as const;
  const seed = Math.floor(Math.random() * 2 ** 31);
  t.comment(`seed ${seed}`);
  fc.assert(
    fc.property(manifest, fc.constantFrom(...kinds), fc.boolean(), (found, kind, wrapped) => {
      const policy = parse({ kind, manifest: wrapped ? { spec: found } : found });
      const blocks = policy.clauses.flatMap(({ rules }) => rules).flatMap(({ ports }) => ports);
      return (
        policy.clauses.length > 0 &&
        blocks.every((block) => block.kind === 'named' || (block.port >= 0 && block.port <= 65_535))
      );
    }),
    { numRuns: 3_000, seed },
  );
});

const nested = (levels: number): unknown => {
  let value: unknown = 'x';
  for (let level = 0; level < levels; level += 1) value = level % 2 === 0 ? [value] : { a: value };
  return value;
};

test('parsePolicy() takes what is nested too deeply to be written out', async (t) => {
  const deep = nested(200_000);
  const places: readonly Partial<LocalPolicy>[] = [
    { manifest: deep },
    { manifest: { spec: deep } },
    { manifest: { specs: [deep] } },
    cnpOf({ ingress: deep }),
    cnpOf({ ingress: [deep] }),
    cnpOf({ ingress: [{ fromEndpoints: [{ matchLabels: { a: deep } }] }] }),
    cnpOf({ ingress: [{ fromEntities: [deep] }] }),
    cnpOf({ ingress: [{ fromCIDR: [deep] }] }),
    cnpOf({ ingress: [{ toPorts: [{ ports: [{ port: deep, protocol: deep }] }] }] }),
    cnpOf({ ingress: [{ icmps: [{ fields: [{ type: deep }] }] }] }),
    cnpOf({ ingress: [{}], enableDefaultDeny: { ingress: deep } }),
    npOf({ policyTypes: [deep] }),
    npOf({ ingress: [{ ports: [{ port: deep }] }] }),
  ];
  for (const place of places) {
    const policy = parse(place);
    t.equal(policy.problems.length, 1);
    t.ok((policy.problems[0]?.message.length ?? 0) < 1_000);
  }
});

test('parsePolicy() bounds what long lists come to', async (t) => {
  const many = (count: number, value: unknown): unknown[] =>
    Array.from({ length: count }, () => value);
  const rules = parse(cnpOf({ ingress: many(500_000, {}) }));
  t.match(rules.problems, [
    { path: 'spec.ingress', message: 'has 500000 items, and this version takes 10000: divide it' },
  ]);
  t.same(
    rules.clauses.map(({ isolates }) => isolates),
    [true],
  );

  const mistakes = parse(cnpOf({ ingress: many(10_000, 7), egressDeny: many(10_000, 7) }));
  t.equal(mistakes.problems.length, 100, 'the first ones describe the rest');
  t.same(new Set(ruleLines(mistakes)), new Set(['deny egress to any on any']));

  const last = parse(cnpOf({ ingress: many(200, 7), egressDeny: 7 }));
  t.match(last.problems.at(-1), { path: 'spec.egressDeny', message: 'nothing may reach or leave' });

  t.match(parse({ manifest: { specs: many(2_000, {}) } }).problems, [{ path: 'specs' }]);

  const range = { port: '1', endPort: 65_534 };
  const ports = parse(
    cnpOf({ ingress: [{ toPorts: [{ ports: many(600, range) }, { ports: many(600, range) }] }] }),
  );
  t.match(ports.problems, [
    { path: 'spec.ingress[0].toPorts[1].ports', message: 'brings the rule to 1200 ports' },
  ]);
  t.match(parse(npOf({ ingress: [{ ports: many(1_001, { port: 1 }) }] })).problems, [
    { path: 'spec.ingress[0].ports' },
  ]);

  const blocks = parse(cnpOf({ ingress: many(1_000, { toPorts: [{ ports: [range] }] }) }));
  t.match(blocks.problems[0], { message: 'brings the policy to more than 20000 blocks of ports' });
  const count = blocks.clauses
    .flatMap(({ rules: kept }) => kept)
    .flatMap((rule) => rule.ports).length;
  t.ok(count <= 20_000, `${count} blocks`);
});

test('parsePolicy(): names made up by outsiders are cut short', async (t) => {
  const name = 'x'.repeat(100_000);
  for (const policy of [
    parse(cnpOf({ ingress: [{ [name]: 1 }] })),
    parse(cnpOf({ ingress: [{ fromEntities: [name] }] })),
    parse(cnpOf({ ingress: [{ fromEndpoints: [{ matchLabels: { [name]: 1 } }] }] })),
    parse(cnpOf({ ingress: [{ toPorts: [{ ports: [{ port: name }], rules: { [name]: [] } }] }] })),
  ]) {
    t.equal(policy.problems.length, 1);
    t.ok((policy.problems[0]?.message.length ?? 0) < 500);
  }
});

test('parsePolicy(): a policy without its namespace is of the default one, not clusterwide', async (t) => {
  for (const policy of [npOf({}), cnpOf({ ingress: [{}] })]) {
    const { namespace, clauses } = parse({ ...policy, namespace: '' });
    t.equal(namespace, 'default');
    t.same(clauses.map(clauseText), ['pods {k8s:NAMESPACE=default} closes ingress']);
  }
});

test('parsePolicy(): a group of networks has no rules', async (t) => {
  const policy = parse({
    kind: 'CiliumCIDRGroup',
    namespace: '',
    manifest: { spec: { externalCIDRs: [] } },
  });
  t.same(policy.clauses, []);
  t.same(policy.problems, []);
});
