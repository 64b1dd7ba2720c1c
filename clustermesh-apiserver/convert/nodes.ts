/** The nodes of a cluster, from whichever of their objects counts, and from what their own agents say. */
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { CiliumNodeObject, NodeObject } from '../sources/objects.ts';
import { convertCiliumNode } from './cilium-node.ts';
import {
  convertNode,
  findOverlap,
  type NodeConflict,
  type NodeFacts,
  nodeHoldings,
} from './node.ts';
import type { RecordChange } from './records.ts';

/** Nodes. */
export interface Nodes {
  take(object: NodeObject | CiliumNodeObject, exists: boolean): void;
  /** Takes what a node's own agent says of it, or undefined when that counts no more. */
  setFacts(name: string, facts: NodeFacts | undefined): RecordChange;
  has(name: string): boolean;
  /** Networks of all nodes' pods, each once. */
  podNetworks(): readonly IpPrefix[];
  /** What of `facts` another node holds already. */
  findConflict(name: string, facts: NodeFacts): NodeConflict | undefined;
  /** Records of what was touched, each made when it is asked for. */
  drain(): Iterable<RecordChange>;
}

/** Makes the book of nodes of an empty cluster. */
export function createNodes(cluster: {
  readonly name: ClusterName;
  readonly id: ClusterId;
}): Nodes {
  const objects = new Map<string, NodeObject | CiliumNodeObject>();
  const facts = new Map<string, NodeFacts>();
  const touched = new Set<string>();
  const recordOf = (name: string): RecordChange => {
    const object = objects.get(name);
    if (object?.kind === 'CiliumNode') {
      return { kind: 'node', name, value: convertCiliumNode(object, cluster) };
    }
    return {
      kind: 'node',
      name,
      value: convertNode(name, { object, facts: facts.get(name) }, cluster),
    };
  };
  return {
    take(object, exists) {
      if (exists) objects.set(object.name, object);
      else objects.delete(object.name);
      touched.add(object.name);
    },
    setFacts(name, said) {
      if (said === undefined) facts.delete(name);
      else facts.set(name, said);
      return recordOf(name);
    },
    has: (name) => objects.has(name) || facts.has(name),
    findConflict(name, said) {
      for (const other of new Set([...objects.keys(), ...facts.keys()])) {
        if (other === name) continue;
        const held = nodeHoldings({ object: objects.get(other), facts: facts.get(other) });
        const conflict = findOverlap(said, held, `node ${other}`);
        if (conflict !== undefined) return conflict;
      }
      return undefined;
    },
    podNetworks() {
      const names = new Set([...objects.keys(), ...facts.keys()]);
      const networks = [...names].flatMap(
        (name) => nodeHoldings({ object: objects.get(name), facts: facts.get(name) }).podCidrs,
      );
      return [...new Set(networks)];
    },
    *drain() {
      for (const name of touched) {
        touched.delete(name);
        yield recordOf(name);
      }
    },
  };
}
