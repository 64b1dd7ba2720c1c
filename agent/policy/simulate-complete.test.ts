/**
 * Random sets of policies: a flow changes its verdict exactly where the simulation says so. To repeat a run:
 * ISTHMUS_SIMULATE_SEED.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { reservedIdentity } from '../../mesh/wire/ids.ts';
import type { Direction } from './rule.ts';
import { judgeBoth, type PolicySet, simulate, type VerdictChange } from './simulate.ts';
import { type Party, peerMatches, policyOf } from './sources-of-verdict.ts';
import { parseWorld, readCase } from './testing/corpus.ts';
import { addressesOf, corpusView } from './testing/corpus-view.ts';
import { randomCases } from './testing/random-case.ts';
import { resolveParty } from './trace-party.ts';
import { protocolOf } from './trace-port.ts';
import { kindOfIdentity, labelsOfTexts, type PolicyView, partyOf } from './trace-view.ts';

const SEED = Number(process.env.ISTHMUS_SIMULATE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const RUNS = process.env.ISTHMUS_LONG === 'true' ? 2_000 : 60;
const FLOWS = 20;
const world = {
  ...parseWorld(readFileSync(projectPath('agent/policy/testdata/corpus/world.yaml'), 'utf8')),
  // Random cases bring their own.
  endpoints: {},
};

test(`${RUNS} random changes of policies change what the simulation says, and nothing else`, async (t) => {
  t.comment(`seed ${SEED}`);
  const counted = { changed: 0, same: 0 };
  const result = fc.check(
    fc.property(
      randomCases(FLOWS),
      fc.infiniteStream(fc.nat(3)),
      ({ manifest, flows }, choices) => {
        const raw = {
          name: 'x',
          page: 'kubernetes.io/docs/x',
          ...manifest,
          expect: flows.map(({ from, to, flow }) => `${from} ${to} ${flow} allow`).join('\n'),
        };
        const corpusCase = readCase(raw, world);
        const view = corpusView(corpusCase, 'alpha');
        // Each policy goes, comes or stays.
        const places = view.policies.map((policy) => ({ policy, place: choices.next().value }));
        const setOf = (...wanted: (number | undefined)[]): PolicySet => ({
          policies: places
            .filter(({ place }) => wanted.includes(place))
            .map(({ policy }) => policy),
          context: view,
        });
        const comparison = { before: setOf(0, 1), after: setOf(1, 2, 3) };
        const changes = run(comparison, view);
        for (const { from, to, protocol, port } of corpusCase.flows) {
          for (const direction of ['egress', 'ingress'] as const) {
            const [own, other] = direction === 'egress' ? [from, to] : [to, from];
            if (corpusCase.world.endpoints[own]?.cluster !== 'alpha') continue;
            const subject = named(corpusCase, own, view);
            const peer = named(corpusCase, other, view);
            const about = { subject, peer, direction, protocol, port };
            const { before, after } = judgeBoth(comparison, about);
            const told = changes.filter((change) => isAbout(change, about, comparison));
            const isChanged = before.verdict !== after.verdict;
            counted[isChanged ? 'changed' : 'same'] += 1;
            if (told.length !== Number(isChanged)) {
              throw new Error(
                `${own} ${direction} ${other} ${protocol}/${port}: ${before.verdict} becomes ${after.verdict}, told ${told.length} times`,
              );
            }
            if (told[0] !== undefined && told[0].after.verdict !== after.verdict) {
              throw new Error(`${own} ${direction} ${other}: told the contrary`);
            }
          }
        }
        return true;
      },
    ),
    { numRuns: RUNS, seed: SEED, endOnFailure: true },
  );
  if (result.failed) t.fail(`seed ${SEED}: ${result.errorInstance}`);
  t.comment(`${counted.changed} changed, ${counted.same} did not`);
  t.ok(counted.changed >= RUNS && counted.same >= RUNS, 'both are common');
});

function run(
  comparison: { readonly before: PolicySet; readonly after: PolicySet },
  view: PolicyView,
): VerdictChange[] {
  const all: Party[] = [...view.identities()].map(([identity, labels]) => ({
    identity,
    labels,
    kind: kindOfIdentity(identity),
    address: undefined,
    nodeLabels: [],
    namedPorts: view.namedPortsOf(identity),
  }));
  const reserved = (
    ['host', 'health', 'kube-apiserver', 'init', 'ingress', 'unmanaged'] as const
  ).map(reservedParty);
  const nodes = [...view.nodes()].map(partyOf);
  const running = simulate(comparison, {
    subjects: all.filter(({ identity }) => view.clusterIdOf(identity) === view.clusterId),
    peers: [...all, ...reserved, ...nodes],
  });
  for (;;) {
    const step = running.next();
    if (step.done) return step.value;
  }
}

/** Whether a change is about the other side too: the same rules name it as the example of the change. */
function isAbout(
  change: VerdictChange,
  about: {
    readonly subject: Party;
    readonly peer: Party;
    readonly direction: Direction;
    readonly protocol: number;
    readonly port: number;
  },
  { before, after }: { readonly before: PolicySet; readonly after: PolicySet },
): boolean {
  const { subject, peer, direction } = about;
  if (change.direction !== direction || !change.subject.identities.includes(subject.identity)) {
    return false;
  }
  if (!hasPort(change.ports, about)) return false;
  const { example } = change.peer;
  const isHost = (party: Party): boolean => party.identity === reservedIdentity('host');
  // Names are those of the receiving side, and count where a rule asks for one.
  const usesNames =
    direction === 'egress' &&
    [before, after].some(({ policies, context }) =>
      policyOf(subject, policies, context).policy.egress.peers.some(({ rules }) =>
        rules.some(({ rule }) => rule.ports.some(({ kind }) => kind === 'named')),
      ),
    );
  return (
    example.kind === peer.kind &&
    isHost(example) === isHost(peer) &&
    (!usesNames || JSON.stringify(example.namedPorts) === JSON.stringify(peer.namedPorts)) &&
    [before, after].every(({ policies, context }) =>
      policyOf(subject, policies, context).policy[direction].peers.every(
        (group) =>
          peerMatches(group.peer, peer, context) === peerMatches(group.peer, example, context),
      ),
    )
  );
}

