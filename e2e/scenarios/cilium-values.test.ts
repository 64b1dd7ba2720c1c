/** Values there and back: what we write, Cilium's readers accept, and what Cilium writes, ours do. */
import fc from 'fast-check';
import { test } from 'tap';
import { acceptPair } from '../../mesh/remote/accept.ts';
import { decodeValue } from '../../mesh/wire/decode-any.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseKey } from '../../mesh/wire/parse-key.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { type PeerPair, randomPairs, validatePairs } from '../peers/kvtool.ts';
import { ourPairs } from '../peers/our-values.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';

const VERSIONS = testedCiliums(process.env);

const COUNT = process.env.ISTHMUS_LONG === 'true' ? 40_000 : 4000;
const seed = Math.floor(Math.random() * 2 ** 31);

/** Kinds of keys that readers of ours look into, by our word for a key of them. */
const READ_KINDS = {
  node: 'nodes',
  identity: 'identities',
  ip: 'ips',
  service: 'services',
  'service-export': 'serviceexports',
  'endpoint-slice': 'endpointslices',
} as const;

/** Those that our agents act on. The others are copied by mirrors as they are, ours and Cilium's, and judged by who reads them. */
const AGENT_KINDS: readonly string[] = ['node', 'identity', 'ip', 'service'];

for (const version of VERSIONS) {
  const { skip, paths } = needPeers([`${version}/kvtool`], process.env);
  const [kvtool = ''] = paths;
  // We write as 1.19 and 1.20 do; 1.18 has fewer fields, and writes some that are empty.
  const isCanonical = version >= 'cilium-1.19';
  for (const maxClusters of [255, 511] as const) {
    const mesh = `a mesh of ${maxClusters}`;

    test(`we accept what ${version} writes in ${mesh} (seed ${seed})`, {
      skip,
      timeout: 180_000,
    }, async (t) => {
      const pairs = await randomPairs(kvtool, { count: COUNT, seed, maxClusters });
      t.equal(pairs.length, COUNT);
      const kinds = new Map<string, number>();
      const failures: string[] = [];
      for (const pair of pairs) {
        const { kind } = parseKey(pair.key);
        kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
        const failure =
          refusalOf(pair, maxClusters) ?? (isCanonical ? differenceOf(pair) : undefined);
        if (failure !== undefined) failures.push(`${failure} for ${pair.key} = ${pair.value}`);
      }
      t.same(failures.slice(0, 5), [], `${failures.length} of ${COUNT} were refused or changed`);
      for (const kind of [...expectedKinds(version), 'cluster-config', 'synced', 'heartbeat']) {
        t.ok((kinds.get(kind) ?? 0) > COUNT / 100, `there are values of kind ${kind}`);
      }
    });

    test(`${version} accepts what we write in ${mesh} (seed ${seed})`, {
      skip,
      timeout: 180_000,
    }, async (t) => {
      const pairs = fc.sample(ourPairs(maxClusters), { numRuns: COUNT, seed });
      const verdicts = await validatePairs(kvtool, pairs, { maxClusters });
      t.equal(verdicts.length, COUNT);
      const failures: string[] = [];
      let looked = 0;
      for (const [index, verdict] of verdicts.entries()) {
        const { key, value } = pairs[index]!;
        if (verdict.kind !== 'unread') looked += 1;
        if (!verdict.valid) failures.push(`${verdict.error} for ${key} = ${value}`);
        else if (isCanonical && changesBytes(verdict.value, value)) {
          failures.push(`Cilium writes ${verdict.value} for ${key} = ${value}`);
        }
      }
      t.same(failures.slice(0, 5), [], `${failures.length} of ${COUNT} were refused or changed`);
      t.ok(looked > COUNT / 2, `${looked} values went through a reader of Cilium's`);
    });
  }

  test(`we refuse all that ${version} refuses (seed ${seed})`, {
    skip,
    timeout: 180_000,
  }, async (t) => {
    const pairs = await randomPairs(kvtool, { count: COUNT, seed, maxClusters: 255 });
    const spoiled = pairs.filter(({ key }) => AGENT_KINDS.includes(parseKey(key).kind)).map(spoil);
    const verdicts = await validatePairs(kvtool, spoiled, { maxClusters: 255 });
    const believed: string[] = [];
    const refused = new Map<string, number>();
    for (const [index, { valid, kind, error }] of verdicts.entries()) {
      const pair = spoiled[index]!;
      if (valid) continue;
      refused.set(kind, (refused.get(kind) ?? 0) + 1);
      if (refusalOf(pair, 255) === undefined)
        believed.push(`${error} for ${pair.key} = ${pair.value}`);
    }
    t.same(believed.slice(0, 5), [], `${believed.length} that Cilium refuses were accepted`);
    for (const kind of AGENT_KINDS) {
      t.ok((refused.get(kind) ?? 0) > COUNT / 100, `Cilium refused values of kind ${kind}`);
    }
  });
}

/** Kinds with readers, as Cilium has them in this version. */
function expectedKinds(version: string): string[] {
  const kinds = Object.keys(READ_KINDS);
  return version < 'cilium-1.20' ? kinds.filter((kind) => kind !== 'endpoint-slice') : kinds;
}

/** Why our readers refuse a pair; undefined when they accept it. */
function refusalOf(pair: PeerPair, max: 255 | 511): string | undefined {
  const { key, value, clusterId } = pair;
  const { kind } = parseKey(key);
  try {
    decodeValue(key, value);
    if (!isReadKind(kind)) return undefined;
    const id = parseClusterId(clusterId, max);
    const name = parseClusterName(pair.cluster);
    const context = { name, id, max, own: false, nodeIps: [] };
    const acceptance = acceptPair(
      READ_KINDS[kind],
      { key, value, modRevision: 1n, lease: 0n },
      context,
    );
    return acceptance.kind === 'refused' ? acceptance.message : undefined;
  } catch (error) {
    if (error instanceof WireError) return error.message;
    throw error;
  }
}

/** How our writing of a value differs from Cilium's; undefined when it does not. */
function differenceOf({ key, value }: PeerPair): string | undefined {
  const { value: again } = decodeValue(key, value);
  return value.equals(Buffer.from(again)) ? undefined : `we write ${again}`;
}

/** Whether Cilium writes other bytes, but for the field that it adds to nodes up to 1.19, which nothing reads any more. */
function changesBytes(theirs: Buffer | undefined, ours: Buffer): boolean {
  return theirs !== undefined && String(theirs).replace('"NodeIdentity":0,', '') !== String(ours);
}

function isReadKind(kind: string): kind is keyof typeof READ_KINDS {
  return kind in READ_KINDS;
}

/** Makes a good pair a bad one, or one that only looks bad: another owner, a value cut short, a byte changed. */
function spoil(pair: PeerPair, index: number): PeerPair {
  const value = Buffer.from(pair.value);
  switch (index % 4) {
    case 0:
      return { ...pair, clusterId: (pair.clusterId % 255) + 1 };
    case 1:
      return { ...pair, cluster: 'stranger' };
    case 2:
      return { ...pair, value: value.subarray(0, (index * 7919) % value.length) };
    default: {
      const character = String.fromCharCode(32 + (index % 95));
      // 53e1 and 5.0 are whole numbers to JavaScript and none to Go; nobody writes them.
      value.write(/[eE.]/.test(character) ? '#' : character, (index * 7919) % value.length);
      return { ...pair, value };
    }
  }
}
