import type { Logger } from '../../mesh/runtime/log.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { Engine } from '../state/engine.ts';
import { addressesOf, type CniRequest } from './cni-request.ts';
import { CniError } from './endpoint-error.ts';
import type { Interfaces } from './interfaces.ts';
import type { EndpointRecord } from './record.ts';
import type { EndpointStore } from './store.ts';

const LAST_ENDPOINT_ID = 65_535;

/** The pods of this node: what the container runtime says through CNI, kept over restarts. */
export interface EndpointManager {
  /** Takes up what a previous process kept, dropping endpoints whose interface is gone. */
  restore(): Promise<void>;
  /** Serves a request and returns what the plugin is to print. Throws CniError. Requests are served one at a time. */
  serve(request: CniRequest): Promise<string>;
  records(): readonly EndpointRecord[];
  /** Files of the state directory that could not be read, with why. */
  problems(): readonly string[];
}

/** Makes a manager that knows no endpoint yet. */
export function createEndpointManager(options: {
  readonly store: EndpointStore;
  readonly interfaces: Interfaces;
  readonly datapath: Datapath;
  readonly engine: Engine;
  readonly logger: Logger;
}): EndpointManager {
  const { store, interfaces, datapath, engine, logger } = options;
  const records = new Map<number, EndpointRecord>();
  let unreadable: ReadonlyMap<number, string> = new Map();
  let lastId = 0;
  let queue: Promise<unknown> = Promise.resolve();

  /** Ids go round, so that a number that was just freed is not soon somebody else's. */
  const nextId = (): number => {
    for (let tries = 0; tries < LAST_ENDPOINT_ID; tries += 1) {
      lastId = lastId >= LAST_ENDPOINT_ID ? 1 : lastId + 1;
      if (!records.has(lastId) && !unreadable.has(lastId)) return lastId;
    }
    throw new CniError(11, `this node has ${records.size} endpoints, more are not possible`);
  };

  const find = (containerId: string, ifName: string): EndpointRecord | undefined =>
    [...records.values()].find(
      (record) => record.containerId === containerId && record.ifName === ifName,
    );

  const exists = async (record: EndpointRecord): Promise<boolean> =>
    (await interfaces.indexes()).get(record.hostInterface) === record.ifindex;

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

  /** Two endpoints cannot have one address; one whose interface is gone is a DEL that we never got. */
  const claimAddresses = async (
    request: CniRequest,
    record: Omit<EndpointRecord, 'endpointId'>,
  ): Promise<void> => {
    for (const other of [...records.values()]) {
      if (other.containerId === request.containerId && other.ifName === request.ifName) continue;
      const shared = other.addresses.find((address) => record.addresses.includes(address));
      if (shared === undefined && other.hostInterface !== record.hostInterface) continue;
      if (shared !== undefined && (await exists(other))) {
        throw new CniError(
          100,
          `address ${shared} belongs to endpoint ${other.endpointId} (container ${other.containerId}) already: two containers cannot share it`,
        );
      }
      drop(other, "its interface or address is another container's now");
    }
  };

  const add = async (request: CniRequest): Promise<string> => {
    const { config, containerId, ifName, netns, args } = request;
    const addresses = addressesOf(config, ifName);
    const veth = await interfaces.findVeth(netns, ifName).catch((cause: unknown) => {
      throw new CniError(7, cause instanceof Error ? cause.message : String(cause), { cause });
    });
    const made = {
      containerId,
      ifName,
      netns,
      network: config.name,
      addresses,
      ...veth,
      podNamespace: args.get('K8S_POD_NAMESPACE') ?? '',
      podName: args.get('K8S_POD_NAME') ?? '',
    };
    await claimAddresses(request, made);
    const before = find(containerId, ifName);
    const record: EndpointRecord = { endpointId: before?.endpointId ?? nextId(), ...made };
    // On disk first: a crash in between leaves an endpoint that the next start finds, not a row that nobody owns.
    store.save(record);
    records.set(record.endpointId, record);
    try {
      engine.addEndpoint(record);
      datapath.attachEndpoint(record.hostInterface);
    } catch (cause) {
      drop(record, 'it could not be made');
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new CniError(101, `cannot make endpoint ${record.endpointId} of ${ifName}: ${reason}`, {
        cause,
      });
    }
    logger.info(
      {
        endpoint: record.endpointId,
        container: containerId,
        addresses,
        hostInterface: veth.hostInterface,
      },
      'endpoint added',
    );
    return JSON.stringify({ cniVersion: config.cniVersion, ...config.prevResult });
  };

  const check = async (request: CniRequest): Promise<string> => {
    const { config, containerId, ifName } = request;
    const record = find(containerId, ifName);
    if (record === undefined) {
      throw new CniError(
        100,
        `container ${containerId} has no endpoint for ${ifName}: add it again`,
      );
    }
    const addresses = addressesOf(config, ifName);
    if (addresses.join() !== [...record.addresses].sort().join()) {
      throw new CniError(
        100,
        `endpoint ${record.endpointId} has addresses ${record.addresses.join(', ')}, the runtime says ${addresses.join(', ')}`,
      );
    }
    if (!(await exists(record))) {
      throw new CniError(
        100,
        `interface ${record.hostInterface} of endpoint ${record.endpointId} is gone`,
      );
    }
    const key = datapath.endpoints.keyOf(record);
    if (!datapath.endpoints.rows().some((row) => datapath.endpoints.keyOf(row) === key)) {
      throw new CniError(100, `endpoint ${record.endpointId} is not in the kernel's map`);
    }
    return '';
  };

  const collect = (request: CniRequest): string => {
    const { validAttachments, name } = request.config;
    if (validAttachments === undefined) {
      throw new CniError(
        7,
        'cni.dev/valid-attachments is missing: without it GC would remove everything',
      );
    }
    const valid = new Set(
      validAttachments.map(({ containerId, ifName }) => `${containerId} ${ifName}`),
    );
    for (const record of [...records.values()]) {
      if (record.network !== name || valid.has(`${record.containerId} ${record.ifName}`)) continue;
      drop(record, 'the runtime no longer lists it');
    }
    return '';
  };

  const remove = ({ containerId, ifName }: CniRequest): string => {
    const record = find(containerId, ifName);
    if (record !== undefined) drop(record, 'the runtime removed it');
    return '';
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

  const serve = async (request: CniRequest): Promise<string> => {
    switch (request.command) {
      case 'ADD':
        return add(request);
      case 'CHECK':
        return check(request);
      case 'DEL':
        return remove(request);
      case 'GC':
        return collect(request);
      case 'STATUS':
        return '';
      default:
        return request.command satisfies never;
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
        if (indexes.get(record.hostInterface) === record.ifindex)
          records.set(record.endpointId, record);
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
    serve(request) {
      const served = queue.then(() => serve(request));
      queue = served.catch(() => undefined);
      return served;
    },
    records: () => [...records.values()],
    problems: () => [...unreadable.values()],
  };
}