function hasPort(ports: readonly string[], about: { protocol: number; port: number }): boolean {
  if (ports.length === 0) return true;
  return ports.some((text) => {
    const any = /^any (\w+)$/.exec(text)?.[1];
    if (any !== undefined) return protocolOf(any) === about.protocol;
    const [, first = '', last = first, name = ''] = /^(\d+)(?:-(\d+))?\/(\w+)$/.exec(text) ?? [];
    return (
      protocolOf(name) === about.protocol &&
      Number(first) <= about.port &&
      about.port <= Number(last)
    );
  });
}

function named(
  corpusCase: Parameters<typeof addressesOf>[0],
  name: string,
  view: PolicyView,
): Party {
  const reserved = /^reserved:(.+)$/.exec(name)?.[1];
  if (reserved !== undefined && reserved !== 'host') {
    return reservedParty(reserved as Parameters<typeof reservedIdentity>[0]);
  }
  const [address] = addressesOf(corpusCase, reserved === undefined ? name : 'alpha-1');
  const [info] =
    address === undefined ? [] : resolveParty({ kind: 'address', address }, view).parties;
  if (info === undefined) throw new Error(`${name} is nobody`);
  return partyOf(info);
}

function reservedParty(name: Parameters<typeof reservedIdentity>[0]): Party {
  const identity = reservedIdentity(name);
  return {
    identity,
    labels: labelsOfTexts([`reserved:${name}`]),
    kind: kindOfIdentity(identity),
    address: undefined,
    nodeLabels: [],
    namedPorts: [],
  };
}
