import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { Engine } from '../state/engine.ts';
import { addressesOf, type CniRequest, hostInterfacesOf } from './cni-request.ts';
import { CniError } from './endpoint-error.ts';
import { createEndpointSet } from './endpoint-set.ts';
import type { Interfaces, VethPair } from './interfaces.ts';
import { type DiscoveredPod, podText } from './match-pods.ts';
import { type OpenedPods, openedName } from './opened-pods.ts';
import type { EndpointRecord } from './record.ts';
import type { EndpointStore } from './store.ts';

/** The pods of this node: what the container runtime says through CNI, and what is found without it; kept over restarts. */
export interface EndpointManager {
  /** Takes up what a previous process kept, dropping endpoints whose interface is gone. */
  restore(): Promise<void>;
  /**
   * Serves a request and returns what is to be answered: nothing, since the plugin itself prints the result that it was
   * given. Throws CniError. Requests are served one at a time, in the order in which they came.
   */
  serve(request: CniRequest): Promise<string>;
  /** Makes endpoints of pods that the runtime did not tell of. Returns why one could not be made, a sentence each. */
  adopt(found: readonly DiscoveredPod[]): Promise<readonly string[]>;
  /**
   * Lets go of endpoints that were found and have none of these addresses: their containers stay, and are none of the mesh any
   * more.
   */
  release(wanted: ReadonlySet<IpAddress>): Promise<void>;
  /** Drops endpoints whose interface is gone: their pod went without a word. */
  dropGone(): Promise<void>;
  records(): readonly EndpointRecord[];
  /** Files of the state directory that could not be read, with why. */
  problems(): readonly string[];
}

