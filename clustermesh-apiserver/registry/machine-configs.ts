/** What each machine and node is told: once when its session begins, and again whenever it is something else. */
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { Machine } from '../convert/machine.ts';
import type { MachineBook } from './machine-book.ts';
import { encodeMachineConfig, type MachineSettings } from './machine-messages.ts';
import { machineOf } from './machine-record.ts';

/** How often it is looked whether what all machines are told is something else. */
const LOOK_MS = 500;

/** Where the parts of a configuration come from. */
export interface MachineConfigSources {
  /** What is to be checked on a machine. */
  readonly checksOf: (machine: Machine) => readonly HealthCheck[];
  /** Differs after each change that `checksOf` may answer otherwise for. */
  readonly checksRevision: () => number;
  /** Clusters that are mirrored in the own etcd; undefined while that is not known: then nobody is told anything. */
  readonly peers: () => readonly string[] | undefined;
}

/** Tells machines and nodes what they have to know. */
export interface MachineConfigs {
  /** Tells a machine from now on, until the returned function is called. */
  attach(name: string, send: (message: object) => void): () => void;
  /** Tells a node from now on, until the returned function is called: its peers, and whom it may believe. */
  attachNode(send: (message: object) => void): () => void;
  /** Looks for changes until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

interface Listener {
  /** Of a machine; undefined: a node. */
  readonly name: string | undefined;
  readonly send: (message: object) => void;
  /** What it was told last. */
  told: string;
}

/**
 * Makes one for a registry. `trustBundle`: PEM of the authorities that machines may believe. `issuer`: SHA-256 of the authority
 * that signs their certificates at present; empty: none does.
 */
export function createMachineConfigs(options: {
  readonly book: Pick<MachineBook, 'get' | 'onChange'>;
  readonly sources: MachineConfigSources;
  readonly trustBundle: () => string;
  readonly issuer: () => string;
  readonly clock: Clock;
}): MachineConfigs {
  const { book, sources, clock } = options;
  const authorities = (): Pick<MachineSettings, 'trustBundle' | 'issuer'> => ({
    trustBundle: options.trustBundle(),
    issuer: options.issuer(),
  });
  const listeners = new Map<Listener['name'], Set<Listener>>();
  const changed = new Set<string>();
  const bell = createBell();
  let revision = 0;
  let common = '';

  const settingsOf = (name: Listener['name']): MachineSettings | undefined => {
    const peers = sources.peers();
    if (peers === undefined) return undefined;
    if (name === undefined) {
      return { labels: {}, namespace: '', peers, checks: [], ...authorities() };
    }
    const record = book.get(name)?.record;
    if (record === undefined) return undefined;
    const { labels, namespace } = record;
    const checks = sources.checksOf(machineOf(record));
    return { labels, namespace, peers, checks, ...authorities() };
  };
  const tell = (listener: Listener): void => {
    const settings = settingsOf(listener.name);
    if (settings === undefined) return;
    const text = JSON.stringify(settings);
    if (text === listener.told) return;
    listener.told = text;
    revision += 1;
    listener.send(encodeMachineConfig(settings, revision));
  };
  book.onChange((name) => {
    if (!listeners.has(name)) return;
    changed.add(name);
    bell.ring();
  });

  const attach = (name: Listener['name'], send: Listener['send']): (() => void) => {
    const listener: Listener = { name, send, told: '' };
    const all = listeners.get(name) ?? new Set();
    listeners.set(name, all.add(listener));
    tell(listener);
    return () => {
      all.delete(listener);
      if (all.size === 0 && listeners.get(name) === all) listeners.delete(name);
    };
  };

  return {
    attach,
    attachNode: (send) => attach(undefined, send),
    async run(signal) {
      signal.addEventListener('abort', bell.ring, { once: true });
      while (!signal.aborted) {
        await bell.wait(LOOK_MS, clock);
        bell.clear();
        if (signal.aborted) return;
        const names = [...changed];
        changed.clear();
        const now = JSON.stringify([sources.checksRevision(), sources.peers(), authorities()]);
        const isForAll = now !== common;
        common = now;
        for (const name of isForAll ? [...listeners.keys()] : names) {
          for (const listener of listeners.get(name) ?? []) tell(listener);
        }
      }
    },
  };
}
