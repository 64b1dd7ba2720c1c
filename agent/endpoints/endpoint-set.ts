import type { Logger } from '../../mesh/runtime/log.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { Engine } from '../state/engine.ts';
import { CniError } from './endpoint-error.ts';
import type { Interfaces, VethPair } from './interfaces.ts';
import { podText } from './match-pods.ts';
import type { EndpointRecord } from './record.ts';
import type { EndpointStore } from './store.ts';

/** The one after it is the host's own. */
const LAST_ENDPOINT_ID = HOST_ENDPOINT_ID - 1;

/** The endpoints of this node, the same ones on disk, in the kernel and here. Calls that change it must not overlap. */
export interface EndpointSet {
  /** Takes up what a previous process kept, dropping endpoints whose interface is gone. */
  restore(): Promise<void>;
  /** The endpoint of a container's interface, as far as the runtime told of it. */
  find(containerId: string, ifName: string): EndpointRecord | undefined;
  /** The endpoint on an interface of this node. */
  findByVeth(veth: VethPair): EndpointRecord | undefined;
  /** Whether its interface is still there. */
  exists(record: EndpointRecord): Promise<boolean>;
  /**
   * Makes an endpoint, in place of `before` where there was one, whose number it keeps. Two endpoints cannot have one address:
   * one whose interface is gone gives way, and what was found to what the runtime says; otherwise, and when the kernel
   * refuses, throws CniError and leaves nothing.
   */
  put(made: Omit<EndpointRecord, 'endpointId'>, before: EndpointRecord | undefined): Promise<void>;
  drop(record: EndpointRecord, why: string): void;
  /** Drops endpoints whose interface is gone. */
  dropGone(): Promise<void>;
  records(): readonly EndpointRecord[];
  /** Files of the state directory that could not be read, with why. */
  problems(): readonly string[];
}

/** Makes a set that knows no endpoint yet. */
export function createEndpointSet(options: {
  readonly store: EndpointStore;
  readonly interfaces: Pick<Interfaces, 'indexes'>;
  readonly datapath: Pick<Datapath, 'attachEndpoint' | 'detachEndpoint'>;
  readonly engine: Pick<Engine, 'addEndpoint' | 'removeEndpoint' | 'restoreEndpoints'>;
  readonly logger: Logger;
}): EndpointSet {
  const { store, interfaces, datapath, engine, logger } = options;
  const records = new Map<number, EndpointRecord>();
  let unreadable: ReadonlyMap<number, string> = new Map();
  let lastId = 0;

  /** Ids go round, so that a number that was just freed is not soon somebody else's. */
  const nextId = (): number => {
    for (let tries = 0; tries < LAST_ENDPOINT_ID; tries += 1) {
      lastId = lastId >= LAST_ENDPOINT_ID ? 1 : lastId + 1;
      if (!records.has(lastId) && !unreadable.has(lastId)) return lastId;
    }
    throw new CniError(11, `this node has ${records.size} endpoints, more are not possible`);
  };

  const exists = async (record: EndpointRecord): Promise<boolean> =>
    isThere(record, await interfaces.indexes());

  const drop = (record: EndpointRecord, why: string): void => {
    records.delete(record.endpointId);
    engine.removeEndpoint(record.endpointId);
    datapath.detachEndpoint(record.hostInterface);
    store.remove(record.endpointId);
    logger.info(
      { endpoint: record.endpointId, container: record.containerId, why },
      'endpoint removed',
    );
  };

  const claimAddresses = async (
    made: Omit<EndpointRecord, 'endpointId'>,
    before: EndpointRecord | undefined,
  ): Promise<void> => {
    for (const other of [...records.values()]) {
      if (other.endpointId === before?.endpointId) continue;
      const shared = other.addresses.find((address) => made.addresses.includes(address));
      if (shared === undefined && other.hostInterface !== made.hostInterface) continue;
      const isHeld = other.origin === 'runtime' || made.origin === 'discovered';
      if (shared !== undefined && isHeld && (await exists(other))) {
        const owner = other.containerId === '' ? podText(other) : `container ${other.containerId}`;
        throw new CniError(
          100,
          `address ${shared} belongs to endpoint ${other.endpointId} (${owner}) already: two containers cannot share it`,
        );
      }
      drop(other, "its interface or address is another container's now");
    }
  };

  /** Puts this version's programs in place of the previous one's; where that fails, those go on working. */
  const reattach = (record: EndpointRecord): void => {
    const { endpointId, hostInterface } = record;
    try {
      datapath.attachEndpoint(hostInterface);
    } catch (error) {
      logger.error(
        { endpoint: endpointId, hostInterface, err: error },
        'programs of an endpoint cannot be attached',
      );
    }
  };

  return {
    async restore() {
      const loaded = store.load();
      unreadable = loaded.unreadable;
      for (const [endpointId, problem] of unreadable) {
        logger.error(
          { endpoint: endpointId, problem },
          'endpoint cannot be restored, its rows stay as they are',
        );
      }
      const gone: EndpointRecord[] = [];
      const indexes = await interfaces.indexes();
      for (const record of loaded.records) {
        if (isThere(record, indexes)) records.set(record.endpointId, record);
        else gone.push(record);
        lastId = Math.max(lastId, record.endpointId);
      }
      engine.restoreEndpoints([...records.values()], new Set(unreadable.keys()));
      for (const record of gone) drop(record, 'its interface went while the agent was down');
      for (const record of records.values()) reattach(record);
      logger.info(
        { endpoints: records.size, gone: gone.length, unreadable: unreadable.size },
        'endpoints restored',
      );
    },
    find: (containerId, ifName) =>
      [...records.values()].find(
        (record) =>
          record.origin === 'runtime' &&
          record.containerId === containerId &&
          record.ifName === ifName,
      ),
    findByVeth: ({ ifindex, hostInterface }) =>
      [...records.values()].find(
        (record) => record.ifindex === ifindex && record.hostInterface === hostInterface,
      ),
    exists,
    async put(made, before) {
      await claimAddresses(made, before);
      const record: EndpointRecord = { endpointId: before?.endpointId ?? nextId(), ...made };
      const { endpointId, hostInterface, containerId, addresses, origin } = record;
      // On disk first: a crash in between leaves an endpoint that the next start finds, not a row that nobody owns.
      store.save(record);
      records.set(endpointId, record);
      try {
        engine.addEndpoint(record);
        datapath.attachEndpoint(hostInterface);
      } catch (cause) {
        drop(record, 'it could not be made');
        const reason = cause instanceof Error ? cause.message : String(cause);
        throw new CniError(
          101,
          `cannot make endpoint ${endpointId} of ${record.ifName}: ${reason}`,
          { cause },
        );
      }
      logger.info(
        { endpoint: endpointId, container: containerId, addresses, hostInterface, origin },
        'endpoint added',
      );
    },
    drop,
    async dropGone() {
      if (records.size === 0) return;
      const indexes = await interfaces.indexes();
      for (const record of [...records.values()]) {
        if (!isThere(record, indexes)) drop(record, 'its interface is gone');
      }
    },
    records: () => [...records.values()],
    problems: () => [...unreadable.values()],
  };
}

function isThere(record: EndpointRecord, indexes: ReadonlyMap<string, number>): boolean {
  return indexes.get(record.hostInterface) === record.ifindex;
}
