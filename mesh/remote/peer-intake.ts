/**
 * What one cluster says, on its way into use: decoded, checked, counted, held back where it must be. Outlives connections,
 * has no socket; time comes in as numbers.
 */
import type { KvPair } from '../kvstore/kvstore.ts';
import type { Logger } from '../runtime/log.ts';
import { hashEntry } from '../wire/digest.ts';
import { type IpAddress, type IpPrefix, ipFamily, parseIpPrefix, splitPrefix } from '../wire/ip.ts';
import type { Node } from '../wire/node.ts';
import { type AcceptContext, acceptPair, changeName, nameOfKey, retraction } from './accept.ts';
import { createAdmission, type Scope } from './admission.ts';
import type { Announced } from './announced.ts';
import { type BackendCheck, createBackendCheck } from './backend-check.ts';
import type { ClusterChange, ClusterRef, ClusterSink, MeshKind } from './cluster-sink.ts';
import { createHalves, type HalfState, wholeOf } from './halves.ts';
import { createHoldings, type Holdings } from './holdings.ts';
import { createMassDeleteGuard, type HeldBack, type MassDeleteGuard } from './mass-delete-guard.ts';
import { createRefusals, type RefusalReason, type Refusals } from './refusals.ts';
import { createWaiting } from './waiting.ts';

/** Bounds on what one cluster may have here. */
export interface IntakeLimits {
  /** Keys of one kind, refused ones included. Default 1,000,000. */
  readonly maxKeys?: number;
  /** How long an address stays in use whose node is gone, in milliseconds. Default 2,000. */
  readonly hostGraceMs?: number;
  /** How long a mass deletion without a marker is held back, in milliseconds; 0: until the marker. Default 120,000. */
  readonly heldBackTtlMs?: number;
}

/** What one cluster's values go through. */
export interface PeerIntake {
  readonly holdings: Holdings;
  readonly refusals: Refusals;
  readonly guard: MassDeleteGuard;
  readonly backends: BackendCheck;
  /** Whose values come from now on. */
  begin(ref: ClusterRef, accept: AcceptContext, prefixOf: (kind: MeshKind) => string): void;
  /** Whether values of a kind are hashed, for a digest. */
  setHashing(kind: MeshKind, isOn: boolean): void;
  isHashing(kind: MeshKind): boolean;
  beginList(kind: MeshKind): void;
  /** Takes a value. Returns whether it is in use now. */
  put(kind: MeshKind, pair: KvPair): boolean;
  remove(kind: MeshKind, key: string): void;
  /** Ends a list: lets go of what it left out, unless that is to be held back. */
  endList(kind: MeshKind, options: { readonly isMarked: boolean; readonly now: number }): void;
  /**
   * A kind's marker has come, and these keys stand in the store now: what was held back and does not stand there goes,
   * the rest is told by the watch.
   */
  marked(kind: MeshKind, keys: readonly string[]): void;
  /**
   * To be called behind each batch: hands on services of which backends came or went. Returns whether `expire` or
   * `takeWanted` has something to do.
   */
  settle(now: number): boolean;
  /**
   * Lets go of what may not be kept longer; `stateOf` says how far the readers are. Returns when to call next, Infinity: not
   * before something changes.
   */
  expire(now: number, stateOf: (kind: MeshKind) => HalfState): number;
  /** Looks again at what is in use, since ranges changed hands; a step is one address. */
  rejudge(scope: Scope): Iterable<void>;
  /** Keys to be read again since a node that they depend on has come. */
  takeWanted(): readonly string[];
  /** Takes what was read of such a key, unless an event of it has come meanwhile: that one is newer. */
  offer(pair: KvPair): void;
  /** Takes everything back. */
  drain(kinds: readonly MeshKind[]): void;
  heldBack(): readonly HeldBack[];
}

const DEFAULT_MAX_KEYS = 1_000_000;
const DEFAULT_HOST_GRACE_MS = 2000;
const DEFAULT_HELD_BACK_TTL_MS = 120_000;
const NO_HASH: readonly [number, number] = [0, 0];

/**
 * Largest value of each kind in bytes. Cilium's etcd takes requests of up to 1.5 MiB; a service of 10,000 backends with
 * zones has about 1 MiB, endpoint slices are compressed, and the rest is small.
 */
const MAX_VALUE_BYTES: Readonly<Record<MeshKind, number>> = {
  nodes: 256 * 1024,
  identities: 128 * 1024,
  ips: 64 * 1024,
  services: 8 * 1024 * 1024,
  serviceexports: 256 * 1024,
  endpointslices: 8 * 1024 * 1024,
  'local-identities': 128 * 1024,
  'local-ips': 64 * 1024,
  'local-services': 8 * 1024 * 1024,
  'local-policies': 2 * 1024 * 1024,
};

