/** Rounds without any answer after which nothing of a cluster is there, and rounds with one after which it is again. */
const ROUNDS = 3;
/** So many nodes must have been asked in vain, or all of them: half of a large cluster may be away. */
const NODES_IN_VAIN = 9;
/** Nodes that answered are asked again, so that a cluster of which little is left is not declared dead by chance. */
const FAITHFUL_NODES = 2;

/** What probes say of the way to a cluster's nodes. */
export type PathVerdict =
  /** Not asked often enough. */
  | { readonly kind: 'unknown' }
  | { readonly kind: 'alive' }
  | { readonly kind: 'dead'; readonly nodesAsked: number };

/** Probes of one cluster since it became silent. Pure: randomness is given. */
export interface PathRecord<Node> {
  /** Nodes to ask next: some that answered before, the others at random, each once before any is asked again. */
  choose(nodes: readonly Node[], count: number): readonly Node[];
  /** Takes the result of a round; no nodes at all are a round without an answer. */
  note(round: {
    readonly asked: readonly Node[];
    readonly answered: readonly Node[];
    /** How many nodes there are. */
    readonly known: number;
  }): void;
  verdict(): PathVerdict;
}

/** Makes an empty record. `random` in [0, 1) spreads agents over the nodes. */
export function createPathRecord<Node>(random: () => number = Math.random): PathRecord<Node> {
  let kind: PathVerdict['kind'] = 'unknown';
  let answeredRounds = 0;
  let silentRounds = 0;
  let faithful: readonly Node[] = [];
  /** Asked since the last answer. */
  let inVain = new Set<Node>();
  /** Asked since everybody was asked. */
  let visited = new Set<Node>();

  const pick = (nodes: readonly Node[], count: number): Node[] => {
    const left = [...nodes];
    const picked: Node[] = [];
    while (picked.length < count && left.length > 0) {
      picked.push(...left.splice(Math.floor(random() * left.length), 1));
    }
    return picked;
  };

  return {
    choose(nodes, count) {
      const again = nodes.filter((node) => faithful.includes(node));
      const others = nodes.filter((node) => !faithful.includes(node));
      const news = others.filter((node) => !visited.has(node));
      const chosen = pick(news, count - again.length);
      if (chosen.length < count - again.length) {
        visited = new Set();
        const rest = others.filter((node) => !chosen.includes(node));
        chosen.push(...pick(rest, count - again.length - chosen.length));
      }
      for (const node of chosen) visited.add(node);
      return [...again, ...chosen];
    },
    note({ asked, answered, known }) {
      if (answered.length > 0) {
        faithful = [...new Set([...answered, ...faithful])].slice(0, FAITHFUL_NODES);
        inVain = new Set();
        silentRounds = 0;
        answeredRounds += 1;
        // What was dead must last a little before it counts again.
        if (kind !== 'dead' || answeredRounds >= ROUNDS) kind = 'alive';
        return;
      }
      for (const node of asked) inVain.add(node);
      answeredRounds = 0;
      silentRounds += 1;
      if (silentRounds >= ROUNDS && inVain.size >= Math.min(known, NODES_IN_VAIN)) kind = 'dead';
    },
    verdict: () => (kind === 'dead' ? { kind, nodesAsked: inVain.size } : { kind }),
  };
}
