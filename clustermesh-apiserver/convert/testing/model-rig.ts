/** A model, and the keys that stand in etcd for what it says, for tests. */
import { encodeLabels } from '../../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../../../mesh/wire/ids.ts';
import { ipKey, localIpKey } from '../../../mesh/wire/keys.ts';
import { keysOf } from '../../publish/record-keys.ts';
import { type ClusterObjectKind, parseObject } from '../../sources/objects.ts';
import { type AnnotationWarning, describeWarning } from '../annotation-warning.ts';
import { type ClusterModel, type ConversionOptions, createClusterModel } from '../cluster-model.ts';
import type { EndpointRecord, RecordChange } from '../records.ts';

/** A model with its keys. */
export interface ModelRig {
  readonly model: ClusterModel;
  /** Applies objects as they stand in YAML. */
  set(...objects: readonly object[]): void;
  remove(...objects: readonly object[]): void;
  complete(...kinds: readonly ClusterObjectKind[]): void;
  /** What stands under each key now; of an address without a number its labels and pod. */
  readonly keys: ReadonlyMap<string, string>;
  /** Keys that the latest call wrote with another value, or deleted. */
  readonly touched: readonly string[];
  /** What is wrong with annotations now, in words. */
  warnings(): string[];
}

/** Cluster cluster3 (3), which Cilium's own tests use. */
export const CLUSTER3 = { name: parseClusterName('cluster3'), id: parseClusterId(3) };

/** Makes a rig for cluster3. */
export function createModelRig(options: ConversionOptions = {}): ModelRig {
  const model = createClusterModel(CLUSTER3, options);
  const keys = new Map<string, string>();
  const warnings = new Map<string, readonly AnnotationWarning[]>();
  let touched: string[] = [];
  const write = (key: string, value: string | undefined): void => {
    if (keys.get(key) === value) return;
    touched.push(key);
    if (value === undefined) keys.delete(key);
    else keys.set(key, value);
  };
  const publish = (records: Iterable<RecordChange>): void => {
    touched = [];
    for (const change of records) {
      if (change.kind === 'warnings') {
        const { kind, namespace, name } = change.object;
        warnings.set(`${kind} ${namespace}/${name}`, change.value ?? []);
      } else if (change.kind === 'endpoint') {
        const { address, value } = change;
        const isLocal = value?.isLocal === true;
        write(ipKey(address), isLocal ? undefined : value && describeEndpoint(value));
        write(localIpKey(address), isLocal ? describeEndpoint(value) : undefined);
      } else for (const [key, value] of keysOf(change, CLUSTER3.name)) write(key, value);
    }
  };
  const apply = (objects: readonly object[], exists: boolean): void =>
    publish(model.apply(objects.map((object) => ({ object: parseObject(object), exists }))));
  return {
    model,
    keys,
    get touched() {
      return touched;
    },
    set: (...objects) => apply(objects, true),
    remove: (...objects) => apply(objects, false),
    complete(...kinds) {
      model.complete(kinds);
      publish(model.records());
    },
    warnings: () =>
      [...warnings].flatMap(([object, all]) =>
        all.map((warning) => `${object}: ${describeWarning(warning)}`),
      ),
  };
}

function describeEndpoint({ labels, isLocal: _, ...rest }: EndpointRecord): string {
  return JSON.stringify({ ...rest, labels: encodeLabels(labels) });
}