/** Makes an intake that has taken nothing. */
export function createPeerIntake(options: {
  readonly cluster: ClusterRef['name'];
  readonly isOwn: boolean;
  readonly sink: ClusterSink;
  readonly announced: Announced;
  /** Whether backends are checked against addresses; not where values are only handed on. Default true. */
  readonly checksBackends?: boolean;
  readonly limits?: IntakeLimits;
  readonly logger: Logger;
}): PeerIntake {
  const { sink, announced, isOwn, logger, limits = {}, checksBackends = true } = options;
  const maxKeys = limits.maxKeys ?? DEFAULT_MAX_KEYS;
  const hostGraceMs = limits.hostGraceMs ?? DEFAULT_HOST_GRACE_MS;
  const holdings = createHoldings();
  const refusals = createRefusals();
  const admission = createAdmission({ cluster: options.cluster, isOwn, announced });
  const guard = createMassDeleteGuard({ ttlMs: limits.heldBackTtlMs ?? DEFAULT_HELD_BACK_TTL_MS });
  const waiting = createWaiting();
  const hashing = new Set<MeshKind>();
  const wanted = new Set<string>();
  /** Keys that are being read again, and of which no event has come since. */
  const fetching = new Set<string>();
  /** Addresses in use that have lost their node, with the time at which they go; undefined: not yet set. */
  const lapsing = new Map<string, number | undefined>();
  const isChecked = checksBackends && !isOwn;
  const backends = createBackendCheck(
    (address) =>
      admission.isNodeAddress(address) || holdings.has('ips', `${address}${wholeLength(address)}`),
  );
  let target: ClusterRef | undefined;
  let context: AcceptContext | undefined;
  let prefixOf: (kind: MeshKind) => string = () => '';

  const hashOf = (kind: MeshKind, pair: KvPair): readonly [number, number] =>
    hashing.has(kind) ? hashEntry(pair.key, pair.value) : NO_HASH;
  const emit = (change: ClusterChange, pair: KvPair | undefined): void => {
    if (target !== undefined) sink.apply(target, change, pair);
  };
  const halves = isOwn ? createHalves((kind, name) => holdings.has(kind, name)) : undefined;
  /** Tells of a value that is held, unless another one covers it. */
  const tellOf = (kind: MeshKind, change: ClusterChange, pair: KvPair): void => {
    const told = halves === undefined ? change : halves.put(kind, changeName(change), change);
    if (told !== undefined) emit(told, pair);
  };
  /** Tells that a value is not held any more, and what stands below it. */
  const tellGone = (kind: MeshKind, name: string): void => {
    const told = halves === undefined ? retraction(kind, name) : halves.gone(kind, name);
    if (told !== undefined) emit(told, undefined);
  };

  const tell = (key: string, reason: RefusalReason, message: string): void => {
    if (refusals.note(key, reason, message)) {
      logger.warn(
        { key, reason, message },
        'value of the cluster refused, more of this reason are only counted',
      );
    } else {
      logger.debug({ key, reason, message }, 'value of the cluster refused');
    }
  };
  /** A key that is there and not used. Without a bound on them a server could fill our memory. */
  const setAside = (kind: MeshKind, key: string, hash: readonly [number, number]): void => {
    const refused = holdings.refused(kind);
    if (refused.has(key) || refused.size < maxKeys) refused.put(key, { host: 0, hash });
  };

  /** Takes a held name out of use. */
  const letGo = (kind: MeshKind, name: string): boolean => {
    if (!holdings.remove(kind, name)) return false;
    tellGone(kind, name);
    if (kind === 'ips') {
      lapsing.delete(name);
      admission.forgetIp(heldPrefix(name));
      const address = addressOf(name);
      backends.touch(address);
      if (name === address + wholeLength(address)) setMachine(address, false);
    } else if (kind === 'services') backends.delete(name);
    else if (kind === 'nodes') moveNode(name, undefined);
    return true;
  };

  const moveNode = (name: string, node: Node | undefined): void => {
    moveHosts(admission.setNode(name, node));
  };
  const setMachine = (address: IpAddress, isThere: boolean): void => {
    if (!admission.setMachine(address, isThere)) return;
    moveHosts({ came: isThere ? [address] : [], went: isThere ? [] : [address] });
  };
  /** What depends on a host waits for it when it goes, and is used when it comes. */
  const moveHosts = ({ came, went }: ReturnType<typeof admission.setNode>): void => {
    for (const address of went) {
      backends.touch(address);
      const number = admission.numberOf(address);
      if (number === undefined) continue;
      for (const ip of holdings.names('ips').ofHost(number)) {
        waiting.set(ip, { node: address, key: keyOfIp(ip), pair: undefined });
        if (!lapsing.has(ip)) lapsing.set(ip, undefined);
      }
    }
    for (const address of came) {
      backends.touch(address);
      for (const { name: ip, entry } of waiting.take(address)) {
        if (entry.pair !== undefined) put('ips', entry.pair);
        else if (lapsing.delete(ip)) refusals.clear(entry.key);
        else wanted.add(entry.key);
      }
    }
  };
  const keyOfIp = (name: string): string => {
    const address = addressOf(name);
    return prefixOf('ips') + (name === address + wholeLength(address) ? address : name);
  };

  const use = (
    kind: MeshKind,
    change: ClusterChange,
    { pair, host }: { readonly pair: KvPair; readonly host: number },
  ): void => {
    const name = changeName(change);
    const isNew = holdings.add(kind, name, { host, hash: hashOf(kind, pair) });
    switch (change.kind) {
      case 'ip':
        if (lapsing.size > 0) lapsing.delete(name);
        if (waiting.size > 0) waiting.delete(name);
        tellOf(kind, change, pair);
        if (isNew && isChecked) backends.touch(splitPrefix(change.prefix).address);
        if (!isOwn) setMachine(splitPrefix(change.prefix).address, isOwnHost(change));
        return;
      case 'node':
        emit(change, pair);
        moveNode(name, change.value);
        return;
      case 'service': {
        const { value } = change;
        const counted = isChecked && value !== undefined ? backends.set(name, value) : value;
        emit(counted === value ? change : { ...change, value: counted }, pair);
        return;
      }
      default:
        tellOf(kind, change, pair);
    }
  };

  const put = (kind: MeshKind, pair: KvPair): boolean => {
    if (context === undefined) return false;
    const { key } = pair;
    if (fetching.size > 0) fetching.delete(key);
    const refuse = (reason: RefusalReason, message: string): boolean => {
      tell(key, reason, message);
      const name = nameOfKey(key);
      // What was good before stays: a value that only a newer version can read must not cost the old one.
      if (name !== undefined && holdings.has(kind, name)) {
        holdings.names(kind).touch(name, hashOf(kind, pair));
        guard.returned(kind, name);
      } else setAside(kind, key, hashOf(kind, pair));
      return false;
    };
    if (pair.value.length > MAX_VALUE_BYTES[kind]) {
      return refuse(
        'value-too-large',
        `value of ${key} has ${pair.value.length} bytes, at most ${MAX_VALUE_BYTES[kind]} are read`,
      );
    }
    const result = acceptPair(kind, pair, context);
    if (result.kind === 'refused') return refuse(result.reason, result.message);
    const { change } = result;
    const name = changeName(change);
    if (holdings.count(kind) >= maxKeys && !holdings.has(kind, name)) {
      return refuse('too-many-keys', `more than ${maxKeys} keys of kind ${kind}`);
    }
    const verdict = admission.judge(change);
    if (verdict.kind !== 'admitted') {
      tell(key, verdict.reason, verdict.message);
      const hash = hashOf(kind, pair);
      if (verdict.kind === 'waiting') {
        waiting.set(name, { node: verdict.address, key, pair });
        if (holdings.has(kind, name)) {
          // What it replaces stays for a moment: the node's record may be on its way.
          holdings.names(kind).touch(name, hash);
          guard.returned(kind, name);
          if (!lapsing.has(name)) lapsing.set(name, undefined);
          return false;
        }
      } else letGo(kind, name);
      guard.returned(kind, name);
      setAside(kind, key, hash);
      return false;
    }
    refusals.clear(key);
    if (holdings.refused(kind).size > 0) holdings.refused(kind).delete(key);
    if (guard.count(kind) > 0) guard.returned(kind, name);
    use(kind, change, { pair, host: verdict.host });
    return true;
  };

  /** Takes something out of use that is still there at its source. */
  const suspend = (kind: MeshKind, name: string, key: string): void => {
    const hash = holdings.names(kind).hashOf(name);
    if (letGo(kind, name)) setAside(kind, key, hash);
  };

  return {
    holdings,
    refusals,
    guard,
    backends,
    begin(ref, accept, prefixes) {
      target = ref;
      context = accept;
      prefixOf = prefixes;
    },
    setHashing(kind, isOn) {
      if (isOn) hashing.add(kind);
      else hashing.delete(kind);
    },
    isHashing: (kind) => hashing.has(kind),
    beginList: (kind) => holdings.beginList(kind),
    put,
    remove(kind, key) {
      refusals.clear(key);
      holdings.refused(kind).delete(key);
      const name = nameOfKey(key);
      if (name === undefined) return;
      if (kind === 'ips') {
        waiting.delete(name);
        wanted.delete(key);
        fetching.delete(key);
      }
      guard.returned(kind, name);
      letGo(kind, name);
    },
    endList(kind, { isMarked, now }) {
      const refused = holdings.refused(kind);
      for (const key of refused.unlisted()) {
        refused.delete(key);
        refusals.clear(key);
        const name = nameOfKey(key);
        if (kind === 'ips' && name !== undefined) waiting.delete(name);
      }
      const held = holdings.count(kind);
      const gone = holdings.unlisted(kind);
      for (const name of guard.listed(kind, { gone, held, isMarked, now })) {
        if (kind === 'ips') waiting.delete(name);
        letGo(kind, name);
      }
      const count = guard.count(kind);
      if (count > 0) {
        logger.warn(
          { kind, count, held },
          'a list without its marker leaves out most of what is in use: that is held back',
        );
      }
      if (kind === 'nodes') admission.nodesSynced();
    },
    marked(kind, keys) {
      const standing = new Set(keys.map(nameOfKey));
      for (const name of guard.marked(kind)) if (!standing.has(name)) letGo(kind, name);
    },
    settle(now) {
      if (lapsing.size > 0) {
        for (const [name, at] of lapsing)
          if (at === undefined) lapsing.set(name, now + hostGraceMs);
      }
      if (isChecked) {
        for (const { name, service } of backends.takeChanged()) {
          emit({ kind: 'service', name, value: service }, undefined);
        }
      }
      const isKeeping = halves?.isKeeping === true;
      return lapsing.size > 0 || wanted.size > 0 || isKeeping || guard.status().length > 0;
    },
    expire(now, stateOf) {
      for (const { kind, names } of guard.due(now)) {
        logger.warn(
          { kind, count: names.length },
          'what was held back for as long as is allowed goes',
        );
        for (const name of names) letGo(kind, name);
      }
      const expired = halves?.expire(now, stateOf);
      for (const [kind, name] of expired?.gone ?? []) emit(retraction(kind, name), undefined);
      let next = expired?.next ?? Number.POSITIVE_INFINITY;
      for (const [name, at] of [...lapsing]) {
        if (at === undefined || at > now) {
          next = Math.min(next, at ?? now + hostGraceMs);
          continue;
        }
        const key = keyOfIp(name);
        suspend('ips', name, key);
        const entry = waiting.get(name);
        if (entry !== undefined)
          tell(key, 'host-unknown', `address ${name}: its node ${entry.node} is gone`);
      }
      return guard.status().length > 0 ? Math.min(next, now + 1000) : next;
    },
    *rejudge(scope) {
      if (target === undefined || isOwn) return;
      for (const { name, refusal } of admission.lostNodes(scope)) {
        const key = prefixOf('nodes') + name;
        tell(key, refusal.reason, `node ${name}: ${refusal.message}`);
        suspend('nodes', name, key);
      }
      for (const name of admission.exposed(heldPrefixes(holdings.names('ips').names()), scope)) {
        yield;
        if (!holdings.has('ips', name)) continue;
        const refusal = announced.judge(options.cluster, name);
        if (refusal === undefined) continue;
        const key = keyOfIp(name);
        tell(key, refusal.reason, refusal.message);
        suspend('ips', name, key);
      }
    },
    takeWanted() {
      const keys = [...wanted];
      wanted.clear();
      for (const key of keys) fetching.add(key);
      return keys;
    },
    offer(pair) {
      if (fetching.delete(pair.key)) put('ips', pair);
    },
    drain(kinds) {
      for (const kind of [...kinds].reverse()) {
        const whole = wholeOf(kind);
        for (const name of holdings.takeAll(kind)) {
          // What is in both halves is taken back with the second.
          if (whole === kind || !holdings.has(whole, name))
            emit(retraction(whole, name), undefined);
        }
      }
      for (const [kind, name] of halves?.clear() ?? []) emit(retraction(kind, name), undefined);
      refusals.clearAll();
      waiting.clear();
      lapsing.clear();
      wanted.clear();
      fetching.clear();
      guard.clear();
      backends.clear();
      hashing.clear();
      admission.clear();
      target = undefined;
      context = undefined;
    },
    heldBack: () => guard.status(),
  };
}

/** Address of a name of kind `ips`, which is a network. */
function addressOf(name: string): IpAddress {
  return splitPrefix(heldPrefix(name)).address;
}

/** Names of kind `ips` were made of networks, and are their text. */
function heldPrefix(name: string): IpPrefix {
  return parseIpPrefix(name);
}

function* heldPrefixes(names: Iterable<string>): Generator<IpPrefix> {
  for (const name of names) yield heldPrefix(name);
}

function wholeLength(address: IpAddress): string {
  return ipFamily(address) === 4 ? '/32' : '/128';
}

/** Whether an entry is of an address that is its own host, as those of machines are. */
function isOwnHost({ prefix, value }: Extract<ClusterChange, { readonly kind: 'ip' }>): boolean {
  const { address, length } = splitPrefix(prefix);
  if (value?.hostIp !== address) return false;
  return `/${length}` === wholeLength(address);
}
