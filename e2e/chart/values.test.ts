/** The chart's values: explained, in the schema, used, and refused in words where they cannot work. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { isMap, isNode, isScalar, parse, parseDocument, visit } from 'yaml';
import { APISERVER_OPTIONS } from '../../clustermesh-apiserver/options.ts';
import { meshPeerObject, parseMeshPeer } from '../../clustermesh-apiserver/peering/mesh-peer.ts';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createCa } from '../../pki/ca.ts';
import { CHART, type ChartValues, LEAST, needHelm, objectOf, render } from './helm.ts';
import { BETA } from './matrix.ts';

const helm = needHelm(process.env);

/** Values that cannot work, and what is said of them: of everything at once. */
const REFUSALS: readonly { readonly values: ChartValues; readonly says: readonly RegExp[] }[] = [
  {
    values: {},
    says: [/mode is "": set mode=any-cni/, /cluster\.name is missing/, /cluster\.id is missing/],
  },
  {
    values: { mode: 'calico', 'cluster.name': 'Alpha', 'cluster.id': 512 },
    says: [
      /mode is "calico"/,
      /cluster\.name is "Alpha": expected 1 to 32 of a-z/,
      /cluster\.id is 512: expected 1 to 255/,
    ],
  },
  {
    values: { mode: 'any-cni', 'cluster.name': 'a-', 'cluster.id': 256 },
    says: [/without "-" at either end/, /an id above 255 needs maxConnectedClusters=511/],
  },
  {
    values: { ...LEAST['any-cni'], 'clustermesh.maxConnectedClusters': 300 },
    says: [/maxConnectedClusters is 300: expected 255 or 511/],
  },
  {
    values: {
      ...LEAST['any-cni'],
      'cluster.id': -1,
      'clustermesh.apiserver.replicas': 2,
      'clustermesh.apiserver.kvstore.endpoints': ['http://e:2379'],
      'clustermesh.networks.pods': ['10.1.0.0/16'],
      'clustermesh.apiserver.tls.auto.method': 'certmanager',
      'tls.ca.cert': 'eA==',
      'agent.kubeProxyReplacement': true,
      'agent.services': 'global',
    },
    says: [
      /cluster\.id is -1/,
      /replicas is 2 with an etcd each: .*kvstore\.mode=external/,
      /kvstore\.endpoints is set, and kvstore\.mode is internal/,
      /pods and nodes are given together/,
      /method certmanager needs an issuer/,
      /tls\.ca\.cert and tls\.ca\.key belong together/,
      /agent\.services=global .*give one of them/,
    ],
  },
  {
    values: {
      ...LEAST.cilium,
      'clustermesh.apiserver.replicas': 2,
      'clustermesh.apiserver.etcd.persistentVolume.enabled': true,
      'clustermesh.enableEndpointSliceSynchronization': true,
      'clustermesh.enablePolicyStatus': true,
      'clustermesh.meshMachines.enabled': true,
      'agent.kubeProxyReplacement': true,
      'agent.cleanup': true,
    },
    says: [
      /persistentVolume is one claim/,
      /Cilium's operator does it, set the value in Cilium's own chart/,
      /enablePolicyStatus is on, and mode is cilium/,
      /machines cannot join a cluster that Cilium runs/,
      /kubeProxyReplacement is on, and mode is cilium/,
      /agent\.cleanup is on, and mode is cilium/,
    ],
  },
  {
    values: {
      ...LEAST['any-cni'],
      'clustermesh.apiserver.kvstore.mode': 'external',
      'clustermesh.config.clusters': {
        alpha: BETA,
        Beta: { ...BETA, clusterId: 4 },
        gamma: { ...BETA, clusterId: 1 },
        delta: { ...BETA, clusterId: undefined },
        epsilon: { ...BETA, clusterId: 5 },
        zeta: { ...BETA, clusterId: 5 },
        eta: { ...BETA, clusterId: 300 },
        theta: { ...BETA, clusterId: 6, maxConnectedClusters: 511 },
        iota: { clusterId: 7 },
      },
    },
    says: [
      /kvstore\.endpoints is empty/,
      /clusters\.alpha: .*a cluster is no peer of itself/,
      /clusters\.Beta: the name of a cluster/,
      /clusters\.gamma\.clusterId is 1, which is this cluster's own/,
      /clusters\.delta\.clusterId is missing/,
      /clusters\.zeta\.clusterId is 5, and so is that of epsilon/,
      /clusters\.eta\.clusterId is 300, and/,
      /theta\.maxConnectedClusters is 511, and here it is 255/,
      /iota\.endpoints is missing/,
      /iota\.ca is missing/,
    ],
  },
  // By the schema.
  {
    values: {
      ...LEAST['any-cni'],
      'agent.tunnelport': 1,
      'clustermesh.apiserver.service.type': 'Node',
      'clustermesh.config.clusters': [{ name: 'beta' }],
    },
    says: [
      /'\/agent': additional properties 'tunnelport' not allowed/,
      /service\/type': value must be one of 'LoadBalancer', 'NodePort', 'ClusterIP'/,
      /config\/clusters': got array, want object/,
    ],
  },
];
const NAMES = ['a', 'a'.repeat(32), 'a'.repeat(33), 'a-b', '-a', 'a_b', '0', 'A', ''];
const CERTIFICATES = ['--tls-cert-file=a', '--tls-key-file=b', '--trusted-ca-file=c'];

