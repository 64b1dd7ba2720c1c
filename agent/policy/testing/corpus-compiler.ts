/** The corpus asked of the parser and the compiler: rows as the kernel would have them, and what it would pick of them. */
import { type ReservedIdentityName, reservedIdentity } from '../../../mesh/wire/ids.ts';
import { ipToBytes, parseIpAddress } from '../../../mesh/wire/ip.ts';
import type { PolicyEntry } from '../../datapath/desired.ts';
import { LINGER_MS } from '../local-identities.ts';
import { lookupVerdict } from '../map-entries.ts';
import { createPeerSets } from '../peer-sets.ts';
import { createSubjects, type Subject } from '../subjects.ts';
import type { CorpusCase, CorpusCluster, CorpusFlow } from './corpus.ts';
import { enforcingCluster, ownNode } from './corpus-oracle.ts';
import {
  type CaseState,
  createIdentityNumbers,
  type IdentityNumbers,
  readState,
} from './corpus-state.ts';

/** A case as the agent of one cluster has it. */
export interface CompiledCase {
  /** Problems that parsing found. */
  readonly problems: readonly string[];
  /** What becomes of a flow at the subject. */
  verdict(question: CompiledQuestion): 'allow' | 'deny';
}

/** A question about a flow; subject and peer by their names in the case. */
export interface CompiledQuestion {
  readonly direction: 'ingress' | 'egress';
  readonly subject: string;
  readonly peer: string;
  readonly protocol: number;
  readonly port: number;
}

/** Compiles one case after another, each as changes to the one before. */
export interface CaseCompiler {
  /** `orderOf`: changes are made in the order of these numbers, and rows follow after each; undefined: all at once. */
  load(corpusCase: CorpusCase, orderOf?: (step: number) => number): CompiledCase;
}

interface CompiledSubject {
  readonly entries: readonly PolicyEntry[];
  readonly enforced: Readonly<Record<'ingress' | 'egress', boolean>>;
}

const NOTHING: CaseState = {
  identities: new Map(),
  ports: new Map(),
  holders: new Map(),
  nodes: new Map(),
  services: new Map(),
  groups: new Map(),
  policies: new Map(),
  judged: new Map(),
};

/** Parses and compiles the policies of one cluster. */
export function compileCase(corpusCase: CorpusCase, cluster: CorpusCluster): CompiledCase {
  return createCompiler(cluster).load(corpusCase);
}

/** Makes a compiler that knows nothing yet. */
export function createCompiler(cluster: CorpusCluster): CaseCompiler {
  const holders = new Map<string, number>();
  const peers = createPeerSets({ holderOf: (prefix) => holders.get(prefix) });
  const subjects = createSubjects({ peers, mode: 'default' });
  const numbers = createIdentityNumbers();
  const opened = new Map<string, Subject>();
  const prefixes = new Map<string, number>();
  const nodeNumbers = new Map<string, number>();
  let before = NOTHING;
  let now = 0;

  const settle = (): void => {
    // A new rule makes identities, and these come to rules.
    do {
      peers.refresh(now);
      subjects.prepare();
    } while (peers.isStale);
    subjects.update();
    subjects.commit(now);
    applyChanges(prefixes, peers.cidrs.takeChanges());
    applyChanges(nodeNumbers, peers.nodes.takeChanges());
  };
  const stepsTo = (after: CaseState): (() => void)[] => [
    ...changes(before.identities, after.identities, (id, labels) => peers.setIdentity(id, labels)),
    ...changes(before.ports, after.ports, (id, ports) => peers.setNamedPorts(id, ports)),
    ...changes(before.holders, after.holders, (prefix, identity) => {
      applyChanges(holders, new Map([[prefix, identity]]));
      peers.touchAddress(prefix);
    }),
    ...changes(before.nodes, after.nodes, (name, labels) =>
      peers.nodes.setNode(name, labels, { isOwn: name === ownNode(cluster) }),
    ),
    ...changes(before.services, after.services, (key, service) => peers.setService(key, service)),
    ...changes(before.groups, after.groups, (name, group) => peers.setCidrGroup(name, group)),
    ...changes(before.policies, after.policies, (name, policy) => subjects.setPolicy(name, policy)),
    ...changes(before.judged, after.judged, (name, about) => {
      const held = opened.get(name);
      if (about === undefined) opened.delete(name);
      else opened.set(name, subjects.open(JSON.stringify(about), about));
      if (held !== undefined) subjects.close(held, now);
    }),
  ];

  return {
    load(corpusCase, orderOf) {
      const { state, problems } = readState(corpusCase, { cluster, numbers });
      const steps = stepsTo(state).map((step, index) => ({
        step,
        rank: orderOf?.(index) ?? index,
      }));
      before = state;
      for (const { step } of steps.sort((one, other) => one.rank - other.rank)) {
        step();
        if (orderOf !== undefined) settle();
      }
      settle();
      // Identities that nobody names any more are forgotten some cases later.
      now += LINGER_MS / 4;
      const compiled = new Map(
        [...opened].map(([name, subject]) => [name, compiledSubject(subject)]),
      );
      const identityOf = identitiesOf(corpusCase, {
        ...{ cluster, nodeNumbers: new Map(nodeNumbers), prefixes: new Map(prefixes) },
        numberOf: (labels, of) => numbers.of(labels, of),
      });
      return {
        problems,
        verdict({ direction, subject, peer, protocol, port }) {
          const found = compiled.get(subject);
          if (found === undefined) return 'allow';
          const question = { direction, identity: identityOf(peer), protocol, port };
          const { kind } = lookupVerdict(found.entries, question);
          if (kind !== 'none') return kind;
          return found.enforced[direction] ? 'deny' : 'allow';
        },
      };
    },
  };
}