/** Makes a manager that knows no endpoint yet. */
export function createEndpointManager(options: {
  readonly store: EndpointStore;
  readonly interfaces: Pick<Interfaces, 'findVeth' | 'indexes'>;
  readonly opened: OpenedPods;
  readonly datapath: Datapath;
  readonly engine: Engine;
  /**
   * What keeps pods of this node from being reached, a sentence each: what STATUS tells the runtime, which then takes the
   * node out of service. That the own cluster has not been read yet is no reason: its apiserver may be a pod that is still
   * to be started.
   */
  readonly limits: () => readonly string[];
  readonly logger: Logger;
}): EndpointManager {
  const { interfaces, opened, datapath } = options;
  const endpoints = createEndpointSet(options);
  let queue: Promise<unknown> = Promise.resolve();

  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = queue.then(work);
    queue = done.catch(() => undefined);
    return done;
  };

  const findDiscovered = (veth: VethPair): EndpointRecord | undefined => {
    const record = endpoints.findByVeth(veth);
    return record?.origin === 'discovered' ? record : undefined;
  };

  const vethOf = ({ netns, ifName }: CniRequest): Promise<VethPair> =>
    interfaces.findVeth(netns, ifName).catch((cause: unknown) => {
      throw new CniError(7, cause instanceof Error ? cause.message : String(cause), { cause });
    });

  const add = async (
    request: CniRequest,
    { addresses, veth }: { readonly addresses: readonly IpAddress[]; readonly veth: VethPair },
  ): Promise<void> => {
    const { config, containerId, ifName, netns, args } = request;
    const { hostInterface, ifindex, mac } = veth;
    const found = findDiscovered(veth);
    await endpoints.put(
      {
        containerId,
        ifName,
        netns,
        network: config.name,
        addresses,
        hostInterface,
        ifindex,
        mac,
        podNamespace: args.get('K8S_POD_NAMESPACE') ?? found?.podNamespace ?? '',
        podName: args.get('K8S_POD_NAME') ?? found?.podName ?? '',
        origin: 'runtime',
      },
      endpoints.find(containerId, ifName) ?? found,
    );
    opened.forget(openedName(containerId, ifName));
  };

  const check = async (request: CniRequest): Promise<void> => {
    const { config, containerId, ifName } = request;
    const record = endpoints.find(containerId, ifName);
    const addresses = addressesOf(config, ifName);
    if (record === undefined) {
      const veth = await vethOf(request).catch(() => undefined);
      // It was found before the runtime spoke of it.
      if (veth !== undefined && findDiscovered(veth) !== undefined)
        return add(request, { addresses, veth });
      throw new CniError(
        100,
        `container ${containerId} has no endpoint for ${ifName}: add it again`,
      );
    }
    if (addresses.join() !== [...record.addresses].sort().join()) {
      throw new CniError(
        100,
        `endpoint ${record.endpointId} has addresses ${record.addresses.join(', ')}, the runtime says ${addresses.join(', ')}`,
      );
    }
    if (!(await endpoints.exists(record))) {
      throw new CniError(
        100,
        `interface ${record.hostInterface} of endpoint ${record.endpointId} is gone`,
      );
    }
    const key = datapath.endpoints.keyOf(record);
    if (!datapath.endpoints.rows().some((row) => datapath.endpoints.keyOf(row) === key)) {
      throw new CniError(100, `endpoint ${record.endpointId} is not in the kernel's map`);
    }
  };

  const collect = (request: CniRequest): void => {
    const { validAttachments, name } = request.config;
    if (validAttachments === undefined) {
      throw new CniError(
        7,
        'cni.dev/valid-attachments is missing: without it GC would remove everything',
      );
    }
    const valid = new Set(
      validAttachments.map(({ containerId, ifName }) => openedName(containerId, ifName)),
    );
    for (const record of endpoints.records()) {
      // What was found belongs to no network that the runtime could mean.
      if (record.origin !== 'runtime' || record.network !== name) continue;
      if (valid.has(openedName(record.containerId, record.ifName))) continue;
      endpoints.drop(record, 'the runtime no longer lists it');
    }
    for (const { name: file, request: left } of opened.list()) {
      if (left?.config.name === name && !valid.has(file)) opened.forget(file);
    }
  };

  /** The endpoint that was found and that a DEL means: by the interface itself, else by its name on this side. */
  const findDiscoveredOf = async (request: CniRequest): Promise<EndpointRecord | undefined> => {
    const found = endpoints.records().filter(({ origin }) => origin === 'discovered');
    if (found.length === 0) return undefined;
    const veth = request.netns === '' ? undefined : await vethOf(request).catch(() => undefined);
    if (veth !== undefined) return findDiscovered(veth);
    const names = hostInterfacesOf(request.config);
    return found.find(({ hostInterface }) => names.includes(hostInterface));
  };

  const remove = async (request: CniRequest): Promise<void> => {
    const { containerId, ifName } = request;
    opened.forget(openedName(containerId, ifName));
    const record = endpoints.find(containerId, ifName) ?? (await findDiscoveredOf(request));
    if (record !== undefined) endpoints.drop(record, 'the runtime removed it');
  };

  const status = (): void => {
    const limits = options.limits();
    if (limits.length === 0) return;
    throw new CniError(51, 'pods of this node may be cut off', { details: limits.join('; ') });
  };

  const adoptOne = async (pod: DiscoveredPod): Promise<void> => {
    const before = endpoints.findByVeth(pod);
    // What the runtime said of an interface holds.
    if (before?.origin === 'runtime') return;
    if (before !== undefined && before.addresses.join() === pod.addresses.join()) return;
    await endpoints.put({ ...pod, containerId: '', network: '', origin: 'discovered' }, before);
  };

  const serve = (request: CniRequest): Promise<void> => {
    switch (request.command) {
      case 'ADD': {
        const addresses = addressesOf(request.config, request.ifName);
        // Looked for while others are served: it takes most of the time.
        const looking = vethOf(request);
        looking.catch(() => undefined);
        return inTurn(async () => add(request, { addresses, veth: await looking }));
      }
      case 'CHECK':
        return inTurn(() => check(request));
      case 'DEL':
        return inTurn(() => remove(request));
      case 'GC':
        return inTurn(async () => collect(request));
      case 'STATUS':
        return inTurn(async () => status());
      default:
        return request.command satisfies never;
    }
  };

  return {
    restore: endpoints.restore,
    async serve(request) {
      await serve(request);
      return '';
    },
    adopt: (found) =>
      inTurn(async () => {
        const problems: string[] = [];
        for (const pod of found) {
          try {
            await adoptOne(pod);
          } catch (error) {
            const reason = error instanceof Error ? error.message : String(error);
            problems.push(
              `pod ${podText(pod)} on ${pod.hostInterface} is not in the mesh: ${reason}`,
            );
          }
        }
        return problems;
      }),
    release: (wanted) =>
      inTurn(async () => {
        for (const record of endpoints.records()) {
          if (record.origin !== 'discovered') continue;
          if (record.addresses.some((address) => wanted.has(address))) continue;
          endpoints.drop(record, 'its cluster has it as an endpoint no more');
        }
      }),
    dropGone: () => inTurn(endpoints.dropGone),
    records: endpoints.records,
    problems: endpoints.problems,
  };
}