test('values that cannot work', { skip: helm.skip, timeout: 240_000 }, async (t) => {
  const dir = await openTempDir('chart-values');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const context = { program: helm.program, home: dir.path };
  for (const { values, says } of REFUSALS) {
    const words = await refusalOf(render(values, context));
    for (const expected of says) t.match(words, expected, String(expected));
  }
  await t.test('a peer that is not enabled is not looked at', async (child) => {
    const clusters = { alpha: { ...BETA, enabled: false }, beta: BETA };
    const objects = await render(withPeers(clusters), context);
    const peers = objects.filter(({ kind }) => kind === 'MeshPeer');
    child.same(
      peers.map(({ metadata }) => metadata.name),
      ['beta'],
    );
  });
  await t.test('a peer of the values is the one that was exported', async (child) => {
    const { root } = await createCa({ commonName: 'CA of beta' });
    const exported = meshPeerObject(
      parseMeshPeer({
        apiVersion: 'isthmus.io/v1alpha1',
        kind: 'MeshPeer',
        metadata: { name: 'beta' },
        spec: {
          clusterId: 2,
          maxConnectedClusters: 255,
          endpoints: ['https://beta.mesh.cilium.io:2379'],
          enrollment: ['beta.mesh.cilium.io:2382'],
          hostAliases: [{ hostname: 'beta.mesh.cilium.io', ips: ['203.0.113.9', '2001:db8::9'] }],
          ca: root,
          clientKeyHash: 'A'.repeat(43),
          networks: { pods: ['10.2.0.0/16'], services: [], nodes: ['fd00::/64'], machines: [] },
          datapath: { routingMode: 'tunnel', tunnelPort: 8472, mtu: 1500 },
        },
      }),
    );
    const { spec } = exported as { spec: object };
    const objects = await render(withPeers({ beta: spec }), context);
    const rendered = meshPeerObject(parseMeshPeer(objectOf(objects, 'MeshPeer', 'beta')));
    child.same(
      rendered,
      exported,
      'the same from a file, the command line and the chart (promise 9)',
    );
  });
  await t.test('names are judged as by the program', async (child) => {
    const peers = NAMES.map((name, index) => [name, { ...BETA, clusterId: index + 2 }]);
    const words = await refusalOf(render(withPeers(Object.fromEntries(peers)), context));
    for (const name of NAMES) {
      const args = [`--cluster-name=${name}`, '--cluster-id=1', ...CERTIFICATES];
      const isRefused = words.includes(`clusters.${name}: the name of a cluster is`);
      child.equal(!isRefused, isTaken(args), JSON.stringify(name));
    }
  });
});