/** What the rows about each end of a flow say. */
export function compiledFlow(
  compiled: Readonly<Record<CorpusCluster, CompiledCase>>,
  corpusCase: CorpusCase,
  { from, to, protocol, port }: CorpusFlow,
): { egress: 'allow' | 'deny'; ingress: 'allow' | 'deny' } {
  const sender = enforcingCluster(corpusCase.world, from);
  const receiver = enforcingCluster(corpusCase.world, to);
  const flow = { protocol, port };
  return {
    egress: sender
      ? compiled[sender].verdict({ ...flow, direction: 'egress', subject: from, peer: to })
      : 'allow',
    ingress: receiver
      ? compiled[receiver].verdict({ ...flow, direction: 'ingress', subject: to, peer: from })
      : 'allow',
  };
}

function compiledSubject({ rows }: Subject): CompiledSubject {
  const { ingress, egress } = rows.policy;
  return {
    entries: [...rows.entries(1)],
    enforced: { ingress: ingress.enforced, egress: egress.enforced },
  };
}

/** Identities that packets of the parties of a case carry, or get by the longest prefix of their address. */
function identitiesOf(
  { world }: CorpusCase,
  agent: {
    readonly cluster: CorpusCluster;
    readonly numberOf: IdentityNumbers['of'];
    readonly nodeNumbers: ReadonlyMap<string, number>;
    readonly prefixes: ReadonlyMap<string, number>;
  },
): (name: string) => number {
  const prefixes = [...agent.prefixes]
    .map(([prefix, identity]) => ({ identity, bits: prefixBits(prefix) }))
    .sort((one, other) => other.bits.length - one.bits.length);
  return (name) => {
    const endpoint = world.endpoints[name];
    if (endpoint !== undefined) return agent.numberOf(endpoint.identity, endpoint.cluster);
    if (name === ownNode(agent.cluster)) return reservedIdentity('host');
    if (world.nodes[name] !== undefined) {
      return agent.nodeNumbers.get(name) ?? reservedIdentity('remote-node');
    }
    const address = world.outside[name];
    if (address === undefined) {
      return reservedIdentity(name.replace('reserved:', '') as ReservedIdentityName);
    }
    const bits = addressBits(address);
    const longest = prefixes.find((prefix) => bits.startsWith(prefix.bits));
    return longest?.identity ?? reservedIdentity('world');
  };
}

/** What has to be done to get from one state to another: `undefined` for what is not there any more. */
function changes<Key, Value>(
  before: ReadonlyMap<Key, Value>,
  after: ReadonlyMap<Key, Value>,
  change: (key: Key, value: Value | undefined) => void,
): (() => void)[] {
  const keys = [...new Set([...before.keys(), ...after.keys()])];
  return keys
    .filter((key) => JSON.stringify(before.get(key)) !== JSON.stringify(after.get(key)))
    .map((key) => () => change(key, after.get(key)));
}

function applyChanges(
  numbers: Map<string, number>,
  changed: ReadonlyMap<string, number | undefined>,
): void {
  for (const [key, number] of changed) {
    if (number === undefined) numbers.delete(key);
    else numbers.set(key, number);
  }
}

/** Bits of an address behind its family, so that none of one family begins as one of the other. */
function addressBits(address: string): string {
  const bytes = [...ipToBytes(parseIpAddress(address))];
  return `${bytes.length}:${bytes.map((byte) => byte.toString(2).padStart(8, '0')).join('')}`;
}

function prefixBits(prefix: string): string {
  const [address = '', length] = prefix.split('/');
  const bits = addressBits(address);
  return bits.slice(0, bits.indexOf(':') + 1 + Number(length));
}