async function refusalOf(rendering: Promise<unknown>): Promise<string> {
  try {
    await rendering;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return 'it was rendered';
}

function isTaken(args: readonly string[]): boolean {
  try {
    parseOptions(APISERVER_OPTIONS, args, {});
    return true;
  } catch {
    return false;
  }
}

test('values.yaml', async (t) => {
  const text = await readFile(`${CHART}/values.yaml`, 'utf8');
  const schema: unknown = JSON.parse(await readFile(`${CHART}/values.schema.json`, 'utf8'));
  const templates = await readTemplates();

  await t.test('each value is explained', (child) => {
    for (const { path, comment } of explained(text)) child.match(comment, /^ -- \S/, path);
    child.end();
  });

  await t.test('it is what the schema says', (child) => {
    const values: unknown = parse(text);
    sameFields(values, schema, '', child);
    child.end();
  });

  await t.test('each value is used, and nothing else', (child) => {
    const leaves = leafPaths(parse(text));
    const used = usedPaths(templates);
    for (const leaf of leaves) {
      const isUsed = used.some((path) => leaf === path || leaf.startsWith(`${path}.`));
      child.ok(isUsed, `${leaf} is used by a template`);
    }
    for (const path of used) {
      const isThere = leaves.some(
        (leaf) => leaf === path || leaf.startsWith(`${path}.`) || path.startsWith(`${leaf}.`),
      );
      child.ok(isThere, `${path} is in values.yaml`);
    }
    child.end();
  });

  await t.test('docs/helm.md has each of them', async (child) => {
    const docs = await readFile(projectPath('docs/helm.md'), 'utf8');
    for (const { path, comment, value } of explained(text)) {
      const line = `| \`${path}\` | \`${value}\` | ${comment.replace(/^ -- /, '').replaceAll('|', '\\|')} |`;
      child.ok(docs.includes(line), line);
    }
  });
});

function withPeers(clusters: object): ChartValues {
  return { ...LEAST['any-cni'], 'clustermesh.config.clusters': clusters };
}

interface ExplainedValue {
  readonly path: string;
  readonly comment: string;
  /** As JSON. */
  readonly value: string;
}

/** Every value with the comment above it; what is below a value that is explained belongs to it. */
function explained(text: string): ExplainedValue[] {
  const found: ExplainedValue[] = [];
  visit(parseDocument(text), {
    Pair(_, pair, ancestors) {
      const { key, value } = pair;
      if (!isScalar(key)) return undefined;
      const above = ancestors.flatMap((node) =>
        node !== null && 'key' in node && isScalar(node.key) ? [String(node.key.value)] : [],
      );
      const path = [...above, String(key.value)].join('.');
      const map = ancestors.at(-1);
      const isFirst = isMap(map) && map.items[0] === pair;
      const comment = key.commentBefore ?? (isFirst ? map.commentBefore : undefined) ?? '';
      const isGroup = isMap(value) && value.items.length > 0 && !/(^|\n) -- /.test(comment);
      if (isGroup) return undefined;
      const line = comment.split('\n').find((part) => part.startsWith(' -- ')) ?? '';
      const json = isNode(value) ? value.toJSON() : value;
      found.push({ path, comment: line, value: JSON.stringify(json) });
      return visit.SKIP;
    },
  });
  return found;
}

function leafPaths(values: unknown, path = ''): string[] {
  const isGroup = isObject(values) && Object.keys(values).length > 0;
  if (!isGroup) return [path];
  return Object.entries(values).flatMap(([name, value]) =>
    leafPaths(value, path === '' ? name : `${path}.${name}`),
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Fields of the values are those of the schema, as far as the schema names fields. */
function sameFields(values: unknown, schema: unknown, path: string, t: Test): void {
  if (!isObject(schema) || !isObject(values) || !isObject(schema.properties)) return;
  // Peers have fields of their own, and none by default.
  const { global: _, ...properties } =
    path === '' ? schema.properties : { ...schema.properties, global: 0 };
  t.equal(schema.additionalProperties, false, `${path || 'the root'} takes no other fields`);
  if (Object.keys(values).length === 0) return;
  t.same(Object.keys(values).sort(), Object.keys(properties).sort(), path || 'the root');
  for (const [name, value] of Object.entries(values)) {
    sameFields(value, properties[name], path === '' ? name : `${path}.${name}`, t);
  }
}

async function readTemplates(): Promise<string[]> {
  const folder = join(CHART, 'templates');
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return Promise.all(files.map((file) => readFile(join(file.parentPath, file.name), 'utf8')));
}

/** Paths below `.Values` that templates use, by way of their variables, too. */
function usedPaths(templates: readonly string[]): string[] {
  const found = new Set<string>();
  for (const template of templates) {
    const prefixes = new Map<string, string>();
    // Variables that stand for a part of the values, in the order in which they are made.
    for (const [, name, root, rest = ''] of template.matchAll(
      /\$(\w+) := (\.Values|\$\w*(?=[.\s]))((?:\.\w+)*) -?\}\}/g,
    )) {
      const base =
        root === '.Values' ? '' : root === '$' ? undefined : prefixes.get((root ?? '').slice(1));
      if (name === undefined || base === undefined) continue;
      const below = rest.replace(/^\./, '').replace(/^Values\.?/, '');
      prefixes.set(name, [base, below].filter((part) => part !== '').join('.'));
    }
    for (const [, path = ''] of template.matchAll(/\$?\.Values\.([\w.]+)/g)) found.add(path);
    for (const [, name = '', path = ''] of template.matchAll(/\$(\w+)\.([\w.]+)/g)) {
      const prefix = prefixes.get(name);
      if (prefix !== undefined) found.add(prefix === '' ? path : `${prefix}.${path}`);
    }
    for (const [, name = ''] of template.matchAll(
      /(?:toYaml|toJson|range|with) \$(\w+)\b(?!\.)/g,
    )) {
      const prefix = prefixes.get(name);
      if (prefix) found.add(prefix);
    }
  }
  const whole = [...found].filter((path) => path !== '');
  // What only leads to a variable is not a use of everything below it.
  return whole.filter((path) => !GROUPS.includes(path));
}

/** Parts of the values that templates take as a variable. */
const GROUPS = [
  'clustermesh',
  'clustermesh.apiserver',
  'agent',
  'agent.hostPaths',
  'agent.metrics',
  'image',
  'tls.ca',
  'clustermesh.apiserver.service',
  'clustermesh.apiserver.tls.auto',
  'clustermesh.apiserver.podDisruptionBudget',
  'clustermesh.apiserver.etcd.persistentVolume',
  'clustermesh.apiserver.metrics.serviceMonitor',
];
